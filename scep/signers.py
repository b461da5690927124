"""Who signed a request, and what a renewal may do: a certificate in force stands for its holder.

A certificate renews itself once. The result inherits everything but the key, and who uses it to renew again
has shown that it arrived: then the one before it is superseded. So of one identity at most two certificates
are in force at a time (threats B13).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from pki import trust
from pki.core.certificates import read_identifiers
from pki.models import Certificate, CertificateStatus, Purpose
from scep.core.decision import Barred, Holder, Signer, Stranger
from scep.models import ScepService

RENEWABLE = frozenset({Purpose.MDM_IDENTITY, Purpose.SERVER_TLS})


@dataclass(frozen=True)
class Known:
    """Who signed, and the record of the certificate where it is one of ours."""

    signer: Signer
    certificate: Certificate | None = None


def identify(der: bytes, service: ScepService, now: datetime) -> Known:
    """Whether the certificate that signed may be renewed at this service, or whose it is else.

    Found by the fingerprint of the whole certificate: a copy of names and serial numbers is a stranger.
    """
    row = (
        Certificate.objects.select_related("issuer_key__issuer")
        .filter(sha256=hashlib.sha256(der).hexdigest())
        .first()
    )
    if row is None:
        return Known(Stranger())
    if row.foreign or row.issuer_key.issuer_id != service.issuer_id:
        return Known(Barred("another issuer issued it"), row)
    if row.purpose not in RENEWABLE:
        return Known(Barred("it was issued for another purpose"), row)
    try:
        trust.verify_record(row, purpose=Purpose(row.purpose), now=now)
    except trust.Untrusted as untrusted:
        return Known(Barred(untrusted.reason), row)
    window = service.renewal_window_days
    if window is not None and row.not_after - now > timedelta(days=window):
        return Known(Barred(f"not before {row.not_after - timedelta(days=window):%Y-%m-%d}"), row)
    return Known(Holder(), row)


def lock(certificate: Certificate) -> Certificate | None:
    """The row, locked, so that renewals of one certificate follow each other. None: no longer in force."""
    return (
        Certificate.objects.select_for_update()
        .filter(pk=certificate.pk, status=CertificateStatus.ISSUED)
        .first()
    )


def heirs(certificate: Certificate, now: datetime) -> QuerySet[Certificate]:
    """The renewals of this certificate that are in force."""
    return certificate.renewals.filter(status=CertificateStatus.ISSUED, not_after__gt=now)


def arrived(certificate: Certificate, now: datetime) -> None:
    """The certificate was used by its holder: note it, and supersede the one that it renewed."""
    Certificate.objects.filter(pk=certificate.pk, first_used_at=None).update(first_used_at=now)
    if certificate.renewed_from_id is not None:
        Certificate.objects.filter(pk=certificate.renewed_from_id, status=CertificateStatus.ISSUED).update(
            status=CertificateStatus.SUPERSEDED
        )


def may_fetch(der: bytes, wanted: Certificate, service: ScepService, now: datetime) -> bool:
    """Whether who signed with ``der`` may have ``wanted`` again: GetCert is for one's own certificate.

    It is one's own where the keys are the same, or where the signer's certificate is in force and stands for
    the same holder: it renewed the wanted one, was renewed by it, or has the same binding (RFC 8894 2.6).
    """
    signer = (
        Certificate.objects.select_related("issuer_key__issuer")
        .filter(sha256=hashlib.sha256(der).hexdigest())
        .first()
    )
    if _key_of(der) == wanted.public_key_sha256:
        return True
    if signer is None or signer.foreign or signer.issuer_key.issuer_id != service.issuer_id:
        return False
    try:
        trust.verify_record(signer, purpose=Purpose(signer.purpose), now=now)
    except trust.Untrusted:
        return False
    return (
        signer.renewed_from_id == wanted.pk
        or wanted.renewed_from_id == signer.pk
        or (signer.binding is not None and signer.binding == wanted.binding)
    )


def _key_of(der: bytes) -> str:
    """The fingerprint of the key in a certificate that was read before."""
    return hashlib.sha256(read_identifiers(der).public_key).hexdigest()
