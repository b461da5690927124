"""From a certificate up to a root: which certificates stand between, each one checked.

RFC 5280 section 6.1.3 without revocation: whom Apple has revoked, Apple's portal and APNs turn away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from pki.core.certificates import describe, read_identifiers
from pki.core.path import PathError, verify_issued_by
from pki.core.scan import Malformed, scan

MAX_LENGTH = 6
_COMMON_NAME = re.compile(r"(?:^|,|\+)CN=((?:[^,+\\]|\\.)+)")


class ChainError(Exception):
    """The certificate does not lead to a root that counts. ``str()`` says why in plain words."""


class UnknownIssuer(ChainError):
    """Nobody here knows the certificate's issuer."""


class NotIssued(ChainError):
    """The certificate names an issuer that did not sign it."""


class NotCurrent(ChainError):
    """A certificate on the way is out of its time."""


def build(
    leaf: bytes, others: Sequence[bytes], *, roots: Sequence[bytes], now: datetime
) -> tuple[bytes, ...]:
    """The certificates (DER) above ``leaf``, the nearest first, the root last.

    ``others``: what may stand between, in any order. Only ``roots`` end a chain; whatever else signs itself
    does not. Raises :class:`ChainError`.
    """
    try:
        return _climb(leaf, others, roots, now)
    except Malformed as error:
        raise ChainError(f"A certificate of the chain cannot be read: {error.reason}.") from None


def common_name(certificate: bytes) -> str:
    """The subject's common name, or else all of the subject. Raises ``Malformed``."""
    return _short(describe(certificate).subject)


def issuer_name(certificate: bytes) -> str:
    """The issuer's common name, or else all of its name. Raises ``Malformed``."""
    return _short(describe(certificate).issuer)


def _short(name: str) -> str:
    found = _COMMON_NAME.search(name)
    return (found[1] if found else name)[:200]


def _climb(leaf: bytes, others: Sequence[bytes], roots: Sequence[bytes], now: datetime) -> tuple[bytes, ...]:
    found: list[bytes] = []
    current = leaf
    while len(found) < MAX_LENGTH:
        if (root := _issuer_of(current, roots)) is not None:
            return (*found, _verify_time(root, now))
        above = _issuer_of(current, [other for other in others if other not in (leaf, *found)])
        if above is None:
            raise UnknownIssuer(
                f"The issuer of “{common_name(current)}” is not known here: “{issuer_name(current)}”."
            )
        found.append(_verify_time(above, now))
        current = above
    raise UnknownIssuer("The chain of certificates is too long.")


def _issuer_of(certificate: bytes, candidates: Sequence[bytes]) -> bytes | None:
    """Who signed it. Raises :class:`NotIssued` where the only one of that name did not."""
    problem = ""
    for candidate in candidates:
        if not _has_name_of_issuer(candidate, certificate):
            continue
        try:
            verify_issued_by(certificate, candidate, allow_sha1=False)
        except PathError as error:
            problem = error.reason
        else:
            return candidate
    if problem:
        raise NotIssued(
            f"“{common_name(certificate)}” says that “{issuer_name(certificate)}” issued it, "
            f"which is not so: {problem}."
        )
    return None


def _has_name_of_issuer(candidate: bytes, certificate: bytes) -> bool:
    try:
        scan(candidate)
        return read_identifiers(candidate).subject == read_identifiers(certificate).issuer
    except Malformed:
        return False


def _verify_time(certificate: bytes, now: datetime) -> bytes:
    facts = describe(certificate)
    if not facts.not_before <= now < facts.not_after:
        raise NotCurrent(
            f"“{_short(facts.subject)}” above it is valid from {facts.not_before:%d %B %Y} "
            f"until {facts.not_after:%d %B %Y}."
        )
    return certificate
