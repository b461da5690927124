"""Will a device believe the chain that a server shows? Apple's rules for TLS, applied to certificates as DER.

Sources: Apple, "Requirements for trusted certificates in iOS 13 and macOS 10.15" (support 103769) and "About
upcoming limits on trusted certificates" (support 102028); RFC 5280 for paths, RFC 6125 for names. Revocation,
Certificate Transparency and name constraints are not judged here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from pki.core.certificates import (
    alternative_names_of,
    basic_constraints,
    describe,
    load_certificate,
    public_key_of,
    read_identifiers,
)
from pki.core.path import PathError, verify_issued_by
from pki.core.scan import Malformed

MAX_DAYS_PUBLIC = 398
MAX_DAYS_PRIVATE = 825
MIN_RSA_BITS = 2048
SOON = timedelta(days=30)
MAX_SHOWN = 12
_DEPTH = 8
_WAYS = 32


class Level(StrEnum):
    """How much a finding weighs: devices refuse, somebody has to act, or all is well."""

    BAD = "bad"
    WAIT = "wait"
    GOOD = "good"


class Anchor(StrEnum):
    """What the chain ends in."""

    PUBLIC = "public"
    IN_PROFILE = "in_profile"
    PRIVATE = "private"
    NONE = "none"


@dataclass(frozen=True)
class Finding:
    """One thing that decides. ``code`` names it, ``values`` fill the sentence that the shell has for it."""

    code: str
    level: Level
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """``path``: from the server's certificate to where it leads, the root last if it was found.

    ``root``: that root; one that only the server shows counts as ``PRIVATE``.
    """

    anchor: Anchor
    path: tuple[bytes, ...]
    root: bytes | None
    findings: tuple[Finding, ...]

    @property
    def believed(self) -> bool:
        """Whether nothing was found that makes a device refuse."""
        return all(finding.level is not Level.BAD for finding in self.findings)


class Roots:
    """Trusted roots, found by their subject."""

    def __init__(self, roots: Iterable[bytes]) -> None:
        self._by_subject: dict[bytes, list[bytes]] = {}
        for der in roots:
            self._by_subject.setdefault(read_identifiers(der).subject, []).append(der)

    def above(self, certificate: bytes) -> bytes | None:
        """The root that issued it, or itself where it is one of them."""
        for root in self._by_subject.get(read_identifiers(certificate).issuer, []):
            if root == certificate or _issued(certificate, root):
                return root
        return None


@dataclass(frozen=True)
class Known:
    """What can stand above a server's certificate.

    ``public``: the roots that devices come with. ``in_profile``: those that enrolment profiles bring.
    ``ours``: certificates of our own CAs, only to say which of them is missing.
    """

    public: Roots
    in_profile: Roots
    ours: Roots


def judge(shown: Sequence[bytes], known: Known, *, host: str, now: datetime) -> Judgement:
    """What a device makes of the certificates that a server shows, its own first."""
    if not shown:
        return Judgement(Anchor.NONE, (), None, (Finding("no_certificate", Level.BAD),))
    try:
        for der in shown:
            describe(der)
        return _judge(tuple(shown[:MAX_SHOWN]), known, host, now)
    except Malformed as error:
        unreadable = Finding("unreadable", Level.BAD, {"reason": error.reason})
        return Judgement(Anchor.NONE, (), None, (unreadable,))


def _judge(shown: tuple[bytes, ...], known: Known, host: str, now: datetime) -> Judgement:
    leaf = shown[0]
    anchor, path = find_way(shown, known, now)
    root = path[-1] if anchor is not Anchor.NONE else None
    return Judgement(
        anchor,
        path,
        root,
        (
            _anchored(anchor, path, shown, known.ours),
            *_names(leaf, host),
            *_times(path, now),
            *_usage(leaf),
            *_length(leaf, anchor),
            *_strength(path, root),
        ),
    )


# --- The way to a root -----------------------------------------------------------------------------------


def find_way(shown: tuple[bytes, ...], known: Known, now: datetime) -> tuple[Anchor, tuple[bytes, ...]]:
    """The best of all ways up: to a public root, else to one of the profile, else as far as it goes.

    Raises :class:`Malformed`.
    """
    ways = list(islice(_ways((shown[0],), shown, now), _WAYS))
    for anchor, roots in ((Anchor.PUBLIC, known.public), (Anchor.IN_PROFILE, known.in_profile)):
        for way in ways:
            if root := roots.above(way[-1]):
                return anchor, way if root == way[-1] else (*way, root)
    for way in ways:
        if _is_root(way[-1]) and way[-1] != shown[0]:
            return Anchor.PRIVATE, way
    return Anchor.NONE, max(ways, key=len)


def _ways(way: tuple[bytes, ...], shown: tuple[bytes, ...], now: datetime) -> Iterable[tuple[bytes, ...]]:
    """Every way up through what is shown, certificates that are valid now first."""
    yield way
    if len(way) >= _DEPTH or _is_root(way[-1]):
        return
    for candidate in sorted(shown, key=lambda der: not _valid(der, now)):
        if candidate not in way and _issued(way[-1], candidate):
            yield from _ways((*way, candidate), shown, now)


def _issued(certificate: bytes, issuer: bytes) -> bool:
    try:
        verify_issued_by(certificate, issuer, allow_sha1=True)
    except PathError:
        return False
    return True


def _is_root(der: bytes) -> bool:
    identifiers = read_identifiers(der)
    return identifiers.subject == identifiers.issuer


def _valid(der: bytes, now: datetime) -> bool:
    facts = describe(der)
    return facts.not_before <= now <= facts.not_after


def _anchored(anchor: Anchor, path: tuple[bytes, ...], shown: tuple[bytes, ...], ours: Roots) -> Finding:
    top = describe(path[-1])
    values = {"name": top.subject, "sha256": top.sha256}
    if anchor is Anchor.PUBLIC:
        return Finding("public_root", Level.GOOD, values)
    if anchor is Anchor.IN_PROFILE:
        return Finding("root_in_profile", Level.GOOD, values)
    if anchor is Anchor.PRIVATE:
        return Finding("root_not_in_profile", Level.BAD, values)
    if _is_root(path[-1]):
        return Finding("self_signed", Level.BAD, values)
    missing = {"name": top.subject, "issuer": top.issuer, "shown": len(shown)}
    if (above := ours.above(path[-1])) is None:
        return Finding("issuer_missing", Level.BAD, missing)
    found = missing | {"sha256": describe(above).sha256}
    return Finding("our_root_not_in_profile" if _is_root(above) else "our_ca_not_shown", Level.BAD, found)


# --- The server's certificate ----------------------------------------------------------------------------


def _names(leaf: bytes, host: str) -> Iterable[Finding]:
    named = [(kind, value) for kind, value in alternative_names_of(leaf) if kind in {"DNS", "IP"}]
    if not named:
        yield Finding("no_alternative_name", Level.BAD, {"host": host})
    elif not any(_names_host(kind, value, host) for kind, value in named):
        yield Finding(
            "other_name", Level.BAD, {"host": host, "names": [value for _kind, value in named][:20]}
        )


def _names_host(kind: str, value: str, host: str) -> bool:
    """RFC 6125: an address as such; a name in full, or with ``*`` for its first label."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        wanted, given = host.lower().rstrip("."), value.lower().rstrip(".")
        if kind != "DNS":
            return False
        if given.startswith("*."):
            first, _, rest = wanted.partition(".")
            return bool(first) and rest == given[2:] and "." in rest
        return wanted == given
    return kind == "IP" and value == str(address)


def _times(path: tuple[bytes, ...], now: datetime) -> Iterable[Finding]:
    for position, der in enumerate(path):
        facts = describe(der)
        values = {"name": facts.subject, "at": facts.not_after, "is_server": position == 0}
        if now > facts.not_after:
            yield Finding("expired", Level.BAD, values)
        elif now < facts.not_before:
            yield Finding("not_yet_valid", Level.BAD, values | {"at": facts.not_before})
        elif facts.not_after - now < SOON:
            yield Finding("expires_soon", Level.WAIT, values)


def _usage(leaf: bytes) -> Iterable[Finding]:
    if "serverAuth" not in describe(leaf).extended_key_usage:
        yield Finding("not_for_servers", Level.BAD)
    if basic_constraints(load_certificate(leaf))[0]:
        yield Finding("is_ca", Level.WAIT)


def _length(leaf: bytes, anchor: Anchor) -> Iterable[Finding]:
    facts = describe(leaf)
    if facts.not_before < datetime(2019, 7, 1, tzinfo=UTC):
        return
    limit = MAX_DAYS_PUBLIC if anchor is Anchor.PUBLIC else MAX_DAYS_PRIVATE
    # Both ends are inside, so a year may be a second longer.
    if facts.not_after - facts.not_before >= timedelta(days=limit, seconds=1):
        days = (facts.not_after - facts.not_before).days
        yield Finding("valid_too_long", Level.BAD, {"days": days, "limit": limit})


def _strength(path: tuple[bytes, ...], root: bytes | None) -> Iterable[Finding]:
    for position, der in enumerate(path):
        certificate, subject = load_certificate(der), describe(der).subject
        values = {"name": subject, "is_server": position == 0}
        # Nobody verifies what a root says of itself.
        if der != root and _digest(certificate) in {"md5", "sha1"}:
            yield Finding("weak_signature", Level.BAD, values | {"digest": _digest(certificate).upper()})
        key = public_key_of(certificate)
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
            yield Finding("short_key", Level.BAD, values | {"bits": key.key_size})


def _digest(certificate: x509.Certificate) -> str:
    digest = certificate.signature_hash_algorithm
    return digest.name if digest else ""
