"""Issuers: making one, and what it answers with now."""

from __future__ import annotations

import hashlib
import uuid
from datetime import datetime, timedelta

from cryptography import x509
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from audit.recording import Actor, record
from pki import keys, revocation
from pki.core.algorithms import PrivateKey
from pki.core.certificates import (
    build_root,
    describe,
    encode_pem,
    load_certificates,
    read_identifiers,
)
from pki.core.names import Name, NameRefused
from pki.models import (
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    Purpose,
)

DEFAULT_SLUG = "bramley"
DEFAULT_ALGORITHM = "RSA-3072"
MAX_YEARS = 40
# Clocks of devices are not exact: certificates are valid from a little earlier (threats A4).
BACKDATE = timedelta(minutes=10)
_DAYS_A_YEAR = 365.25
OWN_KINDS = (IssuerCertificateKind.SELF_SIGNED, IssuerCertificateKind.SUBORDINATE)


class IssuerRefused(Exception):
    """The issuer cannot be made so; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class IssuerMissing(Exception):
    """There is no such issuer, or it has no key in force."""


def create_issuer(
    slug: str,
    name: str,
    *,
    organization: str = "",
    algorithm: str = DEFAULT_ALGORITHM,
    years: int = 10,
    actor: Actor,
    now: datetime | None = None,
) -> Issuer:
    """Make a root of our own with its first key, certificate and CRL, and record it.

    ``name`` becomes the common name. SCEP needs an RSA key (``algorithm``: see :data:`pki.keys.ALGORITHMS`).
    Raises :class:`IssuerRefused`.
    """
    now = now or timezone.now()
    _verify_new(slug, algorithm, years)
    private_key = keys.new_private_key(algorithm)
    der = _build_root(name, organization, private_key, years, now)
    with transaction.atomic():
        if Issuer.objects.filter(slug=slug).exists():
            raise IssuerRefused(f"there is an issuer {slug} already")
        issuer = Issuer.objects.create(
            slug=slug, name=name, kind=IssuerKind.ROOT, trusted_for=[purpose.value for purpose in Purpose]
        )
        issuer_key = add_key(issuer, private_key=private_key, algorithm=algorithm, certificate=der)
        add_certificate(issuer_key, der, kind=IssuerCertificateKind.SELF_SIGNED)
        revocation.publish_crl(issuer_key, now)
        record(
            "issuer.created",
            actor=actor,
            target=issuer,
            details={"algorithm": algorithm, "sha256": describe(der).sha256},
        )
    return issuer


def _verify_new(slug: str, algorithm: str, years: int) -> None:
    try:
        validate_slug(slug)
    except ValidationError:
        raise IssuerRefused("the short name may hold letters, digits, hyphens and underscores") from None
    if len(slug) > 50:
        raise IssuerRefused("the short name is too long")
    if algorithm not in keys.ALGORITHMS:
        raise IssuerRefused(f"unknown algorithm {algorithm}; known are {', '.join(keys.ALGORITHMS)}")
    if not 1 <= years <= MAX_YEARS:
        raise IssuerRefused(f"a CA certificate is valid for 1 to {MAX_YEARS} years")


def _build_root(name: str, organization: str, private_key: PrivateKey, years: int, now: datetime) -> bytes:
    subject: Name = (("CN", name), *((("O", organization),) if organization else ()))
    try:
        return build_root(
            subject,
            private_key=private_key,
            serial_number=x509.random_serial_number(),
            not_before=now - BACKDATE,
            not_after=now + timedelta(days=round(years * _DAYS_A_YEAR)),
        )
    except NameRefused as error:
        raise IssuerRefused(error.reason) from None


def add_key(
    issuer: Issuer,
    *,
    certificate: bytes,
    algorithm: str,
    private_key: PrivateKey | None = None,
    state: IssuerKeyState = IssuerKeyState.CURRENT,
) -> IssuerKey:
    """Record the next key generation of an issuer; without ``private_key`` it is one that is only trusted."""
    identifier = uuid.uuid4()
    last = issuer.keys.order_by("-generation").values_list("generation", flat=True).first()
    facts, public_key = describe(certificate), read_identifiers(certificate).public_key
    return IssuerKey.objects.create(
        uuid=identifier,
        issuer=issuer,
        generation=(last or 0) + 1,
        state=state,
        algorithm=algorithm,
        private_key_sealed=keys.seal_issuer_key(private_key, identifier) if private_key else None,
        public_key=public_key,
        # A CA without the extension is known by the SHA-1 of its key (RFC 5280 section 4.2.1.2).
        key_identifier=facts.subject_key_identifier or hashlib.sha1(public_key).digest(),  # noqa: S324
    )


def add_certificate(
    issuer_key: IssuerKey,
    der: bytes,
    *,
    kind: IssuerCertificateKind,
    above: tuple[bytes, ...] = (),
    is_current: bool = True,
) -> IssuerCertificate:
    """Record a certificate of an issuer key. ``above``: the certificates over it, nearest first (DER)."""
    facts = describe(der)
    return IssuerCertificate.objects.create(
        issuer_key=issuer_key,
        kind=kind,
        is_current=is_current,
        der=der,
        chain="".join(encode_pem(certificate) for certificate in above).encode(),
        subject=facts.subject[:500],
        serial_number=facts.serial_number[:40],
        sha256=facts.sha256,
        not_before=facts.not_before,
        not_after=facts.not_after,
    )


def default_issuer() -> Issuer:
    """The issuer ``bramley``, else the first active one of our own. Raises :class:`IssuerMissing`."""
    own = Issuer.objects.filter(state=IssuerState.ACTIVE).exclude(kind=IssuerKind.TRUST_ONLY)
    issuer = own.filter(slug=DEFAULT_SLUG).first() or own.order_by("pk").first()
    if issuer is None:
        raise IssuerMissing("there is no active issuer")
    return issuer


def current_key(issuer: Issuer) -> IssuerKey:
    """The key generation that issues now. Raises :class:`IssuerMissing`."""
    issuer_key = issuer.keys.filter(state=IssuerKeyState.CURRENT).first()
    if issuer_key is None:
        raise IssuerMissing(f"the issuer {issuer.slug} has no current key")
    return issuer_key


def current_certificate(issuer_key: IssuerKey) -> IssuerCertificate:
    """The certificate that is handed out for a key. Raises :class:`IssuerMissing`."""
    certificate = issuer_key.certificates.filter(is_current=True, kind__in=OWN_KINDS).first()
    if certificate is None:
        raise IssuerMissing(f"the issuer key {issuer_key} has no certificate")
    return certificate


def chain(issuer: Issuer) -> list[bytes]:
    """The issuer's certificate and those above it up to the root, as DER. Raises :class:`IssuerMissing`."""
    return chain_of(current_certificate(current_key(issuer)))


def chain_of(certificate: IssuerCertificate) -> list[bytes]:
    """A CA certificate and those above it up to the root, as DER."""
    above = bytes(certificate.chain)
    return [bytes(certificate.der), *(load_certificates(above) if above else ())]


def certificate_url(issuer: Issuer) -> str:
    """Where relying parties fetch the issuer's certificate."""
    return f"{settings.BRAMLEY_PUBLIC_URL}{reverse('pki:certificate', args=[issuer.slug])}"


def crl_url(issuer_key: IssuerKey) -> str:
    """Where relying parties fetch the CRL of a key generation."""
    path = reverse("pki:crl", args=[issuer_key.issuer.slug, issuer_key.generation])
    return f"{settings.BRAMLEY_PUBLIC_URL}{path}"
