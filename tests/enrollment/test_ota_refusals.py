"""What is refused over the air: threats A20, C1 to C7, E1 to E7, each with nothing changed."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from cryptography import x509
from django.core.cache import cache
from django.db import connection
from django.utils import timezone

from audit.models import AuditEvent, Outcome, Refusal
from audit.recording import SERVER, Actor
from commands.core import plist
from devices.models import Enrollment
from enrollment import completion, device_authorities, ota
from enrollment.models import (
    DeviceAuthority,
    DeviceSigner,
    EnrollmentProfile,
    EnrollmentSession,
    SessionState,
)
from enrollment.setup import ensure_default_profile
from pki import issuers, revocation
from pki.core import asn1, cms
from pki.core.device_identity import APPLE_CHAIN
from pki.models import Certificate, CertificateStatus, Issuer, Purpose, RevocationReason
from scep.core.message import Identity
from scep.models import Challenge
from simulator.device_ca import Manufactured
from simulator.exchange import Response, SimulationError, converse
from tests.enrollment.device_cas import APPLE_NAME, LONG_AGO, authority, certificate, like_apple, rsa_key
from tests.enrollment.phone import CANARY, Phone, assert_refused, make_phone, opened, signed, trust
from tests.pki.conftest import Party
from tests.pki.messages import Message
from tests.support.device_door import DeviceClient
from tests.support.devices import issue_certificate
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
OTA = "/enroll/default/ota"


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    trust(authority())
    return make_phone()


@pytest.fixture
def other(profile: EnrollmentProfile) -> Phone:
    trust(authority())
    return make_phone("B")


def content_of(body: bytes) -> bytes:
    return cms.verify_signed_data(body).content


def our_identity(purpose: Purpose, session: EnrollmentSession | None = None, **issued: Any) -> Identity:
    """A certificate of ours for a purpose, bound to a session."""
    key = rsa_key("enrolment A")
    made = issue_certificate(key, purpose=purpose, binding=session.uuid if session else None, **issued)
    return Identity(bytes(made.der), key)


# Bodies


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "no message"),
        (b"<plist/>", 400, "bad signature"),
        (b"0\x80\x00\x00", 400, "bad signature"),
        (b"x" * 65536, 400, "bad signature"),
        (b"x" * 65537, 413, "body too large"),
        (b"0\x83\x10\x00\x00" + b"x" * 1_048_576, 413, "body too large"),
    ],
)
def test_what_is_no_message(profile: EnrollmentProfile, body: bytes, status: int, reason: str) -> None:
    assert_refused(lambda: make_phone().post(body), status, reason)


@pytest.mark.parametrize(
    ("length", "status"),
    [("-1", 400), ("x", 400), ("1" * 13, 413), ("70000", 413), ("9", 400), ("٣", 400)],
)
def test_a_length_that_is_not_the_bodys(profile: EnrollmentProfile, length: str, status: int) -> None:
    with no_change():
        answer = DeviceClient().request("POST", OTA, b"12345678", content_length=length)
    assert answer.status == status


# Signatures (threats C1 to C6)


def party(phone: Phone) -> Party:
    return Party(phone.manufactured.private_key, phone.manufactured.certificate)


@pytest.mark.parametrize("attributes", [None, ()])
def test_changed_content_under_a_kept_signature(phone: Phone, attributes: tuple[()] | None) -> None:
    service = phone.fetch_service()
    honest = content_of(phone.say(service))
    serial = phone.hardware.serial_number.encode()
    body = signed(honest, phone.manufactured, attributes=attributes)
    assert serial in body
    forged = body.replace(serial, serial[::-1])
    assert_refused(lambda: phone.post(forged), 400, "bad signature")
    assert phone.post(body).status == 200


@pytest.mark.parametrize("signers", [2, 50])
def test_more_than_one_signer(phone: Phone, signers: int) -> None:
    content = content_of(phone.say(phone.fetch_service()))
    body = Message(party(phone), content, signers=signers).encoded()
    assert_refused(lambda: phone.post(body), 400, "bad signature", detail=f"{signers} signers")


@pytest.mark.parametrize("first", [True, False])
def test_a_strangers_signature_beside_the_right_one(phone: Phone, first: bool) -> None:
    content = content_of(phone.say(phone.fetch_service()))
    stranger = Party(rsa_key("stranger"), authority("stranger's").issue(rsa_key("stranger")))
    ours, theirs = Message(party(phone), content), Message(stranger, content)
    certificates = [phone.manufactured.certificate, stranger.certificate]
    one, two = (ours, theirs) if first else (theirs, ours)
    body = one.but(certificates=certificates, more_signers=[two.signer_info()]).encoded()
    assert_refused(lambda: phone.post(body), 400, "bad signature", detail="2 signers")


def test_no_signer_and_no_certificate(phone: Phone) -> None:
    content = content_of(phone.say(phone.fetch_service()))
    for message in (
        Message(party(phone), content, signers=0),
        Message(party(phone), content, certificates=[]),
        Message(party(phone), content, certificates=[authority().certificate]),
    ):
        body = message.encoded()
        assert_refused(partial(phone.post, body), 400, "bad signature")


def test_the_trusted_certificate_only_lies_beside(phone: Phone) -> None:
    """Signed by a stranger, with a device's and Apple's certificates in the bag (threats C5)."""
    content = content_of(phone.say(phone.fetch_service()))
    stranger = authority("stranger's").manufacture(rsa_key("stranger"), serial_number=77)
    body = signed(content, stranger, chain=[phone.manufactured.certificate, *APPLE_CHAIN])
    assert_refused(lambda: phone.post(body), 400, "signed by no device")


def test_the_signature_over_attributes_is_not_one_over_content(phone: Phone) -> None:
    """The attributes of a message, presented as the content of another (threats C2)."""
    body = signed(content_of(phone.say(phone.fetch_service())), phone.manufactured, attributes=())
    (signer,) = cms.decode_signed_data(body).signers
    attributes = next(node for node in asn1.children(signer) if node.tag == asn1.context(0))
    signature = next(
        asn1.decode_octets(node) for node in asn1.children(signer) if node.tag == asn1.OCTET_STRING
    )
    as_set = b"\x31" + attributes.encoded[1:]
    forged = Message(party(phone), as_set, attributes=(), signature=signature).encoded()
    assert_refused(lambda: phone.post(forged), 400, "bad signature")


def test_content_of_another_type(phone: Phone) -> None:
    content = content_of(phone.say(phone.fetch_service()))
    body = Message(party(phone), content, e_content_type=cms.SIGNED_DATA).encoded()
    assert_refused(lambda: phone.post(body), 400, "bad signature", detail="content of type")


def test_content_left_out(phone: Phone) -> None:
    content = content_of(phone.say(phone.fetch_service()))
    body = signed(content, phone.manufactured, detached=True)
    assert_refused(lambda: phone.post(body), 400, "bad signature", detail="no content")


# Who signs phase 2 (threats E1, E2)


def forged_devices() -> dict[str, Callable[[], Manufactured]]:
    key = rsa_key("manufactured A")

    def below(issuer: x509.Name) -> Manufactured:
        """Issued by the holder of a device's certificate."""
        return Manufactured(certificate(key.public_key(), issuer=issuer, signer=rsa_key("device")), key)

    def itself() -> Manufactured:
        return Manufactured(certificate(key.public_key(), issuer=APPLE_NAME, signer=key), key)

    ca = authority()
    name = x509.load_der_x509_certificate(ca.certificate).subject
    namesake = authority("namesake", subject=name)
    return {
        "self-signed in Apple's name": itself,
        "a CA of Apple's name": lambda: authority("forged Apple", subject=APPLE_NAME).manufacture(key),
        "a CA of a trusted one's name": lambda: namesake.manufacture(key),
        "a device as issuer": lambda: below(
            x509.load_der_x509_certificate(ca.issue(rsa_key("device"), subject="DEVICE-A")).subject
        ),
        "a device as issuer, in the CA's name": lambda: below(name),
        "the device CA itself": lambda: Manufactured(ca.certificate, ca.key),
        "a CA below the device CA": lambda: ca.manufacture(key, ca=True),
        "expired": lambda: ca.manufacture(key, **LONG_AGO),
        "signed with SHA-1": lambda: ca.manufacture(key, sha1=True),
        "a short key": lambda: ca.manufacture(rsa_key("short", 1024)),
        "another CA of Apple's": lambda: Manufactured(
            certificate(
                key.public_key(),
                issuer=x509.load_der_x509_certificate(APPLE_CHAIN[2]).subject,
                signer=rsa_key("forger"),
                subject="Apple Development: Anna",
            ),
            key,
        ),
    }


@pytest.mark.parametrize("kind", sorted(forged_devices()))
def test_what_is_no_device_is_not_let_in(phone: Phone, kind: str) -> None:
    service = phone.fetch_service()
    body = phone.say(service, forged_devices()[kind]())
    assert_refused(lambda: phone.post(body), 400, "signed by no device", detail="SHA-256")
    assert phone.session().state == SessionState.OFFERED


def test_only_what_is_trusted_is_believed(profile: EnrollmentProfile) -> None:
    phone = make_phone()
    body = phone.say(phone.fetch_service())
    assert_refused(lambda: phone.post(body), 400, "signed by no device")
    trust(authority())
    row = DeviceAuthority.objects.get()
    device_authorities.switch(row, enabled=False, actor=SERVER, now=timezone.now())
    assert_refused(lambda: phone.post(body), 400, "signed by no device")
    DeviceAuthority.objects.update(enabled=True, trusted_until=timezone.now() - timedelta(seconds=1))
    assert_refused(lambda: phone.post(body), 400, "signed by no device")
    DeviceAuthority.objects.update(trusted_until=timezone.now() + timedelta(minutes=1))
    assert phone.post(body).status == 200


def test_sha1_is_only_apples(phone: Phone) -> None:
    """The message of a device of another CA, and of phase 3 after it (threats C6)."""
    service = phone.fetch_service()
    content = content_of(phone.say(service))
    body = signed(content, phone.manufactured, digest="sha1")
    assert_refused(lambda: phone.post(body), 400, "signed with SHA-1")
    identity = phone.certify(phone.identify(service))
    third = signed(content_of(phone.say(service, identity, challenge=False)), identity, digest="sha1")
    assert_refused(lambda: phone.post(third), 400, "signed with SHA-1", session=phone.session())


# What phase 2 says (threats E3, E4)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"UDID": ""}, "UDID is missing"),
        ({"SERIAL": "  "}, "SERIAL is missing"),
        ({"SERIAL": "x" * 65}, "SERIAL is longer"),
        ({"UDID": 5}, "UDID is not text"),
        ({"PRODUCT": "iPhone\u202e"}, "do not print"),
        ({"CHALLENGE": b"x"}, "CHALLENGE is not text"),
    ],
)
def test_attributes_that_are_none(phone: Phone, changes: dict[str, Any], detail: str) -> None:
    body = phone.say(phone.fetch_service(), **changes)
    assert_refused(lambda: phone.post(body), 400, "bad device attributes", detail=detail)


@pytest.mark.parametrize("content", [b"", b"<plist/>", b"{}", b"1\x00", b"bplist00", b"x" * 20_000])
def test_content_that_is_no_property_list(phone: Phone, content: bytes) -> None:
    body = signed(content, phone.manufactured, attributes=())
    assert_refused(lambda: phone.post(body), 400, "bad device attributes")


def test_phase_two_needs_its_challenge(phone: Phone) -> None:
    service = phone.fetch_service()
    body = phone.say(service, challenge=False)
    assert_refused(lambda: phone.post(body), 403, "no challenge")
    for value in (CANARY, service.challenge[:-1], service.challenge + "A", service.challenge.swapcase()):
        body = phone.say(service, CHALLENGE=value)
        assert_refused(partial(phone.post, body), 403, "unknown challenge")


def test_a_challenge_counts_for_fifteen_minutes(phone: Phone) -> None:
    service = phone.fetch_service()
    body = phone.say(service)
    session = phone.session()
    with time_machine.travel(session.expires_at, tick=False):
        assert_refused(lambda: phone.post(body), 403, "session expired", session=session)
    with time_machine.travel(session.expires_at - timedelta(seconds=1), tick=False):
        assert phone.post(body).status == 200


def test_a_session_that_ended_takes_nothing(phone: Phone) -> None:
    service = phone.fetch_service()
    session = phone.session()
    completion.stop(session, actor=Actor("anna"), now=timezone.now())
    body = phone.say(service)
    assert_refused(lambda: phone.post(body), 403, "session ended", session=session, detail="stopped by anna")


def test_a_challenge_is_for_one_enrolment_profile(phone: Phone, issuer: Issuer) -> None:
    EnrollmentProfile.objects.create(slug="tills", name="Tills", issuer=issuer)
    body = phone.say(phone.fetch_service())
    assert_refused(
        lambda: phone.post(body, "http://127.0.0.1:8000/enroll/tills/ota"),
        403,
        "challenge of another enrolment profile",
        session=phone.session(),
    )


def test_a_challenge_is_for_one_device(phone: Phone, other: Phone) -> None:
    """Another device that shows it too, and the same device in other words, come too late (threats E4)."""
    service = phone.fetch_service()
    body = phone.say(service)
    assert phone.post(body).status == 200
    session = phone.session()
    for late in (other.say(service), phone.say(service, VERSION="22B84")):
        assert_refused(partial(phone.post, late), 403, "challenge used before", session=session)


def test_a_replayed_message_gets_nothing_once_its_answer_was_used(phone: Phone) -> None:
    service = phone.fetch_service()
    body = phone.say(service)
    phone.post(body)
    identity = phone.certify(phone.identify(service))
    replays: list[Callable[[], Response]] = [lambda: phone.post(body)]
    assert_refused(replays[0], 403, "challenge used before", session=phone.session())
    assert phone.post(phone.say(service, identity, challenge=False)).status == 200
    assert_refused(replays[0], 403, "challenge used before", session=phone.session())
    completion.authenticated(
        phone.session().uuid, phone.hardware.udid, phone.hardware.serial_number, timezone.now()
    )
    assert_refused(replays[0], 403, "challenge used before", session=phone.session())


def test_a_replayed_message_gets_nothing_when_its_time_is_over(phone: Phone) -> None:
    body = phone.say(phone.fetch_service())
    phone.post(body)
    session = phone.session()
    with time_machine.travel(session.expires_at + timedelta(seconds=1)):
        assert_refused(lambda: phone.post(body), 403, "session expired", session=session)


@pytest.mark.parametrize(
    "changes",
    [
        {"SERIAL": "SOMEBODYELSE"},
        {"UDID": "00008030-SOMEBODYELSE"},
        {"SERIAL": "SOMEBODYELSE", "UDID": "00008030-SOMEBODYELSE"},
    ],
)
def test_one_device_certificate_speaks_for_one_device(phone: Phone, changes: dict[str, Any]) -> None:
    """A genuine device signs somebody else's serial number (threats E3)."""
    phone.identify(phone.fetch_service())
    body = phone.say(phone.fetch_service(), **changes)
    session = phone.session()
    assert_refused(lambda: phone.post(body), 403, "device certificate of another device", session=session)
    alarm = AuditEvent.objects.get(action="device_certificate.second_claim")
    assert (alarm.outcome, alarm.target_id) == (Outcome.REFUSED, str(session.pk))
    assert alarm.details["serial_number_before"] == phone.hardware.serial_number
    assert alarm.details["serial_number"] == changes.get("SERIAL", phone.hardware.serial_number)
    assert alarm.remote_addr == "127.0.0.1"
    assert DeviceSigner.objects.get().serial_number == phone.hardware.serial_number


def test_a_renewed_device_certificate_is_no_second_one(phone: Phone) -> None:
    """The same key with a new certificate goes on speaking for the same device."""
    phone.identify(phone.fetch_service())
    phone.manufactured = authority().manufacture(phone.manufactured.private_key, serial_number=99)
    body = phone.say(phone.fetch_service(), SERIAL="SOMEBODYELSE")
    assert_refused(
        lambda: phone.post(body), 403, "device certificate of another device", session=phone.session()
    )


@pytest.mark.parametrize("written", [str.lower, str.upper, lambda text: f" {text[:4]} {text[4:]} "])
def test_a_serial_number_in_another_case_is_the_same_device(
    phone: Phone, written: Callable[[str], str]
) -> None:
    """What is held against a device is held against it, however it writes itself (threats E8)."""
    profile = phone_profile(phone)
    serial = phone.hardware.serial_number
    made = ota.offer(
        profile, remote_addr="", user_agent="", now=timezone.now(), expected_serial_number=serial
    )
    service = replace(phone.fetch_service(), challenge=challenge_of(made.mobileconfig))
    assert phone.post(phone.say(service, SERIAL=written(serial))).status == 200
    assert phone.post(phone.say(phone.fetch_service())).status == 200
    assert DeviceSigner.objects.count() == 1
    assert not AuditEvent.objects.filter(action="device_certificate.second_claim").exists()


def test_a_session_for_one_serial_number_is_for_no_other(phone: Phone, other: Phone) -> None:
    made = ota.offer(
        phone_profile(phone),
        remote_addr="",
        user_agent="",
        now=timezone.now(),
        expected_serial_number=phone.hardware.serial_number,
    )
    service = replace(phone.fetch_service(), challenge=challenge_of(made.mobileconfig))
    body = other.say(service)
    assert_refused(lambda: other.post(body), 403, "made for another device", session=made.session)
    assert phone.post(phone.say(service)).status == 200


def phone_profile(phone: Phone) -> EnrollmentProfile:
    return EnrollmentProfile.objects.get(slug="default")


def challenge_of(mobileconfig: bytes) -> str:
    content = plist.read(content_of(mobileconfig), max_size=1 << 20)
    value: str = content["PayloadContent"]["Challenge"]
    return value


# Phase 3 (threats A20, E7)


def test_phase_three_is_not_signed_by_the_maker(phone: Phone) -> None:
    """Phases swapped: the message of phase 3 before there is an identity for it, and after."""
    service = phone.fetch_service()
    body = phone.say(service, challenge=False)
    assert_refused(lambda: phone.post(body), 403, "no challenge")
    phone.certify(phone.identify(service))
    assert_refused(lambda: phone.post(body), 403, "no challenge")
    assert phone.session().state == SessionState.IDENTIFIED


def test_phase_two_is_not_signed_by_the_enrolments_certificate(phone: Phone) -> None:
    """A certificate of ours opens no new session, whatever challenge comes with it."""
    _service, identity = phone.come_so_far()
    fresh = phone.fetch_service()
    body = phone.say(fresh, identity)
    earlier = EnrollmentSession.objects.earliest("id")
    assert_refused(lambda: phone.post(body), 403, "challenge of another session", session=earlier)
    assert phone.session().state == SessionState.OFFERED


PURPOSES = [purpose for purpose in Purpose if purpose not in {Purpose.OTA_IDENTITY, Purpose.OCSP_SIGNING}]


@pytest.mark.parametrize("purpose", PURPOSES)
def test_no_other_certificate_of_ours_gets_the_profile(phone: Phone, purpose: Purpose) -> None:
    service = phone.fetch_service()
    phone.identify(service)
    session = phone.session()
    body = phone.say(service, our_identity(purpose, session), challenge=False)
    assert_refused(lambda: phone.post(body), 400, "certificate wrong purpose", session=session)


@pytest.mark.parametrize(
    ("moment", "reason"), [(-timedelta(hours=1), "not yet valid"), (timedelta(days=2), "expired")]
)
def test_the_enrolments_certificate_has_its_time(phone: Phone, moment: timedelta, reason: str) -> None:
    service, identity = phone.come_so_far()
    body = phone.say(service, identity, challenge=False)
    with time_machine.travel(timezone.now() + moment):
        assert_refused(lambda: phone.post(body), 400, f"certificate {reason}", session=phone.session())


def test_a_revoked_certificate_gets_nothing(phone: Phone) -> None:
    service, identity = phone.come_so_far()
    row = Certificate.objects.get(purpose=Purpose.OTA_IDENTITY)
    revocation.revoke(row, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=timezone.now())
    body = phone.say(service, identity, challenge=False)
    assert_refused(lambda: phone.post(body), 400, "certificate revoked", session=phone.session())


def test_a_superseded_certificate_gets_nothing(phone: Phone) -> None:
    service, identity = phone.come_so_far()
    Certificate.objects.filter(purpose=Purpose.OTA_IDENTITY).update(status=CertificateStatus.SUPERSEDED)
    body = phone.say(service, identity, challenge=False)
    assert_refused(lambda: phone.post(body), 400, "certificate superseded", session=phone.session())


def test_a_certificate_that_looks_like_ours_is_not_ours(phone: Phone, issuer: Issuer) -> None:
    """The issuer's name and the serial number of a real one, signed by a forger (threats A2)."""
    service, identity = phone.come_so_far()
    real = x509.load_der_x509_certificate(identity.certificate)
    forger = rsa_key("forger")
    clone = certificate(
        forger.public_key(),
        issuer=real.issuer,
        signer=forger,
        subject=real.subject,
        serial_number=real.serial_number,
    )
    body = phone.say(service, Manufactured(clone, forger), challenge=False)
    assert_refused(lambda: phone.post(body), 400, "signed by no device")


def test_the_certificate_of_another_session(phone: Phone, other: Phone) -> None:
    """With its own key, but as if it were the device of the other session (threats E7)."""
    service, _identity = phone.come_so_far()
    _service, theirs = other.come_so_far()
    session = other.session()
    body = phone.say(service, theirs, challenge=False)
    assert_refused(lambda: phone.post(body), 403, "another device than in phase 2", session=session)
    body = other.say(service, theirs)
    assert_refused(lambda: other.post(body), 403, "challenge of another session", session=session)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [({"SERIAL": "SOMEBODYELSE"}, "serial number"), ({"UDID": "00008030-SOMEBODYELSE"}, "UDID")],
)
def test_another_device_than_in_phase_two(phone: Phone, changes: dict[str, str], detail: str) -> None:
    service, identity = phone.come_so_far()
    body = phone.say(service, identity, challenge=False, **changes)
    assert_refused(
        lambda: phone.post(body),
        403,
        "another device than in phase 2",
        session=phone.session(),
        detail=detail,
    )
    assert phone.post(phone.say(service, identity, challenge=False)).status == 200


def test_a_session_at_another_address(phone: Phone, issuer: Issuer) -> None:
    EnrollmentProfile.objects.create(slug="tills", name="Tills", issuer=issuer)
    service, identity = phone.come_so_far()
    body = phone.say(service, identity, challenge=False)
    assert_refused(
        lambda: phone.post(body, "http://127.0.0.1:8000/enroll/tills/ota"),
        403,
        "session of another enrolment profile",
        session=phone.session(),
    )


def test_a_certificate_without_a_session(phone: Phone) -> None:
    service = phone.fetch_service()
    body = phone.say(service, our_identity(Purpose.OTA_IDENTITY), challenge=False)
    assert_refused(lambda: phone.post(body), 403, "no session")


def test_a_certificate_of_a_direct_session(phone: Phone, profile: EnrollmentProfile) -> None:
    now = timezone.now()
    direct = EnrollmentSession.objects.create(
        profile=profile, created_at=now, expires_at=now + timedelta(hours=1)
    )
    body = phone.say(phone.fetch_service(), our_identity(Purpose.OTA_IDENTITY, direct), challenge=False)
    assert_refused(lambda: phone.post(body), 403, "no session", session=direct)


@pytest.mark.parametrize("state", [SessionState.OFFERED, SessionState.CERTIFIED, SessionState.COMPLETED])
def test_a_session_in_another_state(phone: Phone, state: SessionState) -> None:
    service, identity = phone.come_so_far()
    EnrollmentSession.objects.update(state=state)
    body = phone.say(service, identity, challenge=False)
    assert_refused(
        lambda: phone.post(body), 403, "profile delivered before", session=phone.session(), detail=state
    )


@pytest.mark.parametrize("state", [SessionState.FAILED, SessionState.EXPIRED])
def test_a_session_that_ended_delivers_nothing(phone: Phone, state: SessionState) -> None:
    service, identity = phone.come_so_far()
    EnrollmentSession.objects.update(state=state, reason="because")
    body = phone.say(service, identity, challenge=False)
    assert_refused(lambda: phone.post(body), 403, "session ended", session=phone.session(), detail="because")


def test_a_session_whose_time_is_over_delivers_nothing(phone: Phone) -> None:
    service, identity = phone.come_so_far()
    body = phone.say(service, identity, challenge=False)
    session = phone.session()
    with time_machine.travel(session.expires_at):
        assert_refused(lambda: phone.post(body), 403, "session expired", session=session)


def test_the_profile_goes_to_one_certificate(phone: Phone) -> None:
    """Another one for the same session (there is none, unless something went wrong) comes too late."""
    service, identity = phone.come_so_far()
    assert phone.post(phone.say(service, identity, challenge=False)).status == 200
    session = phone.session()
    body = phone.say(service, our_identity(Purpose.OTA_IDENTITY, session), challenge=False)
    assert_refused(lambda: phone.post(body), 403, "profile delivered before", session=session)


def test_a_profile_that_was_delivered_is_not_read_with_another_key(phone: Phone, other: Phone) -> None:
    service, identity = phone.come_so_far()
    answer = opened(phone.post(phone.say(service, identity, challenge=False)))
    _service, theirs = other.come_so_far()
    for recipient in (identity.certificate, theirs.certificate):
        with pytest.raises(cms.DecryptionFailed):
            cms.decrypt(
                answer["EncryptedPayloadContent"],
                recipient=recipient,
                private_key=theirs.private_key,
                random=secrets.token_bytes,
            )


# After the profile: the same device has to check in


@pytest.mark.parametrize("changes", [{"serial_number": "SOMEBODYELSE"}, {"udid": "00008030-SOMEBODYELSE"}])
def test_the_device_of_phase_two_is_the_one_that_checks_in(phone: Phone, changes: dict[str, Any]) -> None:
    service, identity = phone.come_so_far()
    answer = phone.post(phone.say(service, identity, challenge=False))
    phone.hardware = replace(phone.hardware, **changes)
    with pytest.raises(SimulationError, match="Authenticate: HTTP 400"):
        converse(phone.device.install(answer.body, identity=identity), phone.project.send)
    assert not Enrollment.objects.exists()
    assert phone.session().state == SessionState.DELIVERED
    refusal = Refusal.objects.get(surface="mdm")
    assert (refusal.reason, "used by another device" in refusal.detail) == ("enrolment session refused", True)


# Too much of it


def ten_seconds_past() -> datetime:
    """In some minute of tomorrow: limits count by the minute, and what was made today is in force."""
    return (timezone.now() + timedelta(days=1)).replace(second=10, microsecond=0)


def test_an_address_that_fails_too_often_has_to_wait(phone: Phone, settings: Any) -> None:
    settings.BRAMLEY_ENROLL_FAILURES_PER_MINUTE = 3
    with time_machine.travel(ten_seconds_past(), tick=False):
        client = DeviceClient("192.0.2.9")
        statuses = [client.post(OTA, b"nothing").status for _ in range(5)]
        assert statuses == [400, 400, 400, 429, 429]
        assert client.post(OTA, b"nothing").headers["Retry-After"] == "50"
        # Others, and what is no failure, go on.
        assert DeviceClient("192.0.2.10").post(OTA, b"nothing").status == 400
        assert client.get(OTA).status == 200


def test_downloads_of_one_address_are_limited(profile: EnrollmentProfile, settings: Any) -> None:
    settings.BRAMLEY_ENROLL_DOWNLOADS_PER_MINUTE = 2
    with time_machine.travel(ten_seconds_past(), tick=False):
        statuses = [DeviceClient().get(OTA).status for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert EnrollmentSession.objects.count() == 2
    assert Refusal.objects.get(reason="too many downloads").count == 2


# At the same time


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("same_bytes", [True, False])
def test_of_many_at_once_one_identifies(same_bytes: bool) -> None:
    """Two devices with one challenge, or one device that repeats itself: one session, one SCEP challenge."""
    ensure_default_profile(issuers.create_issuer("bramley", "Test CA", algorithm="RSA-2048", actor=SERVER))
    trust(authority())
    phones = [make_phone(letter) for letter in "ABCDEF"]
    service = phones[0].fetch_service()
    bodies = [phones[0].say(service)] * 6 if same_bytes else [phone.say(service) for phone in phones]
    answers: list[Response] = []
    start = threading.Barrier(6)

    def send(phone: Phone, body: bytes) -> None:
        try:
            start.wait()
            answers.append(phone.post(body))
        finally:
            connection.close()

    threads = [threading.Thread(target=send, args=pair) for pair in zip(phones, bodies, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = Counter(answer.status for answer in answers)
    assert statuses == ({200: 6} if same_bytes else {200: 1, 403: 5})
    assert len({answer.body for answer in answers if answer.status == 200}) == 1
    assert EnrollmentSession.objects.get().state == SessionState.IDENTIFIED
    assert Challenge.objects.count() == 1
    assert DeviceSigner.objects.count() == 1


def test_what_is_like_apples_is_not_apples(profile: EnrollmentProfile) -> None:
    """All that is like Apple's but the key: the pinned key decides, not the name and not the looks."""
    apple = like_apple()
    key = rsa_key("apple's device", 1024)
    phone = make_phone("P", manufactured=apple.manufacture(key, **LONG_AGO))
    body = signed(content_of(phone.say(phone.fetch_service())), phone.manufactured, digest="sha1")
    assert_refused(lambda: phone.post(body), 400, "signed by no device")
