"""What the server asks of devices by itself: DeviceInformation and SecurityInfo."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q

from audit.recording import SERVER, Actor
from commands import queue
from commands.models import OUTSTANDING, CommandDelivery, CommandSource
from devices.models import Channel, Enrollment, EnrollmentState

QUESTIONS = ("DeviceInformation", "SecurityInfo")
EVERY = timedelta(hours=24)
AT_ONCE = 2000
"""Devices asked in one run: a fleet is asked over the day, not at midnight."""
STALE = timedelta(days=3)
"""A question that is not answered by then is dropped: the next one asks the same."""


def ask_inventory(
    enrollment_ids: Iterable[int], now: datetime, *, actor: Actor = SERVER, unless_queued: bool = True
) -> int:
    """Queue both questions for these enrollments, in the caller's transaction. Returns how many are asked.

    Who is being asked already is not asked again, with ``unless_queued``.
    """
    ids = list(enrollment_ids)
    if not ids:
        return 0
    asked = 0
    for request_type in QUESTIONS:
        enqueued = queue.enqueue(
            request_type,
            None,
            ids,
            source=CommandSource.SERVER if actor is SERVER else CommandSource.ADMIN,
            actor=actor,
            now=now,
            expires_at=now + STALE,
            unless_queued=unless_queued,
        )
        asked = max(asked, enqueued.queued)
    return asked


def ask_at_first(enrollment: Enrollment, now: datetime) -> None:
    """Queue both questions for a device that has enrolled in this very transaction: nothing waits for it."""
    queue.enqueue_for_new(
        enrollment, QUESTIONS, source=CommandSource.SERVER, actor=SERVER, now=now, expires_at=now + STALE
    )


def devices_to_ask(now: datetime) -> list[int]:
    """Enrollments whose inventory is a day old and who are not being asked already."""
    being_asked = CommandDelivery.objects.filter(
        enrollment=OuterRef("pk"), state__in=OUTSTANDING, command__request_type="DeviceInformation"
    )
    old = Q(device__information_at=None, enrolled_at__lt=now - timedelta(minutes=10)) | Q(
        device__information_at__lt=now - EVERY
    )
    return list(
        Enrollment.objects.filter(
            old, ~Exists(being_asked), channel=Channel.DEVICE, state=EnrollmentState.ENROLLED
        )
        .order_by("device__information_at", "pk")
        .values_list("pk", flat=True)[:AT_ONCE]
    )
