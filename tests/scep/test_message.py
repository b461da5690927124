"""A message from client to server and back, without a database."""

from __future__ import annotations

import secrets
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pki.core import asn1, cms
from pki.core.certificates import build_root, encode_pem
from pki.core.csr import decode_signing_request
from pki.core.scan import Malformed
from scep.core import attributes, message
from scep.core.attributes import FailInfo, MessageType, PkiStatus
from scep.core.message import Credentials, SignedRequest
from tests.scep.hostile import signed_by_hand
from tests.scep.support import NOW, Sent, csr, pkcs_req, rsa_key, signed, signer

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "scep"

CA_KEY = rsa_key(90)
CA = build_root(
    (("CN", "Test CA"),),
    private_key=CA_KEY,
    serial_number=1,
    not_before=NOW - timedelta(days=1),
    not_after=NOW + timedelta(days=3650),
)


def request(**options: object) -> Sent:
    return pkcs_req(csr(rsa_key(1), "secret"), ca_certificate=CA, **options)  # type: ignore[arg-type]


def opened(verified: SignedRequest) -> message.OpenedRequest:
    return message.open_request(verified, recipient=CA, private_key=CA_KEY, random=secrets.token_bytes)


def success(verified: SignedRequest, cipher: str = "aes128_cbc") -> bytes:
    return message.encode_success(
        verified,
        [CA],
        cipher=cipher,
        credentials=Credentials(CA, CA_KEY),
        random=secrets.token_bytes,
        now=NOW,
    )


def failure(verified: SignedRequest, fail_info: FailInfo = FailInfo.BAD_REQUEST) -> bytes:
    return message.encode_failure(
        verified, fail_info, credentials=Credentials(CA, CA_KEY), random=secrets.token_bytes, now=NOW
    )


@pytest.mark.parametrize("message_type", [MessageType.PKCS_REQ, MessageType.RENEWAL_REQ])
@pytest.mark.parametrize("cipher", ["aes128_cbc", "aes256_cbc", "des_ede3_cbc"])
@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
def test_a_request_is_verified_and_opened(message_type: MessageType, cipher: str, digest: str) -> None:
    sent = request(message_type=message_type, cipher=cipher, digest=digest)
    verified = message.verify_request(sent.body)
    assert verified.header.message_type == message_type
    assert verified.header.transaction_id == sent.transaction_id
    assert verified.header.sender_nonce == sent.sender_nonce
    assert verified.signer == sent.identity.certificate
    assert verified.digest == digest
    inside = opened(verified)
    assert inside.cipher == cipher
    assert inside.csr.challenge_passwords == ("secret",)


def test_the_signer_of_a_request_need_not_hold_the_key_of_the_csr() -> None:
    """macOS signs with a key of its own, and an 8-byte nonce."""
    sent = request(identity=signer(2), sender_nonce=b"12345678")
    inside = opened(message.verify_request(sent.body))
    assert inside.csr.public_key != rsa_key(2).public_key()


@pytest.mark.parametrize(
    ("asked", "replied"),
    [("aes128_cbc", "aes128_cbc"), ("aes256_cbc", "aes256_cbc"), ("des_ede3_cbc", "des_ede3_cbc")],
)
@pytest.mark.parametrize(
    ("digest", "reply_digest"),
    [("sha1", "sha256"), ("sha256", "sha256"), ("sha384", "sha256"), ("sha512", "sha512")],
)
def test_success_in_the_algorithms_of_the_request_but_never_weaker(
    asked: str, replied: str, digest: str, reply_digest: str
) -> None:
    sent = request(cipher=asked, digest=digest)
    reply = sent.open(success(message.verify_request(sent.body), asked), CA)
    assert reply.status is PkiStatus.SUCCESS
    assert reply.certificates == (CA,)
    assert (reply.cipher, reply.digest) == (replied, reply_digest)


def test_an_unknown_cipher_is_answered_with_aes_128() -> None:
    sent = request()
    assert sent.open(success(message.verify_request(sent.body), "des_cbc"), CA).cipher == "aes128_cbc"


def test_nonces_are_fresh_in_each_reply() -> None:
    sent = request()
    verified = message.verify_request(sent.body)
    replies = [sent.open(failure(verified), CA) for _ in range(3)]
    assert len({reply.sender_nonce for reply in replies}) == 3
    assert all(len(reply.sender_nonce) == 16 for reply in replies)
    assert all(reply.recipient_nonce == sent.sender_nonce for reply in replies)


@pytest.mark.parametrize("fail_info", list(FailInfo))
def test_failure_says_why_in_one_text_for_each_fail_info(fail_info: FailInfo) -> None:
    sent = request()
    reply = sent.open(failure(message.verify_request(sent.body), fail_info), CA)
    assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, fail_info)
    assert reply.fail_info_text == message.DEVICE_TEXT[fail_info]
    assert reply.certificates == ()


def test_the_bytes_of_a_failure() -> None:
    """The content is an empty OCTET STRING, and the signature algorithm rsaEncryption."""
    reply = failure(message.verify_request(request().body))
    assert asn1.encode_oid(cms.DATA) + bytes.fromhex("a0020400") in reply
    assert signature_algorithm(reply) == "1.2.840.113549.1.1.1"


def test_a_success_is_signed_with_rsa_encryption_and_holds_one_certificate() -> None:
    sent = request()
    reply = success(message.verify_request(sent.body))
    assert signature_algorithm(reply) == "1.2.840.113549.1.1.1"
    content = cms.verify_signed_data(reply).content
    plain = cms.decrypt(
        content,
        recipient=sent.identity.certificate,
        private_key=sent.identity.private_key,
        random=secrets.token_bytes,
    ).content
    parts = cms.decode_signed_data(plain)
    assert (parts.content, parts.signers, parts.certificates) == (None, (), (CA,))


def signature_algorithm(reply: bytes) -> str:
    signer_info = asn1.Fields(cms.decode_signed_data(reply).signers[0], "signer")
    for _ in range(3):
        signer_info.take()
    signer_info.take_optional(asn1.context(0))
    return asn1.decode_oid(next(asn1.children(signer_info.take())))


def test_openssl_reads_both_replies(tmp_path: Path) -> None:
    sent = request()
    verified = message.verify_request(sent.body)
    ca = tmp_path / "ca.pem"
    ca.write_text(encode_pem(CA))
    for name, reply in (("success", success(verified)), ("failure", failure(verified))):
        path = tmp_path / name
        path.write_bytes(reply)
        ran = subprocess.run(
            ["openssl", "cms", "-verify", "-inform", "DER", "-in", path, "-CAfile", ca, "-purpose", "any",
             "-no_check_time", "-out", tmp_path / f"{name}.content"],
            capture_output=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "failure.content").read_bytes() == b""


# --- what a client refuses -------------------------------------------------------------------------------


def test_a_client_refuses_a_reply_of_another_signer() -> None:
    sent = request()
    forged = message.encode_failure(
        message.verify_request(sent.body),
        FailInfo.BAD_REQUEST,
        credentials=Credentials(sent.identity.certificate, sent.identity.private_key),
        random=secrets.token_bytes,
        now=NOW,
    )
    with pytest.raises(message.ReplyError, match="not signed by the CA"):
        sent.open(forged, CA)


def test_a_client_refuses_the_reply_to_another_request() -> None:
    first, second = request(), request()
    reply = failure(message.verify_request(first.body))
    with pytest.raises(message.ReplyError, match="another request"):
        second.open(reply, CA)


def test_a_client_refuses_a_request_as_reply() -> None:
    sent = request(identity=message.Identity(CA, CA_KEY))
    with pytest.raises(message.ReplyError, match="CertRep"):
        sent.open(sent.body, CA)


@given(st.binary(max_size=300))
def test_a_client_reads_a_reply_or_refuses_it(body: bytes) -> None:
    sent = request()
    with pytest.raises(Malformed):
        sent.open(body, CA)


# --- what the server lets through ------------------------------------------------------------------------


def test_the_signer_is_who_signed_and_not_who_comes_first() -> None:
    """Certificates of others in the message, before or after, change nothing (threats C5, B20)."""
    sent = request()
    others = [signer(number).certificate for number in (3, 4, 5)]
    for chain in (others, others[::-1]):
        body = signed(b"envelope", sent.identity, [], chain=chain)
        assert message.verify_request(body).signer == sent.identity.certificate


def test_too_many_certificates_are_refused() -> None:
    many = [signer(number % 4).certificate for number in range(12)]
    with pytest.raises(Malformed):
        message.verify_request(signed(b"envelope", signer(1), [], chain=many))


def test_no_signed_attributes_no_request() -> None:
    identity = signer()
    body = cms.sign(
        b"envelope", certificate=identity.certificate, private_key=identity.private_key, attributes=None
    )
    with pytest.raises(Malformed):
        message.verify_request(body)


def test_every_changed_byte_is_noticed() -> None:
    """Bits flipped all over the message: refused, or it says what it said before."""
    body = request().body
    good = message.verify_request(body)
    for position in range(0, len(body), 7):
        changed = bytearray(body)
        changed[position] ^= 0x01
        try:
            verified = message.verify_request(bytes(changed))
        except Malformed:
            continue
        assert (verified.envelope, verified.header) == (good.envelope, good.header)


@settings(max_examples=200)
@given(st.data())
def test_a_broken_message_is_verified_or_refused_and_nothing_else(data: st.DataObject) -> None:
    body = bytearray(BODY)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(body) - 1))
        body[position : position + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        verified = message.verify_request(bytes(body))
        message.open_request(verified, recipient=CA, private_key=CA_KEY, random=secrets.token_bytes)
    except Malformed:
        pass


BODY = request().body


@given(st.binary(max_size=2000))
def test_any_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(Malformed):
        message.verify_request(body)


def test_content_of_another_type_is_a_fault_of_the_request() -> None:
    body = signed_by_hand(b"envelope", signer(), content_type=cms.ENVELOPED_DATA)
    verified = message.verify_request(body)
    assert "the signed content is not of type data" in verified.header.faults


# --- samples of the RFC's author -------------------------------------------------------------------------


@pytest.fixture
def vectors() -> Path:
    if not VECTORS.is_dir():
        pytest.skip(f"no message samples at {VECTORS}")
    return VECTORS


def test_the_sample_request_is_verified(vectors: Path) -> None:
    verified = message.verify_request((vectors / "scep_req2.der").read_bytes())
    assert verified.header.message_type == MessageType.PKCS_REQ
    assert verified.header.transaction_id
    assert len(verified.header.sender_nonce) == 16
    assert verified.header.faults == ()
    assert verified.digest == "sha256"
    assert verified.envelope == (vectors / "scep_req1.der").read_bytes()


def test_the_sample_csr_is_read(vectors: Path) -> None:
    request = decode_signing_request((vectors / "scep_req0.der").read_bytes())
    assert request.challenge_passwords == ("NQ3C6-GS3ZN-2XPGL-SEJTQ",)
    assert request.subject == "CN=Test SCEP PKI user,OU=Procurement,O=Dave's Wetaburgers,C=NZ"
    assert request.key == "RSA 1536"


def test_the_sample_reply_is_verified(vectors: Path) -> None:
    reply = cms.verify_signed_data((vectors / "scep_resp2.der").read_bytes(), require_attributes=True)
    found = reply.attributes or {}
    assert attributes.decode_printable(found, attributes.MESSAGE_TYPE, "messageType") == MessageType.CERT_REP
    assert attributes.decode_printable(found, attributes.PKI_STATUS, "pkiStatus") == PkiStatus.SUCCESS
    assert reply.content == (vectors / "scep_resp1.der").read_bytes()
    assert len(cms.certificates_of((vectors / "scep_resp0.der").read_bytes())) == 1
