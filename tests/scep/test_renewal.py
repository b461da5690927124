"""A certificate in force renews itself; nothing else does (threats B13, A10)."""

from __future__ import annotations

import secrets
import uuid
from datetime import timedelta

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from audit.recording import SERVER
from pki import issuers, revocation, trust
from pki.core import cms
from pki.core.certificates import (
    CertificateFields,
    build_certificate,
    build_root,
    build_self_signed,
    describe,
    encode_pem,
)
from pki.keys import public_key_der
from pki.models import Certificate, CertificateStatus, Issuer, Purpose, RevocationReason
from scep.core import attributes
from scep.core.attributes import FailInfo, MessageType
from scep.core.message import Identity
from scep.models import ScepService, Transaction
from tests.scep.asking import ask, enrol, holder, issued, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, Sent, csr, nothing_issued, pkcs_req, rsa_key, signed, signer

pytestmark = pytest.mark.django_db

BOTH = pytest.mark.parametrize("message_type", [MessageType.PKCS_REQ, MessageType.RENEWAL_REQ])
RENEWAL = MessageType.RENEWAL_REQ


@pytest.fixture
def certificate(door: Door, mint: Mint, ca_certificate: bytes) -> Certificate:
    """A device's certificate, for ``rsa_key(1)``."""
    _challenge, value = mint(
        subject=(("CN", "device 1"), ("O", "Example")),
        san=[("DNS", "device-1.example"), ("URI", "urn:x")],
        binding=uuid.uuid4(),
    )
    return enrol(door, ca_certificate, value, key=1)


@BOTH
@pytest.mark.parametrize(
    ("key", "value"),
    [(1, None), (2, None), (2, ""), (2, "whatever")],
    ids=["same key", "new", "empty", "wrong"],
)
def test_a_renewal_inherits_everything_but_the_key(
    ca_certificate: bytes,
    certificate: Certificate,
    message_type: MessageType,
    key: int,
    value: str | None,
) -> None:
    sent = pkcs_req(
        csr(rsa_key(key), value, subject=(("CN", "somebody else"),), san=[("DNS", "evil.example")]),
        ca_certificate=ca_certificate,
        identity=holder(certificate),
        message_type=message_type,
    )
    renewed = issued(ask(Door(), sent, ca_certificate))
    assert renewed.pk != certificate.pk
    assert renewed.renewed_from == certificate
    for inherited in ("subject", "subject_alternative_name", "purpose", "binding", "issuer_key"):
        assert getattr(renewed, inherited) == getattr(certificate, inherited), inherited
    assert (renewed.public_key_sha256 == certificate.public_key_sha256) is (key == 1)
    certificate.refresh_from_db()
    # The old one works until the new one is used.
    assert (certificate.status, certificate.first_used_at) == (CertificateStatus.ISSUED, NOW)
    row = Transaction.objects.latest("id")
    assert (row.message_type, row.challenge, row.certificate) == (message_type.label, None, renewed)


def test_a_short_life_is_inherited(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint(validity_days=7)
    first = enrol(door, ca_certificate, value)
    sent = pkcs_req(
        csr(rsa_key(2)), ca_certificate=ca_certificate, identity=holder(first), message_type=RENEWAL
    )
    renewed = issued(ask(door, sent, ca_certificate))
    assert renewed.not_after - NOW <= timedelta(days=7)


@BOTH
def test_a_lost_reply_is_sent_again(
    door: Door, ca_certificate: bytes, certificate: Certificate, message_type: MessageType
) -> None:
    """The same message, and a new message for the same key."""
    request = csr(rsa_key(2))
    first, second = (
        pkcs_req(
            request, ca_certificate=ca_certificate, identity=holder(certificate), message_type=message_type
        )
        for _ in range(2)
    )
    found = {issued(ask(door, sent, ca_certificate)).pk for sent in (first, first, second)}
    assert len(found) == 1
    assert Certificate.objects.count() == 2


def test_a_certificate_is_renewed_once_until_the_new_one_is_used(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    def renew(identity: Identity, key: int) -> Sent:
        return pkcs_req(
            csr(rsa_key(key)), ca_certificate=ca_certificate, identity=identity, message_type=RENEWAL
        )

    second = issued(ask(door, renew(holder(certificate), 2), ca_certificate))
    with nothing_issued():
        reply = ask(door, renew(holder(certificate), 3), ca_certificate)
    assert second.serial_number in refused(reply, FailInfo.BAD_REQUEST, "renewed already").reason

    # The new one signs: so it arrived, and the first one's time is over.
    third = issued(ask(door, renew(holder(second, 2), 3), ca_certificate))
    certificate.refresh_from_db()
    second.refresh_from_db()
    assert [row.status for row in (certificate, second, third)] == ["SUPERSEDED", "ISSUED", "ISSUED"]
    assert second.first_used_at == NOW
    with nothing_issued():
        reply = ask(door, renew(holder(certificate), 4), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "superseded")


def test_a_renewal_that_never_arrived_can_be_revoked_and_repeated(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    def renew(key: int) -> Certificate:
        sent = pkcs_req(
            csr(rsa_key(key)),
            ca_certificate=ca_certificate,
            identity=holder(certificate),
            message_type=RENEWAL,
        )
        return issued(ask(door, sent, ca_certificate))

    lost = renew(2)
    revocation.revoke(lost, reason=RevocationReason.SUPERSEDED, actor=SERVER, now=NOW)
    assert renew(3).renewed_from == certificate


def test_a_live_challenge_makes_it_an_ordinary_enrolment(
    door: Door, mint: Mint, ca_certificate: bytes, certificate: Certificate
) -> None:
    challenge, value = mint(subject=(("CN", "from the challenge"),))
    sent = pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate, identity=holder(certificate))
    new = issued(ask(door, sent, ca_certificate))
    assert (new.subject, new.renewed_from) == ("CN=from the challenge", None)
    challenge.refresh_from_db()
    assert challenge.consumed_at == NOW


def test_a_renewal_req_uses_no_challenge(
    door: Door, mint: Mint, ca_certificate: bytes, certificate: Certificate
) -> None:
    challenge, value = mint(subject=(("CN", "from the challenge"),))
    sent = pkcs_req(
        csr(rsa_key(2), value),
        ca_certificate=ca_certificate,
        identity=holder(certificate),
        message_type=RENEWAL,
    )
    assert issued(ask(door, sent, ca_certificate)).subject == certificate.subject
    challenge.refresh_from_db()
    assert challenge.consumed_at is None


def test_a_renewal_req_of_a_stranger_is_refused_even_with_a_good_challenge(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate, message_type=RENEWAL)
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "not issued here")


# --- who may not renew -----------------------------------------------------------------------------------


@BOTH
def test_a_revoked_certificate(
    door: Door, ca_certificate: bytes, certificate: Certificate, message_type: MessageType
) -> None:
    revocation.revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW)
    renewal_is_refused(door, ca_certificate, holder(certificate), message_type, "revoked")


@BOTH
def test_an_expired_certificate(
    door: Door,
    ca_certificate: bytes,
    certificate: Certificate,
    message_type: MessageType,
    at_noon: time_machine.Traveller,
) -> None:
    at_noon.move_to(certificate.not_after + timedelta(seconds=1), tick=False)
    renewal_is_refused(door, ca_certificate, holder(certificate), message_type, "expired")


@BOTH
def test_an_over_the_air_identity(
    door: Door, mint: Mint, ca_certificate: bytes, message_type: MessageType
) -> None:
    _challenge, value = mint(purpose=Purpose.OTA_IDENTITY)
    certificate = enrol(door, ca_certificate, value)
    renewal_is_refused(door, ca_certificate, holder(certificate), message_type, "another purpose")


@BOTH
def test_a_certificate_of_another_issuer_of_ours(
    mint: Mint, door: Door, ca_certificate: bytes, certificate: Certificate, message_type: MessageType
) -> None:
    other = issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    other_ca = bytes(issuers.current_certificate(issuers.current_key(other)).der)
    renewal_is_refused(
        Door("/scep/other/"), other_ca, holder(certificate), message_type, "another issuer issued it"
    )


@BOTH
def test_a_certificate_of_a_trusted_foreign_ca(
    door: Door, ca_certificate: bytes, message_type: MessageType
) -> None:
    key = rsa_key(91)
    root = build_root(
        (("CN", "Foreign CA"),),
        private_key=key,
        serial_number=7,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=900),
    )
    trust.trust_issuer(encode_pem(root).encode(), purpose=Purpose.MDM_IDENTITY, actor=SERVER, now=NOW)
    leaf = build_certificate(leaf_fields("device 1"), issuer_certificate=root, private_key=key)
    assert trust.identify(leaf, purpose=Purpose.MDM_IDENTITY, now=NOW).foreign
    identity = Identity(leaf, rsa_key(1))
    renewal_is_refused(door, ca_certificate, identity, message_type, "another issuer issued it")


@BOTH
def test_a_copy_of_our_certificate_by_somebody_else(
    door: Door, ca_certificate: bytes, certificate: Certificate, message_type: MessageType
) -> None:
    """Our issuer's name, the certificate's subject and serial number, another key."""
    ours = x509.load_der_x509_certificate(bytes(certificate.der))
    forged = (
        x509.CertificateBuilder(ours.issuer, ours.subject, rsa_key(4).public_key(), ours.serial_number)
        .not_valid_before(ours.not_valid_before_utc)
        .not_valid_after(ours.not_valid_after_utc)
        .sign(rsa_key(92), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    renewal_is_refused(
        door,
        ca_certificate,
        Identity(forged, rsa_key(4)),
        message_type,
        "not issued here" if message_type is RENEWAL else "no challenge",
    )


@BOTH
def test_a_self_signed_certificate_with_our_issuers_name(
    door: Door, ca_certificate: bytes, issuer: Issuer, message_type: MessageType
) -> None:
    name = describe(ca_certificate).subject.removeprefix("CN=")
    identity = Identity(build_self_signed(leaf_fields(name), private_key=rsa_key(1)), rsa_key(1))
    renewal_is_refused(
        door,
        ca_certificate,
        identity,
        message_type,
        "not issued here" if message_type is RENEWAL else "no challenge",
    )


@BOTH
def test_the_signer_of_macos(door: Door, ca_certificate: bytes, message_type: MessageType) -> None:
    renewal_is_refused(
        door,
        ca_certificate,
        signer(),
        message_type,
        "not issued here" if message_type is RENEWAL else "no challenge",
    )


@BOTH
def test_our_certificate_in_the_bag_but_another_signer(
    door: Door, ca_certificate: bytes, certificate: Certificate, message_type: MessageType
) -> None:
    """The trusted certificate is only there; somebody else signed (threats C5)."""
    identity = signer(3)
    envelope = cms.encrypt(csr(rsa_key(3)), recipient=ca_certificate, random=secrets.token_bytes)
    body = signed(
        envelope,
        identity,
        attributes.encode_header(message_type, "id", b"nonce"),
        chain=[bytes(certificate.der)],
    )
    with nothing_issued():
        reply = ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "")


def test_the_operator_can_set_a_window(
    door: Door,
    ca_certificate: bytes,
    certificate: Certificate,
    at_noon: time_machine.Traveller,
) -> None:
    ScepService.objects.update(renewal_window_days=180)
    renewal_is_refused(door, ca_certificate, holder(certificate), RENEWAL, "not before")
    at_noon.move_to(certificate.not_after - timedelta(days=179), tick=False)
    sent = pkcs_req(
        csr(rsa_key(2)), ca_certificate=ca_certificate, identity=holder(certificate), message_type=RENEWAL
    )
    issued(ask(door, sent, ca_certificate))


def renewal_is_refused(
    door: Door, ca_certificate: bytes, identity: Identity, message_type: MessageType, reason: str
) -> None:
    sent = pkcs_req(
        csr(rsa_key(5)), ca_certificate=ca_certificate, identity=identity, message_type=message_type
    )
    with nothing_issued():
        reply = ask(door, sent, ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, reason)


def leaf_fields(common_name: str) -> CertificateFields:
    return CertificateFields(
        subject=(("CN", common_name),),
        public_key=public_key_der(rsa_key(1)),
        serial_number=77,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=300),
        extended_key_usage=("clientAuth",),
    )
