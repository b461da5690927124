"""The three phases over the air, as Apple's devices go through them."""

from __future__ import annotations

import hashlib
import plistlib
import secrets
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.test import Client
from django.utils import timezone

from audit.models import AuditEvent, Refusal
from devices.models import Enrollment, EnrollmentState
from enrollment import completion, ota
from enrollment.models import (
    DeviceAuthority,
    DeviceSigner,
    EnrollmentProfile,
    EnrollmentSession,
    Flow,
    PayloadCipher,
    SessionState,
)
from pki import issuers
from pki.core import cms
from pki.core.certificates import describe
from pki.core.device_identity import APPLE_DEVICE_CA
from pki.models import Certificate, IssuerState, Purpose
from scep.core.message import Identity
from scep.models import Challenge
from simulator.device import Behaviour
from simulator.enrolment_profile import read_identity_profile
from tests.enrollment.device_cas import LONG_AGO, authority, like_apple, rsa_key
from tests.enrollment.phone import (
    ADDRESS,
    Phone,
    make_phone,
    opened,
    payload_types,
    queries,
    signed,
    trust,
)
from tests.pki.messages import indefinite
from tests.support.device_door import DeviceClient
from tests.support.devices import issue_certificate
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
OTA = "/enroll/default/ota"


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    """A phone whose maker is trusted."""
    trust(authority())
    return make_phone()


# Phase 1


def test_phase_one_says_where_to_go_and_what_to_tell(phone: Phone, profile: EnrollmentProfile) -> None:
    answer = DeviceClient().get(OTA, {"User-Agent": "Safari"})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-apple-aspen-config"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    service = cms.verify_signed_data(answer.body)
    assert service.signer in [
        bytes(der)
        for der in Certificate.objects.filter(purpose=Purpose.PROFILE_SIGNING).values_list("der", flat=True)
    ]
    assert issuers.chain(profile.issuer)[-1] in service.certificates
    top = plistlib.loads(service.content)
    challenge = top["PayloadContent"].pop("Challenge")
    assert len(challenge) >= 22
    assert top.pop("PayloadUUID")
    assert top == {
        "PayloadType": "Profile Service",
        "PayloadVersion": 1,
        "PayloadIdentifier": f"org.bramley.enrollment.{profile.payload_uuid}.ota",
        "PayloadDisplayName": profile.name,
        "PayloadOrganization": "Orchard Ltd",
        "PayloadDescription": profile.description,
        "PayloadContent": {
            "URL": ADDRESS,
            "DeviceAttributes": ["UDID", "VERSION", "PRODUCT", "SERIAL", "IMEI", "MEID"],
        },
    }
    session = EnrollmentSession.objects.get()
    assert (session.flow, session.state) == (Flow.OTA, SessionState.OFFERED)
    assert session.expires_at - session.created_at == timedelta(minutes=15)
    assert (session.remote_addr, session.user_agent) == ("127.0.0.1", "Safari")
    assert challenge.encode() not in bytes(session.challenge_hash or b"")
    assert not Challenge.objects.exists()


def test_a_challenge_lives_no_longer_than_the_administrator_wants(profile: EnrollmentProfile) -> None:
    profile.session_minutes = 2
    session = ota.offer(profile, remote_addr="", user_agent="", now=timezone.now()).session
    assert session.expires_at - session.created_at == timedelta(minutes=2)


def test_two_downloads_share_nothing_that_is_secret(phone: Phone) -> None:
    one, other = phone.fetch_service(), phone.fetch_service()
    assert one.challenge != other.challenge
    assert EnrollmentSession.objects.count() == 2


def test_head_starts_nothing(profile: EnrollmentProfile) -> None:
    with no_change():
        answer = DeviceClient().request("HEAD", OTA)
    assert (answer.status, answer.body) == (200, b"")


def test_markup_in_a_name_is_not_markup(phone: Phone, profile: EnrollmentProfile) -> None:
    profile.name = "</string><key>URL</key><string>https://evil.example/"
    profile.description = "{{7*7}} ${HOME} <b>"
    profile.save()
    top = plistlib.loads(cms.verify_signed_data(DeviceClient().get(OTA).body).content)
    assert top["PayloadDisplayName"] == profile.name
    assert top["PayloadDescription"] == profile.description
    assert top["PayloadContent"]["URL"] == ADDRESS
    answer = opened(phone.post(phone.say(phone.fetch_service())))
    assert answer["PayloadDisplayName"] == profile.name


# Phase 2


def test_phase_two_answers_with_one_scep_payload(phone: Phone, profile: EnrollmentProfile) -> None:
    service = phone.fetch_service()
    answer = phone.post(phone.say(service))
    assert answer.headers["content-type"] == "application/x-apple-aspen-config"
    content = opened(answer)
    assert payload_types(content) == ["com.apple.security.scep"]
    assert content["PayloadType"] == "Configuration"
    scep = content["PayloadContent"][0]["PayloadContent"]
    assert (scep["Key Usage"], scep["Keysize"], scep["Key Type"]) == (5, 2048, "RSA")
    assert scep["URL"] == "http://127.0.0.1:8000/scep/bramley/"
    assert scep["CAFingerprint"] == hashlib.sha256(issuers.chain(profile.issuer)[0]).digest()
    session = phone.session()
    challenge = Challenge.objects.get()
    assert challenge.purpose == Purpose.OTA_IDENTITY
    assert challenge.binding == session.uuid
    assert challenge.validity_days == 1
    assert scep["Challenge"] != service.challenge


def test_what_the_device_said_is_kept(phone: Phone) -> None:
    before = timezone.now()
    phone.identify(phone.fetch_service())
    session, hardware = phone.session(), phone.hardware
    assert session.state == SessionState.IDENTIFIED
    assert (session.udid, session.serial_number) == (hardware.udid, hardware.serial_number)
    assert (session.product, session.version) == (hardware.product_name, hardware.build_version)
    assert (session.imei, session.meid) == (hardware.imei, hardware.meid)
    assert session.device_ca_sha256 == hashlib.sha256(authority().certificate).hexdigest()
    assert session.device_certificate_sha256 == describe(phone.manufactured.certificate).sha256
    assert session.identified_at is not None
    assert session.identified_at >= before
    assert session.expires_at >= before + timedelta(minutes=15)
    claim = DeviceSigner.objects.get()
    assert (claim.sha256, claim.serial_number, claim.udid) == (
        session.device_certificate_sha256,
        hardware.serial_number,
        hardware.udid,
    )


def test_a_serial_number_is_kept_in_its_normal_form(phone: Phone) -> None:
    serial = phone.hardware.serial_number
    answer = phone.post(phone.say(phone.fetch_service(), SERIAL=f" {serial.lower()} "))
    assert answer.status == 200
    assert phone.session().serial_number == serial == DeviceSigner.objects.get().serial_number


def test_every_use_of_a_ca_that_is_not_apples_is_recorded(phone: Phone) -> None:
    phone.identify(phone.fetch_service())
    event = AuditEvent.objects.get(action="device_ca.used")
    row = DeviceAuthority.objects.get()
    assert (event.target_kind, event.target_id) == ("enrollment.deviceauthority", str(row.pk))
    assert event.details["session"] == str(phone.session().uuid)
    assert event.details["serial_number"] == phone.hardware.serial_number
    assert event.remote_addr == "127.0.0.1"
    assert row.last_used_at is not None


@pytest.mark.parametrize("attributes", [None, ()])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("ber", [False, True])
def test_a_message_may_be_written_in_several_ways(
    phone: Phone, attributes: tuple[()] | None, digest: str, ber: bool
) -> None:
    """With and without signed attributes, in DER and in BER of indefinite length (fact F6)."""
    service = phone.fetch_service()
    content = cms.verify_signed_data(phone.say(service)).content
    body = signed(content, phone.manufactured, attributes=attributes, digest=digest)
    answer = phone.post(indefinite(body) if ber else body)
    assert payload_types(opened(answer)) == ["com.apple.security.scep"]


def test_a_wrong_chain_beside_the_signer_does_not_matter(phone: Phone) -> None:
    """macOS sends along intermediates that have nothing to do with it: they play no part."""
    service = phone.fetch_service()
    content = cms.verify_signed_data(phone.say(service)).content
    chain = [authority("somebody else").certificate, APPLE_DEVICE_CA.certificate]
    assert phone.post(signed(content, phone.manufactured, chain=chain)).status == 200


def apple_phone(monkeypatch: pytest.MonkeyPatch) -> Phone:
    """Made under a CA that is like Apple's in all but the key, which stands where Apple's is pinned."""
    apple = like_apple()
    monkeypatch.setattr("enrollment.device_authorities.APPLE_DEVICE_CA", apple.anchor(legacy=True))
    key = rsa_key("apple's device", 1024)
    return make_phone("P", manufactured=apple.manufacture(key, **LONG_AGO))


@pytest.mark.parametrize("attributes", [None, ()])
@pytest.mark.parametrize("ber", [False, True])
def test_apples_devices_sign_as_they_do(
    profile: EnrollmentProfile, monkeypatch: pytest.MonkeyPatch, attributes: tuple[()] | None, ber: bool
) -> None:
    """SHA-1, RSA 1024, an expired chain, BER, no signed attributes: all of that is real, in both phases."""
    phone = apple_phone(monkeypatch)
    service = phone.fetch_service()
    content = cms.verify_signed_data(phone.say(service)).content
    body = signed(content, phone.manufactured, attributes=attributes, digest="sha1")
    answer = phone.post(indefinite(body) if ber else body)
    assert payload_types(opened(answer)) == ["com.apple.security.scep"]
    assert not AuditEvent.objects.filter(action="device_ca.used").exists()
    identity = phone.certify(read_identity_profile(answer.body)[0])
    third = signed(content, identity, attributes=attributes, digest="sha1")
    assert opened(phone.post(indefinite(third) if ber else third))["IsEncrypted"] is True


# Phase 3


def decrypted(content: dict[str, Any], identity: Identity) -> list[dict[str, Any]]:
    inner = cms.decrypt(
        content["EncryptedPayloadContent"],
        recipient=identity.certificate,
        private_key=identity.private_key,
        random=secrets.token_bytes,
    )
    value: list[dict[str, Any]] = plistlib.loads(inner.content)
    return value


def test_phase_three_answers_with_the_profile_encrypted_then_signed(
    phone: Phone, profile: EnrollmentProfile
) -> None:
    service, identity = phone.come_so_far()
    answer = phone.post(phone.say(service, identity, challenge=False))
    content = opened(answer)
    assert "PayloadContent" not in content
    assert (content["PayloadType"], content["IsEncrypted"]) == ("Configuration", True)
    payloads = decrypted(content, identity)
    assert [payload["PayloadType"] for payload in payloads] == [
        "com.apple.security.root",
        "com.apple.security.scep",
        "com.apple.mdm",
    ]
    root, scep, mdm = payloads
    assert root["PayloadContent"] == issuers.chain(profile.issuer)[-1]
    assert mdm["IdentityCertificateUUID"] == scep["PayloadUUID"]
    assert mdm["Topic"].encode() not in answer.body
    assert scep["PayloadContent"]["Challenge"].encode() not in answer.body
    session = phone.session()
    assert session.state == SessionState.DELIVERED
    assert session.delivered_to_sha256 == describe(identity.certificate).sha256
    assert (session.delivered_cipher, session.not_encrypted_reason) == ("aes128_cbc", "")
    challenge = Challenge.objects.get(purpose=Purpose.MDM_IDENTITY)
    assert challenge.binding == session.uuid
    assert challenge.expires_at == session.expires_at
    assert challenge.validity_days is None


@pytest.mark.parametrize("cipher", PayloadCipher.values)
def test_the_cipher_is_the_administrators(phone: Phone, profile: EnrollmentProfile, cipher: str) -> None:
    profile.payload_cipher = cipher
    profile.save()
    service, identity = phone.come_so_far()
    content = opened(phone.post(phone.say(service, identity, challenge=False)))
    inner = cms.decrypt(
        content["EncryptedPayloadContent"],
        recipient=identity.certificate,
        private_key=identity.private_key,
        random=secrets.token_bytes,
    )
    assert inner.cipher == cipher == phone.session().delivered_cipher


def test_an_elliptic_identity_gets_it_over_tls_only_and_that_is_recorded(
    phone: Phone, profile: EnrollmentProfile
) -> None:
    service = phone.fetch_service()
    phone.identify(service)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue_certificate(
        key, issuer=profile.issuer, purpose=Purpose.OTA_IDENTITY, binding=phone.session().uuid
    )
    content = cms.verify_signed_data(phone.say(service, challenge=False)).content
    body = cms.sign(content, certificate=bytes(certificate.der), private_key=key)
    answer = opened(phone.post(body))
    assert "IsEncrypted" not in answer
    assert "com.apple.mdm" in payload_types(answer)
    session = phone.session()
    assert session.delivered_cipher == ""
    assert session.not_encrypted_reason == "the recipient's key is not an RSA key"


def test_the_challenge_may_come_along_in_phase_three(phone: Phone) -> None:
    """What decides is who signed, never whether there is a challenge."""
    service, identity = phone.come_so_far()
    assert opened(phone.post(phone.say(service, identity)))["IsEncrypted"] is True


# All of it


@pytest.mark.parametrize("with_attributes", [True, False])
def test_a_device_goes_all_the_way(phone: Phone, with_attributes: bool) -> None:
    phone.behaviour = Behaviour(signed_attributes=with_attributes)
    device = phone.enrol()
    session = phone.session()
    assert session.state == SessionState.COMPLETED
    assert session.answer_sealed is None
    assert Refusal.objects.count() == 0
    enrollment = Enrollment.objects.get()
    assert (enrollment.state, enrollment.binding) == (EnrollmentState.ENROLLED, session.uuid)
    assert device.enrolled is not None
    ours = Certificate.objects.get(purpose=Purpose.MDM_IDENTITY)
    assert bytes(ours.der) == device.enrolled.certificate
    ota_identity = Certificate.objects.get(purpose=Purpose.OTA_IDENTITY)
    assert ours.binding == ota_identity.binding == session.uuid
    assert ota_identity.sha256 == session.delivered_to_sha256
    assert ota_identity.not_after - ota_identity.not_before < timedelta(days=1, hours=1)
    assert ours.public_key_sha256 != ota_identity.public_key_sha256


def test_the_sweep_notes_both_certificates(phone: Phone) -> None:
    service, identity = phone.come_so_far()
    completion.expire(timezone.now())
    assert phone.session().state == SessionState.OTA_CERTIFIED
    assert phone.post(phone.say(service, identity, challenge=False)).status == 200
    completion.expire(timezone.now())
    session = phone.session()
    assert session.state == SessionState.DELIVERED
    issue_certificate(rsa_key("identity"), binding=session.uuid)
    completion.expire(timezone.now())
    assert phone.session().state == SessionState.CERTIFIED


def test_a_device_that_enrols_again_uses_the_same_identity_of_its_maker(phone: Phone) -> None:
    phone.identify(phone.fetch_service())
    phone.identify(phone.fetch_service())
    assert DeviceSigner.objects.count() == 1
    assert EnrollmentSession.objects.filter(state=SessionState.IDENTIFIED).count() == 2


def test_a_renewed_certificate_of_the_maker_speaks_for_the_same_device(phone: Phone) -> None:
    phone.identify(phone.fetch_service())
    phone.manufactured = authority().manufacture(phone.manufactured.private_key, serial_number=99)
    phone.identify(phone.fetch_service())
    assert DeviceSigner.objects.count() == 2


# Answers that got lost


def test_phase_two_again_gets_the_same_answer(phone: Phone) -> None:
    body = phone.say(phone.fetch_service())
    first = phone.post(body)
    with no_change():
        again = phone.post(body)
    assert (again.status, again.body) == (200, first.body)


@pytest.mark.parametrize("other_bytes", [False, True])
def test_phase_three_again_gets_the_same_answer(phone: Phone, other_bytes: bool) -> None:
    service, identity = phone.come_so_far()
    body = phone.say(service, identity, challenge=False)
    first = phone.post(body)
    if other_bytes:
        body = signed(cms.verify_signed_data(body).content, identity, attributes=())
    with no_change():
        again = phone.post(body)
    assert (again.status, again.body) == (200, first.body)


def test_what_is_kept_for_that_is_sealed_and_goes_when_it_was_used(phone: Phone) -> None:
    service = phone.fetch_service()
    scep = phone.identify(service)
    kept = bytes(phone.session().answer_sealed or b"")
    assert kept
    assert scep.challenge.encode() not in kept
    phone.enrol()
    assert phone.session().answer_sealed is None
    late = timezone.now() + timedelta(hours=1)
    assert completion.expire(late) == 1
    assert not EnrollmentSession.objects.exclude(answer_sealed=None).exists()


# Where there is nothing to be had


@pytest.mark.parametrize("change", [{"enabled": False}, {"allow_ota": False}])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_a_profile_that_does_not_allow_it_is_not_there(
    profile: EnrollmentProfile, change: dict[str, bool], method: str
) -> None:
    EnrollmentProfile.objects.update(**change)
    with no_change():
        answers = [
            DeviceClient().request(method, f"/enroll/{slug}/ota", b"x" if method == "POST" else b"")
            for slug in ("default", "nothing")
        ]
    assert [(answer.status, answer.body) for answer in answers] == [(404, b"")] * 2


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused(profile: EnrollmentProfile, method: str) -> None:
    with no_change():
        answer = DeviceClient().request(method, OTA)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


def test_a_server_that_cannot_offer_says_so_to_the_administrator(
    phone: Phone, profile: EnrollmentProfile
) -> None:
    service = phone.fetch_service()
    body = phone.say(service)
    profile.issuer.state = IssuerState.RETIRED
    profile.issuer.save()
    with no_change():
        first, second = DeviceClient().get(OTA), phone.post(body)
    assert (first.status, first.body, first.headers["Retry-After"]) == (503, b"not available\n", "60")
    assert second.status == 503
    refusal = Refusal.objects.get(surface="enroll")
    assert (refusal.reason, refusal.detail) == ("profile not offered", "the issuer bramley is not active")


def test_the_direct_way_may_be_closed_while_this_one_is_open(
    client: Client, phone: Phone, profile: EnrollmentProfile
) -> None:
    EnrollmentProfile.objects.update(allow_direct=False)
    assert client.get("/enroll/default/profile").status_code == 404
    assert phone.enrol().enrolled is not None


def test_a_phase_costs_a_bounded_number_of_queries(phone: Phone) -> None:
    service, identity = phone.come_so_far()
    with queries(at_most=40):
        phone.post(phone.say(service, identity, challenge=False))
