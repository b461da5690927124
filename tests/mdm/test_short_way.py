"""The short way of a connect gives what the long way gives: the same rows and the same answers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from audit.models import Refusal
from audit.recording import SERVER
from commands import queue, statements
from commands.core.delivery import State
from commands.core.report import decode_report
from commands.models import Command, CommandDelivery, CommandResult, CommandSource, DeliveryState
from commands.statements import Answer
from devices.models import Device as DeviceRow
from devices.models import Enrollment, EnrollmentState
from mdm import awaited, results
from push import outbox
from push.models import PushRequest, PushState
from tests.mdm.support import enrollment_of
from tests.mdm.test_connect import quiet
from tests.mdm.test_cost import captured
from tests.support.device_door import Answer as Answered
from tests.support.devices import Device, command_uuid, request_type
from tests.support.snapshot import no_change

NOW = timezone.now()
Prepare = Callable[[Device], None]


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All happens at once, and pauses are not spread."""
    monkeypatch.setattr(timezone, "now", lambda: NOW)
    monkeypatch.setattr(outbox, "jitter", lambda: 0.5)


@pytest.fixture
def two(enrolled_a: Device, enrolled_b: Device) -> tuple[Device, Device]:
    return quiet(enrolled_a), quiet(enrolled_b)


@dataclass
class Way:
    """Which way the connects of a device go. ``known``: their answers are awaited."""

    long: bool = False
    known: bool = True
    taken: int = 0


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    """The short ways, which a test can close, and which count how often they were of use."""
    chosen = Way()

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made = None if chosen.long else function(*arguments, **options)
            chosen.taken += made is not None
            return made

        return call

    for name in ("hand_out", "take_first_answer", "take_answer"):
        monkeypatch.setattr(queue, name, watched(getattr(queue, name)))
    return chosen


def start_over(device: Device) -> None:
    """As :func:`two` gives it."""
    enrollment = enrollment_of(device)
    CommandDelivery.objects.filter(enrollment=enrollment).delete()
    Refusal.objects.all().delete()
    idle = {"state": PushState.IDLE, "attempts": 1, "lease_owner": None, "lease_until": None}
    PushRequest.objects.filter(enrollment=enrollment).update(**idle)


def add(device: Device, name: str = "ProfileList", payload: Any = None, **options: Any) -> Command:
    given = {"source": CommandSource.ADMIN, "actor": SERVER, "now": NOW, **options}
    return queue.enqueue(name, payload, [enrollment_of(device).pk], **given).command


def put(device: Device, command: Command, **values: Any) -> None:
    CommandDelivery.objects.filter(enrollment=enrollment_of(device), command=command).update(**values)


def push(device: Device, **values: Any) -> None:
    PushRequest.objects.filter(enrollment=enrollment_of(device)).update(**values)


def rows_of(device: Device) -> dict[str, Any]:
    """All that a connect may change, without what differs from device to device."""
    enrollment = enrollment_of(device)
    deliveries = CommandDelivery.objects.filter(enrollment=enrollment).order_by("pk")
    results_of = CommandResult.objects.filter(delivery__enrollment=enrollment).order_by("pk")
    own = {"id", "uuid", "udid", "serial_number", "created_at"}
    return {
        "deliveries": list(
            deliveries.values_list(
                *("command__request_type", "state", "reason", "sent_count", "sent_at"),
                *("not_now_at", "not_now_count", "completed_at", "epoch"),
            )
        ),
        "results": [
            (one.status, one.error_chain, one.received_at, _said(queue.open_report(one)))
            for one in results_of
        ],
        "push": _pushed(PushRequest.objects.get(enrollment=enrollment)),
        "device": {
            name: value
            for name, value in DeviceRow.objects.values().get(pk=enrollment.device_id).items()
            if name not in own
        },
        "refusals": Refusal.objects.count(),
    }


def _pushed(row: PushRequest) -> tuple[Any, ...]:
    """Of a row that has nothing to do it does not matter when that was due."""
    due_at = row.due_at if row.state == PushState.DUE else None
    return row.state, due_at, row.requested_at, row.lease_until, row.lease_owner, row.attempts


def _said(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key not in {"UDID", "CommandUUID"}}


def ago(**amount: float) -> datetime:
    return NOW - timedelta(**amount)


def nothing(_device: Device) -> None:
    """Nothing follows."""


def another(device: Device) -> None:
    add(device)


def put_off(device: Device) -> None:
    put(device, add(device), state="NOT_NOW", not_now_at=ago(seconds=10), not_now_count=1, sent_count=1)


def put_off_long_ago(device: Device) -> None:
    put(device, add(device), state="NOT_NOW", not_now_at=ago(seconds=60), not_now_count=1, sent_count=1)


def put_off_and_another(device: Device) -> None:
    put_off(device)
    another(device)


def with_the_device(device: Device) -> None:
    put(device, add(device), state="SENT", sent_count=1, sent_at=ago(seconds=5))


def expired(device: Device) -> None:
    command = add(device, expires_at=NOW + timedelta(hours=1))
    Command.objects.filter(pk=command.pk).update(expires_at=ago(seconds=1))


def expired_and_another(device: Device) -> None:
    expired(device)
    another(device)


def cancelled(device: Device) -> None:
    command = add(device)
    Command.objects.filter(pk=command.pk).update(cancelled_at=NOW)


def dangerous(device: Device) -> None:
    add(device, "RestartDevice")


def passcode(device: Device) -> None:
    add(device, "ClearPasscode")


def filled_in_by_nobody_known(device: Device) -> None:
    command = add(device)
    Command.objects.filter(pk=command.pk).update(filled_by="somebody")


def for_later(device: Device) -> None:
    add(device, not_before=NOW + timedelta(hours=1))


def for_later_and_another(device: Device) -> None:
    for_later(device)
    another(device)


def unreadable(device: Device) -> None:
    command = add(device)
    Command.objects.filter(pk=command.pk).update(payload_sealed=b"\x01garbage")


def of_another_epoch(device: Device) -> None:
    put(device, add(device), epoch=7)


def held(device: Device) -> None:
    push(device, state=PushState.HELD, due_at=None)


def held_and_another(device: Device) -> None:
    another(device)
    held(device)


def pushed_twice_and_another(device: Device) -> None:
    another(device)
    push(device, attempts=2, lease_owner=uuid.UUID(int=1), lease_until=NOW)


def pushed_often_and_another(device: Device) -> None:
    another(device)
    push(device, attempts=9)


def being_pushed(device: Device) -> None:
    push(device, lease_owner=uuid.UUID(int=1), lease_until=NOW)


FOLLOWING = (
    nothing,
    another,
    put_off,
    put_off_long_ago,
    put_off_and_another,
    with_the_device,
    expired,
    expired_and_another,
    cancelled,
    dangerous,
    passcode,
    filled_in_by_nobody_known,
    for_later,
    for_later_and_another,
    of_another_epoch,
    held,
    pushed_twice_and_another,
    pushed_often_and_another,
    being_pushed,
)
CHAIN = [{"ErrorCode": 12021, "ErrorDomain": "MCMDMErrorDomain", "USEnglishDescription": "no"}]


@pytest.mark.parametrize("status", ["Acknowledged", "Error"])
def test_an_answer(two: tuple[Device, Device], way: Way, status: str) -> None:
    more = {"ErrorChain": CHAIN} if status == "Error" else {"ProfileList": [{"PayloadIdentifier": "x"}]}

    def ask(device: Device) -> str:
        add(device)
        return command_uuid(device.idle())

    for following in FOLLOWING:
        short, long = both_ways(
            two, way, ask, following, lambda device, uuid: device.answer(uuid, status, **more)
        )
        assert (short.taken, long.taken) == (1, 0), following
        assert short.outcome == long.outcome, following


def test_an_answer_that_another_process_takes(two: tuple[Device, Device], way: Way) -> None:
    way.known = False
    test_an_answer(two, way, "Acknowledged")


def test_an_answer_to_what_is_not_the_first(two: tuple[Device, Device], way: Way) -> None:
    """The first has been put off: on PostgreSQL there is a short way for that too."""

    def ask(device: Device) -> str:
        put_off(device)
        another(device)
        return command_uuid(device.answer(command_uuid(device.idle()), "NotNow"))

    for following in FOLLOWING:
        if following is held:  # what was put off is work: see below
            continue
        short, long = both_ways(two, way, ask, following, lambda device, uuid: device.answer(uuid))
        assert (short.taken, long.taken) == (int(connection.vendor == "postgresql"), 0), following
        assert short.outcome == long.outcome, following


def test_handing_out(two: tuple[Device, Device], way: Way) -> None:
    for waiting in FOLLOWING:
        short, long = both_ways(two, way, lambda _device: "", waiting, lambda device, _uuid: device.idle())
        assert short.outcome == long.outcome, waiting


def test_what_cannot_be_read_is_given_up_at_the_next_connect(two: tuple[Device, Device]) -> None:
    """By the short way it was marked before it was opened."""
    device, _other = two
    add(device)
    uuid = command_uuid(device.idle())
    unreadable(device)
    assert device.answer(uuid).body == b""
    assert device.idle().body == b""
    states = CommandDelivery.objects.filter(enrollment=enrollment_of(device)).order_by("pk")
    assert list(states.values_list("state", flat=True))[-2:] == ["ACKNOWLEDGED", "CANCELLED"]


def test_a_push_that_is_held_stays_so_while_there_is_work(two: tuple[Device, Device]) -> None:
    """Its certificate does not work. (The long way has it found out once more.)"""
    device, _other = two
    add(device)
    held_and_another(device)
    assert device.answer(command_uuid(device.idle())).body
    assert PushRequest.objects.get(enrollment=enrollment_of(device)).state == PushState.HELD


@dataclass(frozen=True)
class Done:
    """What came of a connect, and how many short ways led there."""

    outcome: tuple[Any, ...]
    taken: int


def both_ways(
    two: tuple[Device, Device],
    way: Way,
    ask: Callable[[Device], str],
    then: Prepare,
    connect: Callable[[Device, str], Any],
) -> list[Done]:
    """The same connect by the short way and by the long one, each of a device of its own."""
    done = []
    for device, way.long in zip(two, (False, True), strict=True):
        start_over(device)
        uuid = ask(device)
        then(device)
        if not way.known:
            awaited.forget()
        way.taken = 0
        answer = connect(device, uuid)
        outcome = (answer.status, answer.body and request_type(answer), rows_of(device))
        done.append(Done(outcome, way.taken))
    return done


SAID: list[dict[str, Any]] = [
    {"DeviceName": "Library\u202e 3", "OSVersion": "16.0", "ProductName": "iPad14,3", "IsSupervised": True},
    {"DeviceName": "n" * 300, "BuildVersion": " 22A ", "IMEI": "35 123", "MEID": "", "ModelName": "iPad"},
    {"ProductName": "", "SerialNumber": "OTHER", "IsSupervised": "yes", "UDID": "x"},
    {"ProductName": "Unheard1,1", "DeviceName": 7, "OSVersion": [], "IsSupervised": False},
    {"BatteryLevel": 0.5, "EASDeviceIdentifier": b"\x00\xff", "Nested": {"a": [1, {"b": "c"}]}, "é": "ü"},
    {"KnownBefore": "now", "PushToken": b"left out"},
    {},
]


@pytest.mark.parametrize("serial_number", ["", "KNOWN"])
def test_what_a_device_says_of_itself(two: tuple[Device, Device], way: Way, serial_number: str) -> None:
    known = {"KnownBefore": "then", "Kept": [1, 2]}

    def ask(device: Device) -> str:
        DeviceRow.objects.filter(udid=device.udid).update(information=known, serial_number=serial_number)
        add(device, "DeviceInformation")
        return command_uuid(device.idle())

    def say(device: Device, uuid: str) -> Answered:
        return device.answer(uuid, QueryResponses=said)

    for said in SAID:
        short, long = both_ways(two, way, ask, nothing, say)
        assert (short.taken, long.taken) == (1, 0)
        assert short.outcome == long.outcome
        serial_numbers = {DeviceRow.objects.get(udid=device.udid).serial_number for device in two}
        assert serial_numbers == {serial_number or said.get("SerialNumber", "")}


def test_what_a_device_says_of_its_security(two: tuple[Device, Device], way: Way) -> None:
    outcomes = []
    for device, way.long in zip(two, (False, True), strict=True):
        add(device, "SecurityInfo")
        info = {"FDE_Enabled": True, "FDE_PersonalRecoveryKeyCMS": b"secret", "PasscodePresent": False}
        assert device.answer(command_uuid(device.idle()), SecurityInfo=info).status == 200
        outcomes.append(rows_of(device))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["device"]["security"] == {"FDE_Enabled": True, "PasscodePresent": False}


@pytest.mark.parametrize("status", ["Error", "CommandFormatError"])
def test_what_comes_with_an_error_is_not_taken_over(two: tuple[Device, Device], status: str) -> None:
    device, _other = two
    add(device, "DeviceInformation")
    assert (
        device.answer(command_uuid(device.idle()), status, QueryResponses={"DeviceName": "x"}).status == 200
    )
    row = DeviceRow.objects.get(udid=device.udid)
    assert (row.information, row.information_at) == ({}, None)


def test_whatever_is_made_of_answers_has_a_part_or_goes_the_long_way() -> None:
    assert set(results._HANDLERS) - set(results.CAREFUL) == {"DeviceInformation", "SecurityInfo"}


def test_a_push_that_rests_anyway_is_left_alone(two: tuple[Device, Device]) -> None:
    """The device came because of a push: the next one is due after the same pause, and nothing is written."""
    device, _other = two
    long, short = NOW + timedelta(seconds=90), NOW + timedelta(seconds=89)
    put_off_now = NOW + timedelta(seconds=132)
    for attempts, due_at, owner, expected in (
        (1, long, None, long),
        (1, short, None, put_off_now),
        (1, long, uuid.UUID(int=1), put_off_now),
        (2, long, None, NOW + timedelta(seconds=660)),
        (2, NOW + timedelta(seconds=450), None, NOW + timedelta(seconds=450)),
        (9, NOW + timedelta(seconds=2700), None, NOW + timedelta(seconds=2700)),
        (9, NOW + timedelta(seconds=4320), None, NOW + timedelta(seconds=4320)),
        # It did not come for long: now it is here, and is not left alone for a day.
        (9, NOW + timedelta(hours=20), None, NOW + timedelta(seconds=3960)),
        (0, NOW + timedelta(hours=20), None, put_off_now),
    ):
        start_over(device)
        add(device)
        another(device)
        values = {"attempts": attempts, "due_at": due_at, "lease_owner": owner}
        push(device, **values)
        command = command_uuid(device.idle())
        row = PushRequest.objects.get(enrollment=enrollment_of(device))
        assert (row.state, row.due_at, row.lease_owner) == (PushState.DUE, expected, None)
        push(device, **values)
        assert device.answer(command).body
        row = PushRequest.objects.get(enrollment=enrollment_of(device))
        assert (row.state, row.due_at, row.lease_owner) == (PushState.DUE, expected, None)
    assert device.answer(command_uuid(device.idle())).body == b""
    assert PushRequest.objects.get(enrollment=enrollment_of(device)).state == PushState.IDLE


def test_its_statements(two: tuple[Device, Device]) -> None:
    """With the one that finds who asks, unless the answer is awaited; on SQLite with BEGIN and COMMIT."""
    device, _other = two
    add(device)
    another(device)
    add(device, "DeviceInformation")
    with captured() as handing_out:
        uuid = command_uuid(device.idle())
    with captured() as going_on:
        uuid = command_uuid(device.answer(uuid))
    uuid = command_uuid(device.answer(uuid))
    with captured() as ending:
        assert device.answer(uuid, QueryResponses={"DeviceName": "x"}).body == b""
    counts = (len(handing_out), len(going_on), len(ending))
    if connection.vendor == "postgresql":
        assert counts == (2, 1, 1)
    else:  # in a test's own transaction BEGIN and COMMIT are not seen
        assert counts == (3, 6, 8)


# What is no longer as it was read changes nothing


def taken(enrollment: Enrollment, first: statements.Candidate) -> Any:
    answer = Answer(
        State.ACKNOWLEDGED, "Acknowledged", report_sealed=b"x", error_chain=[], result_uuid=uuid.uuid4()
    )
    message = {"Status": "Acknowledged", "CommandUUID": "x", "QueryResponses": {"DeviceName": "x"}}
    also = results.part_of("DeviceInformation", decode_report(message), enrollment.device_id)
    return statements.answer_first(enrollment, first, answer, NOW, 0.5, also=also)


def ended(device: Device) -> None:
    CommandDelivery.objects.filter(enrollment=enrollment_of(device)).update(state=DeliveryState.CANCELLED)


def left(device: Device) -> None:
    Enrollment.objects.filter(pk=enrollment_of(device).pk).update(state=EnrollmentState.CHECKED_OUT)


@pytest.mark.parametrize("meanwhile", [ended, left])
def test_what_changed_meanwhile(two: tuple[Device, Device], meanwhile: Prepare) -> None:
    device, _other = two
    add(device, "DeviceInformation")
    another(device)
    device.idle()
    enrollment = enrollment_of(device)
    first = statements.oldest(enrollment, fresh_only=False, now=NOW)
    assert first is not None
    meanwhile(device)
    with no_change():
        assert taken(enrollment, first) is None
        assert not statements.send_at_once(enrollment, first, NOW, 0.5)


def test_an_authenticate_meanwhile(two: tuple[Device, Device]) -> None:
    """The epoch that the identity was read in is over."""
    device, _other = two
    add(device)
    first = statements.oldest(enrollment_of(device), fresh_only=False, now=NOW)
    before = enrollment_of(device)
    assert first is not None
    Enrollment.objects.filter(pk=before.pk).update(epoch=before.epoch + 1)
    with no_change():
        assert taken(before, first) is None
        assert not statements.send_at_once(before, first, NOW, 0.5)
