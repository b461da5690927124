"""A new certificate for a device in management, without a new enrolment.

The device is told to install its own enrolment profile again, with a fresh SCEP payload. The certificate
that it gets so is bound to the same enrollment, and takes over when it is first used; the earlier one is
superseded then. Queue, escrow and history stay with the enrollment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.db import connection, transaction
from django.db.models import Count

from audit.recording import SERVER, Actor, record
from commands import queue
from commands.models import Command, CommandDelivery, CommandSource
from devices.models import Channel, Enrollment, EnrollmentState, Identity, IdentityState
from enrollment.models import EnrollmentSession
from renewal.models import OPEN_RENEWALS, IdentityRenewal, RekeyCampaign, RenewalReason, RenewalState

FILLED_BY = "renewal.identity"
"""Names :func:`renewal.filling.fill` among the fillers of the queue."""

OPEN_ALREADY = "it is being renewed already"
NOT_ENROLLED = "the device is not enrolled"
NO_CERTIFICATE = "no certificate speaks for the device"
NOT_OURS = "the device did not enrol by an enrolment profile of this server: it has to enrol again"
NOT_QUEUED = "its queue of commands is full"


class NotRenewable(Exception):
    """The identity cannot be renewed now; ``reason`` says why, for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Refused:
    """An enrollment that was left out. ``permanent``: trying again by itself is of no use."""

    enrollment_id: int
    reason: str
    permanent: bool = False


@dataclass(frozen=True)
class Planned:
    """What came of it. ``command`` is None where no device was fit."""

    command: Command | None
    renewals: list[IdentityRenewal]
    refused: list[Refused] = field(default_factory=list)


def renew(
    enrollment: Enrollment,
    *,
    reason: RenewalReason = RenewalReason.MANUAL,
    actor: Actor,
    now: datetime,
    campaign: RekeyCampaign | None = None,
) -> IdentityRenewal:
    """Renew the identity of one device. Raises :class:`NotRenewable`, and then leaves nothing behind."""
    with transaction.atomic():
        planned = _plan(_lock([enrollment.pk], wait=True), reason, actor, now, campaign)
        if not planned.renewals:
            raise NotRenewable(planned.refused[0].reason if planned.refused else NOT_ENROLLED)
    return planned.renewals[0]


def plan(
    enrollment_ids: Iterable[int],
    *,
    reason: RenewalReason,
    actor: Actor = SERVER,
    now: datetime,
    campaign: RekeyCampaign | None = None,
) -> Planned:
    """Plan a renewal for each of these enrollments, and queue one command for all of them.

    In one transaction, under the locks of the enrollments: of two that plan at once, one does. An enrollment
    that another transaction holds at this moment is left out, to be asked the next time. What cannot be
    renewed at all gets a row that says so.
    """
    with transaction.atomic():
        planned = _plan(_lock(enrollment_ids, wait=False), reason, actor, now, campaign)
        hopeless = {refused.enrollment_id: refused.reason for refused in planned.refused if refused.permanent}
        certificates = certificates_of(list(hopeless))
        IdentityRenewal.objects.bulk_create(
            [
                IdentityRenewal(
                    enrollment_id=pk,
                    reason=reason,
                    campaign=campaign,
                    state=RenewalState.FAILED,
                    error=why[:300],
                    permanent=True,
                    certificate_before_id=certificates.get(pk),
                    requested_by=actor.name[:200],
                    created_at=now,
                    finished_at=now,
                )
                for pk, why in hopeless.items()
            ],
            batch_size=500,
        )
    return planned


def certificates_of(enrollment_ids: Sequence[int]) -> dict[int, int]:
    """The certificate that speaks for each enrollment now: primary keys."""
    return dict(
        Identity.objects.filter(enrollment_id__in=enrollment_ids, state=IdentityState.ACTIVE)
        .order_by("pk")
        .values_list("enrollment_id", "certificate_id")
    )


def _lock(enrollment_ids: Iterable[int], *, wait: bool) -> list[Enrollment]:
    """The enrollments, locked in the order of their ids. ``wait``: also for those that others hold now."""
    rows = Enrollment.objects.filter(pk__in=sorted(set(enrollment_ids)), channel=Channel.DEVICE).order_by(
        "pk"
    )
    rows = rows.defer("push_token", "push_magic")
    skip = not wait and connection.features.has_select_for_update_skip_locked
    return list(rows.select_for_update(skip_locked=skip, of=("self",), no_key=True))


def _plan(
    enrollments: Sequence[Enrollment],
    reason: RenewalReason,
    actor: Actor,
    now: datetime,
    campaign: RekeyCampaign | None,
) -> Planned:
    """On locked enrollments."""
    ids = [enrollment.pk for enrollment in enrollments]
    certificates, attempts = certificates_of(ids), _attempts(ids)
    refused = _reasons_against(enrollments, certificates)
    fit = [enrollment for enrollment in enrollments if enrollment.pk not in refused]
    command = _enqueue(fit, actor, now) if fit else None
    queued = set(CommandDelivery.objects.filter(command=command).values_list("enrollment_id", flat=True))
    refused |= {one.pk: Refused(one.pk, NOT_QUEUED) for one in fit if one.pk not in queued}
    renewals = IdentityRenewal.objects.bulk_create(
        [
            IdentityRenewal(
                enrollment=enrollment,
                reason=reason,
                campaign=campaign,
                command=command,
                certificate_before_id=certificates[enrollment.pk],
                attempt=attempts.get((enrollment.pk, certificates[enrollment.pk]), 0) + 1,
                requested_by=actor.name[:200],
                created_at=now,
            )
            for enrollment in fit
            if enrollment.pk in queued
        ],
        batch_size=500,
    )
    if renewals:
        record(
            "identity_renewal.planned",
            actor=actor,
            target=renewals[0] if len(renewals) == 1 else campaign,
            at=now,
            details={"reason": reason.value, "devices": len(renewals)},
        )
    return Planned(command, renewals, list(refused.values()))


def _reasons_against(
    enrollments: Sequence[Enrollment], certificates: Mapping[int, int]
) -> dict[int, Refused]:
    being_renewed = set(
        IdentityRenewal.objects.filter(
            enrollment__in=[enrollment.pk for enrollment in enrollments], state__in=OPEN_RENEWALS
        ).values_list("enrollment_id", flat=True)
    )
    bindings = [enrollment.binding for enrollment in enrollments if enrollment.binding]
    sessions = set(EnrollmentSession.objects.filter(uuid__in=bindings).values_list("uuid", flat=True))
    reasons: dict[int, Refused] = {}
    for enrollment in enrollments:
        pk = enrollment.pk
        if enrollment.state != EnrollmentState.ENROLLED:
            reasons[pk] = Refused(pk, NOT_ENROLLED)
        elif pk in being_renewed:
            reasons[pk] = Refused(pk, OPEN_ALREADY)
        elif pk not in certificates:
            reasons[pk] = Refused(pk, NO_CERTIFICATE, permanent=True)
        elif enrollment.binding not in sessions:
            reasons[pk] = Refused(pk, NOT_OURS, permanent=True)
    return reasons


def _enqueue(enrollments: Sequence[Enrollment], actor: Actor, now: datetime) -> Command:
    return queue.enqueue(
        "InstallProfile",
        None,
        [enrollment.pk for enrollment in enrollments],
        source=CommandSource.SERVER if actor is SERVER else CommandSource.ADMIN,
        actor=actor,
        now=now,
        filled_by=FILLED_BY,
    ).command


def _attempts(enrollment_ids: Sequence[int]) -> dict[tuple[int, int | None], int]:
    """How often the renewal of each certificate was tried before."""
    rows = (
        IdentityRenewal.objects.filter(enrollment_id__in=enrollment_ids)
        .order_by()
        .values("enrollment_id", "certificate_before_id")
        .annotate(count=Count("pk"))
    )
    return {(row["enrollment_id"], row["certificate_before_id"]): row["count"] for row in rows}
