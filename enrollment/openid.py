"""Signing in with OpenID Connect before an enrolment: the authorization code flow with PKCE.

authlib does the protocol (state, nonce, PKCE, exchange of the code, signature and claims of the ID token);
here is what it leaves to the application: whose metadata are believed, where requests may go, how long they
may take. Nobody gets an account here: a name comes back, for one enrolment.

authlib, joserfc and requests are imported where they are used: most installations have no provider, and they
would be a good part of the start and of the memory of every process.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse

from enrollment.access import Person
from enrollment.core import provider as core
from enrollment.core.provider import Metadata, ProviderError
from enrollment.elsewhere import elsewhere
from enrollment.models import EnrollmentProfile, IdentityProvider, PersonSource
from vault.sealed import SealError, seal, unseal

MAX_ANSWER = 256 * 1024
SECONDS = 5.0
"""For one request to the provider, all of it."""
LEEWAY = 120
MAX_PENDING = 5
_PENDING = "enrollment.openid"


class SignInFailed(Exception):
    """Nobody is signed in. ``reason`` is a short fixed text for the administrator, ``detail`` says more."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


# --- The two steps ---------------------------------------------------------------------------------------


def start(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> HttpResponseRedirect:
    """Send the browser to the provider. Raises :class:`SignInFailed`."""
    provider = profile.identity_provider
    if provider is None or not provider.enabled:
        raise SignInFailed("no sign-in provider")
    with elsewhere(request), _explained("provider cannot be reached"):
        app = _app(provider, metadata(provider))
        begun = app.create_authorization_url(return_address())
    app.save_authorize_data(request, redirect_uri=return_address(), **begun)
    pending = dict(list(request.session.get(_PENDING, {}).items())[-MAX_PENDING + 1 :])
    pending[begun["state"]] = {"profile": profile.pk, "provider": provider.pk, "at": int(now.timestamp())}
    request.session[_PENDING] = pending
    return HttpResponseRedirect(begun["url"])


def profile_of(request: HttpRequest) -> EnrollmentProfile | None:
    """The enrolment profile for which this browser set out, as the state in the address says."""
    begun = request.session.get(_PENDING, {}).get(request.GET.get("state", ""))
    if begun is None:
        return None
    return (
        EnrollmentProfile.objects.filter(pk=begun["profile"], enabled=True)
        .select_related("issuer", "identity_provider")
        .first()
    )


def finish(request: HttpRequest, profile: EnrollmentProfile) -> Person:
    """Who came back from the provider. Raises :class:`SignInFailed`.

    1. The state is one that this browser set out with, and is used up now.
    2. The provider is still the profile's own, and the answer is from it (RFC 9207, where it says so).
    3. The code is exchanged with the verifier that belongs to the challenge (PKCE).
    4. The ID token is signed by one of the provider's keys, by its issuer, for us, current, with our nonce.
    """
    begun = _used_up(request)
    provider = profile.identity_provider
    if begun is None or provider is None or not provider.enabled or begun["provider"] != provider.pk:
        raise SignInFailed("sign-in not begun here")
    if request.GET.get("error"):
        raise SignInFailed("provider refused", request.GET["error"][:100])
    with elsewhere(request), _explained("ID token refused"):
        known = metadata(provider)
        _verify_sender(request, known)
        token = _app(provider, known, jwks=_fetch(known.jwks_uri, provider)).authorize_access_token(
            request,
            leeway=LEEWAY,
            claims_options={
                "iss": {"essential": True, "value": known.issuer},
                "aud": {"essential": True, "value": provider.client_id},
            },
        )
        if not token.get("userinfo"):
            raise SignInFailed("ID token refused", "there is none")
        claims = core.decode_claims(token["userinfo"], groups_claim=provider.groups_claim)
    return Person(claims.name, PersonSource.OPENID, f"{known.issuer} {claims.subject}"[:300], claims.groups)


def return_address() -> str:
    """Where the provider sends people back to: to be registered there, to the letter."""
    return f"{settings.BRAMLEY_PUBLIC_URL}{reverse('enrollment:openid_return')}"


def _used_up(request: HttpRequest) -> dict[str, Any] | None:
    pending = request.session.get(_PENDING, {})
    begun: dict[str, Any] | None = pending.pop(request.GET.get("state", ""), None)
    if begun is not None:
        request.session[_PENDING] = pending
    return begun


def _verify_sender(request: HttpRequest, known: Metadata) -> None:
    said = request.GET.get("iss")
    if (said is not None or known.returns_issuer) and said != known.issuer:
        raise SignInFailed("answer of another provider", str(said)[:200])


# --- The provider ----------------------------------------------------------------------------------------


def metadata(provider: IdentityProvider) -> Metadata:
    """What the provider says of itself, now. Raises :class:`SignInFailed`."""
    with _explained("provider cannot be reached"):
        document = _fetch(core.discovery_address(provider.issuer), provider)
        known = core.decode_metadata(document, issuer=provider.issuer)
        for address in known.addresses:
            verify_address(address, provider.issuer)
    return known


def seal_secret(provider: IdentityProvider, secret: str) -> bytes:
    """The client's secret as it is stored; empty for none."""
    return seal(secret.encode(), context=_context(provider)) if secret else b""


def _secret(provider: IdentityProvider) -> str | None:
    sealed = bytes(provider.client_secret_sealed)
    try:
        return unseal(sealed, context=_context(provider)).decode() if sealed else None
    except SealError as error:
        raise SignInFailed("client secret cannot be opened") from error


def _context(provider: IdentityProvider) -> str:
    return f"enrollment.identityprovider.client_secret:{provider.uuid}"


def _app(provider: IdentityProvider, known: Metadata, **more: Any) -> Any:
    from authlib.integrations.django_client import DjangoIntegration, DjangoOAuth2App

    secret = _secret(provider)
    app = DjangoOAuth2App(
        DjangoIntegration(f"enrollment.{provider.pk}"),
        name=f"enrollment.{provider.pk}",
        client_id=provider.client_id,
        client_secret=secret,
        client_kwargs={
            "scope": "openid email profile",
            "code_challenge_method": "S256",
            "token_endpoint_auth_method": known.client_authentication if secret else "none",
        },
        user_agent="Bramley",
        issuer=known.issuer,
        authorization_endpoint=known.authorization_endpoint,
        token_endpoint=known.token_endpoint,
        jwks_uri=known.jwks_uri,
        id_token_signing_alg_values_supported=list(known.algorithms),
        **more,
    )
    app.client_cls = _session_class(provider.issuer)
    return app


# --- Requests --------------------------------------------------------------------------------------------


def verify_address(address: str, issuer: str) -> None:
    """Where a request may go. Raises :class:`SignInFailed`.

    https only; beyond the issuer's own host, which the administrator named, only public addresses.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme != "https" and not (
        parts.scheme == "http" and settings.BRAMLEY_OPENID_LOOPBACK_HTTP and _is_loopback(host)
    ):
        raise SignInFailed("address is not https", address[:200])
    if parts.username or parts.password:
        raise SignInFailed("address with a password", host[:200])
    if host == urlsplit(issuer).hostname:
        return
    try:
        entries = socket.getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, ValueError) as error:
        raise SignInFailed("provider cannot be reached", f"{host[:200]}: no such name") from error
    found = {str(entry[4][0]).partition("%")[0] for entry in entries}
    if not all(ipaddress.ip_address(one).is_global for one in found):
        raise SignInFailed("address inside the network", host[:200])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _session_class(issuer: str) -> type[Any]:
    from authlib.integrations.requests_client import OAuth2Session

    class Session(OAuth2Session):  # type: ignore[misc]  # authlib has no types
        """Only where requests may go; no redirects; a limit of time and size."""

        def request(self, method: str, url: str, **options: Any) -> Any:
            verify_address(url, issuer)
            options |= {"allow_redirects": False, "timeout": SECONDS, "stream": True}
            options["headers"] = {**(options.get("headers") or {}), "Accept-Encoding": "identity"}
            response = super().request(method, url, **options)
            with response:
                response._content = _read(response)
            return response

    return Session


def _fetch(address: str, provider: IdentityProvider) -> Any:
    """A JSON document of the provider. Raises what :func:`_explained` explains."""
    with _session_class(provider.issuer)() as session:
        response = session.request("GET", address, withhold_token=True)
        if response.status_code != 200:
            raise SignInFailed(
                "provider cannot be reached", f"{address[:200]} answered {response.status_code}"
            )
        return response.json()


def _read(response: Any) -> bytes:
    """The body, however slowly it drips, within the limits."""
    deadline = time.monotonic() + SECONDS
    content = b""
    while piece := response.raw.read1(64 * 1024):
        content += piece
        if len(content) > MAX_ANSWER:
            raise SignInFailed("answer too large")
        if time.monotonic() > deadline:
            raise SignInFailed("answer too slow")
    return content


@contextmanager
def _explained(reason: str) -> Iterator[None]:
    """What goes wrong in the block is a :class:`SignInFailed`, with what was said but no secrets."""
    try:
        yield
    except SignInFailed:
        raise
    except ProviderError as error:
        raise SignInFailed(reason, error.reason) from error
    except _faults() as error:
        raise SignInFailed(reason, f"{type(error).__name__}: {error}"[:200]) from error


def _faults() -> tuple[type[Exception], ...]:
    """What authlib, joserfc and requests raise for an answer that is wrong, or not what it should be."""
    import requests
    from authlib.common.errors import AuthlibBaseError
    from joserfc.errors import JoseError

    known = (AuthlibBaseError, JoseError, requests.RequestException)
    return (*known, ValueError, TypeError, KeyError, RuntimeError)
