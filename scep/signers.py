"""Who signed a request, and what a renewal may do: a certificate in force stands for its holder.

A certificate renews itself once. The result inherits everything but the key, and who uses it to renew again
has shown that it arrived: then the one before it is superseded. So of one identity at most two certificates
are in force at a time (threats B13).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import QuerySet

from pki import trust
from pki.models import Certificate, CertificateStatus, Issuer, Purpose
from scep.core.decision import Barred, Holder, Signer, Stranger

RENEWABLE = frozenset({Purpose.MDM_IDENTITY, Purpose.SERVER_TLS})


@dataclass(frozen=True)
class Known:
    """Who signed, and the record of the certificate where it is one of ours."""

    signer: Signer
    certificate: Certificate | None = None


def identify(der: bytes, issuer: Issuer, now: datetime) -> Known:
    """Whether the certificate that signed may be renewed at this issuer, or whose it is else.

    Found by the fingerprint of the whole certificate: a copy of names and serial numbers is a stranger.
    """
    row = (
        Certificate.objects.select_related("issuer_key__issuer")
        .filter(sha256=hashlib.sha256(der).hexdigest())
        .first()
    )
    if row is None:
        return Known(Stranger())
    if row.foreign or row.issuer_key.issuer_id != issuer.pk:
        return Known(Barred("another issuer issued it"), row)
    if row.purpose not in RENEWABLE:
        return Known(Barred("it was issued for another purpose"), row)
    try:
        trust.verify_record(row, purpose=Purpose(row.purpose), now=now)
    except trust.Untrusted as untrusted:
        return Known(Barred(untrusted.reason), row)
    window = renewal_window()
    if window is not None and row.not_after - now > window:
        return Known(Barred(f"not before {row.not_after - window:%Y-%m-%d}"), row)
    return Known(Holder(), row)


def renewal_window() -> timedelta | None:
    """How long before its end a certificate may be renewed; None: at any time (the default).

    ``BRAMLEY_SCEP_RENEWAL_WINDOW_DAYS`` in the settings.
    """
    days: int | None = getattr(settings, "BRAMLEY_SCEP_RENEWAL_WINDOW_DAYS", None)
    return timedelta(days=days) if days else None


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
