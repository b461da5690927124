"""What the server asks of devices by itself."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from commands import queue
from commands.models import Command, CommandDelivery
from devices.models import Device as DeviceRow
from devices.models import Enrollment, EnrollmentState
from mdm import questions, tasks
from tests.mdm.support import enrollment_of
from tests.support.devices import Device


def waiting() -> list[str]:
    return sorted(
        CommandDelivery.objects.filter(state="QUEUED").values_list("command__request_type", flat=True)
    )


def test_who_is_being_asked_is_not_asked_again(enrolled_a: Device) -> None:
    assert waiting() == ["DeviceInformation", "SecurityInfo"]
    commands = Command.objects.count()
    Enrollment.objects.update(enrolled_at=timezone.now() - timedelta(days=2))
    assert questions.devices_to_ask(timezone.now()) == []
    assert tasks.refresh_inventory() == 0
    assert Command.objects.count() == commands
    assert tasks.request_inventory(enrollment_of(enrolled_a).pk) == 0


def test_who_answered_a_day_ago_is_asked(enrolled_a: Device, enrolled_b: Device) -> None:
    now = timezone.now()
    for device in (enrolled_a, enrolled_b):
        queue.cancel_outstanding(enrollment_of(device), "test", now)
    DeviceRow.objects.filter(udid=enrolled_a.udid).update(information_at=now - timedelta(hours=25))
    DeviceRow.objects.filter(udid=enrolled_b.udid).update(information_at=now - timedelta(hours=23))
    assert questions.devices_to_ask(now) == [enrollment_of(enrolled_a).pk]
    assert tasks.refresh_inventory() == 1
    assert waiting() == ["DeviceInformation", "SecurityInfo"]


def test_who_is_not_enrolled_is_not_asked(enrolled_a: Device) -> None:
    now = timezone.now()
    queue.cancel_outstanding(enrollment_of(enrolled_a), "test", now)
    DeviceRow.objects.update(information_at=now - timedelta(days=9))
    Enrollment.objects.update(state=EnrollmentState.CHECKED_OUT)
    assert questions.devices_to_ask(now) == []
    assert questions.ask_inventory([], now) == 0


def test_a_question_without_answer_is_dropped(enrolled_a: Device) -> None:
    now = timezone.now() + questions.STALE + timedelta(minutes=1)
    queue.expire(now)
    assert waiting() == []
    assert questions.devices_to_ask(now) == [enrollment_of(enrolled_a).pk]
