"""Values that differ by device: filled in when the command is handed out, by whoever knows them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from django.db import transaction

from commands import queue
from commands.core import plist
from commands.enqueueing import InvalidCommand
from commands.models import Command
from tests.commands.fleet import NOW, delivery, enqueue, enrolled, later, one, report, state
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def serial_number(filling: queue.Filling, command: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**command, "Payload": f"for {filling.enrollment.device.serial_number}".encode()}


def nothing(_filling: queue.Filling, _command: Mapping[str, Any]) -> Mapping[str, Any]:
    raise queue.CannotBeFilled("there is nothing for this device")


FILLERS: Mapping[str, queue.Filler] = {"test.serial": serial_number, "test.nothing": nothing}


def fetch(enrollment: Any, **options: Any) -> queue.Handed | None:
    with transaction.atomic():
        return queue.next_command(
            enrollment, after_not_now=False, now=options.pop("now", NOW), fillers=FILLERS, **options
        )


def content(handed: queue.Handed | None) -> Any:
    assert handed is not None
    return plist.read(handed.body, max_size=10_000)["Command"]


def test_each_device_gets_its_own_values() -> None:
    devices = enrolled(2)
    command = enqueue(devices, "InstallProfile", filled_by="test.serial")
    assert Command.objects.get(pk=command.pk).filled_by == "test.serial"
    for device in devices:
        expected = f"for {device.device.serial_number}".encode()
        assert content(fetch(device)) == {"RequestType": "InstallProfile", "Payload": expected}


def test_it_is_filled_again_when_it_is_handed_out_again() -> None:
    device = one()
    seen: list[tuple[uuid.UUID, int, object]] = []

    def noting(filling: queue.Filling, command: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append((filling.command_uuid, filling.delivery_id, filling.now))
        return {**command, "Payload": str(len(seen)).encode()}

    command = enqueue(device, "InstallProfile", filled_by="noting")
    for number in (1, 2):
        with transaction.atomic():
            handed = queue.next_command(
                device, after_not_now=False, now=later(minutes=number), fillers={"noting": noting}
            )
        assert content(handed)["Payload"] == str(number).encode()
    row = delivery(command, device)
    assert seen == [(command.uuid, row.pk, later(minutes=number)) for number in (1, 2)]
    assert row.sent_count == 2


@pytest.mark.parametrize("filled_by", ["test.nothing", "unheard of"])
def test_what_cannot_be_filled_is_cancelled_with_its_reason(filled_by: str) -> None:
    device = one()
    command, after = enqueue(device, "InstallProfile", filled_by=filled_by), enqueue(device)
    handed = fetch(device)
    assert handed is not None
    assert handed.command_uuid == after.uuid
    row = delivery(command, device)
    assert (row.state, row.sent_count, row.completed_at) == ("CANCELLED", 0, NOW)
    assert row.reason in (
        "there is nothing for this device",
        "this version of the server does not know unheard of",
    )


def test_a_command_that_is_filled_in_later_may_lack_what_it_needs_and_no_other() -> None:
    device = one()
    with no_change(), pytest.raises(InvalidCommand, match="InstallProfile needs Payload"):
        enqueue(device, "InstallProfile")
    enqueue(device, "InstallProfile", filled_by="test.serial")


def test_only_one_command_may_be_asked_for() -> None:
    device = one()
    first, second = enqueue(device), enqueue(device, "SecurityInfo")
    handed = fetch(device, only=second.uuid)
    assert handed is not None
    assert handed.command_uuid == second.uuid
    assert (state(first, device), state(second, device)) == ("QUEUED", "SENT")
    with no_change():
        assert fetch(device, only=uuid.uuid4()) is None


def test_an_answer_knows_who_filled_the_command() -> None:
    device = one()
    command = enqueue(device, "InstallProfile", filled_by="test.serial")
    fetch(device)
    with transaction.atomic():
        recorded = queue.record_report(device, report("Acknowledged", command), NOW)
    assert recorded.delivery is not None
    assert recorded.delivery.command.filled_by == "test.serial"
