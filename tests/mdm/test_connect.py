"""Connects: the hot path and its cost, reports, NotNow, users, what answers do to the inventory."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from audit.models import Refusal
from audit.recording import SERVER
from commands import queue
from commands.models import CommandDelivery, CommandResult, CommandSource, DeliveryState
from devices.models import Device as DeviceRow
from devices.models import Enrollment
from push.models import PushRequest, PushState
from tests.mdm.support import assert_rejected, enrollment_of
from tests.support.device_door import Answer
from tests.support.devices import Device, command_uuid, request_type
from tests.support.snapshot import no_change


@pytest.fixture
def quiet_a(enrolled_a: Device) -> Device:
    """A, enrolled, with nothing queued and no push under way."""
    return quiet(enrolled_a)


@pytest.fixture
def quiet_b(enrolled_b: Device) -> Device:
    return quiet(enrolled_b)


def quiet(device: Device) -> Device:
    queue.cancel_outstanding(enrollment_of(device), "test", timezone.now())
    assert device.idle().body == b""
    return device


def enqueue(*devices: Device, name: str = "ProfileList", **payload: Any) -> list[CommandDelivery]:
    command = queue.enqueue(
        name,
        payload or None,
        [enrollment_of(device).pk for device in devices],
        source=CommandSource.ADMIN,
        actor=SERVER,
        now=timezone.now(),
    ).command
    return [CommandDelivery.objects.get(command=command, enrollment=enrollment_of(d)) for d in devices]


def state_of(delivery: CommandDelivery) -> str:
    return CommandDelivery.objects.values_list("state", flat=True).get(pk=delivery.pk)


def push_of(device: Device) -> str:
    return PushRequest.objects.values_list("state", flat=True).get(enrollment=enrollment_of(device))


def empty(answer: Answer) -> bool:
    return (answer.status, answer.body) == (200, b"")


# The hot path


def test_its_contact_is_written_once_a_minute(quiet_a: Device) -> None:
    enrollment = enrollment_of(quiet_a)
    long_ago = timezone.now() - timedelta(seconds=61)
    Enrollment.objects.filter(pk=enrollment.pk).update(last_seen_at=long_ago)
    quiet_a.idle()
    seen = enrollment_of(quiet_a).last_seen_at
    assert seen is not None
    assert seen > long_ago
    quiet_a.idle()
    assert enrollment_of(quiet_a).last_seen_at == seen


def test_a_push_that_is_under_way_is_settled_by_the_connect(enrolled_a: Device) -> None:
    assert push_of(enrolled_a) == PushState.DUE
    queue.cancel_outstanding(enrollment_of(enrolled_a), "test", timezone.now())
    assert empty(enrolled_a.idle())
    assert push_of(enrolled_a) == PushState.IDLE


# Commands and answers


def test_a_command_is_handed_out_and_answered(quiet_a: Device) -> None:
    (delivery,) = enqueue(quiet_a)
    answer = quiet_a.idle()
    assert answer.headers["Content-Type"] == "application/xml"
    assert command_uuid(answer).lower() == str(delivery.command.uuid)
    assert state_of(delivery) == DeliveryState.SENT
    assert push_of(quiet_a) == PushState.DUE
    assert empty(quiet_a.answer(command_uuid(answer), ProfileList=[]))
    assert state_of(delivery) == DeliveryState.ACKNOWLEDGED
    assert push_of(quiet_a) == PushState.IDLE


def test_commands_come_one_by_one_in_their_order(quiet_a: Device) -> None:
    names = ["ProfileList", "CertificateList", "InstalledApplicationList"]
    for name in names:
        enqueue(quiet_a, name=name)
    answer, got = quiet_a.idle(), []
    while answer.body:
        got.append(request_type(answer))
        answer = quiet_a.answer(command_uuid(answer))
    assert got == names


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("Acknowledged", DeliveryState.ACKNOWLEDGED),
        ("Error", DeliveryState.ERROR),
        ("CommandFormatError", DeliveryState.FORMAT_ERROR),
    ],
)
def test_what_has_ended_stays_as_it_ended(quiet_a: Device, status: str, state: DeliveryState) -> None:
    (delivery,) = enqueue(quiet_a)
    uuid = command_uuid(quiet_a.idle())
    quiet_a.answer(uuid, status, ErrorChain=[{"ErrorCode": 1, "ErrorDomain": "d"}])
    with no_change():
        for late in ("NotNow", "Error", "Acknowledged", "CommandFormatError"):
            assert empty(quiet_a.answer(uuid, late, QueryResponses={"DeviceName": "late"}))
    assert state_of(delivery) == state
    assert CommandResult.objects.get(delivery=delivery).status == status


def test_a_late_answer_to_erase_device_changes_nothing(quiet_a: Device) -> None:
    (erase,) = enqueue(quiet_a, name="EraseDevice")
    uuid = command_uuid(quiet_a.idle())
    quiet_a.answer(uuid, "Error", ErrorChain=[])
    quiet_a.answer(uuid, "Acknowledged")
    assert state_of(erase) == DeliveryState.ERROR
    assert enrollment_of(quiet_a).erase_acknowledged_at is None
    assert empty(quiet_a.idle())


def test_an_answer_to_another_devices_command_changes_nothing(quiet_a: Device, quiet_b: Device) -> None:
    (of_a,) = enqueue(quiet_a)
    (of_b,) = enqueue(quiet_b, name="CertificateList")
    uuid = command_uuid(quiet_a.idle())
    for status in ("Acknowledged", "Error", "NotNow", "CommandFormatError"):
        answer = quiet_b.answer(uuid, status)
        assert answer.status == 200
        assert state_of(of_a) == DeliveryState.SENT
    assert request_type(quiet_b.idle()) == "CertificateList"
    assert state_of(of_b) == DeliveryState.SENT
    assert not CommandResult.objects.exists()
    refusal = Refusal.objects.filter(reason="orphan result").first()
    assert refusal is not None
    assert refusal.target_id == str(enrollment_of(quiet_b).pk)


@pytest.mark.parametrize("uuid", ["0b8ae5a4-6e4f-4c0e-9d0d-7d9a3c0b1a2b", "not a uuid", "{}", "x" * 64])
def test_an_answer_to_nothing_is_taken_and_noted(quiet_a: Device, uuid: str) -> None:
    with no_change():
        assert empty(quiet_a.answer(uuid))
    assert Refusal.objects.filter(reason="orphan result").exists()


# NotNow


def test_not_now_is_tried_again_when_the_device_comes_back(quiet_a: Device) -> None:
    (first,) = enqueue(quiet_a)
    (second,) = enqueue(quiet_a, name="CertificateList")
    answer = quiet_a.answer(command_uuid(quiet_a.idle()), "NotNow")
    assert request_type(answer) == "CertificateList"
    assert empty(quiet_a.answer(command_uuid(answer)))
    assert (state_of(first), state_of(second)) == (DeliveryState.NOT_NOW, DeliveryState.ACKNOWLEDGED)
    assert push_of(quiet_a) == PushState.DUE
    answer = quiet_a.idle()
    assert command_uuid(answer).lower() == str(first.command.uuid)
    assert empty(quiet_a.answer(command_uuid(answer)))
    assert state_of(first) == DeliveryState.ACKNOWLEDGED


def test_not_now_to_everything_ends_the_connection(quiet_a: Device) -> None:
    deliveries = [enqueue(quiet_a)[0] for _number in range(3)]
    answer = quiet_a.idle()
    for _delivery in deliveries:
        answer = quiet_a.answer(command_uuid(answer), "NotNow")
    assert empty(answer)
    assert {state_of(delivery) for delivery in deliveries} == {DeliveryState.NOT_NOW}


# What answers do


def test_device_information_fills_the_inventory(quiet_a: Device) -> None:
    enqueue(quiet_a, name="DeviceInformation")
    answers = {
        "DeviceName": "Library\u202e 3",
        "OSVersion": "16.0",
        "ProductName": "iPad14,3",
        "SerialNumber": "OTHER",
        "IsSupervised": True,
        "BatteryLevel": 0.5,
        "EASDeviceIdentifier": b"\x00\xff",
        "UDID": quiet_a.udid,
    }
    assert empty(quiet_a.answer(command_uuid(quiet_a.idle()), QueryResponses=answers))
    row = DeviceRow.objects.get()
    assert (row.name, row.os_version, row.platform, row.supervised) == ("Library 3", "16.0", "iPadOS", True)
    assert row.serial_number == quiet_a.serial_number
    assert row.information["BatteryLevel"] == 0.5
    assert row.information["EASDeviceIdentifier"] == "AP8="
    assert row.information_at is not None


def test_a_partial_answer_keeps_what_was_known(quiet_a: Device) -> None:
    for answers in ({"DeviceName": "One", "BatteryLevel": 0.4}, {"BatteryLevel": 0.3}):
        enqueue(quiet_a, name="DeviceInformation")
        quiet_a.answer(command_uuid(quiet_a.idle()), QueryResponses=answers)
    assert DeviceRow.objects.get().information == {"DeviceName": "One", "BatteryLevel": 0.3}


def test_security_info_fills_the_inventory_without_recovery_keys(quiet_a: Device) -> None:
    enqueue(quiet_a, name="SecurityInfo")
    info = {"FDE_Enabled": True, "FDE_PersonalRecoveryKeyCMS": b"secret"}
    quiet_a.answer(command_uuid(quiet_a.idle()), SecurityInfo=info)
    assert DeviceRow.objects.get().security == {"FDE_Enabled": True}


@pytest.mark.parametrize("rubbish", [None, 7, "text", [1]])
def test_an_answer_of_another_shape_fills_nothing(quiet_a: Device, rubbish: Any) -> None:
    enqueue(quiet_a, name="DeviceInformation")
    values = {} if rubbish is None else {"QueryResponses": rubbish}
    assert empty(quiet_a.answer(command_uuid(quiet_a.idle()), **values))
    assert DeviceRow.objects.get().information == {}


def test_answers_of_users_say_nothing_about_the_device(quiet_a: Device) -> None:
    quiet_a.check_in(quiet_a.token_update_message(UserID="U1", UserShortName="anna"))
    user = Enrollment.objects.get(user_id="U1")
    queue.enqueue(
        "DeviceInformation", None, [user.pk], source=CommandSource.ADMIN, actor=SERVER, now=timezone.now()
    )
    before = DeviceRow.objects.values().get()
    answer = quiet_a.idle(UserID="U1")
    assert request_type(answer) == "DeviceInformation"
    assert empty(
        quiet_a.answer(command_uuid(answer), UserID="U1", QueryResponses={"DeviceName": "of the user"})
    )
    assert DeviceRow.objects.values().get() == before
    assert CommandDelivery.objects.get(enrollment=user).state == DeliveryState.ACKNOWLEDGED


def test_device_and_users_have_queues_of_their_own(quiet_a: Device) -> None:
    quiet_a.check_in(quiet_a.token_update_message(UserID="U1", UserShortName="anna"))
    (delivery,) = enqueue(quiet_a)
    assert empty(quiet_a.idle(UserID="U1"))
    uuid = command_uuid(quiet_a.idle())
    assert empty(quiet_a.answer(uuid, UserID="U1"))
    assert state_of(delivery) == DeliveryState.SENT
    assert Refusal.objects.filter(reason="orphan result").exists()


# Life


def test_commands_wait_for_the_first_token_update(a: Device) -> None:
    a.check_in(a.authenticate_message())
    assert empty(a.idle())


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"Status": "Asleep"},
        {"Status": 1},
        {"Status": "Acknowledged"},
        {"Status": "Idle", "UDID": 5},
        {"Status": "Idle", "NotOnConsole": "no"},
        {"Status": "Error", "CommandUUID": "u", "ErrorChain": "x"},
        {"Status": "Acknowledged", "CommandUUID": b"x"},
    ],
)
def test_what_is_no_report_is_refused(quiet_a: Device, report: dict[str, Any]) -> None:
    assert_rejected(lambda: quiet_a.connect({"UDID": quiet_a.udid, **report}), "bad report")


def test_a_report_does_not_go_to_the_address_of_check_ins(quiet_a: Device) -> None:
    assert_rejected(lambda: quiet_a.check_in(quiet_a.message(Status="Idle")), "bad check-in message")
