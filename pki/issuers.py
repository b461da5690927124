"""Issuers: making one, and what it answers with now."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from cryptography import x509
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from audit.recording import Actor, record
from pki import keys, revocation
from pki.core.algorithms import PrivateKey
from pki.core.certificates import (
    build_root,
    default_key_identifier,
    describe,
    encode_pem,
    load_certificates,
    read_identifiers,
)
from pki.core.names import Name, NameRefused
from pki.core.profile import Addresses
from pki.models import (
    Certificate,
    CertificateStatus,
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
LINK_KINDS = (IssuerCertificateKind.NEW_WITH_OLD, IssuerCertificateKind.OLD_WITH_NEW)
# What this server holds the keys of: it replaces them by itself, so nobody depends on the old ones.
SELF_RENEWED = (Purpose.PROFILE_SIGNING, Purpose.OCSP_SIGNING, Purpose.SCEP_RECIPIENT)
# For queries of certificates. Other servers get certificates for TLS too; only one whose key is here is ours.
OF_THIS_SERVER = Q(purpose__in=SELF_RENEWED) | Q(purpose=Purpose.SERVER_TLS, held_key__isnull=False)


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
    key_location: str = "",
) -> Issuer:
    """Make a root of our own with its first key, certificate and CRL, and record it.

    ``name`` becomes the common name. SCEP needs an RSA key (``algorithm``: see :data:`pki.keys.ALGORITHMS`).
    ``key_location``: a PKCS #11 URI of a key in a token; empty for one that is kept here. Raises
    :class:`IssuerRefused`.
    """
    now = now or timezone.now()
    verify_new(slug, algorithm, years)
    private_key = make_private_key(key_location, algorithm)
    der = _build_root(name, organization, private_key, years, now)
    with transaction.atomic():
        if Issuer.objects.filter(slug=slug).exists():
            raise IssuerRefused(f"there is an issuer {slug} already")
        issuer = Issuer.objects.create(
            slug=slug,
            name=name,
            subject_der=read_identifiers(der).subject,
            kind=IssuerKind.ROOT,
            trusted_for=[purpose.value for purpose in Purpose],
        )
        issuer_key = add_key(issuer, private_key=private_key, algorithm=algorithm, certificate=der, now=now)
        add_certificate(issuer_key, der, kind=IssuerCertificateKind.SELF_SIGNED)
        try:
            revocation.publish_crl(issuer_key, now)
        except keys.CANNOT_SIGN as error:
            raise IssuerRefused(str(error)) from error
        record(
            "issuer.created",
            actor=actor,
            target=issuer,
            details={"algorithm": algorithm, "sha256": describe(der).sha256},
        )
    return issuer


def verify_new(slug: str, algorithm: str, years: int) -> None:
    """Raises :class:`IssuerRefused` for a short name, an algorithm or a term that no issuer can have."""
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


def make_private_key(key_location: str, algorithm: str) -> PrivateKey:
    """A new key for an issuer, kept here or in a token. Takes a second or two: before any row is locked.

    Raises :class:`IssuerRefused`.
    """
    if not key_location:
        return keys.new_private_key(algorithm)
    try:
        return keys.new_issuer_key(key_location, algorithm)
    except (keys.KeyRefused, *keys.CANNOT_SIGN) as error:
        raise IssuerRefused(str(error)) from error


def _build_root(name: str, organization: str, private_key: PrivateKey, years: int, now: datetime) -> bytes:
    try:
        return build_root(
            subject_of_new(name, organization),
            private_key=private_key,
            serial_number=x509.random_serial_number(),
            not_before=now - BACKDATE,
            not_after=end_of_term(now, years),
            decrypts=keys.decrypts(private_key),
        )
    except (NameRefused, *keys.CANNOT_SIGN) as error:
        raise IssuerRefused(str(error)) from error


def subject_of_new(name: str, organization: str) -> Name:
    """The name of a new issuer in its certificates."""
    return (("CN", name), *((("O", organization),) if organization else ()))


def end_of_term(now: datetime, years: int) -> datetime:
    """When a CA certificate of so many years ends that is made now."""
    return now + timedelta(days=round(years * _DAYS_A_YEAR))


def add_key(
    issuer: Issuer,
    *,
    algorithm: str,
    certificate: bytes | None = None,
    private_key: PrivateKey | None = None,
    state: IssuerKeyState = IssuerKeyState.CURRENT,
    activate_at: datetime | None = None,
    now: datetime | None = None,
) -> IssuerKey:
    """Record the next key generation of an issuer.

    Without ``private_key`` it is one that is only trusted; without ``certificate`` (DER) one that an external
    CA has yet to certify. ``ValueError`` without either.
    """
    identifier = uuid.uuid4()
    last = issuer.keys.order_by("-generation").values_list("generation", flat=True).first()
    if certificate is not None:
        public_key = read_identifiers(certificate).public_key
        key_identifier = describe(certificate).subject_key_identifier
    elif private_key is not None:
        public_key, key_identifier = keys.public_key_der(private_key), None
    else:
        raise ValueError("a key generation is made of a certificate or of a private key")
    return IssuerKey.objects.create(
        uuid=identifier,
        issuer=issuer,
        generation=(last or 0) + 1,
        state=state,
        algorithm=algorithm,
        **keys.kept(private_key, identifier),
        public_key=public_key,
        key_identifier=key_identifier or default_key_identifier(public_key),
        activated_at=(now or timezone.now()) if state == IssuerKeyState.CURRENT else None,
        activate_at=activate_at,
    )


def add_certificate(
    issuer_key: IssuerKey,
    der: bytes,
    *,
    kind: IssuerCertificateKind,
    above: tuple[bytes, ...] = (),
    is_current: bool = True,
    signed_by: IssuerKey | None = None,
) -> IssuerCertificate:
    """Record a certificate of an issuer key.

    ``above``: the certificates over it, nearest first (DER), where the one above is not ours. ``signed_by``:
    the key of ours that signed it, where that is another one.
    """
    facts = describe(der)
    return IssuerCertificate.objects.create(
        issuer_key=issuer_key,
        signed_by=signed_by,
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


def keys_of(issuer: Issuer) -> list[IssuerKey]:
    """Every key generation, the newest first, without the sealed private keys."""
    return list(issuer.keys.select_related("issuer").defer("private_key_sealed").order_by("-generation"))


def next_key(issuer: Issuer) -> IssuerKey | None:
    """The key generation that is made but not in use yet; None where there is none.

    It may lack a certificate: that of a subordinate of an external CA has to be fetched first.
    """
    return issuer.keys.filter(state=IssuerKeyState.NEXT).select_related("issuer").first()


def links_to(issuer_key: IssuerKey) -> list[bytes]:
    """What leads from an older or newer root to this key: certificates of it by another key of its issuer."""
    rows = issuer_key.certificates.filter(kind__in=LINK_KINDS, revoked_at=None).order_by("-not_after", "-pk")
    return [bytes(der) for der in rows.values_list("der", flat=True)]


def live_certificates(issuer_key: IssuerKey, now: datetime) -> QuerySet[Certificate]:
    """The certificates in force that others hold and this key issued: who depends on it.

    Without those whose keys are this server's own; those it replaces by itself.
    """
    return Certificate.objects.filter(
        issuer_key=issuer_key, status=CertificateStatus.ISSUED, not_after__gt=now
    ).exclude(OF_THIS_SERVER)


def live_subordinates(issuer_key: IssuerKey, now: datetime) -> QuerySet[IssuerCertificate]:
    """The certificates in force of CAs below that this key signed."""
    return (
        issuer_key.authorities.filter(
            kind=IssuerCertificateKind.SUBORDINATE, is_current=True, revoked_at=None, not_after__gt=now
        )
        .exclude(issuer_key__state=IssuerKeyState.CLOSED)
        .exclude(issuer_key__issuer__state=IssuerState.REVOKED)
    )


def live_count(issuer_key: IssuerKey, now: datetime | None = None) -> int:
    """How many certificates in force hang on this key: those of devices and others, and of CAs below."""
    now = now or timezone.now()
    return live_certificates(issuer_key, now).count() + live_subordinates(issuer_key, now).count()


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
    """A CA certificate and those above it up to the root, as DER.

    Above a subordinate of ours stands what its parent hands out now: that may have been renewed since.
    """
    if certificate.signed_by is not None and certificate.kind == IssuerCertificateKind.SUBORDINATE:
        return [bytes(certificate.der), *chain_of(current_certificate(certificate.signed_by))]
    above = bytes(certificate.chain)
    return [bytes(certificate.der), *(load_certificates(above) if above else ())]


def trust_bundle(issuer: Issuer) -> list[bytes]:
    """What a relying party needs to check certificates of every generation in use or still trusted.

    The current chain first, then those of the other generations, then the links between them.
    """
    states = (IssuerKeyState.CURRENT, IssuerKeyState.NEXT, IssuerKeyState.PREVIOUS)
    rows = IssuerCertificate.objects.select_related("issuer_key", "signed_by").filter(
        issuer_key__issuer=issuer, issuer_key__state__in=states, revoked_at=None
    )
    own = [row for row in rows if row.is_current and row.kind in OWN_KINDS]
    own.sort(key=lambda row: (states.index(IssuerKeyState(row.issuer_key.state)), -row.issuer_key.generation))
    links = [bytes(row.der) for row in rows if row.kind in LINK_KINDS]
    return list(dict.fromkeys([der for row in own for der in chain_of(row)] + links))


def addresses(issuer_key: IssuerKey) -> Addresses:
    """What certificates of a key generation say of where to ask about them."""
    return Addresses(
        crl=crl_url(issuer_key), issuer=key_certificate_url(issuer_key), ocsp=ocsp_url(issuer_key.issuer)
    )


def key_certificate_url(issuer_key: IssuerKey) -> str:
    """Where relying parties fetch the certificate of one key generation."""
    path = reverse("pki:key_certificate", args=[issuer_key.issuer.slug, issuer_key.generation])
    return f"{settings.BRAMLEY_PUBLIC_URL}{path}"


def certificate_url(issuer: Issuer) -> str:
    """Where people and systems fetch the certificate that the issuer signs with now."""
    return f"{settings.BRAMLEY_PUBLIC_URL}{reverse('pki:certificate', args=[issuer.slug])}"


def ocsp_url(issuer: Issuer) -> str:
    """Where relying parties ask what became of a certificate of this issuer, of whichever generation."""
    return f"{settings.BRAMLEY_PUBLIC_URL}{reverse('pki:ocsp', args=[issuer.slug])}"


def crl_url(issuer_key: IssuerKey) -> str:
    """Where relying parties fetch the CRL of a key generation."""
    path = reverse("pki:crl", args=[issuer_key.issuer.slug, issuer_key.generation])
    return f"{settings.BRAMLEY_PUBLIC_URL}{path}"
