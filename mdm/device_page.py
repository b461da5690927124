"""What the page of a device shows, gathered in a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from audit.models import AuditEvent
from commands.models import CommandDelivery
from devices.models import (
    LIVE_STATES,
    Channel,
    Device,
    Enrollment,
    EscrowedSecret,
)
from enrollment import blocking
from enrollment.models import BlockedDevice, EnrollmentSession
from mdm import people
from mdm.standing import Remark, active_certificate, remarks
from pki.models import Certificate
from push.models import PushRequest

RECENT_DELIVERIES = 15
RECENT_HAPPENINGS = 15
MAX_FACTS = 400


@dataclass(frozen=True)
class DevicePage:
    """The page. ``enrollment`` is the device channel's live one, else the latest."""

    enrollment: Enrollment | None
    remarks: Sequence[Remark]
    certificate: Certificate | None
    push: PushRequest | None
    users: Sequence[Enrollment]
    history: Sequence[tuple[Enrollment, EnrollmentSession | None]]
    deliveries: Sequence[CommandDelivery]
    secrets: Sequence[EscrowedSecret]
    session: EnrollmentSession | None
    blocks: Sequence[BlockedDevice]
    happenings: Sequence[AuditEvent]
    certificate_ended: bool
    information: Sequence[tuple[str, str]] = field(repr=False)
    security: Sequence[tuple[str, str]] = field(repr=False)


def device_page(device: Device, now: datetime) -> DevicePage:
    """Gather the page of a device."""
    rows = list(Enrollment.objects.filter(device=device).order_by("-pk"))
    history = [row for row in rows if row.channel == Channel.DEVICE]
    live = [row for row in history if row.state in LIVE_STATES]
    enrollment = next(iter([*live, *history]), None)
    sessions = people.sessions_of(history)

    def session_of(row: Enrollment | None) -> EnrollmentSession | None:
        return sessions.get(row.binding) if row and row.binding else None

    certificate = active_certificate(enrollment) if enrollment else None
    return DevicePage(
        enrollment=enrollment,
        remarks=remarks(enrollment, now),
        certificate=certificate,
        certificate_ended=certificate is not None and certificate.not_after < now,
        push=PushRequest.objects.filter(enrollment=enrollment).first() if enrollment else None,
        users=[row for row in rows if enrollment and row.parent_id == enrollment.pk],
        history=[(row, session_of(row)) for row in history],
        deliveries=list(
            CommandDelivery.objects.select_related("command", "enrollment")
            .defer("command__payload_sealed")
            .filter(enrollment__device=device)
            .order_by("-pk")[:RECENT_DELIVERIES]
        ),
        secrets=list(
            EscrowedSecret.objects.defer("value_sealed")
            .filter(enrollment__device=device)
            .order_by("withdrawn_at", "-pk")
        ),
        session=session_of(enrollment),
        blocks=blocking.blocks_of(device),
        happenings=list(_happenings(device, rows)),
        information=list(facts(device.information)),
        security=list(facts(device.security)),
    )


def _happenings(device: Device, enrollments: list[Enrollment]) -> QuerySet[AuditEvent]:
    """What was done to the device, and what it did."""
    about = Q(target_kind="devices.device", target_id=str(device.pk)) | Q(
        target_kind="devices.enrollment", target_id__in=[str(row.pk) for row in enrollments]
    )
    return AuditEvent.objects.filter(about).order_by("-pk")[:RECENT_HAPPENINGS]


def facts(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and value of every fact, nested names joined; in the order of names, at most :data:`MAX_FACTS`."""
    flat = sorted(_flat(value, ""))
    yield from flat[:MAX_FACTS]
    if len(flat) > MAX_FACTS:
        yield "…", _("%(count)d more") % {"count": len(flat) - MAX_FACTS}


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name} › {key}" if name else str(key))
    elif isinstance(value, list):
        if all(not isinstance(item, (list, Mapping)) for item in value):
            yield name, ", ".join(map(_word, value)) or "-"
        else:
            for number, item in enumerate(value, 1):
                yield from _flat(item, f"{name} {number}")
    else:
        yield name, _word(value)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    return "-" if value in (None, "") else str(value)
