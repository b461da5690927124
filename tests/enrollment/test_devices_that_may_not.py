"""Blocked and unlisted devices, over the air and at Authenticate, however written; groups to join."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.utils import timezone

from audit.models import AuditEvent
from devices.models import DeviceGroup, Enrollment
from enrollment import blocking, direct, ota
from enrollment.access import Closed
from enrollment.models import BlockedDevice, EnrollmentProfile, EnrollmentSession, ListedDevice
from pki import trust
from tests.enrollment.device_cas import authority
from tests.enrollment.gates import ADMINISTRATOR, details, reasons
from tests.enrollment.phone import Phone, make_phone
from tests.enrollment.phone import trust as trust_ca
from tests.support.devices import Device, make_device
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh() -> None:
    cache.clear()
    trust.forget_anchors()


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    trust_ca(authority())
    return make_phone()


def block(identifier: str, reason: str = "stolen") -> None:
    blocking.block(identifier, reason=reason, actor=ADMINISTRATOR, now=timezone.now())


def downloaded(profile: EnrollmentProfile, **device: Any) -> Device:
    """A device that has a certificate of a direct enrolment."""
    session = direct.offer(profile, remote_addr="", user_agent="", now=timezone.now()).session
    return make_device("C", binding=session.uuid, **device)


def turned_down(device: Device, reason: str) -> None:
    with no_change():
        answer = device.check_in(device.authenticate_message())
    assert (answer.status, answer.body) == (400, b"")
    assert "WWW-Authenticate" not in answer.headers
    assert reasons("mdm")[0] == reason
    assert not Enrollment.objects.exists()


# --- Authenticate ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["F00000000C", " f000 0000 0c ", "f00000000c\u200b", "F0000-0000C"])
def test_a_blocked_serial_number_stays_out(profile: EnrollmentProfile, written: str) -> None:
    device = downloaded(profile)
    block(written)
    turned_down(device, "device is blocked")
    assert "stolen" in details()


@pytest.mark.parametrize("change", [str.lower, str.upper, lambda udid: udid.replace("-", "")])
def test_a_blocked_udid_stays_out(profile: EnrollmentProfile, change: Any) -> None:
    device = downloaded(profile)
    block(change(device.udid))
    turned_down(device, "device is blocked")


@pytest.mark.parametrize("said", ["f00000000c", " F00000000C"])
def test_a_device_that_writes_itself_in_another_way_stays_out(profile: EnrollmentProfile, said: str) -> None:
    device = downloaded(profile)
    device.serial_number = said
    block("F00000000C")
    turned_down(device, "device is blocked")


def test_a_blocked_device_by_a_certificate_that_no_session_asked_for(profile: EnrollmentProfile) -> None:
    device = make_device("C", binding=uuid.uuid4())
    block(device.serial_number)
    turned_down(device, "device is blocked")


def test_a_blocked_device_does_not_start_over(profile: EnrollmentProfile) -> None:
    device = downloaded(profile)
    device.enrol()
    block(device.serial_number)
    before = Enrollment.objects.get()
    with no_change():
        assert device.check_in(device.authenticate_message(OSVersion="15.5")).status == 400
    # What is enrolled stays so: it can be locked, erased or unenrolled.
    assert device.idle().status == 200
    after = Enrollment.objects.get()
    assert (after.state, after.epoch) == (before.state, before.epoch)


def test_once_let_in_again_it_enrols(profile: EnrollmentProfile) -> None:
    device = downloaded(profile)
    block(device.serial_number)
    turned_down(device, "device is blocked")
    blocking.unblock(BlockedDevice.objects.all(), actor=ADMINISTRATOR, now=timezone.now())
    device.enrol()


def test_only_listed_devices(profile: EnrollmentProfile) -> None:
    device = downloaded(profile)
    EnrollmentProfile.objects.filter(pk=profile.pk).update(only_listed=True)
    turned_down(device, "device is not listed")
    ListedDevice.objects.create(profile=profile, serial_number="f00000000d")
    turned_down(device, "device is not listed")
    unnamed = make_device("C", binding=device.certificate.binding)
    unnamed.serial_number = ""
    turned_down(unnamed, "device is not listed")
    ListedDevice.objects.create(profile=profile, serial_number="f00000000c")
    device.enrol()


def test_a_list_is_for_its_profile_only(profile: EnrollmentProfile) -> None:
    other = EnrollmentProfile.objects.create(slug="other", name="Other", issuer=profile.issuer)
    ListedDevice.objects.create(profile=other, serial_number="f00000000c")
    device = downloaded(profile)
    EnrollmentProfile.objects.filter(pk=profile.pk).update(only_listed=True)
    turned_down(device, "device is not listed")


# --- Over the air ----------------------------------------------------------------------------------------


def refused_in_phase_2(phone: Phone, reason: str) -> None:
    service = phone.fetch_service()
    session = EnrollmentSession.objects.latest("pk")
    body = phone.say(service)
    kept = {"refusal_reason", "refused_at", "updated_at"}
    before = {name: value for name, value in _row(session).items() if name not in kept}
    answer = phone.post(body)
    assert answer.status == 403
    assert before == {name: value for name, value in _row(session).items() if name not in kept}
    assert reasons()[0] == reason


def _row(session: EnrollmentSession) -> dict[str, Any]:
    return dict(EnrollmentSession.objects.values().get(pk=session.pk))


@pytest.mark.parametrize("change", [str.lower, lambda serial: f" {serial[:3]} {serial[3:]} "])
def test_a_blocked_device_is_known_over_the_air(phone: Phone, change: Any) -> None:
    block(change(phone.hardware.serial_number))
    refused_in_phase_2(phone, "device is blocked")


def test_a_blocked_udid_is_known_over_the_air(phone: Phone) -> None:
    block(phone.hardware.udid.lower())
    refused_in_phase_2(phone, "device is blocked")


def test_a_device_that_is_blocked_between_the_phases(phone: Phone) -> None:
    service, identity = phone.come_so_far()
    block(phone.hardware.serial_number)
    answer = phone.post(phone.say(service, identity, challenge=False))
    assert answer.status == 403
    assert reasons()[0] == "device is blocked"
    assert EnrollmentSession.objects.get().delivered_at is None


def test_only_listed_devices_over_the_air(phone: Phone, profile: EnrollmentProfile) -> None:
    EnrollmentProfile.objects.filter(pk=profile.pk).update(only_listed=True)
    refused_in_phase_2(phone, "device is not listed")
    serial = phone.hardware.serial_number.casefold()
    ListedDevice.objects.create(profile=profile, serial_number=serial)
    phone.identify(phone.fetch_service())
    assert EnrollmentSession.objects.latest("pk").identified_at is not None


# --- Groups ----------------------------------------------------------------------------------------------


def test_a_device_joins_the_groups_of_its_profile(profile: EnrollmentProfile) -> None:
    tills, others = DeviceGroup.objects.create(name="Tills"), DeviceGroup.objects.create(name="Others")
    profile.groups.set([tills])
    device = downloaded(profile)
    assert device.check_in(device.authenticate_message()).status == 200
    assert not tills.devices.exists()
    assert device.check_in(device.token_update_message()).status == 200
    assert [row.udid for row in tills.devices.all()] == [device.udid]
    assert not others.devices.exists()
    assert AuditEvent.objects.filter(action="device_group.devices_added").count() == 1
    # It is not put back by what it says later.
    tills.devices.clear()
    assert device.check_in(device.token_update_message(b"\x02" * 32)).status == 200
    assert not tills.devices.exists()


def test_a_download_before_the_end_still_enrols(profile: EnrollmentProfile) -> None:
    device = downloaded(profile)
    later = timezone.now() - timedelta(minutes=1)
    EnrollmentProfile.objects.filter(pk=profile.pk).update(closes_at=later, max_enrollments=0)
    device.enrol()
    with no_change(), pytest.raises(Closed):
        ota.offer(
            EnrollmentProfile.objects.get(pk=profile.pk), remote_addr="", user_agent="", now=timezone.now()
        )
