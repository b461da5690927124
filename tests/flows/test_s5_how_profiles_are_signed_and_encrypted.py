"""S5: how are profiles signed and encrypted in phases 1 to 3 over the air?

The answer in words: docs/questions/how-profiles-are-signed-and-encrypted.md. The same against the running
product, over HTTP: tests/flows/test_ota_enrolment.py. openssl is the judge of every answer.
"""

# ruff: noqa: F811 - a fixture that is imported has the name of the argument

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.utils import timezone

from enrollment.models import EnrollmentProfile, EnrollmentSession
from pki import issuers, profile_signers
from pki.core import cms
from pki.core.certificates import encode_pem
from pki.core.server_trust import Roots
from pki.models import Purpose
from simulator import enrolment_profile
from simulator.enrolment_profile import read_identity_profile
from simulator.exchange import SimulationError
from tests.enrollment.conftest import _keys_are_made_once, issuer, profile  # noqa: F401 - fixtures
from tests.enrollment.device_cas import authority, rsa_key
from tests.enrollment.phone import Phone, make_phone, trust
from tests.enrollment.test_server_trust import make
from tests.pki.conftest import ACTOR
from tests.support.devices import issue_certificate
from tests.support.openssl import Openssl

pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture
def openssl(tmp_path: Path) -> Openssl:
    return Openssl(tmp_path)


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    """A phone whose maker is trusted."""
    trust(authority())
    return make_phone()


def readable(openssl: Openssl, answer: bytes, root: bytes) -> dict[str, Any]:
    """What a device reads, where openssl finds a right signature that leads to ``root``."""
    content = openssl.opens_signature(answer, root)
    assert content is not None
    value: dict[str, Any] = plistlib.loads(content)
    return value


def kinds(payloads: list[dict[str, Any]]) -> list[str]:
    return [payload["PayloadType"] for payload in payloads]


@pytest.mark.parametrize("cipher", ["aes128_cbc", "aes256_cbc", "des_ede3_cbc"])
def test_each_phase_is_signed_by_us_and_the_last_is_encrypted_to_the_device(
    phone: Phone, profile: EnrollmentProfile, openssl: Openssl, cipher: str
) -> None:
    profile.payload_cipher = cipher
    profile.save()
    root = issuers.chain(profile.issuer)[-1]

    # Phase 1: signed by us, readable by everybody: nothing in it is for one device but the challenge.
    service = phone.fetch_service()
    first = phone.project.send(phone.project.requests[-1]).body
    assert readable(openssl, first, root)["PayloadType"] == "Profile Service"

    # Phase 2: the device signs with what its maker put into it; we answer signed, not encrypted.
    said = phone.say(service)
    assert openssl.opens_signature(said, authority().certificate) is not None
    assert openssl.opens_signature(said, root) is None
    answer = phone.post(said)
    assert kinds(readable(openssl, answer.body, root)["PayloadContent"]) == ["com.apple.security.scep"]

    # Phase 3: it signs with the certificate that phase 2 brought; the payloads are encrypted to that one.
    certified = phone.certify(read_identity_profile(answer.body)[0])
    said = phone.say(service, certified, challenge=False)
    assert openssl.opens_signature(said, root) is not None
    last = phone.post(said).body
    outer = readable(openssl, last, root)
    assert outer["IsEncrypted"] is True
    assert "PayloadContent" not in outer
    envelope = outer["EncryptedPayloadContent"]
    opened = openssl.decrypts(envelope, certified.certificate, certified.private_key)
    assert opened is not None
    payloads = plistlib.loads(opened)
    assert kinds(payloads) == ["com.apple.security.root", "com.apple.security.scep", "com.apple.mdm"]

    # Nobody else reads it, and nobody changes it.
    challenge = payloads[1]["PayloadContent"]["Challenge"]
    assert challenge.encode() not in last
    assert b"com.apple.mdm" not in last
    stranger = openssl.decrypts(envelope, certified.certificate, rsa_key("stranger"))
    assert stranger is None or b"com.apple.mdm" not in stranger
    changed = last.replace(b"<true/>", b"<false/>", 1)
    assert changed != last
    assert openssl.opens_signature(changed, root) is None
    assert EnrollmentSession.objects.get(state="DELIVERED").delivered_cipher == cipher


def test_an_elliptic_key_gets_the_profile_signed_but_only_tls_hides_it(
    phone: Phone, profile: EnrollmentProfile, openssl: Openssl
) -> None:
    """Nothing can be encrypted to it here. The session says so to the administrator."""
    service = phone.fetch_service()
    phone.identify(service)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue_certificate(
        key, issuer=profile.issuer, purpose=Purpose.OTA_IDENTITY, binding=phone.session().uuid
    )
    content = cms.verify_signed_data(phone.say(service, challenge=False)).content
    answer = phone.post(cms.sign(content, certificate=bytes(certificate.der), private_key=key))
    outer = readable(openssl, answer.body, issuers.chain(profile.issuer)[-1])
    assert "IsEncrypted" not in outer
    assert kinds(outer["PayloadContent"])[-1] == "com.apple.mdm"
    assert phone.session().not_encrypted_reason == "the recipient's key is not an RSA key"


def test_a_public_certificate_signs_where_it_was_chosen(
    phone: Phone, profile: EnrollmentProfile, openssl: Openssl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a device that knows nothing of us yet finds its way to a root that it has."""
    now = timezone.now()
    public = make("Public Root", days=(-100, 3000), now=now)
    middle = make("Public Middle", public, days=(-50, 1000), now=now)
    server = make("mdm.example.com", middle, is_ca=False, names=("mdm.example.com",), now=now)
    own_root = issuers.chain(profile.issuer)[-1]
    key = openssl.write_key("server.key", server.key)
    file = (openssl.folder / key).read_bytes() + (encode_pem(server.der) + encode_pem(middle.der)).encode()
    signer = profile_signers.import_signer(file, actor=ACTOR, now=now)
    profile_signers.use(signer, actor=ACTOR, now=now)
    service, certified = phone.come_so_far()
    last = phone.post(phone.say(service, certified, challenge=False)).body
    assert readable(openssl, last, public.der)["IsEncrypted"] is True
    assert openssl.opens_signature(last, own_root) is None
    assert phone.session().told["signer"] == signer.sha256  # type: ignore[index]
    # A simulated device goes all the way where it has that root, and nowhere where it has not.
    with pytest.raises(SimulationError, match="no certificate of the profile issued"):
        make_phone("B").enrol()
    monkeypatch.setattr(enrolment_profile, "public_roots", lambda: Roots([public.der]))
    make_phone("C").enrol()
    assert phone.session().state == "COMPLETED"
