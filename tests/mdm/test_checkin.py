"""Check-ins: from Authenticate to CheckOut, replayed, repeated, in the wrong order, from the wrong device."""

from __future__ import annotations

import uuid
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import SERVER
from commands import queue
from commands.core import plist
from commands.models import CommandDelivery, CommandSource, DeliveryState
from devices import escrow
from devices.models import (
    CheckinReceipt,
    Enrollment,
    EnrollmentState,
    EscrowedSecret,
    Identity,
    IdentityState,
    Platform,
    SecretKind,
)
from devices.models import (
    Device as DeviceRow,
)
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from pki.models import CertificateStatus, Issuer
from push.models import PushRequest, PushState
from tests.mdm.support import CANARY, assert_rejected, enrollment_of
from tests.support.devices import (
    CHECKIN,
    CONNECT,
    TOPIC,
    Device,
    device_key,
    issue_certificate,
    make_device,
    request_type,
)
from tests.support.snapshot import no_change, snapshot


def enqueue(device: Device, name: str = "ProfileList") -> CommandDelivery:
    """Queue a command for the device channel."""
    enrolled = enrollment_of(device)
    command = queue.enqueue(
        name, None, [enrolled.pk], source=CommandSource.ADMIN, actor=SERVER, now=timezone.now()
    ).command
    return CommandDelivery.objects.get(command=command)


def drop_questions(device: Device) -> None:
    """The server's own questions after enrolment are not what the test is about."""
    queue.cancel_outstanding(enrollment_of(device), "test", timezone.now())


# The way in


def test_a_device_enrols(a: Device) -> None:
    assert a.check_in(a.authenticate_message()).status == 200
    row = enrollment_of(a)
    assert row.state == EnrollmentState.AUTHENTICATED
    assert (row.push_token, row.push_magic, row.topic) == (None, "", TOPIC)
    assert row.binding == a.certificate.binding
    device = row.device
    assert (device.serial_number, device.name, device.os_version) == ("F00000000A", "Anna's Mac", "15.4")
    assert device.platform == Platform.MACOS
    answer = a.check_in(a.token_update_message(b"\x01" * 32, "m", UnlockToken=b"unlock"))
    assert (answer.status, answer.body) == (200, b"")
    row = enrollment_of(a)
    assert row.state == EnrollmentState.ENROLLED
    assert (bytes(row.push_token or b""), row.push_magic) == (b"\x01" * 32, "m")
    assert escrow.current(row, SecretKind.UNLOCK_TOKEN) == b"unlock"
    identity = Identity.objects.get(enrollment=row)
    assert (identity.sha256, identity.state) == (a.certificate.sha256, IdentityState.ACTIVE)
    a.certificate.refresh_from_db()
    assert a.certificate.first_used_at is not None


def test_the_server_asks_what_enrolled(enrolled_a: Device) -> None:
    waiting = CommandDelivery.objects.filter(enrollment=enrollment_of(enrolled_a))
    assert sorted(waiting.values_list("command__request_type", flat=True)) == [
        "DeviceInformation",
        "SecurityInfo",
    ]
    assert PushRequest.objects.get(enrollment=enrollment_of(enrolled_a)).state == PushState.DUE
    assert request_type(enrolled_a.idle()) == "DeviceInformation"


def test_a_check_in_may_come_to_the_address_of_connects(a: Device) -> None:
    """A profile with a ServerURL and no CheckInURL."""
    assert a.send(CONNECT, a.authenticate_message()).status == 200
    assert a.send(CONNECT, a.token_update_message()).status == 200
    assert enrollment_of(a).state == EnrollmentState.ENROLLED


def test_a_user_enrolment_is_kept_by_its_enrollment_id(a: Device) -> None:
    hidden = {
        key: value
        for key, value in a.authenticate_message().items()
        if key not in {"UDID", "SerialNumber", "DeviceName"}
    } | {"EnrollmentID": "E" * 20}
    assert a.check_in(hidden).status == 200
    row = Enrollment.objects.get()
    assert (row.device.udid, row.device.user_enrollment, row.device.serial_number) == ("E" * 20, True, "")
    assert_rejected(lambda: a.check_in(a.token_update_message()), "identity of another device")


def test_without_a_push_certificate_the_administrator_is_told(enrolled_a: Device) -> None:
    assert AuditEvent.objects.filter(action="enrollment.cannot_be_woken").count() == 1


def test_a_later_token_update_replaces_token_and_magic_together(enrolled_a: Device) -> None:
    enrollment = enrollment_of(enrolled_a)
    Enrollment.objects.filter(pk=enrollment.pk).update(token_dead_at=timezone.now())
    drop_questions(enrolled_a)
    enqueue(enrolled_a)
    assert not PushRequest.objects.filter(enrollment=enrollment, state=PushState.DUE, attempts__gt=0).exists()
    assert (
        enrolled_a.check_in(
            enrolled_a.token_update_message(b"\x07" * 40, "magic-2", AwaitingConfiguration=True)
        ).status
        == 200
    )
    row = enrollment_of(enrolled_a)
    assert (bytes(row.push_token or b""), row.push_magic) == (b"\x07" * 40, "magic-2")
    assert row.token_dead_at is None
    assert row.awaiting_configuration
    assert PushRequest.objects.get(enrollment=row).state == PushState.DUE


def test_what_a_token_update_leaves_out_stays(a: Device) -> None:
    a.check_in(a.authenticate_message())
    a.check_in(a.token_update_message(UnlockToken=b"unlock", AwaitingConfiguration=True))
    assert a.check_in(a.token_update_message(b"\x03" * 32, "m3")).status == 200
    row = enrollment_of(a)
    assert row.awaiting_configuration
    assert escrow.current(row, SecretKind.UNLOCK_TOKEN) == b"unlock"
    a.check_in(a.token_update_message(b"\x04" * 32, "m4", UnlockToken=b"newer", AwaitingConfiguration=False))
    row = enrollment_of(a)
    assert not row.awaiting_configuration
    assert escrow.current(row, SecretKind.UNLOCK_TOKEN) == b"newer"


# Sessions: the certificate says which one


@pytest.fixture
def profile(issuer: Issuer) -> EnrollmentProfile:
    return EnrollmentProfile.objects.create(slug="default", name="Default", issuer=issuer)


def session(profile: EnrollmentProfile, **fields: Any) -> EnrollmentSession:
    now = timezone.now()
    return EnrollmentSession.objects.create(
        profile=profile, created_at=now, expires_at=now + timedelta(hours=1), **fields
    )


def test_a_session_follows_its_device_to_the_end(profile: EnrollmentProfile) -> None:
    row = session(profile)
    device = make_device("A", binding=row.uuid)
    device.check_in(device.authenticate_message())
    row.refresh_from_db()
    assert (row.state, row.udid, row.serial_number) == (
        SessionState.AUTHENTICATED,
        device.udid,
        device.serial_number,
    )
    device.check_in(device.token_update_message())
    row.refresh_from_db()
    assert row.state == SessionState.COMPLETED


@pytest.mark.parametrize(
    "expected",
    [
        {"expected_udid": "00008030-0000000000000FFF"},
        {"expected_serial_number": "SOMEBODY"},
        {"state": SessionState.EXPIRED},
        {"state": SessionState.FAILED},
    ],
)
def test_a_session_for_another_device_or_at_its_end_is_refused(
    profile: EnrollmentProfile, expected: dict[str, Any]
) -> None:
    device = make_device("A", binding=session(profile, **expected).uuid)
    assert_rejected(lambda: device.check_in(device.authenticate_message()), "enrolment session refused")
    assert not DeviceRow.objects.exists()


def test_one_certificate_enrols_one_device(a: Device) -> None:
    a.enrol()
    a.udid = "00008030-0000000000000FFF"
    assert_rejected(lambda: a.check_in(a.authenticate_message()), "certificate belongs to another device")


def test_one_session_enrols_one_device(profile: EnrollmentProfile) -> None:
    """Also through a renewed certificate of that session, and through another one with the same binding."""
    binding = session(profile).uuid
    first = make_device("A", binding=binding)
    first.enrol()
    renewed = issue_certificate(device_key(50), binding=binding, renewed_from=first.certificate)
    for certificate, key in (
        (renewed, device_key(50)),
        (issue_certificate(device_key(51), binding=binding), device_key(51)),
    ):
        thief = Device(certificate=certificate, key=key, udid="00008030-0000000000000FFF")
        assert_rejected(
            partial(thief.check_in, thief.authenticate_message()),
            "certificate belongs to another device",
        )


# Repetition and replay: A16


def test_a_repeated_authenticate_changes_nothing(a: Device) -> None:
    first = plist.write(a.authenticate_message())
    assert a.check_in(first).status == 200
    with no_change():
        assert a.check_in(first).status == 200
        assert a.check_in(a.authenticate_message(OSVersion="15.5")).status == 200
    a.check_in(a.token_update_message())
    with no_change():
        assert a.check_in(first).status == 200


def test_nothing_recorded_and_sent_again_changes_anything(a: Device) -> None:
    """What somebody on the way (a proxy that ends TLS) saw is worth nothing later."""
    recorded = [
        plist.write(message)
        for message in (
            a.authenticate_message(),
            a.token_update_message(b"\x01" * 32, "one", UnlockToken=b"u1"),
            a.token_update_message(b"\x02" * 32, "two", UnlockToken=b"u2"),
            a.message(MessageType="SetBootstrapToken", BootstrapToken=b"b1"),
            a.message(MessageType="SetBootstrapToken", BootstrapToken=b"b2"),
        )
    ]
    signed = [(body, {"Mdm-Signature": a.signature(body)}) for body in recorded]
    for body, headers in signed:
        assert a.client.put(CHECKIN, body, headers).status == 200
    with no_change():
        for body, headers in signed * 2:
            assert a.client.put(CHECKIN, body, headers).status == 200
    row = enrollment_of(a)
    assert (bytes(row.push_token or b""), row.push_magic) == (b"\x02" * 32, "two")
    assert escrow.current(row, SecretKind.BOOTSTRAP_TOKEN) == b"b2"
    check_out = a.message(MessageType="CheckOut", Topic=TOPIC)
    assert a.check_in(check_out).status == 200
    before = snapshot()
    statuses = [a.client.put(CHECKIN, body, headers).status for body, headers in signed]
    assert statuses == [200, 400, 400, 400, 400]
    assert a.check_in(check_out).status == 200
    assert snapshot() == before


def test_connects_are_no_replays(enrolled_a: Device) -> None:
    """Without signed attributes two Idle connects are the same bytes, and mean the same twice."""
    drop_questions(enrolled_a)
    body = plist.write(enrolled_a.message(Status="Idle"))
    assert enrolled_a.connect(body).body == b""
    enqueue(enrolled_a)
    assert request_type(enrolled_a.connect(body)) == "ProfileList"


# Starting over with the same certificate


def test_starting_over_is_a_new_epoch(enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"boot"))
    enrolled_a.check_in(enrolled_a.token_update_message(b"\x05" * 32, "five", UnlockToken=b"unlock"))
    enrolled_a.check_in(enrolled_a.token_update_message(UserID="U1", UserShortName="anna"))
    old = enqueue(enrolled_a)
    assert enrolled_a.check_in(enrolled_a.authenticate_message(OSVersion="15.5")).status == 200
    row = enrollment_of(enrolled_a)
    assert (row.state, row.epoch, row.push_token, row.push_magic) == (
        EnrollmentState.AUTHENTICATED,
        2,
        None,
        "",
    )
    old.refresh_from_db()
    assert old.state == DeliveryState.CANCELLED
    assert not CommandDelivery.objects.filter(state=DeliveryState.QUEUED).exists()
    user = Enrollment.objects.get(parent=row)
    assert (user.state, user.push_token) == (EnrollmentState.AUTHENTICATED, None)
    assert escrow.current(row, SecretKind.UNLOCK_TOKEN) is None
    answer = enrolled_a.check_in(enrolled_a.message(MessageType="GetBootstrapToken"))
    assert (answer.status, answer.body) == (200, b"")
    assert EscrowedSecret.objects.filter(withdrawn_at=None).count() == 0
    assert EscrowedSecret.objects.count() == 2
    # The very same TokenUpdate as in the first epoch: the device must not be left without a token.
    assert enrolled_a.check_in(enrolled_a.token_update_message()).status == 200
    row = enrollment_of(enrolled_a)
    assert (row.state, row.push_magic) == (EnrollmentState.ENROLLED, "magic-1")
    assert row.device.os_version == "15.5"
    assert CommandDelivery.objects.filter(state=DeliveryState.QUEUED, epoch=2).count() == 2


def test_an_answer_to_a_command_of_the_old_epoch_is_an_orphan(enrolled_a: Device) -> None:
    drop_questions(enrolled_a)
    old = enqueue(enrolled_a, "EraseDevice")
    enrolled_a.idle()
    enrolled_a.check_in(enrolled_a.authenticate_message(OSVersion="15.5"))
    enrolled_a.check_in(enrolled_a.token_update_message(b"\x06" * 32, "six"))
    assert enrolled_a.answer(str(old.command.uuid)).status == 200
    old.refresh_from_db()
    assert old.state == DeliveryState.CANCELLED
    assert enrollment_of(enrolled_a).erase_acknowledged_at is None


# Renewed certificates: A10


def renew(device: Device, number: int = 60) -> Device:
    """The device after a SCEP renewal outside of management."""
    certificate = issue_certificate(
        device_key(number), binding=device.certificate.binding, renewed_from=device.certificate
    )
    return Device(
        certificate=certificate,
        key=device_key(number),
        udid=device.udid,
        serial_number=device.serial_number,
    )


def test_a_renewed_certificate_works_at_once_and_ends_the_old_one(enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"boot"))
    enqueue(enrolled_a)
    renewed = renew(enrolled_a)
    assert enrolled_a.idle().status == 200
    before = enrollment_of(enrolled_a)
    answer = renewed.idle()
    assert (answer.status, bool(answer.body)) == (200, True)
    after = enrollment_of(enrolled_a)
    assert (after.pk, after.epoch, after.push_magic) == (before.pk, before.epoch, before.push_magic)
    assert plist.read(
        renewed.check_in(renewed.message(MessageType="GetBootstrapToken")).body, max_size=9999
    ) == {"BootstrapToken": b"boot"}
    for again in range(2):
        assert_rejected(enrolled_a.idle, "certificate superseded")
        assert renewed.idle().status == 200, again
    enrolled_a.certificate.refresh_from_db()
    assert enrolled_a.certificate.status == CertificateStatus.SUPERSEDED
    assert Identity.objects.filter(enrollment=after, state=IdentityState.ACTIVE).count() == 1


@pytest.mark.parametrize("kind", ["TokenUpdate", "Authenticate", "GetBootstrapToken", "CheckOut"])
def test_a_renewed_certificate_may_say_anything_first(enrolled_a: Device, kind: str) -> None:
    renewed = renew(enrolled_a)
    waiting = CommandDelivery.objects.filter(state=DeliveryState.QUEUED).count()
    message = {
        "TokenUpdate": renewed.token_update_message(b"\x08" * 32, "eight"),
        "Authenticate": renewed.authenticate_message(OSVersion="15.5"),
        "GetBootstrapToken": renewed.message(MessageType="GetBootstrapToken"),
        "CheckOut": renewed.message(MessageType="CheckOut"),
    }[kind]
    assert renewed.check_in(message).status == 200
    assert_rejected(enrolled_a.idle, "certificate superseded")
    assert Enrollment.objects.count() == 1
    if kind != "CheckOut":
        assert renewed.idle().status == 200
        assert enrollment_of(renewed).state == EnrollmentState.ENROLLED
        assert CommandDelivery.objects.filter(state__in=["QUEUED", "SENT"]).count() == waiting


def test_a_refused_message_does_not_pin_a_renewed_certificate(enrolled_a: Device, enrolled_b: Device) -> None:
    renewed = renew(enrolled_a)
    renewed.udid = enrolled_b.udid
    assert_rejected(renewed.idle, "identity of another device")
    assert_rejected(lambda: renewed.check_in(renewed.token_update_message()), "identity of another device")
    renewed.udid = enrolled_a.udid
    assert_rejected(
        lambda: renewed.check_in(renewed.message(MessageType="GetToken", TokenServiceType="x")),
        "no token for this service",
    )
    assert enrolled_a.idle().status == 200


def test_of_two_renewed_certificates_the_later_one_wins(enrolled_a: Device) -> None:
    earlier, later = renew(enrolled_a, 61), renew(enrolled_a, 62)
    assert later.idle().status == 200
    assert_rejected(earlier.idle, "certificate superseded")
    assert_rejected(enrolled_a.idle, "certificate superseded")
    assert later.idle().status == 200


# Re-enrolment with a fresh certificate: A8, A9


def test_a_fresh_certificate_cannot_take_an_enrolled_device(enrolled_a: Device) -> None:
    """The thief is answered as if all were well; nothing of the device's is touched."""
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=CANARY.encode()))
    delivery = enqueue(enrolled_a)
    before = snapshot()
    thief = make_device("B", udid=enrolled_a.udid)
    thief.serial_number = enrolled_a.serial_number
    assert thief.check_in(thief.authenticate_message(DeviceName="Mine")).status == 200
    assert thief.check_in(thief.token_update_message(b"\x66" * 32, "thief", UnlockToken=b"x")).status == 200
    assert (
        thief.check_in(
            thief.token_update_message(b"\x66" * 32, "thief", UserID="U", UserShortName="u")
        ).status
        == 200
    )
    answer = thief.check_in(thief.message(MessageType="GetBootstrapToken"))
    assert (answer.status, answer.body) == (200, b"")
    for answer in (thief.idle(), thief.idle(UserID="U"), thief.idle(UserID="unknown")):
        assert (answer.status, answer.body) == (200, b"")
    assert thief.answer(str(delivery.command.uuid)).body == b""
    assert (
        thief.check_in(thief.message(MessageType="SetBootstrapToken", BootstrapToken=b"evil")).status == 200
    )
    after = snapshot()
    changed = {table for table, digest in after.items() if digest != before[table]}
    assert changed <= {
        "devices.Enrollment",
        "devices.Identity",
        "devices.CheckinReceipt",
        "devices.EscrowedSecret",
        "pki.Certificate",
    }
    held = Enrollment.objects.get(state=EnrollmentState.QUARANTINED, parent=None)
    assert held.device.name == "Anna's Mac"
    mine = enrollment_of(enrolled_a)
    assert (bytes(mine.push_token or b""), mine.push_magic) == (b"\x01" * 32, "magic-1")
    assert escrow.current(mine, SecretKind.BOOTSTRAP_TOKEN) == CANARY.encode()
    assert request_type(enrolled_a.idle()) == "DeviceInformation"
    delivery.refresh_from_db()
    assert delivery.state == DeliveryState.QUEUED


def test_a_held_device_that_repeats_itself_stays_held(enrolled_a: Device) -> None:
    thief = make_device("B", udid=enrolled_a.udid)
    thief.check_in(thief.authenticate_message())
    with no_change():
        assert thief.check_in(thief.authenticate_message()).status == 200
        assert thief.check_in(thief.authenticate_message(OSVersion="99")).status == 200
        thief.idle()
    assert Enrollment.objects.filter(state=EnrollmentState.QUARANTINED).count() == 1


def test_a_device_that_checked_out_enrols_anew(enrolled_a: Device) -> None:
    assert enrolled_a.check_in(enrolled_a.message(MessageType="CheckOut")).status == 200
    again = make_device("B", udid=enrolled_a.udid)
    again.enrol()
    assert enrollment_of(again).state == EnrollmentState.ENROLLED
    assert DeviceRow.objects.count() == 1
    assert_rejected(enrolled_a.idle, "enrollment ended: CHECKED_OUT")


def test_an_erased_device_enrols_anew(enrolled_a: Device) -> None:
    drop_questions(enrolled_a)
    erase = enqueue(enrolled_a, "EraseDevice")
    assert request_type(enrolled_a.idle()) == "EraseDevice"
    assert enrolled_a.answer(str(erase.command.uuid)).status == 200
    assert enrollment_of(enrolled_a).erase_acknowledged_at is not None
    old = enrollment_of(enrolled_a)
    waiting = enqueue(enrolled_a)
    again = make_device("B", udid=enrolled_a.udid)
    again.enrol()
    new = enrollment_of(again)
    assert new.pk != old.pk
    old.refresh_from_db()
    assert (old.state, old.push_token) == (EnrollmentState.REPLACED, None)
    waiting.refresh_from_db()
    assert waiting.state == DeliveryState.CANCELLED
    assert_rejected(enrolled_a.idle, "certificate superseded")
    assert again.idle().status == 200


def test_a_way_in_approved_for_the_device_replaces_its_enrollment(
    enrolled_a: Device, profile: EnrollmentProfile
) -> None:
    approved = session(profile, pre_approved=True, expected_udid=enrolled_a.udid)
    again = make_device("B", udid=enrolled_a.udid, binding=approved.uuid)
    again.enrol()
    assert enrollment_of(again).binding == approved.uuid
    assert_rejected(enrolled_a.idle, "certificate superseded")
    unnamed = session(profile, pre_approved=True)
    third = make_device("C", udid=enrolled_a.udid, binding=unnamed.uuid)
    third.check_in(third.authenticate_message())
    assert Enrollment.objects.get(binding=unnamed.uuid).state == EnrollmentState.QUARANTINED


# Leaving


def test_check_out_ends_the_device_and_its_users(enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.token_update_message(UserID="U1", UserShortName="anna"))
    enqueue(enrolled_a)
    assert enrolled_a.check_in(enrolled_a.message(MessageType="CheckOut", Topic=TOPIC)).status == 200
    assert set(Enrollment.objects.values_list("state", flat=True)) == {EnrollmentState.CHECKED_OUT}
    assert not Enrollment.objects.exclude(push_token=None).exists()
    assert not CommandDelivery.objects.filter(state__in=["QUEUED", "SENT", "NOT_NOW"]).exists()
    with no_change():
        assert enrolled_a.check_in(enrolled_a.message(MessageType="CheckOut")).status == 200
    assert_rejected(enrolled_a.idle, "enrollment ended: CHECKED_OUT")
    assert_rejected(
        lambda: enrolled_a.check_in(enrolled_a.token_update_message(b"\x44" * 32, "x")),
        "enrollment ended: CHECKED_OUT",
    )
    assert_rejected(
        lambda: enrolled_a.check_in(enrolled_a.authenticate_message(OSVersion="16")), "enrollment ended"
    )


# Bootstrap tokens


def test_a_bootstrap_token_is_kept_given_back_and_forgotten(enrolled_a: Device) -> None:
    ask = enrolled_a.message(MessageType="GetBootstrapToken")
    assert (enrolled_a.check_in(ask).status, enrolled_a.check_in(ask).body) == (200, b"")
    assert (
        enrolled_a.check_in(
            enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=CANARY.encode())
        ).status
        == 200
    )
    answer = enrolled_a.check_in(ask)
    assert plist.read(answer.body, max_size=9999) == {"BootstrapToken": CANARY.encode()}
    assert CANARY.encode() not in bytes(EscrowedSecret.objects.get().value_sealed)
    forget = enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"")
    assert enrolled_a.check_in(forget).status == 200
    assert enrolled_a.check_in(ask).body == b""


def test_bootstrap_tokens_stay_with_their_device(enrolled_a: Device, enrolled_b: Device) -> None:
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"a"))
    assert enrolled_b.check_in(enrolled_b.message(MessageType="GetBootstrapToken")).body == b""


def test_a_device_that_awaits_its_configuration_may_use_bootstrap_tokens(a: Device) -> None:
    """Before its TokenUpdate, in the Setup Assistant."""
    a.check_in(a.authenticate_message())
    deposit = a.message(MessageType="SetBootstrapToken", BootstrapToken=b"early", AwaitingConfiguration=True)
    assert a.check_in(deposit).status == 200
    assert b"BootstrapToken" in a.check_in(a.message(MessageType="GetBootstrapToken")).body


# Messages that are not served yet


def test_what_is_not_served_yet(enrolled_a: Device) -> None:
    with no_change():
        assert (
            enrolled_a.check_in(enrolled_a.message(MessageType="UserAuthenticate", UserID="net")).status
            == 410
        )
        answer = enrolled_a.check_in(
            enrolled_a.message(MessageType="DeclarativeManagement", Endpoint="tokens")
        )
        assert (answer.status, answer.body) == (404, b"")
    for service in ("com.apple.maid", "com.apple.watch.pairing", "com.example"):
        assert_rejected(
            partial(
                enrolled_a.check_in, enrolled_a.message(MessageType="GetToken", TokenServiceType=service)
            ),
            "no token for this service",
        )
    for unknown in ("ReturnToService", "IdleReboot", "", "x" * 500):
        assert_rejected(
            partial(enrolled_a.check_in, enrolled_a.message(MessageType=unknown)),
            "bad check-in message",
        )


# Users: A17


def test_users_have_rows_of_their_own(enrolled_a: Device) -> None:
    before = Enrollment.objects.values().get(parent=None)
    update = enrolled_a.token_update_message(
        b"\x0a" * 32,
        "user-magic",
        UserID="U1",
        UserShortName="anna",
        UserLongName="Anna B",
        NotOnConsole=True,
    )
    assert enrolled_a.check_in(update).status == 200
    assert Enrollment.objects.values().get(parent=None) == before
    user = Enrollment.objects.get(parent=before["id"])
    assert (bytes(user.push_token or b""), user.push_magic, user.state) == (
        b"\x0a" * 32,
        "user-magic",
        EnrollmentState.ENROLLED,
    )
    assert (user.user_id, user.user_short_name, user.user_long_name) == ("U1", "anna", "Anna B")
    assert user.not_on_console
    with no_change():
        assert enrolled_a.check_in(update).status == 200
    enrolled_a.check_in(
        enrolled_a.token_update_message(b"\x0b" * 32, "user-magic", UserID="U1", NotOnConsole=False)
    )
    assert not Enrollment.objects.get(pk=user.pk).not_on_console
    assert Enrollment.objects.filter(parent=before["id"]).count() == 1


def test_a_user_cannot_come_before_the_device(a: Device) -> None:
    a.check_in(a.authenticate_message())
    assert_rejected(
        lambda: a.check_in(a.token_update_message(UserID="U1", UserShortName="anna")), "user before device"
    )


def test_a_user_of_another_device_is_unknown(enrolled_a: Device, enrolled_b: Device) -> None:
    enrolled_b.check_in(enrolled_b.token_update_message(UserID="UB", UserShortName="bob"))
    assert_rejected(lambda: enrolled_a.idle(UserID="UB"), "unknown user")
    before = Enrollment.objects.values().get(user_id="UB")
    enrolled_a.check_in(enrolled_a.token_update_message(b"\x0c" * 32, "x", UserID="UB"))
    assert Enrollment.objects.values().get(pk=before["id"]) == before


def test_users_of_a_shared_ipad_have_a_queue_each(enrolled_a: Device) -> None:
    shared = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
    for name in ("anna@school.example", "bob@school.example"):
        answer = enrolled_a.check_in(enrolled_a.token_update_message(UserID=shared, UserShortName=name))
        assert answer.status == 200
    users = {row.user_id: row for row in Enrollment.objects.exclude(parent=None)}
    assert sorted(users) == ["anna@school.example", "bob@school.example"]
    queue.enqueue(
        "ProfileList",
        None,
        [users["bob@school.example"].pk],
        source=CommandSource.ADMIN,
        actor=SERVER,
        now=timezone.now(),
    )
    assert enrolled_a.idle(UserID=shared, UserShortName="anna@school.example").body == b""
    assert request_type(enrolled_a.idle(UserID=shared, UserShortName="bob@school.example")) == "ProfileList"


def test_a_user_may_leave_alone(enrolled_a: Device) -> None:
    update = enrolled_a.token_update_message(UserID="U1", UserShortName="anna")
    enrolled_a.check_in(update)
    assert enrolled_a.check_in(enrolled_a.message(MessageType="CheckOut", UserID="U1")).status == 200
    assert Enrollment.objects.get(user_id="U1").state == EnrollmentState.CHECKED_OUT
    assert enrollment_of(enrolled_a).state == EnrollmentState.ENROLLED
    with no_change():
        assert enrolled_a.check_in(update).status == 200
    back = enrolled_a.token_update_message(b"\x0d" * 32, "back", UserID="U1")
    assert enrolled_a.check_in(back).status == 200
    assert Enrollment.objects.get(user_id="U1").state == EnrollmentState.ENROLLED


# A21: the wrong message at the wrong time


@pytest.mark.parametrize(
    "kind",
    ["TokenUpdate", "CheckOut", "SetBootstrapToken", "GetBootstrapToken", "UserAuthenticate", "Idle"],
)
def test_nothing_comes_before_authenticate(a: Device, kind: str) -> None:
    messages = {
        "TokenUpdate": a.token_update_message(),
        "CheckOut": a.message(MessageType="CheckOut"),
        "SetBootstrapToken": a.message(MessageType="SetBootstrapToken", BootstrapToken=b"x"),
        "GetBootstrapToken": a.message(MessageType="GetBootstrapToken"),
        "UserAuthenticate": a.message(MessageType="UserAuthenticate", UserID="U"),
        "Idle": a.message(Status="Idle"),
    }
    assert_rejected(lambda: a.send(CONNECT, messages[kind]), "certificate enrolled no device")


def test_receipts_are_few(enrolled_a: Device) -> None:
    for _again in range(5):
        enrolled_a.check_in(enrolled_a.token_update_message())
    assert CheckinReceipt.objects.count() == 2


def test_two_certificates_of_one_session_are_one_enrollment(issuer: Issuer) -> None:
    """Nothing connects them but the binding."""
    binding = uuid.uuid4()
    first, second = make_device("C", binding=binding), make_device("D", binding=binding)
    first.enrol()
    second.udid = first.udid
    assert second.check_in(second.authenticate_message()).status == 200
    assert Enrollment.objects.filter(binding=binding).count() == 1


def test_a_check_in_is_contact(enrolled_a: Device) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    Enrollment.objects.update(last_seen_at=long_ago)
    enrolled_a.check_in(enrolled_a.message(MessageType="GetBootstrapToken"))
    seen = enrollment_of(enrolled_a).last_seen_at
    assert seen is not None
    assert seen > long_ago
