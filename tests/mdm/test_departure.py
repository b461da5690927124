"""An administrator ends the management of a device: the only way to a 401, or a 403 that means the same."""

from __future__ import annotations

import plistlib
import threading
from datetime import timedelta

import pytest
import time_machine
from django.db import connection
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import Actor
from commands import queue
from commands.models import CommandDelivery, DeliveryState
from devices import registry
from devices.models import Device as DeviceRow
from devices.models import Enrollment, EnrollmentState
from enrollment import direct
from enrollment.models import EnrollmentSession
from enrollment.setup import ensure_default_profile
from mdm import departure
from mdm.core.farewell import UNRECOGNIZED, farewell
from pki import issuers, revocation, trust
from pki.models import RevocationReason
from push.models import PushRequest, PushState
from tests.mdm.support import assert_rejected, every_message
from tests.support.device_door import Answer
from tests.support.devices import CHECKIN, Device, command_uuid, make_device, request_type
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
ADA = Actor("ada")


def turn_away(device: Device, **more: str) -> departure.Departure:
    row = DeviceRow.objects.get(udid=device.udid)
    return departure.turn_away([row.pk], actor=ADA, now=timezone.now(), **more)


def enrollment(device: Device) -> Enrollment:
    return Enrollment.objects.filter(device__udid=device.udid, channel="DEVICE").latest("pk")


def told_to_leave(answer: Answer) -> bool:
    """As a device reads it."""
    if answer.status == 401:
        return True
    return answer.status == 403 and plistlib.loads(answer.body)["code"] == UNRECOGNIZED


# --- The words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "version", "status"),
    [
        ("iOS", "17.0", 403),
        ("iOS", "18.1.1", 403),
        ("iOS", "16.7.10", 401),
        ("iPadOS", "17.4", 403),
        ("macOS", "14.0", 403),
        ("macOS", "13.6", 401),
        ("tvOS", "17.0", 403),
        ("visionOS", "1.0", 401),
        ("visionOS", "1.1", 403),
        ("watchOS", "9.6", 401),
        ("watchOS", "10", 403),
        ("", "99", 401),
        ("macOS", "", 401),
        ("macOS", "four.teen", 401),
        ("macOS", "١٤.٠", 401),
    ],
)
def test_each_system_is_told_in_words_that_it_knows(platform: str, version: str, status: int) -> None:
    said = farewell(platform, version)
    assert said.status == status
    if status == 403:
        assert said.content_type == "application/xml"
        assert plistlib.loads(said.body)["code"] == "com.apple.unrecognized.device"
    else:
        assert said.body == b""


# --- Turning away ----------------------------------------------------------------------------------------


def test_a_device_is_turned_away_once(a: Device, b: Device) -> None:
    a.enrol()
    b.enrol()
    queued = queue.enqueue(
        "ProfileList", None, [enrollment(a).pk], source="ADMIN", actor=ADA, now=timezone.now()
    )
    assert turn_away(a, reason="sold").leaving == 1
    row = enrollment(a)
    assert (row.state, row.state_reason) == (EnrollmentState.TURN_AWAY, "sold (ada)")
    assert set(CommandDelivery.objects.filter(command=queued.command).values_list("state", flat=True)) == {
        DeliveryState.CANCELLED
    }
    assert told_to_leave(a.idle())
    assert enrollment(a).state == EnrollmentState.TURNED_AWAY
    told = AuditEvent.objects.get(action="enrollment.turned_away")
    assert told.details["status"] == 403
    assert AuditEvent.objects.get(action="enrollment.unenrolled").reason == "sold"
    # Nobody is told twice, and nobody else at all.
    for path, message in every_message(a):
        with no_change():
            answer = a.send(path, message)
        # The very bytes of its first Authenticate are a repetition, as ever.
        repeated = message.get("MessageType") == "Authenticate"
        assert (answer.status, answer.body) == (200 if repeated else 400, b""), message
    assert b.idle().status == 200


def test_whatever_it_says_next_it_is_turned_away(a: Device) -> None:
    a.enrol()
    for path, message in every_message(a):
        turn_away(a)
        answer = a.send(path, message)
        assert told_to_leave(answer), (path, message, answer.status)


def test_an_older_system_gets_a_401(a: Device) -> None:
    assert a.check_in(a.authenticate_message(OSVersion="13.6")).status == 200
    assert a.check_in(a.token_update_message()).status == 200
    turn_away(a)
    answer = a.idle()
    assert (answer.status, answer.body) == (401, b"")
    assert "WWW-Authenticate" not in answer.headers
    assert AuditEvent.objects.get(action="enrollment.turned_away").details["status"] == 401


def test_it_is_woken_to_hear_it(a: Device) -> None:
    a.enrol()
    a.idle()
    PushRequest.objects.update(state=PushState.IDLE)
    turn_away(a)
    push = PushRequest.objects.get(enrollment=enrollment(a))
    assert push.state == PushState.DUE
    assert enrollment(a).push_token is not None
    a.idle()
    push.refresh_from_db()
    assert (push.state, enrollment(a).push_token) == (PushState.IDLE, None)


def test_the_answer_may_be_given_again_by_another_act(a: Device) -> None:
    a.enrol()
    turn_away(a)
    assert told_to_leave(a.idle())
    assert a.idle().status == 400
    assert turn_away(a).leaving == 1
    assert told_to_leave(a.idle())
    assert AuditEvent.objects.filter(action="enrollment.turned_away").count() == 2


def test_only_the_device_itself_is_told(a: Device, b: Device) -> None:
    """Neither a stranger nor another device learns of it, nor uses the one answer up."""
    a.enrol()
    b.enrol()
    turn_away(a)
    body = a.message(Status="Idle")
    with no_change():
        assert a.client.put("/mdm/connect", plistlib.dumps(body), {}).status == 400
        assert b.connect(body).status == 400
        forged = Device(b.certificate, a.key, a.udid, a.serial_number)
        assert forged.connect(body).status == 400
    assert told_to_leave(a.idle())


def test_a_stolen_key_does_not_use_it_up(a: Device) -> None:
    a.enrol()
    turn_away(a)
    revocation.revoke(a.certificate, reason=RevocationReason.KEY_COMPROMISE, actor=ADA, now=timezone.now())
    assert_rejected(a.idle, "certificate revoked")
    assert enrollment(a).state == EnrollmentState.TURN_AWAY


def test_an_expired_certificate_is_enough_to_be_told(a: Device) -> None:
    a.enrol()
    turn_away(a)
    with time_machine.travel(a.certificate.not_after + timedelta(days=1), tick=True):
        assert told_to_leave(a.idle())


def test_a_turned_away_device_enrols_again(a: Device) -> None:
    a.enrol()
    turn_away(a)
    a.idle()
    again = make_device("A")
    again.enrol()
    assert enrollment(a).state == EnrollmentState.ENROLLED
    # The next unenrolment is of the new life, and the old identity stays out.
    assert a.idle().status == 400
    assert turn_away(a).leaving == 1
    assert told_to_leave(again.idle())


def test_who_is_not_enrolled_cannot_be_turned_away(a: Device) -> None:
    a.enrol()
    assert a.check_in(a.message(MessageType="CheckOut", Topic="x")).status == 200
    with no_change():
        left = turn_away(a)
    assert (left.leaving, [reason for _device, reason in left.left_out]) == (0, ["not enrolled"])
    with pytest.raises(registry.Refused), no_change():
        registry.turn_away(enrollment(a), actor=ADA, now=timezone.now())


def test_a_rival_in_quarantine_is_not_meant(a: Device) -> None:
    a.enrol()
    rival = make_device("A")
    rival.check_in(rival.authenticate_message())
    assert turn_away(a).leaving == 1
    assert rival.idle().status == 200
    assert enrollment(a).state == EnrollmentState.QUARANTINED
    assert told_to_leave(a.idle())


def test_users_of_the_device_go_with_it(a: Device) -> None:
    a.enrol()
    a.check_in(a.token_update_message(b"\x07" * 32, "user", UserID="U-1", UserShortName="anna"))
    turn_away(a)
    user = Enrollment.objects.get(channel="USER")
    assert (user.state, user.push_token) == (EnrollmentState.TURN_AWAY, None)


@pytest.mark.django_db(transaction=True)
def test_of_many_requests_at_once_one_is_told() -> None:
    trust.forget_anchors()
    issuers.create_issuer("bramley", "Test CA", algorithm="EC-P256", actor=ADA)
    device = make_device("A")
    device.enrol()
    turn_away(device)
    barrier, answers = threading.Barrier(4), []

    def call() -> None:
        try:
            barrier.wait()
            answers.append(device.idle())
        finally:
            connection.close()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told_to_leave(answer) for answer in answers) == [False] * 3 + [True]
    assert {answer.status for answer in answers if not told_to_leave(answer)} == {400}


# --- Without that act ------------------------------------------------------------------------------------


def test_no_other_way_leads_to_a_401(a: Device, b: Device) -> None:
    """Every message, from every kind of sender, in every state of an enrollment: never told to leave."""
    a.enrol()
    b.enrol()
    fresh = make_device("F")
    strangers = [Device(a.certificate, b.key, a.udid), fresh]
    for state in EnrollmentState:
        if state == EnrollmentState.TURN_AWAY:
            continue
        for device in (a, *strangers):
            for path, message in every_message(a):
                Enrollment.objects.filter(identities__certificate=a.certificate).update(state=state)
                answer = device.send(path, message)
                assert answer.status not in (401, 403), (state, path, message)
                Enrollment.objects.exclude(identities__certificate=a.certificate).filter(
                    device__udid=a.udid
                ).update(state=EnrollmentState.REPLACED)
    for path in ("/mdm/checkin", "/mdm/connect", "/mdm/", "/mdm", "/mdm/other"):
        for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH"):
            answer = a.client.request(method, path, b"", {"Authorization": "Basic eDp5"})
            assert answer.status not in (401, 403), (method, path)
            assert "WWW-Authenticate" not in answer.headers


# --- Removing the profile --------------------------------------------------------------------------------


@pytest.fixture
def managed() -> tuple[Device, str]:
    """A device that enrolled by our default profile, with nothing waiting; the profile's identifier."""
    trust.forget_anchors()
    issuer = issuers.create_issuer("bramley", "Test CA", algorithm="RSA-2048", actor=ADA)
    profile = ensure_default_profile(issuer)
    offered = direct.offer(profile, remote_addr="", user_agent="", now=timezone.now(), signed=False)
    device = make_device("A", binding=offered.session.uuid)
    device.enrol()
    while (answer := device.idle()).body:  # the questions of the welcome
        device.answer(command_uuid(answer))
    return device, plistlib.loads(offered.mobileconfig)["PayloadIdentifier"]


def remove(*identifiers: str) -> None:
    """RemoveProfile, as an administrator would send it."""
    now, pks = timezone.now(), list(Enrollment.objects.values_list("pk", flat=True))
    for identifier in identifiers:
        queue.enqueue("RemoveProfile", {"Identifier": identifier}, pks, source="ADMIN", actor=ADA, now=now)


def test_the_management_profile_is_removed_by_a_command(managed: tuple[Device, str]) -> None:
    device, identifier = managed
    row = DeviceRow.objects.get()
    done = departure.remove_profiles([row.pk], actor=ADA, now=timezone.now())
    assert (done.leaving, done.left_out) == (1, [])
    answer = device.idle()
    assert request_type(answer) == "RemoveProfile"
    assert plistlib.loads(answer.body)["Command"]["Identifier"] == identifier
    assert device.send(CHECKIN, device.message(MessageType="CheckOut", Topic="x")).status == 200
    assert enrollment(device).state == EnrollmentState.CHECKED_OUT


def test_its_acknowledgement_ends_the_enrolment_without_a_check_out(managed: tuple[Device, str]) -> None:
    device, identifier = managed
    remove(identifier)
    later = queue.enqueue(
        "ProfileList", None, [enrollment(device).pk], source="ADMIN", actor=ADA, now=timezone.now()
    )
    answer = device.answer(command_uuid(device.idle()))
    assert (answer.status, answer.body) == (200, b"")
    row = enrollment(device)
    assert (row.state, row.push_token) == (EnrollmentState.CHECKED_OUT, None)
    assert row.state_reason == "the device removed the management profile"
    assert CommandDelivery.objects.get(command=later.command).state == DeliveryState.CANCELLED
    assert CommandDelivery.objects.get(command__request_type="RemoveProfile").state == "ACKNOWLEDGED"
    assert AuditEvent.objects.filter(action="enrollment.checked_out").count() == 1
    # What it says afterwards, if it does, changes nothing.
    with no_change():
        assert device.send(CHECKIN, device.message(MessageType="CheckOut", Topic="x")).status == 200
    assert device.idle().status == 400


@pytest.mark.parametrize("status", ["Error", "CommandFormatError", "NotNow"])
def test_a_profile_that_was_not_removed_ends_nothing(managed: tuple[Device, str], status: str) -> None:
    device, identifier = managed
    remove(identifier)
    device.answer(command_uuid(device.idle()), status)
    assert enrollment(device).state == EnrollmentState.ENROLLED


def test_another_profile_that_was_removed_ends_nothing(managed: tuple[Device, str]) -> None:
    device, identifier = managed
    others = ["com.example.wifi", f"{identifier}.ota", identifier[:-1] + "-"]
    remove(*others)
    for _other in others:
        device.answer(command_uuid(device.idle()))
    assert CommandDelivery.objects.filter(state="ACKNOWLEDGED", command__source="ADMIN").count() == 3
    assert enrollment(device).state == EnrollmentState.ENROLLED


def test_it_is_known_as_ours_where_its_session_is_gone(managed: tuple[Device, str]) -> None:
    device, identifier = managed
    EnrollmentSession.objects.all().delete()
    remove("com.example.wifi", identifier)
    device.answer(command_uuid(device.idle()))
    assert enrollment(device).state == EnrollmentState.ENROLLED
    device.answer(command_uuid(device.idle()))
    assert enrollment(device).state == EnrollmentState.CHECKED_OUT


def test_a_profile_that_is_not_known_here_is_left_out(a: Device, b: Device) -> None:
    a.enrol()
    ids = list(DeviceRow.objects.values_list("pk", flat=True))
    with no_change():
        done = departure.remove_profiles(ids, actor=ADA, now=timezone.now())
    assert [reason for _device, reason in done.left_out] == ["enrolled by a profile that is not known here"]
