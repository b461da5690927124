"""Which enrollment a certificate speaks for.

A certificate is pinned to one enrollment: at Authenticate or, if it is a renewed one, when it is first used.
From then on the earlier ones of that enrollment are refused.
"""

from __future__ import annotations

from datetime import datetime

from database import prepared, rows
from devices.models import Channel, Enrollment, Identity, IdentityState
from pki.models import Certificate, CertificateStatus

MAX_RENEWALS = 50

_USED = f"""
    UPDATE {Certificate._meta.db_table} SET first_used_at = %s WHERE id = %s AND first_used_at IS NULL
"""  # noqa: S608 - here and below only names of our own tables are put together
_BOUND = f"SELECT 1 FROM {Enrollment._meta.db_table} WHERE binding = %s AND channel = 'DEVICE'"  # noqa: S608
_PINNED = f"SELECT 1 FROM {Identity._meta.db_table} WHERE certificate_id = %s"  # noqa: S608


def pin(enrollment: Enrollment, certificate: Certificate, now: datetime) -> Identity:
    """Make the certificate speak for the enrollment. Raises ``IntegrityError`` if it is pinned already."""
    prepared.changes(_USED, [prepared.instant(now), certificate.pk])
    return rows.insert(
        Identity(enrollment=enrollment, certificate=certificate, sha256=certificate.sha256, pinned_at=now)
    )


def pinned(certificate: Certificate) -> Identity | None:
    """The identity that the certificate is, with its enrollment and device."""
    if prepared.row(_PINNED, [certificate.pk]) is None:
        return None
    return Identity.objects.select_related("enrollment__device").filter(certificate=certificate).first()


def supersede_others(enrollment: Enrollment, certificate: Certificate, now: datetime) -> int:
    """Refuse from now on every other certificate of the enrollment. Returns how many there were."""
    others = Identity.objects.filter(enrollment=enrollment, state=IdentityState.ACTIVE).exclude(
        certificate_id=certificate.pk
    )
    Certificate.objects.filter(
        pk__in=list(others.values_list("certificate_id", flat=True)), status=CertificateStatus.ISSUED
    ).update(status=CertificateStatus.SUPERSEDED)
    return others.update(state=IdentityState.SUPERSEDED, superseded_at=now)


def heir_of(certificate: Certificate) -> Enrollment | None:
    """The device enrollment that a certificate, itself not pinned, inherits: it renews a pinned one, or was
    issued for the same enrollment session. None if there is none.
    """
    ancestor, hops = certificate.renewed_from, 0
    while ancestor is not None and hops < MAX_RENEWALS:
        identity = Identity.objects.select_related("enrollment__device").filter(certificate=ancestor).first()
        if identity is not None:
            return identity.enrollment
        ancestor, hops = ancestor.renewed_from, hops + 1
    if certificate.binding is None or prepared.row(_BOUND, [prepared.key(certificate.binding)]) is None:
        return None
    return (
        Enrollment.objects.select_related("device")
        .filter(binding=certificate.binding, channel=Channel.DEVICE)
        .first()
    )


def is_outdated(enrollment: Enrollment, certificate: Certificate) -> bool:
    """Whether a certificate issued later is already in use: then this one came too late."""
    return Identity.objects.filter(
        enrollment=enrollment, state=IdentityState.ACTIVE, certificate_id__gt=certificate.pk
    ).exists()
