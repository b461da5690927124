"""What is refused and how: every type of message, weak algorithms and keys, decryption that tells nothing."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AttributeOID
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from audit.models import Refusal
from pki.core import asn1, cms
from pki.core.certificates import CertificateFields, build_self_signed
from pki.core.csr import encode_signing_request
from pki.core.scan import Malformed
from pki.keys import public_key_der
from pki.models import Issuer
from scep.core import attributes, message
from scep.core.attributes import FailInfo, MessageType
from scep.core.message import Identity, self_signed
from scep.models import ScepService, Transaction
from tests.scep.asking import ask, enrol, issued, refused
from tests.scep.conftest import Mint
from tests.scep.hostile import attribute, challenge_attribute, csr_by_hand, signed_by_hand
from tests.scep.support import (
    DES_CBC,
    NOW,
    RC2_CBC,
    Door,
    Sent,
    csr,
    ec_key,
    envelope_with_cipher,
    nothing_issued,
    pkcs_req,
    rsa_key,
    signed,
    signer,
)

pytestmark = pytest.mark.django_db


# --- the type of message ---------------------------------------------------------------------------------


@pytest.mark.parametrize("written", "0 1 2 3 4 16 18 23 99 -1 019 19.0".split())  # noqa: SIM905
def test_every_other_type_is_refused_before_any_work(
    door: Door, mint: Mint, ca_certificate: bytes, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate, message_type=written)
    monkeypatch.setattr(cms, "decrypt", None)  # would be a fault if it were called
    with nothing_issued():
        row = refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "")
    assert row.reason
    assert (row.csr_sha256, row.challenge) == ("", None)


def type_attribute(*values: bytes) -> bytes:
    return attribute(attributes.MESSAGE_TYPE, *values)


@pytest.mark.parametrize(
    "types",
    [
        [],
        [type_attribute(b"\x13\x0219", b"\x13\x0217")],
        [type_attribute(b"\x13\x0219"), type_attribute(b"\x13\x0219")],
        [type_attribute(b"\x0c\x0219")],
        [type_attribute(b"\x02\x01\x13")],
        [type_attribute(b"\x13\x0319 ")],
        [type_attribute(b"\x04\x0219")],
        [type_attribute()],
    ],
    ids=[
        "missing",
        "two values",
        "twice",
        "UTF8String",
        "INTEGER",
        "with a space",
        "OCTET STRING",
        "no value",
    ],
)
def test_a_type_in_another_form_is_refused(
    door: Door, mint: Mint, ca_certificate: bytes, types: list[bytes]
) -> None:
    _challenge, value = mint()
    identity = signer()
    envelope = cms.encrypt(csr(rsa_key(1), value), recipient=ca_certificate, random=secrets.token_bytes)
    rest = [
        attribute(attributes.TRANSACTION_ID, b"\x13\x02id"),
        attribute(attributes.SENDER_NONCE, b"\x04\x05nonce"),
    ]
    body = signed_by_hand(envelope, identity, attributes=[*types, *rest])
    with nothing_issued():
        reply = ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate)
    assert refused(reply, FailInfo.BAD_REQUEST, "").reason


@pytest.mark.parametrize("missing", [attributes.TRANSACTION_ID, attributes.SENDER_NONCE])
def test_a_request_without_id_or_nonce_is_answered_with_a_failure(
    door: Door, ca_certificate: bytes, missing: str
) -> None:
    header = [
        attribute(attributes.MESSAGE_TYPE, b"\x13\x0219"),
        attribute(attributes.TRANSACTION_ID, b"\x13\x02id"),
        attribute(attributes.SENDER_NONCE, b"\x04\x05nonce"),
    ]
    kept = [part for part in header if asn1.encode_oid(missing) not in part]
    response = door.post(signed_by_hand(b"envelope", signer(), attributes=kept))
    reply = cms.verify_signed_data(response.content, require_attributes=True)
    assert reply.signer == ca_certificate
    found = reply.attributes or {}
    assert attributes.decode_printable(found, attributes.FAIL_INFO, "failInfo") == FailInfo.BAD_REQUEST
    assert "is missing" in Transaction.objects.get().reason


def test_a_line_break_in_a_transaction_id_is_not_kept(door: Door, ca_certificate: bytes) -> None:
    header = [
        attribute(attributes.MESSAGE_TYPE, b"\x13\x0219"),
        attribute(attributes.TRANSACTION_ID, b"\x13\x05a\r\nb\0"),
        attribute(attributes.SENDER_NONCE, b"\x04\x05nonce"),
    ]
    door.post(signed_by_hand(b"envelope", signer(), attributes=header))
    assert Transaction.objects.get().transaction_id == ""


def test_content_of_another_type_is_refused(door: Door, ca_certificate: bytes) -> None:
    header = [
        attribute(attributes.MESSAGE_TYPE, b"\x13\x0219"),
        attribute(attributes.TRANSACTION_ID, b"\x13\x02id"),
        attribute(attributes.SENDER_NONCE, b"\x04\x05nonce"),
    ]
    identity = signer()
    body = signed_by_hand(b"envelope", identity, attributes=header, content_type=cms.ENVELOPED_DATA)
    reply = ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "not of type data")


# --- the outer signature ---------------------------------------------------------------------------------


def broken(body: bytes) -> bytes:
    """One bit of the signature, which stands at the end."""
    return body[:-5] + bytes([body[-5] ^ 1]) + body[-4:]


@pytest.mark.parametrize(
    "spoil",
    [
        broken,
        lambda body: body + b"\0\0\0\0",
        lambda body: body[:-1],
        lambda body: b"",
        lambda body: b"garbage",
        lambda body: b"<html>",
        lambda body: b"\x30\x80" * 20_000,
    ],
    ids=["signature", "trailing bytes", "cut off", "empty", "garbage", "html", "nesting"],
)
def test_without_a_right_signature_there_is_no_cert_rep(
    door: Door, mint: Mint, ca_certificate: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    with nothing_issued():
        response = door.post(spoil(sent.body), REMOTE_ADDR="192.0.2.9")
    assert response.status_code == 400
    assert response.headers["Content-Type"] == "text/plain"
    assert len(response.content) < 40
    assert not Transaction.objects.exists()
    noted = Refusal.objects.get()
    assert (noted.surface, noted.remote_addr, noted.count) == ("scep", "192.0.2.9", 1)


def test_two_signers_are_refused(door: Door, issuer: Issuer) -> None:
    assert door.post(signed_by_hand(b"envelope", signer(), times=2)).status_code == 400
    assert door.post(signed_by_hand(b"envelope", signer(), times=0)).status_code == 400
    assert {row.reason for row in Refusal.objects.all()} == {"outer signature not verified"}


def test_md5_is_refused(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    body = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, digest="sha1").body
    md5 = body.replace(asn1.encode_oid("1.3.14.3.2.26"), asn1.encode_oid("1.2.840.113549.2.5"))
    with nothing_issued():
        assert door.post(md5).status_code == 400


def test_every_bomb_ends_in_400(door: Door, issuer: Issuer) -> None:
    bombs = [
        b"\x30\x82\xff\xfb" + b"\x06\x82\xff\xf7" + b"\x81" * 0xFFF6 + b"\x01",
        b"\x30\x82\xff\xfc" + b"\x05\x00" * 0x7FFE,
        b"\x30\x84\xff\xff\xff\xff" + b"\0" * 100,
        b"\x24\x80" * 30_000,
        b"\x02\x82\xff\xfc" + b"\x7f" * 0xFFFC,
    ]
    for bomb in bombs:
        assert door.post(bomb).status_code == 400


# --- algorithms and keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oid", "block", "name"),
    [(DES_CBC, 8, "DES"), (RC2_CBC, 8, "RC2"), ("2.16.840.1.101.3.4.1.22", 16, "AES-192")],
)
def test_a_cipher_that_is_not_ours_is_bad_alg(
    door: Door, ca_certificate: bytes, oid: str, block: int, name: str
) -> None:
    identity = signer()
    envelope = envelope_with_cipher(oid, recipient=ca_certificate, block=block)
    header = attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce")
    sent = Sent(signed(envelope, identity, header), identity, "id", b"nonce")
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_ALG, name)


@pytest.mark.parametrize(
    "weak",
    [(1024, 65537, "1024"), (1536, 65537, "1536"), (2047, 65537, "2047"), (2048, 3, "exponent")],
)
def test_a_weak_rsa_key_is_bad_alg_and_leaves_the_challenge_unused(
    door: Door, mint: Mint, ca_certificate: bytes, weak: tuple[int, int, str]
) -> None:
    bits, exponent, reason = weak
    challenge, value = mint()
    request = csr(rsa_key(0, bits, exponent), value)
    with nothing_issued():
        reply = ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate)
    row = refused(reply, FailInfo.BAD_ALG, reason)
    assert row.challenge == challenge
    enrol(door, ca_certificate, value)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP224R1()),
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate(),
        dsa.generate_private_key(2048),
    ],
    ids=["P-224", "P-521", "secp256k1", "Ed25519", "DSA"],
)
def test_a_key_of_another_kind_gets_no_certificate(
    door: Door, mint: Mint, ca_certificate: bytes, key: object
) -> None:
    _challenge, value = mint()
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    request = (
        x509.CertificateSigningRequestBuilder(x509.Name([]))
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, value.encode())
        .sign(key, digest)  # type: ignore[arg-type]
        .public_bytes(Encoding.DER)
    )
    with nothing_issued():
        reply = ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate)
    assert reply.fail_info in {FailInfo.BAD_ALG, FailInfo.BAD_MESSAGE_CHECK}
    enrol(door, ca_certificate, value)


@pytest.mark.parametrize(
    "key",
    [rsa_key(0, 1024), rsa_key(0, 2048, 3)],
    ids=["RSA 1024", "exponent 3"],
)
def test_a_signer_to_whom_the_reply_cannot_be_encrypted_well_is_refused_first(
    door: Door, mint: Mint, ca_certificate: bytes, key: rsa.RSAPrivateKey
) -> None:
    _challenge, value = mint()
    identity = self_signed(key, "weak", serial_number=5, now=NOW)
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate, identity=identity)
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_ALG, "certificate that signed")


def test_a_signer_with_a_key_on_a_curve_is_refused(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    key = ec_key()
    certificate = build_self_signed(
        CertificateFields(
            subject=(("CN", "curve"),),
            public_key=public_key_der(key),
            serial_number=9,
            not_before=NOW,
            not_after=NOW,
        ),
        private_key=key,
    )
    header = attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce")
    envelope = cms.encrypt(csr(rsa_key(1), mint()[1]), recipient=ca_certificate, random=secrets.token_bytes)
    body = cms.sign(envelope, certificate=certificate, private_key=key, attributes=header, signing_time=NOW)
    with nothing_issued():
        sent = Sent(body, Identity(certificate, rsa_key(1)), "id", b"nonce")
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_ALG, "no RSA key")


# --- decryption that tells nothing -----------------------------------------------------------------------


def plain(reply: bytes) -> tuple[object, ...]:
    """All of a reply but what differs in any two: nonce, time and what is signed."""
    verified = cms.verify_signed_data(reply)
    kept = {
        oid: values
        for oid, values in (verified.attributes or {}).items()
        if oid not in {attributes.SENDER_NONCE, cms.SIGNING_TIME}
    }
    return (len(reply), verified.content, tuple(sorted(kept.items())))


class Envelope:
    """An envelope whose parts can be spoilt one by one."""

    def __init__(self, content: bytes, recipient: bytes) -> None:
        self.good = cms.encrypt(content, recipient=recipient, random=secrets.token_bytes)
        self.size = rsa_key(1000).key_size // 8
        start = self.good.index(asn1.encode_oid(cms.DATA))
        self.key_at = start - self.size - 4
        while self.good[self.key_at : self.key_at + 4] != bytes.fromhex("04820100"):
            self.key_at -= 1

    def with_key(self, encrypted_key: bytes) -> bytes:
        at = self.key_at + 4
        return self.good[:at] + encrypted_key.rjust(self.size, b"\0") + self.good[at + self.size :]

    def with_tail(self, change: Callable[[bytes], bytes]) -> bytes:
        """The last two blocks of the encrypted content, which stands at the end."""
        return self.good[:-32] + change(self.good[-32:])


def wrapped(recipient: bytes, key: bytes) -> bytes:
    public_key = x509.load_der_x509_certificate(recipient).public_key()
    assert isinstance(public_key, rsa.RSAPublicKey)
    return public_key.encrypt(key, padding.PKCS1v15())


@pytest.fixture(params=["CA", "RA"])
def recipient(
    request: pytest.FixtureRequest, door: Door, service: ScepService, ca_certificate: bytes
) -> bytes:
    """Whom clients encrypt to: the issuer's certificate, or one of the service's own."""
    if request.param == "CA":
        return ca_certificate
    service.ra_certificate = True
    service.save()
    return cms.certificates_of(door.get("operation=GetCACert").content)[0]


def test_whatever_is_wrong_inside_the_answer_is_the_same(
    door: Door, mint: Mint, recipient: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad RSA padding, wrong size of key, bad padding, no CSR, its signature wrong, another recipient."""
    _challenge, value = mint()
    request = csr(rsa_key(1), value)
    envelope = Envelope(request, recipient)
    damaged_csr = request[:-3] + bytes([request[-3] ^ 1]) + request[-2:]
    other_ca = signer(7).certificate

    def encrypted(content: bytes) -> bytes:
        return cms.encrypt(content, recipient=recipient, random=secrets.token_bytes)

    cases = {
        "RSA padding": envelope.with_key(secrets.token_bytes(envelope.size - 1)),
        "RSA value too large": envelope.with_key(b"\xff" * envelope.size),
        "RSA value zero": envelope.with_key(b""),
        "key of 15 bytes": envelope.with_key(wrapped(recipient, bytes(15))),
        "key of 24 bytes": envelope.with_key(wrapped(recipient, bytes(24))),
        "another key": envelope.with_key(wrapped(recipient, secrets.token_bytes(16))),
        "last block": envelope.with_tail(lambda tail: tail[:-1] + bytes([tail[-1] ^ 1])),
        "block before": envelope.with_tail(lambda tail: bytes([tail[0] ^ 1]) + tail[1:]),
        "not a CSR": encrypted(b"not a CSR"),
        "empty": encrypted(b""),
        "CSR with trailing bytes": encrypted(request + b"\0\0"),
        "signature of the CSR": encrypted(damaged_csr),
        "version 7": encrypted(csr_by_hand([challenge_attribute(value)], version=7)),
        "signed by MD5, it says": encrypted(csr_by_hand([], algorithm="1.2.840.113549.1.1.4")),
        "another recipient": cms.encrypt(request, recipient=other_ca, random=secrets.token_bytes),
        "not an envelope": signed(b"x", signer(), []),
        "nothing": b"",
    }
    answers = {}
    identity = signer()
    with nothing_issued():
        for message_type in MessageType:
            if message_type is MessageType.CERT_REP:
                continue
            header = attributes.encode_header(message_type, "id", b"nonce")
            for name, content in cases.items():
                response = door.post(signed(content, identity, header))
                assert response.status_code == 200, name
                reply = Sent(b"", identity, "id", b"nonce").open(response.content, recipient)
                refused(reply, FailInfo.BAD_MESSAGE_CHECK, "")
                answers[message_type, name] = plain(response.content)
    assert len(set(answers.values())) == 1, answers
    assert caplog.records == []
    # The administrator does see what it was.
    assert Transaction.objects.values("reason").distinct().count() > 3
    header = attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce")
    good = Sent(signed(envelope.good, identity, header), identity, "id", b"nonce")
    issued(ask(door, good, recipient))


def test_no_last_byte_of_a_captured_envelope_stands_out(
    door: Door, mint: Mint, recipient: bytes, settings: Settings
) -> None:
    """The padding oracle that would open a captured message byte by byte (threats C9)."""
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 1000
    _challenge, value = mint()
    envelope = Envelope(csr(rsa_key(1), value), recipient)
    identity = signer()
    header = attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce")
    answers = set()
    with nothing_issued():
        for last in range(1, 256):
            good = envelope.good
            changed = good[:-17] + bytes([good[-17] ^ last]) + good[-16:]
            answers.add(plain(door.post(signed(changed, identity, header)).content))
    assert len(answers) == 1


@pytest.mark.parametrize("flipped", [-1, -100, -250])
def test_a_csr_that_its_key_did_not_sign_is_refused(
    door: Door, mint: Mint, ca_certificate: bytes, flipped: int
) -> None:
    _challenge, value = mint()
    request = bytearray(csr(rsa_key(1), value))
    request[flipped] ^= 1
    with nothing_issued():
        reply = ask(door, pkcs_req(bytes(request), ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_MESSAGE_CHECK, "signature")


def test_a_csr_with_somebody_elses_key_is_refused(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    request = csr_by_hand([challenge_attribute(value)], public_key=public_key_der(rsa_key(2)))
    with nothing_issued():
        reply = ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_MESSAGE_CHECK, "signature")


# --- the names -------------------------------------------------------------------------------------------


HOSTILE_NAMES = [
    "admin",
    "../../etc/passwd",
    "a\tb",
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    "\u202egnp.exe",
    "x" * 65,
    "x" * 4000,
    "a\nV\t2",
    "nul\0byte",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_the_name_in_the_csr_never_gets_into_the_certificate(
    door: Door, mint: Mint, ca_certificate: bytes, name: str
) -> None:
    _challenge, value = mint(subject=(("CN", "device 1"),))
    cn = asn1.encode_sequence(asn1.encode_oid("2.5.4.3"), asn1.encode(asn1.UTF8_STRING, name.encode()))
    subject = asn1.encode_sequence(asn1.encode(asn1.SET, cn))
    request = csr_by_hand([challenge_attribute(value)], subject=subject)
    certificate = issued(ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate))
    assert (certificate.subject, certificate.subject_alternative_name) == ("CN=device 1", "")
    asked_for = Transaction.objects.get().csr_subject
    assert len(asked_for) <= 500
    assert asked_for.isprintable()


def test_an_enormous_list_of_names_is_no_way_in(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    request = encode_signing_request(
        subject=(("CN", "x"),),
        private_key=rsa_key(1),
        challenge_password=value,
        san=[("DNS", f"host-{number}.example") for number in range(16)],
    )
    certificate = issued(ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate))
    assert certificate.subject_alternative_name == ""


# --- anything --------------------------------------------------------------------------------------------


@given(st.binary(max_size=400), st.binary(max_size=40), st.binary(max_size=40))
def test_any_content_under_a_right_signature_is_answered(content: bytes, a: bytes, b: bytes) -> None:
    """Whatever is inside, the answer is a CertRep FAILURE: nothing escapes as an exception."""
    header = [
        attribute(attributes.MESSAGE_TYPE, b"\x13\x0219"),
        attribute(attributes.TRANSACTION_ID, asn1.encode(asn1.PRINTABLE_STRING, a)),
        attribute(attributes.SENDER_NONCE, asn1.encode(asn1.OCTET_STRING, b)),
    ]
    verified = message.verify_request(signed_by_hand(content, signer(), attributes=header))
    assert verified.envelope == content
    with pytest.raises(Malformed):
        message.open_request(verified, recipient=CA, private_key=rsa_key(90), random=secrets.token_bytes)


CA = signer(90).certificate


def test_fingerprints_are_recorded(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    request = csr(rsa_key(1), value)
    identity = signer(2)
    ask(door, pkcs_req(request, ca_certificate=ca_certificate, identity=identity), ca_certificate)
    row = Transaction.objects.get()
    assert row.csr_sha256 == hashlib.sha256(request).hexdigest()
    assert row.signer_sha256 == hashlib.sha256(identity.certificate).hexdigest()
    key = rsa_key(2).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert row.signer_key_sha256 == hashlib.sha256(key).hexdigest()
    assert row.signer_subject == "CN=MDM SCEP SIGNER"
