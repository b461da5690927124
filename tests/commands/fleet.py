"""Enrolled devices as rows, and the two halves of a connect, for tests of the queue."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction

from audit.recording import Actor
from commands import queue, statements
from commands.core import plist
from commands.core.report import Report, decode_report
from commands.models import Command, CommandDelivery, CommandSource
from devices.models import Channel, Device, Enrollment, EnrollmentState, Platform

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ALICE = Actor(name="alice", remote_addr="192.0.2.7")
_number = itertools.count(1)


def later(**amount: float) -> datetime:
    """A moment after :data:`NOW`."""
    return NOW + timedelta(**amount)


def enrolled(count: int = 1, **fields: Any) -> list[Enrollment]:
    """New devices, each with an enrolled device channel and a living push token."""
    devices = [
        Device(
            udid=f"00008030-{next(_number):016X}",
            serial_number=f"F{next(_number):011X}",
            name=f"Device {n}",
            platform=fields.get("platform", Platform.IOS),
        )
        for n in range(count)
    ]
    Device.objects.bulk_create(devices)
    Enrollment.objects.bulk_create(
        Enrollment(
            device=device,
            channel=Channel.DEVICE,
            state=fields.get("state", EnrollmentState.ENROLLED),
            topic="com.apple.mgmt.External.test",
            push_token=b"\x01" * 32,
            push_magic="magic",
            enrolled_at=NOW,
        )
        for device in devices
    )
    return list(Enrollment.objects.filter(device__in=devices).order_by("pk").select_related("device"))


def one(**fields: Any) -> Enrollment:
    """One enrolled device."""
    return enrolled(1, **fields)[0]


def user_on(enrollment: Enrollment) -> Enrollment:
    """A user channel of that device."""
    return Enrollment.objects.create(
        device=enrollment.device,
        parent=enrollment,
        channel=Channel.USER,
        user_id="8A0C1B7E-0000-4000-8000-000000000001",
        user_short_name="ada",
        state=EnrollmentState.ENROLLED,
        push_token=b"\x02" * 32,
        push_magic="magic",
    )


def enqueue(
    enrollment: Enrollment | list[Enrollment],
    request_type: str = "ProfileList",
    payload: Mapping[str, Any] | None = None,
    **options: Any,
) -> Command:
    """Queue a command for these enrollments."""
    targets = enrollment if isinstance(enrollment, list) else [enrollment]
    given = {"source": CommandSource.ADMIN, "actor": ALICE, "now": NOW, **options}
    return queue.enqueue(request_type, payload, [target.pk for target in targets], **given).command


def report(status: str, command: Command | UUID | str | None = None, **more: Any) -> Report:
    """What a device says."""
    message: dict[str, Any] = {"Status": status, "UDID": "00008030", **more}
    if command is not None:
        message["CommandUUID"] = str(command.uuid if isinstance(command, Command) else command)
    return decode_report(message)


def connect(
    enrollment: Enrollment, status: str = "Idle", command: Any = None, now: datetime = NOW, **more: Any
) -> queue.Handed | None:
    """A whole connect: the report, then the next command."""
    said = report(status, command, **more)
    with transaction.atomic():
        queue.record_report(enrollment, said, now)
        return queue.next_command(enrollment, after_not_now=status != "Idle", now=now)


def connect_shortly(
    enrollment: Enrollment, status: str = "Idle", command: Any = None, now: datetime = NOW
) -> queue.Handed | None:
    """The same as devices connect: by the short way where that goes, else by the long one."""
    said = report(status, command)
    first = statements.oldest(enrollment, fresh_only=False, now=now)
    if status != "Idle":
        body = plist.write(said.raw)
        if first is not None and first.command_uuid == said.command_uuid:
            taken = queue.take_first_answer(enrollment, said, first, now, body=body, careful=())
        else:
            taken = queue.take_answer(enrollment, said, now, body=body, careful=())
        if taken is not None and not taken.look_again:
            return taken.handed
        if taken is not None:
            with transaction.atomic():
                return queue.next_command(enrollment, after_not_now=True, now=now)
    elif first is not None:
        handed = queue.hand_out(enrollment, first, now)
        if handed is not None:
            return handed
    return connect(enrollment, status, command, now)


def delivery(command: Command, enrollment: Enrollment) -> CommandDelivery:
    """The delivery as the database has it."""
    return CommandDelivery.objects.select_related("command", "enrollment").get(
        command=command, enrollment=enrollment
    )


def state(command: Command, enrollment: Enrollment) -> str:
    """Where that delivery stands."""
    return delivery(command, enrollment).state
