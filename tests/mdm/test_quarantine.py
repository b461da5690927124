"""An administrator decides about a device that enrolled as one that is enrolled already."""

from __future__ import annotations

import pytest
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import SERVER, Actor
from commands import queue
from commands.models import CommandDelivery, CommandSource, DeliveryState
from devices import escrow, registry
from devices.models import Enrollment, EnrollmentState, SecretKind
from mdm import quarantine
from tests.mdm.support import assert_rejected, enrollment_of
from tests.support.devices import Device, make_device, request_type
from tests.support.snapshot import no_change

ADA = Actor(name="ada")


@pytest.fixture
def newcomer(enrolled_a: Device) -> Device:
    """A second identity that says to be A, and is held."""
    device = make_device("B", udid=enrolled_a.udid)
    device.serial_number = enrolled_a.serial_number
    device.enrol(push_token=b"\x66" * 32, push_magic="newcomer")
    device.check_in(device.token_update_message(b"\x67" * 32, "user", UserID="U", UserShortName="u"))
    device.check_in(device.message(MessageType="SetBootstrapToken", BootstrapToken=b"of the newcomer"))
    return device


def held() -> Enrollment:
    return Enrollment.objects.get(state=EnrollmentState.QUARANTINED, parent=None)


def test_who_is_admitted_takes_over(enrolled_a: Device, newcomer: Device) -> None:
    old = enrollment_of(enrolled_a)
    enrolled_a.check_in(enrolled_a.token_update_message(b"\x03" * 32, "u", UserID="U"))
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"old"))
    queue.enqueue("ProfileList", None, [old.pk], source=CommandSource.ADMIN, actor=SERVER, now=timezone.now())
    quarantine.admit(held(), actor=ADA, now=timezone.now())
    new = enrollment_of(newcomer)
    assert (new.state, new.push_magic, new.state_reason) == (EnrollmentState.ENROLLED, "newcomer", "")
    assert Enrollment.objects.get(parent=new).state == EnrollmentState.ENROLLED
    old.refresh_from_db()
    assert (old.state, old.state_reason, old.push_token) == (
        EnrollmentState.REPLACED,
        "replaced by ada",
        None,
    )
    assert Enrollment.objects.get(parent=old).state == EnrollmentState.REPLACED
    assert not CommandDelivery.objects.filter(enrollment=old).exclude(state=DeliveryState.CANCELLED).exists()
    assert_rejected(enrolled_a.idle, "certificate superseded")
    assert request_type(newcomer.idle()) == "DeviceInformation"
    assert escrow.current(new, SecretKind.BOOTSTRAP_TOKEN) == b"of the newcomer"
    assert AuditEvent.objects.get(action="enrollment.admitted").actor == "ada"
    with pytest.raises(registry.Refused):
        quarantine.admit(new, actor=ADA, now=timezone.now())


def test_who_is_refused_stays_out(enrolled_a: Device, newcomer: Device) -> None:
    quarantine.refuse(held(), actor=ADA, now=timezone.now(), reason="not ours")
    assert_rejected(newcomer.idle, "certificate superseded")
    assert enrolled_a.idle().status == 200
    refused = Enrollment.objects.get(state=EnrollmentState.REFUSED, parent=None)
    assert refused.state_reason == "not ours"
    assert AuditEvent.objects.get(action="enrollment.refused").actor == "ada"
    assert_rejected(lambda: newcomer.check_in(newcomer.authenticate_message()), "certificate superseded")


def test_who_has_no_token_yet_waits_for_it(enrolled_a: Device) -> None:
    device = make_device("B", udid=enrolled_a.udid)
    device.check_in(device.authenticate_message())
    quarantine.admit(held(), actor=ADA, now=timezone.now())
    assert enrollment_of(device).state == EnrollmentState.AUTHENTICATED
    device.check_in(device.token_update_message())
    assert request_type(device.idle()) == "DeviceInformation"


def test_only_what_is_held_can_be_decided(enrolled_a: Device, newcomer: Device) -> None:
    user = Enrollment.objects.get(state=EnrollmentState.QUARANTINED, parent=held())
    for enrollment in (enrollment_of(enrolled_a), user):
        for decide in (quarantine.admit, quarantine.refuse):
            with no_change(), pytest.raises(registry.Refused):
                decide(enrollment, actor=ADA, now=timezone.now())


def test_a_held_device_may_leave(enrolled_a: Device, newcomer: Device) -> None:
    assert newcomer.check_in(newcomer.message(MessageType="CheckOut")).status == 200
    assert not Enrollment.objects.filter(state=EnrollmentState.QUARANTINED).exists()
    assert enrollment_of(enrolled_a).state == EnrollmentState.ENROLLED
