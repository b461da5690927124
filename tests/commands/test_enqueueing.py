"""Queueing: who gets a command, who is skipped and why, and what is refused as a whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from commands import enqueueing, queue
from commands.models import Command, CommandDelivery, CommandSource
from devices import escrow
from devices.models import Device, EnrollmentState, SecretKind
from push.models import PushRequest, PushState
from tests.commands.fleet import ALICE, NOW, connect, delivery, enqueue, enrolled, later, one, user_on
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def put(request_type: str, payload: Any, ids: list[int], **options: Any) -> queue.Enqueued:
    given = {"source": CommandSource.CLI, "actor": ALICE, "now": NOW, **options}
    return queue.enqueue(request_type, payload, ids, **given)


def test_a_command_for_many() -> None:
    fleet = enrolled(3)
    result = put("RemoveProfile", {"Identifier": "org.example.wifi"}, [row.pk for row in fleet])
    assert (result.queued, result.skipped, result.warnings) == (3, [], ())
    command = Command.objects.get(uuid=result.command.uuid)
    assert (command.targets, command.source, command.created_by) == (3, "CLI", "alice")
    assert command.created_at == NOW
    assert not command.at_most_once
    assert set(CommandDelivery.objects.values_list("enrollment_id", "state", "epoch")) == {
        (row.pk, "QUEUED", 1) for row in fleet
    }
    assert set(PushRequest.objects.values_list("enrollment_id", "state")) == {
        (row.pk, PushState.DUE) for row in fleet
    }
    assert queue.open_payload(command) == {"RequestType": "RemoveProfile", "Identifier": "org.example.wifi"}
    event = AuditEvent.objects.get(action="command.enqueued")
    assert (event.actor, event.target_id) == ("alice", str(command.pk))
    assert event.details["queued"] == 3


def test_the_payload_is_sealed_and_not_recorded() -> None:
    result = put("DeviceLock", {"PIN": "918273", "Message": "CANARY"}, [one().pk])
    assert b"918273" not in bytes(result.command.payload_sealed)
    assert "918273" not in repr(AuditEvent.objects.values())
    assert "CANARY" not in repr(AuditEvent.objects.values())
    assert result.command.at_most_once


def test_defaults_are_filled_and_can_be_replaced() -> None:
    target = one()
    standard = put("DeviceInformation", None, [target.pk]).command
    assert "SerialNumber" in queue.open_payload(standard)["Queries"]
    own = put("DeviceInformation", {"Queries": ["OSVersion"]}, [target.pk]).command
    assert queue.open_payload(own)["Queries"] == ["OSVersion"]


def test_a_command_nobody_here_has_heard_of_is_queued_with_a_warning() -> None:
    target = one()
    result = put("TriggerEnhancedLogCollection", {"Some": ["thing"]}, [target.pk])
    assert result.queued == 1
    assert "TriggerEnhancedLogCollection" in result.warnings[0]
    handed = connect(target)
    assert handed is not None
    assert b"<string>TriggerEnhancedLogCollection</string>" in handed.body


def test_who_is_skipped() -> None:
    good, gone, waiting, held = one(), one(), one(), one()
    user = user_on(good)
    for row, state in (
        (gone, EnrollmentState.CHECKED_OUT),
        (waiting, EnrollmentState.AUTHENTICATED),
        (held, EnrollmentState.QUARANTINED),
    ):
        row.state = state
        row.save()
    result = put("DeviceLock", None, [good.pk, gone.pk, waiting.pk, held.pk, user.pk, 10**12])
    assert result.queued == result.command.targets == 1
    assert {(skip.target, skip.reason) for skip in result.skipped} == {
        (gone.device.serial_number, "not enrolled"),
        (waiting.device.serial_number, "not enrolled"),
        (held.device.serial_number, "not enrolled"),
        (f"ada on {good.device.serial_number}", "not for the user channel"),
        (str(10**12), "unknown target"),
    }
    assert not PushRequest.objects.exclude(enrollment=good).exists()
    profile_list = put("ProfileList", None, [good.pk, user.pk])
    assert profile_list.queued == 2
    extensions = put("ActiveNSExtensions", None, [good.pk, user.pk])
    assert [skip.reason for skip in extensions.skipped] == ["only for the user channel"]


def test_devices_are_reached_by_their_enrolled_device_channel() -> None:
    good, gone = one(), one()
    user_on(good)
    gone.state = EnrollmentState.CHECKED_OUT
    gone.save()
    never = Device.objects.create(udid="never", serial_number="")
    result = queue.enqueue_for_devices(
        "ProfileList",
        None,
        [good.device_id, gone.device_id, never.pk, 10**12],
        source="API",
        actor=ALICE,
        now=NOW,
    )
    assert result.queued == 1
    assert [(skip.target, skip.reason, skip.device_id) for skip in result.skipped] == [
        (gone.device.serial_number, "not enrolled", gone.device_id),
        ("never", "not enrolled", never.pk),
        (str(10**12), "unknown target", None),
    ]
    assert CommandDelivery.objects.get().enrollment == good


def test_clear_passcode_needs_a_token_in_escrow() -> None:
    with_token, without = one(), one()
    escrow.deposit(with_token, SecretKind.UNLOCK_TOKEN, b"the token", NOW)
    result = put("ClearPasscode", None, [with_token.pk, without.pk])
    assert result.queued == 1
    assert [skip.reason for skip in result.skipped] == ["no unlock token"]


@pytest.mark.parametrize("others", [0, 1, 8])
def test_a_full_queue_takes_no_more(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """Also where those between first and last have full queues, and are not asked for."""
    monkeypatch.setattr(enqueueing, "MAX_OUTSTANDING", 3)
    full, *between, empty = [one() for _ in range(2 + others)]
    for _ in range(3):
        for target in (full, *between):
            enqueue(target)
    result = put("ProfileList", None, [full.pk, empty.pk])
    assert result.queued == 1
    assert [(skip.target, skip.reason) for skip in result.skipped] == [
        (full.device.serial_number, "queue full")
    ]
    handed = connect(full)
    assert handed is not None
    connect(full, "Acknowledged", handed.command_uuid)
    assert put("ProfileList", None, [full.pk]).queued == 1


def test_the_same_question_is_not_asked_twice_where_told_so() -> None:
    asked, new = one(), one()
    enqueue(asked, "SecurityInfo")
    enqueue(new, "ProfileList")
    result = put("SecurityInfo", None, [asked.pk, new.pk], unless_queued=True)
    assert result.queued == 1
    assert [skip.reason for skip in result.skipped] == ["already queued"]
    assert put("SecurityInfo", None, [asked.pk, new.pk]).queued == 2


def test_the_epoch_is_that_of_the_moment() -> None:
    target = one()
    target.epoch = 7
    target.save()
    assert delivery(enqueue(target), target).epoch == 7


def test_a_target_named_twice_gets_it_once() -> None:
    target = one()
    assert put("ProfileList", None, [target.pk, target.pk]).queued == 1


def test_nobody_is_no_fault() -> None:
    result = put("ProfileList", None, [])
    assert (result.queued, result.skipped) == (0, [])
    assert not PushRequest.objects.exists()


INVALID: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "no name": ("", None, {}),
    "a name with a space": ("Erase Device", None, {}),
    "a name with markup": ("<script>", None, {}),
    "a name of 81 characters": ("A" * 81, None, {}),
    "required key missing": ("InstallProfile", {}, {}),
    "another RequestType inside": ("DeviceLock", {"RequestType": "EraseDevice"}, {}),
    "the envelope": ("DeviceLock", {"Command": {}, "CommandUUID": "x"}, {}),
    "null": ("DeviceLock", {"Message": None}, {}),
    "a control character": ("DeviceLock", {"Message": "\x00"}, {}),
    "not a number": ("Settings", {"Settings": [float("nan")]}, {}),
    "a key that is no text": ("Settings", {"Settings": [{1: 2}]}, {}),
    "too large": ("InstallProfile", {"Payload": bytes(4 * 1024 * 1024)}, {}),
    "expired already": ("ProfileList", None, {"expires_at": NOW}),
    "expires before it may go": (
        "ProfileList",
        None,
        {"not_before": NOW + timedelta(hours=2), "expires_at": NOW + timedelta(hours=1)},
    ),
}


@pytest.mark.parametrize("name", INVALID)
def test_what_cannot_be_queued_changes_nothing(name: str) -> None:
    target = one()
    request_type, payload, options = INVALID[name]
    with no_change(), pytest.raises(queue.InvalidCommand):
        put(request_type, payload, [target.pk], **options)
    assert not AuditEvent.objects.filter(action="command.enqueued").exists()


def test_a_push_waits_for_not_before() -> None:
    target = one()
    enqueue(target, not_before=later(hours=3))
    assert PushRequest.objects.get().due_at == later(hours=3)


def test_statements_do_not_grow_with_the_targets() -> None:
    fleet = [row.pk for row in enrolled(1000)]

    def statements(ids: list[int]) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            put("ProfileList", None, ids)
        return len(captured)

    few = statements(fleet[:3])
    assert statements(fleet) == few
    assert few <= 12


def test_identifiers_are_random_and_unique() -> None:
    target = one()
    made = {enqueue(target).uuid for _ in range(5)}
    assert len(made) == 5
    assert all(value.version == 4 for value in made)
