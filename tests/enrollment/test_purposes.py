"""What each certificate of ours is good for, and for nothing else: threats A20, purposes × addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.core.cache import cache

from audit.models import Refusal
from commands.core import plist
from enrollment.models import EnrollmentProfile, SessionState
from pki.models import Purpose
from scep.core.message import Identity
from tests.enrollment.device_cas import authority, rsa_key
from tests.enrollment.phone import Phone, make_phone, signed, trust
from tests.support.devices import CHECKIN, CONNECT, Device, issue_certificate
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
PURPOSES = [purpose for purpose in Purpose if purpose != Purpose.OCSP_SIGNING]


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    """A phone in the middle of it: known, and next it shows its certificate."""
    trust(authority())
    phone = make_phone()
    phone.identify(phone.fetch_service())
    return phone


def device(phone: Phone, purpose: Purpose) -> Device:
    """The phone with a certificate for a purpose, bound to its session."""
    key = rsa_key("enrolment A")
    return Device(
        certificate=issue_certificate(key, purpose=purpose, binding=phone.session().uuid),
        key=key,
        udid=phone.hardware.udid,
        serial_number=phone.hardware.serial_number,
    )


def at_check_in(phone: Phone, holder: Device) -> int:
    return holder.check_in(holder.authenticate_message()).status


def at_connect(phone: Phone, holder: Device) -> int:
    return holder.idle().status


def at_over_the_air(phone: Phone, holder: Device) -> int:
    service = phone.fetch_service()
    identity = Identity(bytes(holder.certificate.der), holder.key)
    return phone.post(phone.say(service, identity, challenge=False)).status


ADDRESSES = {CHECKIN: at_check_in, CONNECT: at_connect, "ota": at_over_the_air}
GOOD_FOR = {(Purpose.OTA_IDENTITY, "ota"), (Purpose.MDM_IDENTITY, CHECKIN), (Purpose.MDM_IDENTITY, CONNECT)}


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.parametrize("address", sorted(ADDRESSES))
def test_a_certificate_is_good_for_its_purpose_alone(phone: Phone, purpose: Purpose, address: str) -> None:
    holder = device(phone, purpose)
    ask: Callable[[Phone, Device], int] = ADDRESSES[address]
    if purpose == Purpose.MDM_IDENTITY:
        # Its session has come so far that there is one.
        type(phone.session()).objects.update(state=SessionState.DELIVERED)
    if (purpose, address) in GOOD_FOR:
        if address == CONNECT:
            holder.enrol()
        assert ask(phone, holder) == 200
        return
    if address == "ota":
        ask = _without_new_session(ask)
    with no_change():
        status = ask(phone, holder)
    assert status == 400
    assert Refusal.objects.filter(reason="certificate wrong purpose").exists()


def _without_new_session(ask: Callable[[Phone, Device], int]) -> Callable[[Phone, Device], int]:
    """The address is known from before: fetching it would start a session."""

    def asked(phone: Phone, holder: Device) -> int:
        content = plist.write({"UDID": phone.hardware.udid, "SERIAL": phone.hardware.serial_number})
        identity = Identity(bytes(holder.certificate.der), holder.key)
        return phone.post(signed(content, identity)).status

    return asked


def test_the_makers_identity_is_good_for_phase_two_alone(phone: Phone) -> None:
    holder = device(phone, Purpose.MDM_IDENTITY)
    holder.certificate.der = phone.manufactured.certificate
    holder.key = phone.manufactured.private_key
    with no_change():
        assert at_check_in(phone, holder) == at_connect(phone, holder) == 400
    assert Refusal.objects.filter(surface="mdm", reason="certificate unknown certificate").exists()


@pytest.mark.parametrize("state", [SessionState.OFFERED, SessionState.IDENTIFIED, SessionState.OTA_CERTIFIED])
def test_no_identity_counts_before_the_profile_was_delivered(phone: Phone, state: SessionState) -> None:
    """There is none then; if there were, it would not enrol."""
    holder = device(phone, Purpose.MDM_IDENTITY)
    type(phone.session()).objects.update(state=state)
    with no_change():
        assert at_check_in(phone, holder) == 400
    refusal = Refusal.objects.get(surface="mdm")
    assert "has not delivered a management profile" in refusal.detail
