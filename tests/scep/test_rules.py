"""The sixteen rules of the wire: what real clients and other servers taught (one test for each).

The numbers are those of the reference that the project was built from; each is a bug that some server had.
"""

from __future__ import annotations

import base64
import secrets

import pytest
from cryptography import x509

from pki.core import asn1, cms
from pki.models import Certificate
from scep.core import attributes
from scep.core.attributes import FailInfo, MessageType
from scep.models import Transaction
from tests.scep.asking import ask, enrol, holder, issued, refused
from tests.scep.conftest import Mint
from tests.scep.hostile import challenge_attribute, csr_by_hand
from tests.scep.support import (
    DES_CBC,
    Door,
    Sent,
    csr,
    envelope_with_cipher,
    pkcs_req,
    rsa_key,
    signed,
    signer,
)

pytestmark = pytest.mark.django_db


def test_rule_1_a_csr_of_version_2_is_read(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    request = csr_by_hand([challenge_attribute(mint()[1])], version=2)
    with pytest.raises(x509.InvalidVersion):
        x509.load_der_x509_csr(request)
    sent = pkcs_req(request, ca_certificate=ca_certificate, cipher="des_ede3_cbc", digest="sha1")
    issued(ask(door, sent, ca_certificate))


def test_rule_2_the_signer_may_have_another_key_and_subject_and_no_key_encipherment(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    identity = signer(3, "MDM SCEP SIGNER")
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, identity=identity)
    response = door.post(sent.body)
    # The envelope is for the certificate that signed.
    envelope = cms.verify_signed_data(response.content).content
    opened = cms.decrypt(
        envelope, recipient=identity.certificate, private_key=rsa_key(3), random=secrets.token_bytes
    )
    assert len(cms.certificates_of(opened.content)) == 1
    issued(sent.open(response.content, ca_certificate))


@pytest.mark.parametrize("size", [1, 8, 16, 32, 64])
def test_rule_3_any_nonce_is_taken_and_sixteen_fresh_bytes_are_sent(
    door: Door, mint: Mint, ca_certificate: bytes, size: int
) -> None:
    nonce = secrets.token_bytes(size)
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, sender_nonce=nonce)
    reply = ask(door, sent, ca_certificate)
    assert reply.recipient_nonce == nonce
    assert len(reply.sender_nonce) == 16
    assert reply.sender_nonce != nonce


def test_rule_4_the_ca_certificate_is_alone_and_may_sign_and_encrypt(
    door: Door, ca_certificate: bytes
) -> None:
    response = door.get("operation=GetCACert")
    assert response.headers["Content-Type"] == "application/x-x509-ca-cert"
    usage = (
        x509.load_der_x509_certificate(response.content)
        .extensions.get_extension_for_class(x509.KeyUsage)
        .value
    )
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign, usage.crl_sign) == (
        True,
    ) * 4


def test_rule_5_capabilities_are_whole_lines(door: Door, ca_certificate: bytes) -> None:
    response = door.get("operation=GetCACaps")
    assert response.headers["Content-Type"] == "text/plain"
    lines = response.content.decode().split("\n")
    for keyword in ("AES", "DES3", "POSTPKIOperation", "Renewal", "SHA-256", "SHA-512", "SCEPStandard"):
        assert keyword in lines


@pytest.mark.parametrize("message_type", [MessageType.PKCS_REQ, MessageType.RENEWAL_REQ])
def test_rule_6_who_signed_makes_it_a_renewal(
    door: Door, mint: Mint, ca_certificate: bytes, message_type: MessageType
) -> None:
    old = enrol(door, ca_certificate, mint()[1])
    sent = pkcs_req(
        csr(rsa_key(2)), ca_certificate=ca_certificate, identity=holder(old), message_type=message_type
    )
    assert issued(ask(door, sent, ca_certificate)).renewed_from == old


def test_rule_7_a_failure_has_an_empty_content(door: Door, ca_certificate: bytes) -> None:
    response = door.post(pkcs_req(csr(rsa_key(1), "x"), ca_certificate=ca_certificate).body)
    assert asn1.encode_oid(cms.DATA) + bytes.fromhex("a0020400") in response.content


def test_rule_8_replies_are_signed_with_rsa_encryption(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    for value in ("x", mint()[1]):
        response = door.post(pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate).body)
        (signer_info,) = cms.decode_signed_data(response.content).signers
        parts = list(asn1.children(signer_info))
        assert asn1.decode_oid(next(asn1.children(parts[4]))) == "1.2.840.113549.1.1.1"


def test_rule_9_a_retry_is_the_same_id_csr_and_signer(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    first = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, transaction_id="same")
    other = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ca_certificate, transaction_id="same")
    found = [ask(door, sent, ca_certificate).certificates for sent in (first, other, first)]
    assert found[0] == found[2] != found[1]


def test_rule_10_update_req_is_no_way_past_the_question(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, message_type="18")
    refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "'18' is not a type of message")
    assert not Certificate.objects.exists()


def test_rule_11_des_is_bad_alg(door: Door, ca_certificate: bytes) -> None:
    identity = signer()
    body = signed(
        envelope_with_cipher(DES_CBC, recipient=ca_certificate),
        identity,
        attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce"),
    )
    reply = ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate)
    refused(reply, FailInfo.BAD_ALG, "DES")


def test_rule_12_plus_as_space_and_line_ends_in_a_get(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """Chunked bodies and long request lines: see test_clients, over a socket."""
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    text = base64.b64encode(sent.body).decode().replace("+", " ")
    lines = "%0A".join(text[at : at + 64] for at in range(0, len(text), 64))
    response = door.get(f"operation=PKIOperation&message={lines}")
    issued(sent.open(response.content, ca_certificate))


def test_rule_13_certificates_are_chosen_by_role(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    identity = signer(3)
    envelope = cms.encrypt(csr(rsa_key(1), mint()[1]), recipient=ca_certificate, random=secrets.token_bytes)
    header = attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce")
    others = [ca_certificate, *(signer(number).certificate for number in range(4, 7))]
    body = signed(envelope, identity, header, chain=others)
    issued(ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate))


def test_rule_14_the_issuer_is_named_by_key_identifier_alone(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    leaf = x509.load_der_x509_certificate(bytes(enrol(door, ca_certificate, mint()[1]).der))
    ca = x509.load_der_x509_certificate(ca_certificate)
    authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    subject = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert authority.key_identifier == subject.digest
    assert authority.authority_cert_issuer is None
    assert authority.authority_cert_serial_number is None
    assert leaf.issuer.public_bytes() == ca.subject.public_bytes()
    assert leaf.not_valid_after_utc <= ca.not_valid_after_utc


def test_rule_15_serial_numbers_are_random(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """Unique also under load: see test_races."""
    numbers = {int(enrol(door, ca_certificate, mint()[1]).serial_number, 16) for _ in range(5)}
    assert len(numbers) == 5
    assert max(numbers).bit_length() > 120


def test_rule_16_every_outcome_is_kept_with_its_reason(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    for value in ("guess", mint()[1]):
        ask(door, pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate), ca_certificate)
    kept = Transaction.objects.order_by("id").values_list("status", "fail_info", "reason")
    assert list(kept) == [
        ("FAILURE", "badRequest", "unknown challenge password"),
        ("SUCCESS", "", "asked for another subject: ignored"),
    ]
