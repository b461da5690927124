"""The server's own TLS: its certificate, and whose certificates it takes from devices.

The certificate is one of the default issuer for the hosts of the public addresses. It is renewed by itself,
also where the issuer has a new key, another host is to be named, or the certificate was revoked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.db import transaction

from audit.recording import SERVER
from pki import issuers, keys, profiles
from pki.core.certificates import alternative_names_of, encode_pem, read_identifiers
from pki.core.names import DEFAULT_MAX_VALUE
from pki.issuance import Grant, issue
from pki.models import (
    Certificate,
    CertificateStatus,
    HeldKey,
    Issuer,
    IssuerKey,
    Purpose,
)
from pki.signing import hold

# Devices take certificates of roots that were installed for at most 825 days; shorter does no harm here.
VALIDITY_DAYS = 397
RENEW_BEFORE = timedelta(days=30)
NAME = "Bramley server"


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
