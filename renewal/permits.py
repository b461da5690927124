"""Letting a device in whose certificate has ended, for one renewal (decision D2).

A permit holds for exactly one certificate that is expired and nothing worse, until it is used or its time is
over. What it lets the device do is little: fetch the command that renews its identity, and answer it. All
else stays refused (:mod:`mdm.permitted`).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from audit.recording import Actor, record
from devices.models import Enrollment, EnrollmentState, Identity, IdentityState
from pki import trust
from pki.models import Certificate, Purpose
from renewal import identities
from renewal.identities import NotRenewable
from renewal.models import OPEN_RENEWALS, IdentityRenewal, RenewalPermit, RenewalReason

DEFAULT_TIME = timedelta(days=7)
LONGEST_TIME = timedelta(days=30)


class PermitRefused(Exception):
    """No permit is granted; ``reason`` says why, for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@transaction.atomic
def grant(
    enrollment: Enrollment,
    *,
    actor: Actor,
    now: datetime,
    time: timedelta = DEFAULT_TIME,
    note: str = "",
) -> RenewalPermit:
    """Let the device in for one renewal, until ``time`` is over; its renewal is planned, and it is woken.

    A permit that was granted before and not used is withdrawn. Raises :class:`PermitRefused`, and then
    leaves nothing behind.
    """
    if not timedelta(0) < time <= LONGEST_TIME:
        raise PermitRefused(f"a permit lasts for at most {LONGEST_TIME.days} days")
    locked = Enrollment.objects.select_for_update(of=("self",), no_key=True).get(pk=enrollment.pk)
    if locked.state != EnrollmentState.ENROLLED:
        raise PermitRefused(identities.NOT_ENROLLED)
    certificate = _expired_certificate(locked, now)
    try:
        renewal = _open_renewal(locked) or identities.renew(
            locked, reason=RenewalReason.MANUAL, actor=actor, now=now
        )
    except NotRenewable as refused:
        raise PermitRefused(refused.reason) from refused
    for earlier in _unused(locked.pk):
        withdraw(earlier, actor=actor, now=now)
    permit = RenewalPermit.objects.create(
        enrollment=locked,
        certificate=certificate,
        renewal=renewal,
        note=note[:300],
        granted_by=actor.name[:200],
        granted_at=now,
        until=now + time,
    )
    record(
        "renewal_permit.granted",
        actor=actor,
        target=permit,
        at=now,
        reason=note,
        details={"certificate": certificate.serial_number, "until": permit.until.isoformat()},
    )
    return permit


@transaction.atomic
def withdraw(permit: RenewalPermit, *, actor: Actor, now: datetime) -> bool:
    """Take a permit back. False where it was used or withdrawn before."""
    ended = RenewalPermit.objects.filter(pk=permit.pk, used_at=None, withdrawn_at=None).update(
        withdrawn_at=now
    )
    if ended:
        record("renewal_permit.withdrawn", actor=actor, target=permit, at=now)
    return bool(ended)


def find(identity: Identity, now: datetime, *, lock: bool = False) -> RenewalPermit | None:
    """The permit with which this pinned, expired certificate may be used now; None: it may not.

    ``lock``: keep others from using it up or withdrawing it until the transaction ends.
    """
    if identity.state != IdentityState.ACTIVE or not is_merely_expired(identity.certificate, now):
        return None
    live = RenewalPermit.objects.filter(
        enrollment=identity.enrollment,
        certificate=identity.certificate,
        used_at=None,
        withdrawn_at=None,
        until__gt=now,
    ).select_related("renewal__command")
    return (live.select_for_update(of=("self",)) if lock else live).first()


def is_merely_expired(certificate: Certificate, now: datetime) -> bool:
    """Whether its end is all that speaks against the certificate: at its last moment it was good, as seen
    with what is known today of its revocation and its issuer.
    """
    if now <= certificate.not_after:
        return False
    try:
        trust.verify_record(certificate, purpose=Purpose.MDM_IDENTITY, now=certificate.not_after)
    except trust.Untrusted:
        return False
    return True


def _expired_certificate(enrollment: Enrollment, now: datetime) -> Certificate:
    identity = (
        Identity.objects.select_related("certificate__issuer_key__issuer")
        .filter(enrollment=enrollment, state=IdentityState.ACTIVE)
        .order_by("-pk")
        .first()
    )
    if identity is None:
        raise PermitRefused(identities.NO_CERTIFICATE)
    certificate = identity.certificate
    if now <= certificate.not_after:
        raise PermitRefused("its certificate has not expired: it can be renewed without a permit")
    if not is_merely_expired(certificate, now):
        raise PermitRefused(
            "its certificate is not only expired, but no longer trusted: it has to enrol again"
        )
    return certificate


def _open_renewal(enrollment: Enrollment) -> IdentityRenewal | None:
    return IdentityRenewal.objects.filter(enrollment=enrollment, state__in=OPEN_RENEWALS).first()


def _unused(enrollment_id: int) -> list[RenewalPermit]:
    return list(RenewalPermit.objects.filter(enrollment_id=enrollment_id, used_at=None, withdrawn_at=None))
