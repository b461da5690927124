"""What an OpenID Connect provider says of itself, and of a person.

Sources: OpenID Connect Discovery 1.0 (section 3, 4.3), OpenID Connect Core 1.0 (sections 2, 5.1).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# Signatures with a key that only the provider has. Not "none", not HMAC with the client's secret.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
MAX_NAME = 200
MAX_GROUPS = 500


class ProviderError(Exception):
    """The provider says something that cannot be used; ``reason`` is for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Metadata:
    """The part of the discovery document that signing in needs."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    algorithms: tuple[str, ...]
    client_authentication: str
    returns_issuer: bool

    @property
    def addresses(self) -> tuple[str, str, str]:
        return self.authorization_endpoint, self.token_endpoint, self.jwks_uri


def discovery_address(issuer: str) -> str:
    """Where the discovery document is."""
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def decode_metadata(document: Any, *, issuer: str) -> Metadata:
    """Read a discovery document. Raises :class:`ProviderError`.

    1. Its issuer is the one that was asked, to the letter (Discovery, 4.3).
    2. It names the three addresses, and a signature algorithm that we take.
    """
    if not isinstance(document, Mapping):
        raise ProviderError("the discovery document is not a JSON object")
    if document.get("issuer") != issuer:
        raise ProviderError(f"it calls itself {str(document.get('issuer'))[:200]!r}, not {issuer!r}")
    offered = document.get("id_token_signing_alg_values_supported")
    algorithms = tuple(name for name in ALGORITHMS if isinstance(offered, list) and name in offered)
    if not algorithms:
        raise ProviderError("it signs ID tokens with none of the algorithms that are accepted")
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    basic = not isinstance(methods, list) or "client_secret_basic" in methods
    return Metadata(
        issuer=issuer,
        authorization_endpoint=_address(document, "authorization_endpoint"),
        token_endpoint=_address(document, "token_endpoint"),
        jwks_uri=_address(document, "jwks_uri"),
        algorithms=algorithms,
        client_authentication="client_secret_basic" if basic else "client_secret_post",
        returns_issuer=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _address(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not urlsplit(value).hostname:
        raise ProviderError(f"its discovery document has no {name}")
    return value


@dataclass(frozen=True)
class Claims:
    """Who an ID token speaks of."""

    subject: str
    name: str
    groups: frozenset[str]


def decode_claims(claims: Mapping[str, Any], *, groups_claim: str) -> Claims:
    """Read the claims of a *verified* ID token. Raises :class:`ProviderError`.

    The name is what people know each other by: e-mail address, user name, name, or else the subject.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise ProviderError("the ID token has no subject")
    names = (claims.get(claim) for claim in ("email", "preferred_username", "name"))
    name = next((found for found in map(_clean, names) if found), _clean(subject))
    return Claims(subject, name, _groups(claims.get(groups_claim)) if groups_claim else frozenset())


def _groups(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return frozenset()
    return frozenset(_clean(name) for name in value[:MAX_GROUPS] if isinstance(name, str) and name.strip())


def _clean(value: Any) -> str:
    """One line without control characters, at most :data:`MAX_NAME` long; empty for what is no text."""
    if not isinstance(value, str):
        return ""
    kept = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in value)
    return " ".join(kept.split())[:MAX_NAME]
