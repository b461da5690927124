"""A SCEP message: SignedData around EnvelopedData (RFC 8894 section 3), for the server and for a client.

Server: :func:`verify_request`, then :func:`open_envelope`, then :func:`encode_success`,
:func:`encode_pending` or :func:`encode_failure`. Client (simulator, tests): :func:`encode_request` and
:func:`open_reply`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pki.core import cms
from pki.core.algorithms import PrivateKey
from pki.core.certificates import CertificateFields, build_self_signed
from pki.core.csr import SigningRequest, decode_signing_request
from pki.core.scan import Malformed
from scep.core import attributes
from scep.core.attributes import AttributeFault, FailInfo, Header, MessageType, PkiStatus
from scep.core.queries import (
    IssuerAndSerialNumber,
    IssuerAndSubject,
    decode_issuer_and_serial_number,
    decode_issuer_and_subject,
)

NONCE_SIZE = 16

DEVICE_TEXT = {
    FailInfo.BAD_ALG: "algorithm not accepted",
    FailInfo.BAD_MESSAGE_CHECK: "integrity check failed",
    FailInfo.BAD_REQUEST: "request not permitted",
    FailInfo.BAD_TIME: "time not accepted",
    FailInfo.BAD_CERT_ID: "certificate not identified",
}
"""failInfoText. A device is told little; the transaction holds the reason for the administrator."""

_REPLY_CIPHERS = {"aes256_cbc": "aes256_cbc", "des_ede3_cbc": "des_ede3_cbc"}

Random = Callable[[int], bytes]


# --- the server's side -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class SignedRequest:
    """A PKIOperation whose outer signature is right. It says nothing yet about who may have what."""

    header: Header
    envelope: bytes
    signer: bytes
    """DER of the certificate whose key signed: the reply is encrypted to it."""
    digest: str


@dataclass(frozen=True)
class OpenedRequest:
    """What was inside the envelope of a PKCSReq or RenewalReq: a CSR that its own key signed."""

    csr: SigningRequest
    cipher: str


@dataclass(frozen=True)
class OpenedPoll:
    """What was inside the envelope of a CertPoll."""

    asked: IssuerAndSubject
    cipher: str


@dataclass(frozen=True)
class OpenedQuery:
    """What was inside the envelope of a GetCert or GetCRL."""

    asked: IssuerAndSerialNumber
    cipher: str


Opened = OpenedRequest | OpenedPoll | OpenedQuery


@dataclass(frozen=True)
class Credentials:
    """The certificate that a client encrypts to and that signs the reply, and its private key."""

    certificate: bytes
    private_key: RSAPrivateKey = field(repr=False)


def verify_request(body: bytes) -> SignedRequest:
    """Step 1: verify the outer SignedData (sections 3.1 and 3.2) and read its attributes.

    SHA-1 is taken, as clients of 2016 sent it. Raises :class:`pki.core.scan.Malformed` where it is not a
    SignedData with signed attributes and exactly one signer whose signature is right.
    """
    signed = cms.verify_signed_data(body, allow_sha1=True, require_attributes=True)
    header = attributes.decode_header(signed.attributes or {})
    if signed.content_type != cms.DATA:
        header = replace(header, faults=(*header.faults, "the signed content is not of type data"))
    return SignedRequest(
        header=header,
        envelope=signed.content,
        signer=signed.signer,
        digest=signed.digest_algorithm,
    )


def open_request(
    request: SignedRequest,
    *,
    recipient: bytes,
    private_key: RSAPrivateKey,
    random: Random,
    ciphers: Collection[str] | None = None,
    allow_sha1: bool = True,
) -> OpenedRequest:
    """Step 2 for PKCSReq and RenewalReq: decrypt the envelope, read the CSR, verify its own signature.

    Raises :class:`pki.core.cms.UnsupportedAlgorithm` where the envelope names a cipher that is not
    accepted, and other :class:`Malformed` for everything else. The caller answers all of the latter alike.
    """
    opened = cms.decrypt(
        request.envelope, recipient=recipient, private_key=private_key, random=random, ciphers=ciphers
    )
    return OpenedRequest(decode_signing_request(opened.content, allow_sha1=allow_sha1), opened.cipher)


def open_envelope(
    request: SignedRequest,
    message_type: MessageType,
    *,
    recipient: bytes,
    private_key: RSAPrivateKey,
    random: Random,
    ciphers: Collection[str] | None = None,
    allow_sha1: bool = True,
) -> Opened:
    """Step 2 for every request: what is inside has to be what its type says (sections 3.2 and 3.3).

    Raises as :func:`open_request`.
    """
    if message_type in {MessageType.PKCS_REQ, MessageType.RENEWAL_REQ}:
        return open_request(
            request,
            recipient=recipient,
            private_key=private_key,
            random=random,
            ciphers=ciphers,
            allow_sha1=allow_sha1,
        )
    opened = cms.decrypt(
        request.envelope, recipient=recipient, private_key=private_key, random=random, ciphers=ciphers
    )
    if message_type is MessageType.CERT_POLL:
        return OpenedPoll(decode_issuer_and_subject(opened.content), opened.cipher)
    return OpenedQuery(decode_issuer_and_serial_number(opened.content), opened.cipher)


def encode_success(
    request: SignedRequest,
    certificates: Sequence[bytes],
    crls: Sequence[bytes] = (),
    *,
    cipher: str,
    credentials: Credentials,
    random: Random,
    now: datetime,
) -> bytes:
    """CertRep SUCCESS: certificates or CRLs in a degenerate SignedData, encrypted to who signed the request.

    The cipher is the one of the request where it was AES-256 or 3DES, else AES-128 (section 2.9).
    """
    envelope = cms.encrypt(
        cms.degenerate(certificates, crls),
        recipient=request.signer,
        cipher=_REPLY_CIPHERS.get(cipher, "aes128_cbc"),
        random=random,
    )
    status = [attributes.constant(attributes.PKI_STATUS, PkiStatus.SUCCESS)]
    return _encode_reply(request, envelope, status, credentials=credentials, random=random, now=now)


def encode_failure(
    request: SignedRequest, fail_info: FailInfo, *, credentials: Credentials, random: Random, now: datetime
) -> bytes:
    """CertRep FAILURE with a failInfo and its one text. No envelope: the content is an empty string."""
    status = [
        attributes.constant(attributes.PKI_STATUS, PkiStatus.FAILURE),
        attributes.constant(attributes.FAIL_INFO, fail_info),
        attributes.utf8(attributes.FAIL_INFO_TEXT, DEVICE_TEXT[fail_info]),
    ]
    return _encode_reply(request, b"", status, credentials=credentials, random=random, now=now)


def encode_pending(
    request: SignedRequest, *, credentials: Credentials, random: Random, now: datetime
) -> bytes:
    """CertRep PENDING: the request waits for a person; the client asks again with CertPoll. No envelope."""
    status = [attributes.constant(attributes.PKI_STATUS, PkiStatus.PENDING)]
    return _encode_reply(request, b"", status, credentials=credentials, random=random, now=now)


def encode_next_ca_certificates(
    certificates: Sequence[bytes], *, ca_certificate: bytes, private_key: PrivateKey, now: datetime
) -> bytes:
    """GetNextCACert (section 4.7.1): the next certificates, signed by the key of the current CA certificate.

    They are the content, in a degenerate SignedData. They stand beside the signer's certificate too, because
    jscep looks for them there.
    """
    return cms.sign(
        cms.degenerate(certificates),
        certificate=ca_certificate,
        private_key=private_key,
        chain=certificates,
        signing_time=now,
    )


def _encode_reply(
    request: SignedRequest,
    content: bytes,
    status: Sequence[cms.Attribute],
    *,
    credentials: Credentials,
    random: Random,
    now: datetime,
) -> bytes:
    header = request.header
    return cms.sign(
        content,
        certificate=credentials.certificate,
        private_key=credentials.private_key,
        attributes=[
            *attributes.encode_header(MessageType.CERT_REP, header.transaction_id, random(NONCE_SIZE)),
            attributes.octets(attributes.RECIPIENT_NONCE, header.sender_nonce),
            *status,
        ],
        digest="sha512" if request.digest == "sha512" else "sha256",
        signing_time=now,
    )


# --- the client's side -----------------------------------------------------------------------------------


class ReplyError(Malformed):
    """The server's answer is not a CertRep that answers this request."""


@dataclass(frozen=True)
class Identity:
    """A certificate and its private key: what a client signs with and decrypts with."""

    certificate: bytes
    private_key: RSAPrivateKey


@dataclass(frozen=True)
class CertRep:
    """A verified reply. ``certificates`` are those of a SUCCESS, the issued one alone or first."""

    status: PkiStatus
    fail_info: FailInfo | None
    fail_info_text: str
    transaction_id: str
    sender_nonce: bytes
    recipient_nonce: bytes
    certificates: tuple[bytes, ...]
    digest: str
    cipher: str | None
    crls: tuple[bytes, ...] = ()


def transaction_id_of(private_key: RSAPrivateKey) -> str:
    """transactionID as Apple's devices make it: upper-case hex SHA-1 of the PKCS #1 public key."""
    public_key = private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.PKCS1
    )
    return hashlib.sha1(public_key, usedforsecurity=False).hexdigest().upper()


def self_signed(
    private_key: RSAPrivateKey, common_name: str, *, serial_number: int, now: datetime
) -> Identity:
    """The throw-away identity that signs a first request (section 2.3)."""
    public_key = private_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    fields = CertificateFields(
        subject=(("CN", common_name),),
        public_key=public_key,
        serial_number=serial_number,
        not_before=now - timedelta(minutes=10),
        not_after=now + timedelta(days=365),
    )
    return Identity(build_self_signed(fields, private_key=private_key), private_key)


def encode_request(
    content: bytes,
    *,
    message_type: MessageType,
    transaction_id: str,
    sender_nonce: bytes,
    signer: Identity,
    recipient: bytes,
    cipher: str = "aes128_cbc",
    digest: str = "sha256",
    random: Random,
    now: datetime,
) -> bytes:
    """A request: its content encrypted to the CA, signed by ``signer``.

    ``content``: a CSR, or what :mod:`scep.core.queries` encodes. First enrolment: a :func:`self_signed`
    identity. Renewal: the identity that the CA issued before.
    """
    return cms.sign(
        cms.encrypt(content, recipient=recipient, cipher=cipher, random=random),
        certificate=signer.certificate,
        private_key=signer.private_key,
        attributes=attributes.encode_header(message_type, transaction_id, sender_nonce),
        digest=digest,
        signing_time=now,
    )


def open_reply(
    body: bytes,
    *,
    ca_certificate: bytes,
    identity: Identity,
    transaction_id: str,
    sender_nonce: bytes,
    random: Random,
) -> CertRep:
    """Verify and open a CertRep that answers the request with this transactionID and senderNonce.

    ``identity`` is the one that signed the request. Raises :class:`Malformed` where the reply is not signed
    by ``ca_certificate``, answers another request, or cannot be decrypted.
    """
    signed = cms.verify_signed_data(body, require_attributes=True)
    if signed.signer != ca_certificate:
        raise ReplyError("the reply is not signed by the CA")
    found = signed.attributes or {}
    try:
        status, fail_info = _decode_status(found)
        reply = CertRep(
            status=status,
            fail_info=fail_info,
            fail_info_text=attributes.decode_fail_info_text(found),
            transaction_id=attributes.decode_transaction_id(found),
            sender_nonce=attributes.decode_nonce(found, attributes.SENDER_NONCE, "senderNonce"),
            recipient_nonce=attributes.decode_nonce(found, attributes.RECIPIENT_NONCE, "recipientNonce"),
            certificates=(),
            digest=signed.digest_algorithm,
            cipher=None,
        )
    except (AttributeFault, ValueError) as fault:
        raise ReplyError(str(fault)) from None
    if (reply.transaction_id, reply.recipient_nonce) != (transaction_id, sender_nonce):
        raise ReplyError("the reply answers another request")
    if status is not PkiStatus.SUCCESS:
        return reply
    opened = cms.decrypt(
        signed.content, recipient=identity.certificate, private_key=identity.private_key, random=random
    )
    inside = cms.decode_signed_data(opened.content)
    if not inside.certificates and not inside.crls:
        raise ReplyError("the reply holds no certificate")
    return replace(reply, certificates=inside.certificates, crls=inside.crls, cipher=opened.cipher)


def _decode_status(found: Mapping[str, Sequence[bytes]]) -> tuple[PkiStatus, FailInfo | None]:
    message_type = attributes.decode_printable(found, attributes.MESSAGE_TYPE, "messageType")
    if message_type != MessageType.CERT_REP:
        raise AttributeFault("not a CertRep")
    status = PkiStatus(attributes.decode_printable(found, attributes.PKI_STATUS, "pkiStatus"))
    if status is not PkiStatus.FAILURE:
        return status, None
    return status, FailInfo(attributes.decode_printable(found, attributes.FAIL_INFO, "failInfo"))
