"""What a device is given, in which order, and what its answers do."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from audit.models import Refusal
from commands import queue
from commands.core import plist
from commands.models import Command, CommandDelivery, CommandResult
from devices import escrow
from devices.models import Enrollment, SecretKind
from tests.commands.fleet import (
    NOW,
    connect,
    delivery,
    enqueue,
    enrolled,
    later,
    one,
    report,
    state,
    user_on,
)
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def handed(enrollment: Enrollment, *arguments: Any, **options: Any) -> uuid.UUID | None:
    result = connect(enrollment, *arguments, **options)
    return result.command_uuid if result else None


def test_what_the_device_gets() -> None:
    target = one()
    command = enqueue(target, "RemoveProfile", {"Identifier": "a & b"})
    result = connect(target, now=later(minutes=1))
    assert result is not None
    assert plist.read(result.body, max_size=10_000) == {
        "Command": {"RequestType": "RemoveProfile", "Identifier": "a & b"},
        "CommandUUID": str(command.uuid),
    }
    assert "a & b" not in repr(result)
    row = delivery(command, target)
    assert (row.state, row.sent_count, row.sent_at) == ("SENT", 1, later(minutes=1))


def test_an_empty_queue_gives_nothing() -> None:
    target = one()
    with no_change():
        assert connect(target) is None
    assert not queue.has_outstanding(target)


def test_the_order_is_that_of_the_ids_whatever_the_clock_said() -> None:
    target = one()
    moments = [later(hours=5), NOW, NOW, later(hours=-5), NOW]
    commands = [enqueue(target, now=moment) for moment in moments]
    seen = []
    last: uuid.UUID | None = None
    for _ in commands:
        last = handed(target, "Acknowledged", last) if last else handed(target)
        seen.append(last)
    assert seen == [command.uuid for command in commands]
    assert handed(target, "Acknowledged", last) is None


def test_an_answer_is_stored_and_brings_the_next_command() -> None:
    target = one()
    first, second = enqueue(target, "SecurityInfo"), enqueue(target, "ProfileList")
    assert handed(target) == first.uuid
    answer = {"SecurityInfo": {"PasscodePresent": True}, "token": b"\x00\x01"}
    assert handed(target, "Acknowledged", first, now=later(seconds=2), **answer) == second.uuid
    row = delivery(first, target)
    assert (row.state, row.completed_at) == ("ACKNOWLEDGED", later(seconds=2))
    result = CommandResult.objects.get(delivery=row)
    assert (result.status, result.error_chain, result.received_at) == ("Acknowledged", [], later(seconds=2))
    assert queue.open_report(result)["SecurityInfo"] == {"PasscodePresent": True}
    assert queue.open_report(result)["token"] == b"\x00\x01"
    assert b"PasscodePresent" not in bytes(result.report_sealed)


def test_the_bytes_of_a_report_are_kept_as_they_came() -> None:
    target = one()
    command = enqueue(target)
    handed(target)
    body = plist.write({"Status": "Acknowledged", "CommandUUID": str(command.uuid), "Extra": "as it came"})
    with transaction.atomic():
        recorded = queue.record_report(target, report("Acknowledged", command), NOW, body=body)
    assert recorded.changed
    assert queue.open_report(CommandResult.objects.get())["Extra"] == "as it came"


@pytest.mark.parametrize(("status", "expected"), [("Error", "ERROR"), ("CommandFormatError", "FORMAT_ERROR")])
def test_errors_are_final_and_keep_their_chain(status: str, expected: str) -> None:
    target = one()
    command, after = enqueue(target), enqueue(target)
    handed(target)
    chain = [{"ErrorCode": 12021, "ErrorDomain": "MCMDMErrorDomain", "LocalizedDescription": "Unknown <b>"}]
    assert handed(target, status, command, ErrorChain=chain) == after.uuid
    assert state(command, target) == expected
    assert CommandResult.objects.get(delivery__command=command).error_chain == [
        {"code": 12021, "domain": "MCMDMErrorDomain", "message": "Unknown <b>"}
    ]


# NotNow


def test_after_not_now_only_commands_it_has_not_had_yet() -> None:
    target = one()
    first, second, third = enqueue(target), enqueue(target), enqueue(target)
    assert handed(target) == first.uuid
    assert handed(target, "NotNow", first, now=later(seconds=1)) == second.uuid
    assert state(first, target) == "NOT_NOW"
    assert not CommandResult.objects.exists()
    # The second is done: the third follows, not the first again in the same connection.
    assert handed(target, "Acknowledged", second) == third.uuid
    assert handed(target, "NotNow", third) is None
    row = delivery(first, target)
    assert (row.not_now_count, row.not_now_at) == (1, later(seconds=1))
    assert queue.has_outstanding(target)
    # Ready again: the oldest first.
    assert handed(target, now=later(seconds=30)) == first.uuid
    assert handed(target, "Acknowledged", first, now=later(seconds=30)) is None
    assert handed(target, now=later(seconds=31)) == third.uuid
    assert delivery(first, target).sent_count == 2


def test_what_was_put_off_a_minute_ago_is_done_in_one_connection() -> None:
    target = one()
    put_off = [enqueue(target) for _ in range(3)]
    assert handed(target) == put_off[0].uuid
    for command, following in itertools.pairwise(put_off):
        assert handed(target, "NotNow", command) == following.uuid
    assert handed(target, "NotNow", put_off[2], now=later(seconds=59)) is None
    # One push, one Idle: the rest follows by itself. The last has not rested long enough yet.
    assert handed(target, now=later(seconds=100)) == put_off[0].uuid
    assert handed(target, "Acknowledged", put_off[0], now=later(seconds=101)) == put_off[1].uuid
    assert handed(target, "Acknowledged", put_off[1], now=later(seconds=118)) is None
    assert state(put_off[2], target) == "NOT_NOW"
    assert handed(target, now=later(seconds=118)) == put_off[2].uuid


def test_a_device_that_goes_on_saying_not_now_is_not_asked_in_circles() -> None:
    target = one()
    first, second = enqueue(target), enqueue(target)
    handed(target)
    handed(target, "NotNow", first)
    handed(target, "NotNow", second)
    assert handed(target, now=later(seconds=60)) == first.uuid
    assert handed(target, "NotNow", first, now=later(seconds=60)) == second.uuid
    assert handed(target, "NotNow", second, now=later(seconds=60)) is None
    assert [delivery(command, target).not_now_count for command in (first, second)] == [2, 2]


def test_one_order_over_new_and_not_now() -> None:
    target = one()
    first = enqueue(target)
    handed(target)
    assert handed(target, "NotNow", first) is None
    second = enqueue(target)
    assert handed(target) == first.uuid
    assert handed(target, "NotNow", first) == second.uuid


def test_a_dangerous_command_may_go_again_after_not_now() -> None:
    target = one()
    command = enqueue(target, "RestartDevice")
    handed(target)
    handed(target, "NotNow", command)
    assert handed(target) == command.uuid


# No answer came


def test_a_harmless_command_without_answer_goes_again_under_the_same_uuid() -> None:
    target = one()
    command, after = enqueue(target), enqueue(target)
    assert handed(target) == command.uuid
    assert handed(target, now=later(seconds=5)) == command.uuid
    row = delivery(command, target)
    assert (row.state, row.sent_count, row.sent_at) == ("SENT", 2, later(seconds=5))
    assert state(after, target) == "QUEUED"


@pytest.mark.parametrize("request_type", ["EraseDevice", "DeviceLock", "RestartDevice", "ShutDownDevice"])
def test_a_dangerous_command_without_answer_becomes_uncertain(request_type: str) -> None:
    target = one()
    command, after = enqueue(target, request_type), enqueue(target)
    assert handed(target) == command.uuid
    assert handed(target) == after.uuid
    row = delivery(command, target)
    assert (row.state, row.sent_count) == ("UNCERTAIN", 1)
    assert row.reason
    for _ in range(3):
        assert handed(target) == after.uuid
    assert delivery(command, target).sent_count == 1


def test_a_late_answer_settles_a_doubt() -> None:
    target = one()
    command = enqueue(target, "EraseDevice")
    handed(target)
    assert handed(target) is None
    assert state(command, target) == "UNCERTAIN"
    handed(target, "Acknowledged", command)
    row = delivery(command, target)
    assert (row.state, row.reason) == ("ACKNOWLEDGED", "")
    assert row.result.status == "Acknowledged"


# Late, repeated and foreign answers


@pytest.mark.parametrize("first", ["Acknowledged", "Error", "CommandFormatError"])
def test_a_finished_command_stays_as_it_is(first: str) -> None:
    target = one()
    command = enqueue(target, "EraseDevice")
    handed(target)
    handed(target, first, command, Note="first")
    with no_change():
        for status in ("NotNow", "Error", "Acknowledged", "CommandFormatError"):
            with transaction.atomic():
                recorded = queue.record_report(target, report(status, command), later(minutes=1))
            assert recorded.delivery is not None
            assert (recorded.orphan, recorded.changed) == (False, False)
            assert handed(target) is None
    assert queue.open_report(CommandResult.objects.get())["Note"] == "first"


@pytest.mark.parametrize("status", ["Acknowledged", "Error", "NotNow", "CommandFormatError"])
def test_an_answer_to_the_command_of_another_device_changes_nothing(status: str) -> None:
    mine, other = enrolled(2)
    theirs, own = enqueue(mine), enqueue(other)
    assert handed(mine) == theirs.uuid
    with no_change(), transaction.atomic():
        recorded = queue.record_report(other, report(status, theirs), NOW)
    assert (recorded.delivery, recorded.orphan) == (None, True)
    assert handed(other) == own.uuid
    assert state(theirs, mine) == "SENT"
    refusal = Refusal.objects.get()
    assert (refusal.reason, refusal.target_id, refusal.count) == ("orphan result", str(other.pk), 1)
    assert str(theirs.uuid) in refusal.detail


@pytest.mark.parametrize(
    "text", ["0001_DeviceInformation", "f711a01c-046a-476b-ab1a-80ac34b926ea", "' OR 1=1 --"]
)
def test_an_answer_to_nothing_we_know(text: str) -> None:
    target = one()
    with no_change(), transaction.atomic():
        assert queue.record_report(target, report("Acknowledged", text), NOW).orphan
    assert Refusal.objects.get().reason == "orphan result"


def test_an_answer_from_an_earlier_epoch_is_an_orphan() -> None:
    target = one()
    command = enqueue(target)
    handed(target)
    target.epoch += 1
    target.save()
    with no_change(), transaction.atomic():
        assert queue.record_report(target, report("Acknowledged", command), NOW).orphan
    assert handed(target) is None


def test_commands_of_an_earlier_epoch_are_not_handed_out() -> None:
    target = one()
    enqueue(target, "EraseDevice")
    target.epoch += 1
    target.save()
    assert not queue.has_outstanding(target)
    assert handed(target) is None


def test_an_answer_to_what_we_do_not_remember_handing_out_is_taken() -> None:
    """After a restored backup the device must not be told to erase itself again."""
    target = one()
    command = enqueue(target, "EraseDevice")
    assert handed(target, "Acknowledged", command) is None
    assert state(command, target) == "ACKNOWLEDGED"


def test_channels_have_queues_of_their_own() -> None:
    device = one()
    user = user_on(device)
    for_device, for_user = enqueue(device), enqueue(user)
    assert handed(user) == for_user.uuid
    assert handed(device) == for_device.uuid
    with transaction.atomic():
        assert queue.record_report(user, report("Acknowledged", for_device), NOW).orphan
    assert state(for_device, device) == "SENT"


# Times


def test_not_before_is_respected_and_holds_nothing_up() -> None:
    target = one()
    early, soon = enqueue(target, not_before=later(hours=1)), enqueue(target)
    assert handed(target) == soon.uuid
    assert handed(target, "Acknowledged", soon) is None
    assert not queue.has_outstanding(target, now=NOW)
    assert queue.has_outstanding(target, now=later(hours=1))
    assert handed(target, now=later(hours=1)) == early.uuid


def test_what_has_expired_is_marked_when_it_is_met() -> None:
    target = one()
    expired = [enqueue(target, expires_at=later(minutes=1)) for _ in range(3)]
    good = enqueue(target)
    with CaptureQueriesContext(connection) as captured:
        assert handed(target, now=later(minutes=1)) == good.uuid
    assert len(captured) <= 10
    for command in expired:
        row = delivery(command, target)
        assert (row.state, row.sent_count, row.completed_at) == ("EXPIRED", 0, later(minutes=1))


def test_an_expired_command_that_was_handed_out_is_not_handed_out_again() -> None:
    target = one()
    command = enqueue(target, expires_at=later(minutes=1))
    assert handed(target) == command.uuid
    assert handed(target, now=later(minutes=2)) is None
    assert state(command, target) == "EXPIRED"


# What is filled in


def test_clear_passcode_carries_the_token_of_this_device() -> None:
    first, second = enrolled(2)
    escrow.deposit(first, SecretKind.UNLOCK_TOKEN, b"token one", NOW)
    escrow.deposit(second, SecretKind.UNLOCK_TOKEN, b"token two", NOW)
    command = enqueue([first, second], "ClearPasscode")
    for enrollment, token in ((first, b"token one"), (second, b"token two")):
        result = connect(enrollment)
        assert result is not None
        content = plist.read(result.body, max_size=10_000)["Command"]
        assert content == {"RequestType": "ClearPasscode", "UnlockToken": token}
    assert "UnlockToken" not in queue.open_payload(command)


def test_clear_passcode_without_a_token_does_not_hold_the_queue_up() -> None:
    target = one()
    escrow.deposit(target, SecretKind.UNLOCK_TOKEN, b"token", NOW)
    command, after = enqueue(target, "ClearPasscode"), enqueue(target)
    escrow.withdraw(target, SecretKind.UNLOCK_TOKEN, NOW)
    assert handed(target) == after.uuid
    row = delivery(command, target)
    assert row.state == "CANCELLED"
    assert "unlock token" in row.reason


def test_a_payload_that_cannot_be_opened_does_not_hold_the_queue_up() -> None:
    target = one()
    broken, after = enqueue(target), enqueue(target)
    # The content of one row moved into another: the seal is bound to its own.
    Command.objects.filter(pk=broken.pk).update(payload_sealed=after.payload_sealed)
    assert handed(target) == after.uuid
    assert state(broken, target) == "CANCELLED"


# What it costs


def test_queries_of_a_connect() -> None:
    target = one()
    with transaction.atomic():
        with CaptureQueriesContext(connection) as captured:
            queue.record_report(target, report("Idle"), NOW)
            assert queue.next_command(target, after_not_now=False, now=NOW) is None
        assert len(captured) == 1
        command = enqueue(target)
        with CaptureQueriesContext(connection) as captured:
            assert queue.next_command(target, after_not_now=False, now=NOW) is not None
        assert len(captured) == 2
        with CaptureQueriesContext(connection) as captured:
            queue.record_report(target, report("Acknowledged", command), NOW)
        assert len(captured) == 3


def test_the_queue_is_found_by_its_own_index() -> None:
    """Its cost must not grow with the history of a device."""
    target, others = one(), enrolled(20)
    for _ in range(30):
        enqueue([target, *others])
    CommandDelivery.objects.update(state="ACKNOWLEDGED")
    enqueue(target)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE commands_commanddelivery")
            cursor.execute("SET LOCAL enable_seqscan = off")
    with CaptureQueriesContext(connection) as captured:
        assert queue.next_command(target, after_not_now=False, now=NOW) is not None
        assert queue.next_command(target, after_not_now=True, now=NOW) is None
        assert queue.has_outstanding(target, now=NOW)
    for query in captured.captured_queries:
        sql = query["sql"]
        if not sql.strip().startswith("SELECT"):
            continue
        with connection.cursor() as cursor:
            cursor.execute(("EXPLAIN " if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN ") + sql)
            plan = "\n".join(str(row) for row in cursor.fetchall())
        assert "delivery_outstanding" in plan, plan
