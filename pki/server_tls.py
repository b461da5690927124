"""The server's own TLS: its certificate, and whose certificates it takes from devices.

The certificate is one of the default issuer for the hosts of the public addresses. It is renewed by itself,
also where the issuer has a new key, another host is to be named, or the certificate was revoked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.conf import settings
from django.db import transaction

from audit.recording import SERVER, Actor, record
from pki import issuers, keys, profiles
from pki.core.certificates import (
    alternative_names_of,
    describe,
    encode_pem,
    load_certificates,
    read_identifiers,
)
from pki.core.names import DEFAULT_MAX_VALUE
from pki.core.path import PathError, verify_issued_by
from pki.core.scan import Malformed
from pki.issuance import Grant, issue
from pki.models import (
    Certificate,
    CertificateStatus,
    HeldKey,
    Issuer,
    IssuerKey,
    Purpose,
    TlsAnchor,
)
from pki.records import common_name
from pki.signing import hold

# Devices take certificates of roots that were installed for at most 825 days; shorter does no harm here.
VALIDITY_DAYS = 397
RENEW_BEFORE = timedelta(days=30)
NAME = "Bramley server"


class AnchorRefused(Exception):
    """That is no root for devices to trust; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RootsUnreadable(issuers.IssuerMissing):
    """The file with the roots for TLS is not there: what devices need cannot be told."""


@dataclass(frozen=True)
class ServerIdentity:
    """What the server shows: its certificate, those above it without a root, and the key."""

    certificate: Certificate
    chain: tuple[bytes, ...]
    pem: bytes = field(repr=False)


def server_identity(hosts: Sequence[str], *, now: datetime) -> ServerIdentity:
    """The certificate in force for ``hosts`` (names or addresses); a new one where there is none.

    Raises :class:`pki.issuers.IssuerMissing` and :class:`pki.issuance.IssuanceRefused`.
    """
    names = alternative_names(hosts)
    issuer = issuers.default_issuer()
    held = _usable(issuer, names, now)
    if held is None:
        with transaction.atomic():
            # Who comes second finds what the first has made.
            Issuer.objects.select_for_update().get(pk=issuer.pk)
            held = _usable(issuer, names, now) or _make(issuer, names, now)
    chain = chain_to_show(held.certificate.issuer_key)
    private_key = keys.held_private_key(held).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = (bytes(held.certificate.der), *chain)
    return ServerIdentity(
        held.certificate, chain, private_key + "".join(encode_pem(der) for der in shown).encode()
    )


def alternative_names(hosts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Hosts as subject alternative names: an address as such, a name in its form for the DNS."""
    return tuple(dict.fromkeys(_alternative_name(host) for host in hosts))


def _alternative_name(host: str) -> tuple[str, str]:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        return ("IP", str(ip_address(bare)))
    except ValueError:
        return ("DNS", bare.lower() if bare.isascii() else bare.encode("idna").decode())


def chain_to_show(issuer_key: IssuerKey) -> tuple[bytes, ...]:
    """What goes with a certificate of this key: the CAs above without a root, and links from other keys.

    A device knows the root, of whichever generation; the links lead from an earlier one to this.
    """
    above = issuers.chain_of(issuers.current_certificate(issuer_key))
    return (*(der for der in above if not is_self_issued(der)), *issuers.links_to(issuer_key))


def is_self_issued(der: bytes) -> bool:
    """Whether a certificate names itself as its issuer, as roots do."""
    identifiers = read_identifiers(der)
    return identifiers.subject == identifiers.issuer


def anchor() -> bytes:
    """The root that the server's own certificate ends in, DER. Raises :class:`pki.issuers.IssuerMissing`."""
    return issuers.chain(issuers.default_issuer())[-1]


def anchors() -> list[bytes]:
    """The roots (DER) that devices need for the server's TLS beside those that they have already.

    That of our own issuer where this server ends TLS itself, those of ``BRAMLEY_TLS_CA_FILE``, and those that
    an administrator added. Raises :class:`pki.issuers.IssuerMissing`, :class:`RootsUnreadable` among them.
    """
    own = [anchor()] if settings.BRAMLEY_TLS else []
    added = TlsAnchor.objects.order_by("pk").values_list("der", flat=True)
    return list(dict.fromkeys([*own, *_from_file(settings.BRAMLEY_TLS_CA_FILE), *map(bytes, added)]))


def _from_file(path: str) -> tuple[bytes, ...]:
    try:
        return load_certificates(Path(path).read_bytes()) if path else ()
    except (OSError, Malformed) as error:
        raise RootsUnreadable(f"BRAMLEY_TLS_CA_FILE cannot be read: {error}") from error


def add_anchor(data: bytes, *, name: str = "", actor: Actor, now: datetime) -> TlsAnchor:
    """Let enrolment profiles carry a root (PEM or DER) that the server's chain ends in.

    Raises :class:`AnchorRefused`.
    """
    try:
        (der,) = load_certificates(data)
        facts = describe(der)
    except ValueError:
        raise AnchorRefused("the file holds several certificates: give the root alone") from None
    except Malformed as error:
        raise AnchorRefused(error.reason) from None
    if not facts.is_ca or not is_self_issued(der):
        raise AnchorRefused("that is not the certificate of a root CA")
    try:
        # How a root signed itself decides nothing for devices: old ones with SHA-1 are still in use.
        verify_issued_by(der, der, allow_sha1=True)
    except PathError as error:
        raise AnchorRefused(f"the certificate is not signed by itself as a root is: {error.reason}") from None
    if not facts.not_before <= now <= facts.not_after:
        raise AnchorRefused("the certificate is not valid now")
    with transaction.atomic():
        row, created = TlsAnchor.objects.get_or_create(
            sha256=facts.sha256,
            defaults={
                "name": (name or common_name(facts.subject) or facts.subject)[:200],
                "subject": facts.subject[:500],
                "not_after": facts.not_after,
                "der": der,
            },
        )
        if created:
            record("tls_root.added", actor=actor, target=row, details={"sha256": row.sha256}, at=now)
    return row


def remove_anchor(row: TlsAnchor, *, actor: Actor, now: datetime) -> None:
    """Later profiles do not carry it; devices keep what they have until their profile is replaced.

    Of two who remove it at once, one does.
    """
    with transaction.atomic():
        removed, _by_model = TlsAnchor.objects.filter(pk=row.pk).delete()
        if removed:
            record("tls_root.removed", actor=actor, target=row, details={"sha256": row.sha256}, at=now)


def _usable(issuer: Issuer, names: tuple[tuple[str, str], ...], now: datetime) -> HeldKey | None:
    """The newest certificate in force for exactly these names.

    One that ends soon counts only where the issuer itself ends then.
    """
    issuer_key = issuers.current_key(issuer)
    authority = issuers.current_certificate(issuer_key)
    found = HeldKey.objects.select_related("certificate__issuer_key").filter(
        certificate__issuer_key=issuer_key,
        certificate__purpose=Purpose.SERVER_TLS,
        certificate__status=CertificateStatus.ISSUED,
        certificate__not_after__gt=now,
    )
    for held in found.order_by("-certificate__not_after", "-pk"):
        certificate = held.certificate
        if set(alternative_names_of(bytes(certificate.der))) == set(names):
            ends_soon = certificate.not_after - now <= RENEW_BEFORE
            return None if ends_soon and certificate.not_after < authority.not_after else held
    return None


def _make(issuer: Issuer, names: tuple[tuple[str, str], ...], now: datetime) -> HeldKey:
    private_key = keys.new_private_key(
        "EC-P256" if profiles.rules_for(Purpose.SERVER_TLS, issuer).ec_allowed else "RSA-2048"
    )
    first = names[0][1]
    grant = Grant(
        issuer=issuer,
        purpose=Purpose.SERVER_TLS,
        subject=(("CN", first if len(first) <= DEFAULT_MAX_VALUE else NAME),),
        san=names,
        validity_days=VALIDITY_DAYS,
        reason="the server's own TLS",
    )
    return hold(issue(grant, keys.public_key_der(private_key), actor=SERVER, now=now), private_key)
