"""Where an attempt stands, as the administrator sees it: step by step, and why it stopped."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from audit.recording import Actor
from enrollment import completion
from enrollment.direct import offer
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from enrollment.progress import progress
from scep.core.message import self_signed
from simulator.exchange import SimulationError, converse
from simulator.identity import obtain_certificate
from tests.enrollment.device_cas import authority, rsa_key
from tests.enrollment.phone import Phone, make_phone, trust

pytestmark = pytest.mark.django_db
SESSIONS = "/admin/enrollment/enrollmentsession/"
TITLES = [
    "Phase 1: profile service downloaded",
    "Phase 2: the device made itself known",
    "Certificate for the enrolment issued",
    "Phase 3: management profile delivered",
    "Device identity issued",
    "The device checked in",
    "Enrolled",
]


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    trust(authority())
    return make_phone()


def done(session: EnrollmentSession) -> int:
    """How many steps were taken; they are taken in order."""
    steps = progress(session).steps
    taken = [step.done for step in steps]
    assert taken == sorted(taken, reverse=True)
    return sum(taken)


def page(client: Client, session: EnrollmentSession) -> str:
    """The words of the session's page."""
    html = client.get(f"{SESSIONS}{session.pk}/change/").content.decode()
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def listed(client: Client) -> str:
    return client.get(SESSIONS).content.decode()


def test_each_phase_is_a_step(admin_client: Client, phone: Phone) -> None:
    service = phone.fetch_service()
    assert [step.title for step in progress(phone.session()).steps] == TITLES
    assert done(phone.session()) == 1
    assert "waiting for the device to make itself known" in listed(admin_client)
    scep = phone.identify(service)
    assert done(phone.session()) == 2
    assert "device known, waiting for the request for a certificate" in listed(admin_client)
    identity = phone.certify(scep)
    assert done(phone.session()) == 3
    assert "waiting for the device to come back" in listed(admin_client)
    phone.post(phone.say(service, identity, challenge=False))
    assert done(phone.session()) == 4
    text = page(admin_client, phone.session())
    assert phone.hardware.serial_number in text
    assert "Signed with a certificate of: A device CA." in text
    assert "Encrypted to the certificate of the enrolment: AES with 128 bits." in text
    assert "Waiting for the request for a certificate." in text


def test_all_steps_of_an_enrolled_device(admin_client: Client, phone: Phone) -> None:
    phone.enrol()
    assert done(phone.session()) == 7
    # The navigation has a list of that name for requests of SCEP.
    text = page(admin_client, phone.session()).replace("Waiting for approval", "")
    assert "Waiting" not in text
    assert "Stopped" not in text


def test_a_refusal_is_shown_where_it_happened(admin_client: Client, phone: Phone) -> None:
    service, identity = phone.come_so_far()
    phone.post(phone.say(service, identity, challenge=False, SERIAL="OTHER"))
    assert "refused: another device than in phase 2" in listed(admin_client)
    text = page(admin_client, phone.session())
    assert "Last refused: another device than in phase 2: another serial number" in text
    assert done(phone.session()) == 3


def test_where_it_stopped_and_why(admin_client: Client, phone: Phone) -> None:
    phone.identify(phone.fetch_service())
    late = timezone.now() + timedelta(minutes=16)
    assert completion.expire(late) == 1
    session = phone.session()
    assert session.state == SessionState.EXPIRED
    text = page(admin_client, session)
    assert "The device made itself known, but did not ask for its certificate" in text
    assert "Certificate for the enrolment issued Stopped here." in text
    assert "did not ask for its certificate" in listed(admin_client)


def test_a_stopped_session_says_who_stopped_it(admin_client: Client, phone: Phone) -> None:
    phone.fetch_service()
    completion.stop(phone.session(), actor=Actor("anna"), now=timezone.now())
    assert "Stopped by anna" in page(admin_client, phone.session())


def test_a_refused_request_is_shown_at_its_step(admin_client: Client, phone: Phone) -> None:
    scep = phone.identify(phone.fetch_service())
    now = timezone.now()
    signer = self_signed(phone.enrolment_key, "throw-away", serial_number=1, now=now)
    request = obtain_certificate(scep, private_key=rsa_key("short", 1024), signer=signer, now=now)
    with pytest.raises(SimulationError, match="FAILURE"):
        converse(request, phone.project.send)
    step = progress(phone.session()).steps[2]
    assert (step.title, step.done) == (TITLES[2], False)
    assert step.lines[0].startswith("The request was refused: the key of the request: an RSA key has 2048")
    assert step.lines[0] in page(admin_client, phone.session())
    assert "certificate refused: the key of the request" in listed(admin_client)
    # A certificate that came after all counts more than what was refused before it.
    phone.certify(scep)
    assert done(phone.session()) == 3
    assert "was refused" not in page(admin_client, phone.session()).split("Requests for a certificate")[0]


@pytest.mark.parametrize(
    ("state", "minutes", "reason"),
    [
        (SessionState.OFFERED, 16, "no device made itself known"),
        (SessionState.IDENTIFIED, 16, "did not ask for its certificate"),
        (SessionState.OTA_CERTIFIED, 16, "did not fetch the management profile"),
        (SessionState.DELIVERED, 16, "no certificate was asked for"),
        (SessionState.CERTIFIED, 76, "the device never checked in"),
    ],
)
def test_every_step_has_its_end(phone: Phone, state: SessionState, minutes: int, reason: str) -> None:
    phone.fetch_service()
    EnrollmentSession.objects.update(state=state)
    session = phone.session()
    start = session.created_at
    assert completion.expire(start + timedelta(minutes=minutes - 2)) == 0
    assert completion.expire(start + timedelta(minutes=minutes)) == 1
    assert reason in phone.session().reason
    assert completion.expire(start + timedelta(days=1)) == 0


def test_the_direct_way_has_fewer_steps(admin_client: Client, profile: EnrollmentProfile) -> None:
    session = offer(profile, remote_addr="192.0.2.1", user_agent="Safari", now=timezone.now()).session
    assert [step.title for step in progress(session).steps] == [
        "Profile downloaded",
        "Device identity issued",
        "The device checked in",
        "Enrolled",
    ]
    assert "From 192.0.2.1." in page(admin_client, session)


def test_the_address_is_on_the_profiles_page(admin_client: Client, profile: EnrollmentProfile) -> None:
    change = f"/admin/enrollment/enrollmentprofile/{profile.pk}/change/"
    assert "http://127.0.0.1:8000/enroll/default/ota" in admin_client.get(change).content.decode()
    EnrollmentProfile.objects.update(allow_ota=False, allow_direct=False)
    text = admin_client.get(change).content.decode()
    assert "/enroll/default/ota" not in text
    assert "/enroll/default/profile" not in text
