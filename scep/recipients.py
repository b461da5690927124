"""Whose certificate a client encrypts to, and who answers it.

Clients encrypt to what GetCACert gave them: the issuer's certificate, or a certificate of the service's own
(RA) that the issuer made for it. A client may have fetched it some time ago, or be early and use what
GetNextCACert gave: every certificate of every live key generation is understood, and the reply is signed by
the very certificate that the client named, because that is the one it knows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.db import transaction

from audit.recording import SERVER
from pki import issuers, keys
from pki.core import cms
from pki.core.algorithms import PrivateKey
from pki.issuance import Grant, IssuanceRefused, issue
from pki.models import (
    Certificate,
    CertificateStatus,
    HeldKey,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    Purpose,
)
from pki.signing import hold
from scep.core import message
from scep.core.message import Credentials
from scep.models import CaForm, ScepService

RA_ALGORITHM = "RSA-2048"
RA_DAYS = 365
RENEW_RA_BEFORE = timedelta(days=60)

LIVE = (IssuerKeyState.CURRENT, IssuerKeyState.NEXT, IssuerKeyState.PREVIOUS)


class NotReady(Exception):
    """Nobody can read a message for this service; the text says why, for the administrator."""


@dataclass(frozen=True)
class Recipient:
    """A certificate to which requests may be encrypted, and the key generation that it belongs to."""

    credentials: Credentials = field(repr=False)
    issuer_key: IssuerKey = field(repr=False)

    @property
    def issuing_key(self) -> IssuerKey | None:
        """The key that has to issue, where it is not simply the current one (RFC 8894 section 5.1)."""
        return self.issuer_key if self.issuer_key.state == IssuerKeyState.NEXT else None


@dataclass(frozen=True)
class CaCertificates:
    """The answer to GetCACert: one certificate, or several in the order of their roles."""

    certificates: tuple[bytes, ...]

    @property
    def single(self) -> bool:
        """Whether it goes out bare (section 4.2.1.1)."""
        return len(self.certificates) == 1


def choose(service: ScepService, envelope: bytes, now: datetime) -> Recipient:
    """The recipient that the clear part of the envelope names; where it names none of ours, the usual one.

    The usual one fails to decrypt like everybody. Raises :class:`NotReady`.
    """
    if service.ra_certificate:
        candidates = _own_certificates(service.issuer, now)
    else:
        rows = _issuer_certificates(service.issuer)
        able = [_Candidate(bytes(row.der), row.issuer_key) for row in rows if keys.decrypts(row.issuer_key)]
        candidates = able if len(able) == len(rows) else _with_own(able, service.issuer, now)
    named = cms.find_recipient(envelope, [candidate.certificate for candidate in candidates])
    chosen = next((one for one in candidates if one.certificate == named), candidates[0])
    return Recipient(_credentials(chosen), chosen.issuer_key)


def uses_ra(service: ScepService, issuer_key: IssuerKey) -> bool:
    """Whether requests to a key generation are encrypted to a certificate of the service's own (RA).

    Where that was chosen, and where the issuer's key cannot decrypt: in a token, or on an elliptic curve.
    """
    return service.ra_certificate or not keys.decrypts(issuer_key)


def ca_certificates(service: ScepService, now: datetime) -> CaCertificates:
    """What GetCACert answers with.

    The certificate for encryption comes first, then the issuing one. Raises :class:`NotReady` and
    :class:`pki.issuers.IssuerMissing`.
    """
    chain = issuers.chain(service.issuer)
    current = issuers.current_key(service.issuer)
    if uses_ra(service, current):
        held = ra_key(current, now)
        return CaCertificates((bytes(held.certificate.der), *chain))
    return CaCertificates(tuple(chain if service.ca_form == CaForm.CHAIN else chain[:1]))


def next_ca_certificates(service: ScepService, now: datetime) -> bytes | None:
    """The body of the answer to GetNextCACert (section 4.7), None while there is no next certificate."""
    following = _next_certificate(service.issuer)
    if following is None or "GetNextCACert" not in service.capabilities:
        return None
    chain = issuers.chain_of(following)
    if uses_ra(service, following.issuer_key):
        chain = [bytes(ra_key(following.issuer_key, now).certificate.der), *chain]
    current = issuers.current_key(service.issuer)
    return message.encode_next_ca_certificates(
        chain,
        ca_certificate=bytes(issuers.current_certificate(current).der),
        private_key=_issuer_private_key(current),
        now=now,
    )


def has_next(issuer: Issuer) -> bool:
    """Whether a next key generation has its certificate."""
    return _next_certificate(issuer) is not None


def ra_key(issuer_key: IssuerKey, now: datetime) -> HeldKey:
    """The RA certificate of a key generation, and its key; made where there is none or it ends soon.

    Raises :class:`NotReady`.
    """
    held = _usable(issuer_key, now)
    if held is not None:
        return held
    try:
        with transaction.atomic():
            # Who comes second finds what the first has made.
            Issuer.objects.select_for_update().get(pk=issuer_key.issuer_id)
            return _usable(issuer_key, now) or _make(issuer_key, now)
    except IssuanceRefused as refused:
        raise NotReady(f"no certificate of its own: {refused.reason}") from None


def renew_ra_certificates(now: datetime) -> int:
    """Make the RA certificates that are missing or end soon, before a client asks; returns how many."""
    made = 0
    services: dict[int, list[ScepService]] = {}
    for service in ScepService.objects.filter(enabled=True):
        services.setdefault(service.issuer_id, []).append(service)
    states = (IssuerKeyState.CURRENT, IssuerKeyState.NEXT)
    rows = IssuerKey.objects.select_related("issuer").filter(issuer__in=services, state__in=states)
    for issuer_key in rows.order_by("issuer", "generation"):
        wanted = any(uses_ra(service, issuer_key) for service in services[issuer_key.issuer_id])
        if wanted and _has_certificate(issuer_key) and _usable(issuer_key, now) is None:
            ra_key(issuer_key, now)
            made += 1
    return made


# --- the issuer's own certificates -------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidate:
    """A certificate that a client may have encrypted to. ``held``: the key of an RA certificate."""

    certificate: bytes
    issuer_key: IssuerKey
    held: HeldKey | None = None


def _issuer_certificates(issuer: Issuer) -> list[IssuerCertificate]:
    """Those of every live key generation; the one that GetCACert gives out comes first."""
    rows = IssuerCertificate.objects.select_related("issuer_key__issuer").filter(
        issuer_key__issuer=issuer, issuer_key__state__in=LIVE, revoked_at=None
    )
    found = sorted(rows, key=lambda row: not _is_usual(row))
    if not found or not _is_usual(found[0]):
        raise NotReady("the issuer has no key of its own in force")
    return found


def _issuer_private_key(issuer_key: IssuerKey) -> PrivateKey:
    try:
        return keys.issuer_private_key(issuer_key)
    except keys.CANNOT_SIGN as unavailable:
        raise NotReady(str(unavailable)) from None


def _is_usual(row: IssuerCertificate) -> bool:
    return row.is_current and row.kind in issuers.OWN_KINDS and row.issuer_key.state == IssuerKeyState.CURRENT


def _next_certificate(issuer: Issuer) -> IssuerCertificate | None:
    following = issuers.next_key(issuer)
    if following is None or not _has_certificate(following):
        return None
    return issuers.current_certificate(following)


def _has_certificate(issuer_key: IssuerKey) -> bool:
    return issuer_key.certificates.filter(is_current=True, kind__in=issuers.OWN_KINDS).exists()


# --- the RA certificate ------------------------------------------------------------------------------------


def _own_certificates(issuer: Issuer, now: datetime) -> list[_Candidate]:
    """Those of every live key generation, that of the current one first; made where there is none.

    With them alone the issuer's own key decrypts nothing (section 7.2).
    """
    ra_key(issuers.current_key(issuer), now)
    return _held_certificates(issuer, now)


def _held_certificates(issuer: Issuer, now: datetime) -> list[_Candidate]:
    rows = (
        HeldKey.objects.select_related("certificate__issuer_key__issuer")
        .filter(
            certificate__issuer_key__issuer=issuer,
            certificate__issuer_key__state__in=LIVE,
            certificate__purpose=Purpose.SCEP_RECIPIENT,
            certificate__status=CertificateStatus.ISSUED,
            certificate__not_after__gt=now,
        )
        .order_by("-certificate__not_after", "-pk")
    )
    found = [_Candidate(bytes(held.certificate.der), _issuer_key(held), held) for held in rows]
    return sorted(found, key=lambda one: one.issuer_key.state != IssuerKeyState.CURRENT)


def _with_own(able: list[_Candidate], issuer: Issuer, now: datetime) -> list[_Candidate]:
    """Some keys decrypt and others do not: what the current generation gives out comes first."""
    if able and able[0].issuer_key.state == IssuerKeyState.CURRENT:
        return [*able, *_held_certificates(issuer, now)]
    return [*_own_certificates(issuer, now), *able]


def _issuer_key(held: HeldKey) -> IssuerKey:
    return held.certificate.issuer_key


def _usable(issuer_key: IssuerKey, now: datetime) -> HeldKey | None:
    """The newest in force. One that ends soon counts only where the issuer itself ends then."""
    held = (
        HeldKey.objects.select_related("certificate")
        .filter(
            certificate__issuer_key=issuer_key,
            certificate__purpose=Purpose.SCEP_RECIPIENT,
            certificate__status=CertificateStatus.ISSUED,
            certificate__not_after__gt=now,
        )
        .order_by("-certificate__not_after", "-pk")
        .first()
    )
    if held is None or held.certificate.not_after - now > RENEW_RA_BEFORE:
        return held
    return held if _ends_with_its_issuer(held.certificate, issuer_key) else None


def _ends_with_its_issuer(certificate: Certificate, issuer_key: IssuerKey) -> bool:
    return certificate.not_after >= issuers.current_certificate(issuer_key).not_after


def _make(issuer_key: IssuerKey, now: datetime) -> HeldKey:
    private_key = keys.new_private_key(RA_ALGORITHM)
    issuer = issuer_key.issuer
    grant = Grant(
        issuer=issuer,
        purpose=Purpose.SCEP_RECIPIENT,
        subject=(("CN", f"{issuer.name[:59]} SCEP"),),
        validity_days=RA_DAYS,
        reason="decrypts SCEP requests and signs the replies",
        issuer_key=issuer_key,
    )
    certificate = issue(grant, keys.public_key_der(private_key), actor=SERVER, now=now)
    return hold(certificate, private_key)


def _credentials(chosen: _Candidate) -> Credentials:
    """The key that decrypts. Clients encrypt to an RSA key (section 3.1)."""
    if chosen.held is not None:
        private_key = keys.held_private_key(chosen.held)
    else:
        private_key = _issuer_private_key(chosen.issuer_key)
    if not isinstance(private_key, RSAPrivateKey) or not keys.decrypts(private_key):
        raise NotReady("RA certificate without RSA" if chosen.held else "issuer without an RSA key")
    return Credentials(chosen.certificate, private_key)
