"""PKCSReq with a challenge: what is issued, what is not, and what comes again."""

from __future__ import annotations

import secrets
import uuid
from datetime import timedelta

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import AttributeOID, NameOID
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from audit.models import AuditEvent, Refusal
from audit.recording import SERVER
from pki import issuers, revocation
from pki.core import cms
from pki.core.certificates import describe
from pki.core.csr import CHALLENGE_PASSWORD
from pki.models import Certificate, CertificateStatus, Issuer, IssuerState, Purpose, RevocationReason
from scep import challenges
from scep.core import attributes
from scep.core.attributes import FailInfo, MessageType
from scep.models import Challenge, Transaction, TransactionStatus
from tests.scep.asking import ask, enrol, refused
from tests.scep.conftest import Mint
from tests.scep.hostile import csr_with_challenges
from tests.scep.support import NOW, Door, Sent, csr, ec_key, nothing_issued, pkcs_req, rsa_key, signed, signer

pytestmark = pytest.mark.django_db


def test_a_challenge_brings_what_it_says(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    challenge, value = mint(
        subject=(("CN", "device 1"), ("O", "Example")), san=[("DNS", "device-1.example")], validity_days=30
    )
    key = rsa_key(1)
    sent = pkcs_req(
        csr(key, value, subject=(("CN", "somebody else"),), san=[("DNS", "evil.example")]),
        ca_certificate=ca_certificate,
    )
    reply = ask(door, sent, ca_certificate)

    certificate = x509.load_der_x509_certificate(reply.certificates[0])
    assert certificate.public_key() == key.public_key()
    assert certificate.subject.rfc4514_string() == "O=Example,CN=device 1"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["device-1.example"]
    assert certificate.not_valid_after_utc <= NOW + timedelta(days=30)
    issued = Certificate.objects.get()
    assert (issued.purpose, issued.status) == (Purpose.MDM_IDENTITY, CertificateStatus.ISSUED)

    row = Transaction.objects.get()
    assert (row.status, row.message_type, row.fail_info) == (TransactionStatus.SUCCESS, "PKCSReq", "")
    assert (row.certificate, row.challenge, row.transaction_id) == (issued, challenge, sent.transaction_id)
    assert (row.csr_subject, row.csr_key) == ("CN=somebody else", "RSA 2048")
    assert (row.digest, row.cipher, row.repeats) == ("sha256", "aes128_cbc", 0)
    assert row.reason == "asked for another subject: ignored"
    challenge.refresh_from_db()
    assert challenge.consumed_at == NOW


def test_the_certificate_carries_the_binding_of_the_challenge(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    binding = uuid.uuid4()
    _challenge, value = mint(binding=binding, purpose=Purpose.OTA_IDENTITY)
    certificate = enrol(door, ca_certificate, value)
    assert (certificate.binding, certificate.purpose) == (binding, Purpose.OTA_IDENTITY)


def test_a_key_on_a_curve_gets_a_certificate_too(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    reply = ask(door, pkcs_req(csr(ec_key(), value), ca_certificate=ca_certificate), ca_certificate)
    assert describe(reply.certificates[0]).key == "EC P-256"


def test_the_extensions_are_ours_whatever_the_csr_asks(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=True, data_encipherment=True,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([Usage.ANY_EXTENDED_KEY_USAGE, Usage.CODE_SIGNING]),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier(b"chosen by them"), critical=False)
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, value.encode())
        .sign(rsa_key(1), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    reply = ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate)
    certificate = x509.load_der_x509_certificate(reply.certificates[0])
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    granted = extensions.get_extension_for_class(x509.KeyUsage).value
    assert not granted.key_cert_sign
    assert not granted.crl_sign
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [Usage.CLIENT_AUTH]
    assert extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != b"chosen by them"
    assert Transaction.objects.get().reason == "asked for another subject: ignored"


# --- the challenge ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [None, "", " ", "wrong", "A" * 32, "x" * 255, "\u00fc", "{value} ", "{lower}"]
)
def test_no_challenge_of_ours_no_certificate(
    door: Door, mint: Mint, ca_certificate: bytes, value: str | None
) -> None:
    _challenge, good = mint()
    given = value.replace("{value}", good).replace("{lower}", good.lower()) if value else value
    with nothing_issued():
        reply = ask(door, pkcs_req(csr(rsa_key(1), given), ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "unknown challenge" if given else "no challenge")


def test_an_expired_challenge_is_refused(
    door: Door, mint: Mint, ca_certificate: bytes, at_noon: time_machine.Traveller
) -> None:
    challenge, value = mint(ttl=timedelta(hours=1))
    at_noon.shift(timedelta(hours=1, seconds=1))
    with nothing_issued():
        reply = ask(door, pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate), ca_certificate)
    assert refused(reply, FailInfo.BAD_REQUEST, "expired").challenge == challenge


def test_a_withdrawn_challenge_is_refused(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    challenge, value = mint()
    assert challenges.withdraw(challenge, actor=SERVER, now=NOW)
    assert not challenges.withdraw(challenge, actor=SERVER, now=NOW)
    with nothing_issued():
        reply = ask(door, pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "expired")
    assert AuditEvent.objects.filter(action="challenge.withdrawn").count() == 1


def test_a_challenge_is_good_at_its_own_issuer_only(mint: Mint, ca_certificate: bytes) -> None:
    other = issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    other_ca = bytes(issuers.current_certificate(issuers.current_key(other)).der)
    _challenge, value = mint()
    with nothing_issued():
        sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=other_ca)
        reply = ask(Door("/scep/other/"), sent, other_ca)
    refused(reply, FailInfo.BAD_REQUEST, "another issuer")
    enrol(Door("/scep/bramley"), ca_certificate, value)


def test_only_the_challenge_inside_the_csr_counts(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """macOS repeats it in clear as a signed attribute (threats F5, B5)."""
    _challenge, value = mint()
    identity = signer()
    extra = [
        *attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce"),
        attributes.printable(CHALLENGE_PASSWORD, value),
    ]
    envelope = cms.encrypt(csr(rsa_key(1)), recipient=ca_certificate, random=secrets.token_bytes)
    sent = Sent(signed(envelope, identity, extra), identity, "id", b"nonce")
    with nothing_issued():
        reply = ask(door, sent, ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "no challenge")


def test_two_challenges_are_refused_even_if_both_are_good(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    values = [mint()[1], mint()[1]]
    with nothing_issued():
        for request in (csr_with_challenges(values), csr_with_challenges(values, one_attribute=True)):
            reply = ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate)
            refused(reply, FailInfo.BAD_REQUEST, "several challenge passwords")


def test_a_used_challenge_with_another_key_is_refused_and_alarms(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    challenge, value = mint()
    enrol(door, ca_certificate, value, key=1)
    with nothing_issued():
        reply = ask(door, pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate), ca_certificate)
    row = refused(reply, FailInfo.BAD_REQUEST, "used before, by another key")
    assert row.challenge == challenge
    alarm = AuditEvent.objects.get(action="scep.challenge_reused")
    assert (alarm.outcome, alarm.target_id) == ("REFUSED", str(challenge.pk))
    assert value not in str(alarm.__dict__)


def test_a_refused_issuance_leaves_the_challenge_unused(
    door: Door, mint: Mint, ca_certificate: bytes, issuer: Issuer
) -> None:
    _challenge, value = mint()
    Issuer.objects.update(state=IssuerState.RETIRED)
    named = Door("/scep/bramley/")
    with nothing_issued():
        reply = ask(named, pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "does not issue")
    Issuer.objects.update(state=IssuerState.ACTIVE)
    enrol(door, ca_certificate, value)


# --- once again ------------------------------------------------------------------------------------------


def test_the_same_request_gets_the_same_certificate(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    replies = [ask(door, sent, ca_certificate) for _ in range(5)]
    assert len({reply.certificates for reply in replies}) == 1
    assert len({reply.sender_nonce for reply in replies}) == 5
    assert Certificate.objects.count() == 1
    assert Transaction.objects.get().repeats == 4
    assert not AuditEvent.objects.filter(action="scep.challenge_reused").exists()


def test_the_same_request_a_day_later_brings_no_new_certificate(
    door: Door, mint: Mint, ca_certificate: bytes, at_noon: time_machine.Traveller
) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    first = ask(door, sent, ca_certificate)
    at_noon.shift(timedelta(hours=24))
    with nothing_issued():
        assert ask(door, sent, ca_certificate).certificates == first.certificates


def test_a_revoked_certificate_is_not_sent_again(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    ask(door, sent, ca_certificate)
    revocation.revoke(
        Certificate.objects.get(), reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW
    )
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "revoked")


def test_a_new_request_for_the_same_key_gets_the_same_certificate(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    """A lost reply: iOS asks again with a new throw-away certificate for the CSR's own key (RFC 8894 5.2)."""
    _challenge, value = mint()
    first, second = (
        ask(
            door,
            pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate, identity=signer(1, name)),
            ca_certificate,
        )
        for name in ("first", "second")
    )
    assert first.certificates == second.certificates
    assert Certificate.objects.count() == 1
    assert Transaction.objects.filter(status=TransactionStatus.SUCCESS).count() == 2
    assert not AuditEvent.objects.filter(action="scep.challenge_reused").exists()


def test_a_stolen_envelope_harms_nobody_and_alarms(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """Somebody wraps A's envelope into a message of his own and is first (threats B14)."""
    _challenge, value = mint()
    request = csr(rsa_key(1), value)
    stolen = ask(
        door, pkcs_req(request, ca_certificate=ca_certificate, identity=signer(5, "thief")), ca_certificate
    )
    original = pkcs_req(request, ca_certificate=ca_certificate, identity=signer(1, "A"))
    own = [ask(door, original, ca_certificate) for _ in range(2)]
    assert {reply.certificates for reply in own} == {stolen.certificates}
    assert Certificate.objects.count() == 1
    alarm = AuditEvent.objects.get(action="scep.challenge_reused")
    assert "different signers" in alarm.reason


def test_the_same_transaction_id_with_another_csr_is_another_request(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    values = [mint()[1], mint()[1]]
    found = {
        ask(
            door,
            pkcs_req(
                csr(rsa_key(n), values[n]),
                ca_certificate=ca_certificate,
                transaction_id="SSCEP transactionId",
            ),
            ca_certificate,
        ).certificates
        for n in (0, 1)
    }
    assert len(found) == 2


# --- secrecy ---------------------------------------------------------------------------------------------


def test_a_challenge_is_nowhere_in_clear(
    door: Door, mint: Mint, ca_certificate: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    challenge, value = mint()
    enrol(door, ca_certificate, value, key=1)
    ask(door, pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate), ca_certificate)
    rows = [
        *Challenge.objects.values(),
        *Transaction.objects.values(),
        *AuditEvent.objects.values(),
        *Refusal.objects.values(),
        *Certificate.objects.values(),
    ]
    assert value not in repr(rows) + caplog.text + repr(challenge) + str(challenge)
    assert len(value) == 32
    assert value.isalnum()
    assert value.isupper()
