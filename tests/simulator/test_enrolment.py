"""A simulated device and the project, from the download to answered commands; and what must not work."""

from __future__ import annotations

import uuid
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.utils import timezone

from audit.recording import Actor
from commands import queue
from commands.models import CommandDelivery, DeliveryState
from devices.models import Device, Enrollment, EnrollmentState
from enrollment import completion
from enrollment.direct import offer
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from pki.models import Certificate, Purpose
from scep.models import Challenge, Transaction
from simulator.device import Behaviour, SimulatedDevice
from simulator.exchange import Request, Response, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from tests.simulator.in_process import InProcess
from tests.support.snapshot import no_change

URL = "http://127.0.0.1:8000/enroll/default/profile"
pytestmark = pytest.mark.django_db


@lru_cache(maxsize=8)
def key(number: int) -> RSAPrivateKey:
    return new_key()


def make_device(number: int, *, seed: str = "test", **behaviour: Any) -> SimulatedDevice:
    return SimulatedDevice(make_hardware(seed, number), key(number), behaviour=Behaviour(**behaviour))


def enqueue(request_type: str, payload: dict[str, Any] | None = None) -> None:
    enrolled = Enrollment.objects.filter(state=EnrollmentState.ENROLLED).values_list("pk", flat=True)
    queue.enqueue(
        request_type,
        payload,
        list(enrolled),
        source="CLI",
        actor=Actor("test"),
        now=timezone.now(),
    )


@pytest.mark.parametrize("signed_attributes", [False, True])
def test_a_device_enrols_and_is_who_its_session_says(
    profile: EnrollmentProfile, signed_attributes: bool
) -> None:
    device = make_device(1, signed_attributes=signed_attributes)
    converse(device.enrol(URL), InProcess().send)
    session = EnrollmentSession.objects.get()
    assert session.state == SessionState.COMPLETED
    assert (session.udid, session.serial_number) == (device.hardware.udid, device.hardware.serial_number)
    certificate = Certificate.objects.get(purpose=Purpose.MDM_IDENTITY)
    assert certificate.binding == session.uuid
    assert device.enrolled is not None
    assert bytes(certificate.der) == device.enrolled.certificate
    assert f"Bramley device {session.uuid.hex[:12]}" in certificate.subject
    assert "Orchard Ltd" in certificate.subject
    enrollment = Enrollment.objects.get()
    assert (enrollment.state, enrollment.binding) == (EnrollmentState.ENROLLED, session.uuid)
    assert enrollment.topic == f"com.apple.mgmt.Bramley.{profile.payload_uuid}"
    assert bytes(enrollment.push_token or b"") == device.enrolled.token


def test_commands_are_answered_until_there_are_none(profile: EnrollmentProfile) -> None:
    device, project = make_device(2), InProcess()
    converse(device.enrol(URL), project.send)
    converse(device.connect(), project.send)
    enqueue("DeviceInformation", {"Queries": ["UDID", "SerialNumber", "DeviceName", "OSVersion"]})
    enqueue("MakeCoffee")
    assert converse(device.connect(), project.send) == 2
    states = dict(CommandDelivery.objects.values_list("command__request_type", "state"))
    assert states["MakeCoffee"] == DeliveryState.FORMAT_ERROR
    assert not CommandDelivery.objects.filter(state=DeliveryState.QUEUED).exists()
    assert Device.objects.get().name == device.hardware.name
    assert converse(device.connect(), project.send) == 0


def test_not_now_comes_again(profile: EnrollmentProfile) -> None:
    device, project = make_device(2, not_now=1.0), InProcess()
    converse(device.enrol(URL), project.send)
    converse(device.connect(), project.send)
    enqueue("CertificateList")
    converse(device.connect(), project.send)
    assert CommandDelivery.objects.get(command__request_type="CertificateList").state == DeliveryState.NOT_NOW
    device.behaviour = Behaviour()
    for _ in range(CommandDelivery.objects.count()):
        converse(device.connect(), project.send)
    assert set(CommandDelivery.objects.values_list("state", flat=True)) == {DeliveryState.ACKNOWLEDGED}


def test_check_out_ends_it(profile: EnrollmentProfile) -> None:
    device, project = make_device(1), InProcess()
    converse(device.enrol(URL), project.send)
    converse(device.check_out(), project.send)
    assert device.enrolled is None
    assert Enrollment.objects.get().state == EnrollmentState.CHECKED_OUT


def test_removing_the_management_profile_ends_it(profile: EnrollmentProfile) -> None:
    device, project = make_device(1), InProcess()
    converse(device.enrol(URL), project.send)
    converse(device.connect(), project.send)
    enqueue("RemoveProfile", {"Identifier": device.contents.management_identifier})
    converse(device.connect(), project.send)
    assert device.enrolled is None
    assert Enrollment.objects.get().state == EnrollmentState.CHECKED_OUT


def test_management_is_renewed_by_installing_it_again(profile: EnrollmentProfile) -> None:
    device, project = make_device(1), InProcess()
    converse(device.enrol(URL), project.send)
    converse(device.connect(), project.send)
    assert device.enrolled is not None
    before = device.enrolled.certificate
    again = offer(
        profile,
        remote_addr="",
        user_agent="",
        now=timezone.now(),
        expected_serial_number=device.hardware.serial_number,
        pre_approved=True,
    )
    converse(device.install(again.mobileconfig), project.send)
    assert device.enrolled.certificate != before
    assert Enrollment.objects.filter(state=EnrollmentState.ENROLLED).count() == 1
    again.session.refresh_from_db()
    assert again.session.state == SessionState.COMPLETED


def test_a_renewal_by_command_leaves_a_device_that_is_managed(profile: EnrollmentProfile) -> None:
    device, project = make_device(1), InProcess()
    converse(device.enrol(URL), project.send)
    converse(device.connect(), project.send)
    again = offer(profile, remote_addr="", user_agent="", now=timezone.now())
    enqueue("InstallProfile", {"Payload": again.mobileconfig})
    converse(device.connect(), project.send)
    state = CommandDelivery.objects.get(command__request_type="InstallProfile").state
    assert state in {DeliveryState.ACKNOWLEDGED, DeliveryState.ERROR}
    enqueue("ProfileList")
    assert converse(device.connect(), project.send) == 1
    assert Enrollment.objects.filter(state=EnrollmentState.ENROLLED).count() == 1


@pytest.mark.parametrize(
    ("keywords", "method"),
    [
        (b"AES\nSHA-256\nPOSTPKIOperation\n", "POST"),
        (b"AES\nSHA-256\n", "GET"),
        (b"DES3\nSHA-256\n", "GET"),
        (b"SCEPStandard\nSHA-512\n", "POST"),
    ],
)
def test_a_device_does_what_the_server_says_it_can(
    profile: EnrollmentProfile, keywords: bytes, method: str
) -> None:
    device, project = make_device(1), InProcess()

    def send(request: Request) -> Response:
        answer = project.send(request)
        return replace(answer, body=keywords) if "GetCACaps" in request.url else answer

    converse(device.enrol(URL), send)
    (sent,) = [request for request in project.requests if "PKIOperation" in request.url]
    assert sent.method == method
    assert Enrollment.objects.get().state == EnrollmentState.ENROLLED


def test_one_download_is_for_one_device(profile: EnrollmentProfile) -> None:
    """The challenge is used up: the same file gets no second device in."""
    mobileconfig = offer(profile, remote_addr="", user_agent="", now=timezone.now()).mobileconfig
    converse(make_device(1).install(mobileconfig), InProcess().send)
    devices, certificates = Device.objects.count(), Certificate.objects.count()
    with pytest.raises(SimulationError, match="PKIOperation: FAILURE"):
        converse(make_device(2).install(mobileconfig), InProcess().send)
    assert (Device.objects.count(), Certificate.objects.count()) == (devices, certificates)


def test_an_expired_session_lets_nobody_in(profile: EnrollmentProfile) -> None:
    past = timezone.now() - timedelta(minutes=profile.session_minutes + 1)
    made = offer(profile, remote_addr="", user_agent="", now=past, signed=False)
    with pytest.raises(SimulationError, match="PKIOperation: FAILURE"):
        converse(make_device(1).install(made.mobileconfig), InProcess().send)
    assert not Device.objects.exists()
    assert not Certificate.objects.filter(purpose=Purpose.MDM_IDENTITY).exists()
    assert "expired" in Transaction.objects.get().reason
    assert completion.expire(timezone.now()) == 1
    made.session.refresh_from_db()
    assert made.session.reason == "the request for a certificate was refused"


def test_a_stopped_session_lets_nobody_in_even_with_a_certificate(profile: EnrollmentProfile) -> None:
    made = offer(profile, remote_addr="", user_agent="", now=timezone.now())

    def stop_before_check_in(request: Request) -> Request:
        if request.url.endswith("/mdm/checkin"):
            completion.stop(made.session, actor=Actor("anna"), now=timezone.now())
        return request

    with pytest.raises(SimulationError, match="Authenticate: HTTP 400"):
        converse(make_device(1).install(made.mobileconfig), InProcess(stop_before_check_in).send)
    assert not Enrollment.objects.exists()


def test_a_session_for_one_serial_number_is_for_no_other(profile: EnrollmentProfile) -> None:
    made = offer(
        profile, remote_addr="", user_agent="", now=timezone.now(), expected_serial_number="SOMEBODYELSE"
    )
    with pytest.raises(SimulationError, match="Authenticate: HTTP 400"):
        converse(make_device(1).install(made.mobileconfig), InProcess().send)
    assert not Enrollment.objects.exists()


def test_the_challenge_of_one_session_carries_that_session_whatever_the_request_says(
    profile: EnrollmentProfile,
) -> None:
    """Bound by our record: the CSR's subject does not move a certificate to another session."""
    one = offer(profile, remote_addr="", user_agent="", now=timezone.now())
    other = offer(profile, remote_addr="", user_agent="", now=timezone.now())
    converse(make_device(1).install(one.mobileconfig), InProcess().send)
    certificate = Certificate.objects.get(purpose=Purpose.MDM_IDENTITY)
    assert certificate.binding == one.session.uuid
    assert Challenge.objects.get(binding=other.session.uuid).consumed_at is None
    other.session.refresh_from_db()
    assert other.session.state == SessionState.OFFERED


def test_a_device_that_is_not_enrolled_says_nothing(profile: EnrollmentProfile) -> None:
    project = InProcess()
    with no_change():
        assert converse(make_device(1).connect(), project.send) == 0
    assert project.requests == []


def test_a_second_device_with_the_udid_of_the_first_is_held(profile: EnrollmentProfile) -> None:
    """The simulator can play the thief, too: same hardware, another key and session (threats A8)."""
    device, project = make_device(1), InProcess()
    converse(device.enrol(URL), project.send)
    thief = SimulatedDevice(device.hardware, key(2))
    with suppress(SimulationError):
        converse(thief.enrol(URL), project.send)
        assert converse(thief.connect(), project.send) == 0
    enqueue("DeviceLock")
    converse(device.connect(), project.send)
    assert device.tally.request_types["DeviceLock"] == 1
    assert thief.tally.request_types["DeviceLock"] == 0
    live = Enrollment.objects.get(state=EnrollmentState.ENROLLED)
    assert device.enrolled is not None
    assert bytes(live.push_token or b"") == device.enrolled.token
    assert isinstance(live.binding, uuid.UUID)
