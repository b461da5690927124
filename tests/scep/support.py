"""A SCEP client for the tests, well-behaved or not, and the way in by the door for devices."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.http import HttpResponse
from django.test import RequestFactory

from mdm_project.doors import respond
from pki.core import asn1, cms
from pki.core.algorithms import PrivateKey
from pki.core.csr import encode_signing_request
from pki.core.names import NAME_OIDS, Name
from pki.models import Certificate
from scep.core import attributes, message, queries, wire
from scep.core.attributes import MessageType
from scep.core.message import CertRep, Identity
from scep.models import Challenge, Transaction, TransactionStatus

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DES_CBC = "1.3.14.3.2.7"
RC2_CBC = "1.2.840.113549.3.2"

_serials = itertools.count(1)


@cache
def rsa_key(number: int = 0, bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """RSA keys are dear: each is made once in a run."""
    return rsa.generate_private_key(exponent, bits)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def signer(number: int = 0, common_name: str = "MDM SCEP SIGNER", now: datetime = NOW) -> Identity:
    """A throw-away identity, with a key that is not the CSR's, as macOS has it."""
    return message.self_signed(rsa_key(number), common_name, serial_number=next(_serials), now=now)


def csr(
    key: PrivateKey, challenge: str | None = None, *, subject: Name = (("CN", "anybody"),), san: Any = ()
) -> bytes:
    return encode_signing_request(subject=subject, private_key=key, challenge_password=challenge, san=san)


@dataclass(frozen=True)
class Sent:
    """A request as bytes, and what is needed to open its answer."""

    body: bytes = field(repr=False)
    identity: Identity = field(repr=False)
    transaction_id: str
    sender_nonce: bytes

    def open(self, reply: bytes, ca_certificate: bytes) -> CertRep:
        return message.open_reply(
            reply,
            ca_certificate=ca_certificate,
            identity=self.identity,
            transaction_id=self.transaction_id,
            sender_nonce=self.sender_nonce,
            random=secrets.token_bytes,
        )


def pkcs_req(
    request: bytes,
    *,
    ca_certificate: bytes,
    identity: Identity | None = None,
    message_type: MessageType | str = MessageType.PKCS_REQ,
    transaction_id: str | None = None,
    sender_nonce: bytes | None = None,
    cipher: str = "aes128_cbc",
    digest: str = "sha256",
    now: datetime = NOW,
) -> Sent:
    """A PKCSReq (or what ``message_type`` says) of a client that does everything right."""
    identity = identity or signer(now=now)
    transaction_id = secrets.token_hex(16) if transaction_id is None else transaction_id
    sender_nonce = secrets.token_bytes(16) if sender_nonce is None else sender_nonce
    envelope = cms.encrypt(request, recipient=ca_certificate, cipher=cipher, random=secrets.token_bytes)
    body = signed(
        envelope,
        identity,
        [
            attributes.printable(attributes.MESSAGE_TYPE, message_type),
            attributes.printable(attributes.TRANSACTION_ID, transaction_id),
            attributes.octets(attributes.SENDER_NONCE, sender_nonce),
        ],
        digest=digest,
        now=now,
    )
    return Sent(body, identity, transaction_id, sender_nonce)


def signed(
    content: bytes,
    identity: Identity,
    extra: Sequence[cms.Attribute],
    *,
    digest: str = "sha256",
    chain: Sequence[bytes] = (),
    now: datetime = NOW,
) -> bytes:
    return cms.sign(
        content,
        certificate=identity.certificate,
        private_key=identity.private_key,
        attributes=extra,
        digest=digest,
        chain=chain,
        signing_time=now,
    )


def envelope_with_cipher(oid: str, *, recipient: bytes, block: int = 8) -> bytes:
    """An EnvelopedData whose content is encrypted with an algorithm that is not ours."""
    good = cms.encrypt(b"x" * 64, recipient=recipient, random=secrets.token_bytes)
    info = asn1.Fields(asn1.read(good), "test")
    info.take()
    fields = asn1.Fields(next(asn1.children(info.take())), "test")
    version, recipients, content = fields.take(), fields.take(), fields.take()
    parts = list(asn1.children(content))
    algorithm = asn1.encode_sequence(asn1.encode_oid(oid), asn1.encode_octets(secrets.token_bytes(block)))
    return asn1.encode_sequence(
        asn1.encode_oid(cms.ENVELOPED_DATA),
        asn1.encode(
            asn1.context(0),
            asn1.encode_sequence(
                version.encoded,
                recipients.encoded,
                asn1.encode_sequence(parts[0].encoded, algorithm, parts[2].encoded),
            ),
        ),
    )


class Door:
    """Requests by the door for devices: resolved and answered as in the product, without a socket."""

    def __init__(self, path: str = "/scep/", **environ: Any) -> None:
        self.path = path
        self.environ = environ
        self.factory = RequestFactory()

    def get(self, query: str, **environ: Any) -> HttpResponse:
        return respond(self.factory.get(self.path, **{**self.environ, **environ, "QUERY_STRING": query}))

    def get_message(self, body: bytes, **environ: Any) -> HttpResponse:
        return self.get(wire.encode_query("PKIOperation", body), **environ)

    def post(self, body: bytes, query: str = "operation=PKIOperation", **environ: Any) -> HttpResponse:
        return self.send("POST", body, query, **environ)

    def send(self, method: str, body: bytes, query: str, **environ: Any) -> HttpResponse:
        return respond(
            self.factory.generic(
                method,
                self.path,
                body,
                "application/x-pki-message",
                **{**self.environ, **environ, "QUERY_STRING": query},
            )
        )


@contextmanager
def nothing_issued() -> Iterator[None]:
    """What happens inside brings no certificate, uses no challenge and succeeds in nothing."""
    before = _counts()
    yield
    assert _counts() == before


@contextmanager
def no_new_certificate() -> Iterator[None]:
    """What happens inside may be recorded, and even succeed, but no certificate comes about."""
    before = Certificate.objects.count()
    yield
    assert Certificate.objects.count() == before


def _counts() -> tuple[int, int, int]:
    return (
        Certificate.objects.count(),
        Challenge.objects.exclude(consumed_at=None).count(),
        Transaction.objects.filter(status=TransactionStatus.SUCCESS).count(),
    )


def cert_poll(
    request: Sent, subject: Name, *, ca_certificate: bytes, identity: Identity | None = None, **options: Any
) -> Sent:
    """CertPoll for a request that was answered with PENDING."""
    pairs = [
        asn1.encode(
            asn1.SET,
            asn1.encode_sequence(asn1.encode_oid(NAME_OIDS[key].dotted_string), asn1.encode_text(value)),
        )
        for key, value in subject
    ]
    return pkcs_req(
        queries.encode_issuer_and_subject(ca_certificate, asn1.encode_sequence(*pairs)),
        ca_certificate=ca_certificate,
        identity=identity or request.identity,
        message_type=MessageType.CERT_POLL,
        **{"transaction_id": request.transaction_id, **options},
    )


def query(
    message_type: MessageType,
    certificate: bytes,
    *,
    ca_certificate: bytes,
    identity: Identity,
    **options: Any,
) -> Sent:
    """GetCert or GetCRL that names this certificate."""
    return pkcs_req(
        queries.encode_issuer_and_serial_number(certificate),
        ca_certificate=ca_certificate,
        identity=identity,
        message_type=message_type,
        **options,
    )
