"""A maker of CMS messages that are wrong in exactly one way (as sigstore-python does for certificates).

Everything that :func:`pki.core.cms.sign` fixes can be set here, one part at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pki.core import algorithms, asn1
from pki.core.certificates import read_identifiers
from pki.core.cms import CONTENT_TYPE, DATA, ENVELOPED_DATA, MESSAGE_DIGEST, SIGNED_DATA
from tests.pki.conftest import Party

MD5 = "1.2.840.113549.2.5"
SHA1 = algorithms.DIGEST_OIDS["sha1"]
SHA256 = algorithms.DIGEST_OIDS["sha256"]
SHA512 = algorithms.DIGEST_OIDS["sha512"]


def attribute(oid: str, *values: bytes) -> bytes:
    """One attribute, its values in the order given."""
    return asn1.encode_sequence(asn1.encode_oid(oid), asn1.encode(asn1.SET, *values))


def content_type(oid: str = DATA) -> bytes:
    return attribute(CONTENT_TYPE, asn1.encode_oid(oid))


def message_digest(content: bytes, digest: str = "sha256") -> bytes:
    return attribute(MESSAGE_DIGEST, asn1.encode_octets(hashlib.new(digest, content).digest()))


def identifier(certificate: bytes) -> bytes:
    """issuerAndSerialNumber of a certificate."""
    found = read_identifiers(certificate)
    return asn1.encode_sequence(found.issuer, asn1.encode(asn1.INTEGER, found.serial_number))


@dataclass(frozen=True)
class Message:
    """A SignedData. What is None follows from the rest."""

    party: Party
    content: bytes = b"<plist/>"
    e_content: bytes | None = field(default=None)  # encoded eContent with its [0]; b"" for none
    e_content_type: str = DATA
    attributes: Sequence[bytes] | None = None  # None: the right ones; (): no signed attributes
    sorted_attributes: bool = True
    digest: str = "sha256"
    digest_oid: str | None = None
    digest_algorithms: Sequence[bytes] | None = None
    signature_algorithm: bytes | None = None
    signature: bytes | None = None
    sid: bytes | None = None
    certificates: Sequence[bytes] | None = None
    signers: int = 1
    more_signers: Sequence[bytes] = ()
    unsigned_attributes: bytes = b""
    outer_type: str = SIGNED_DATA
    signed: Callable[[bytes], bytes] = lambda signed: signed  # changes what the signature is over

    def but(self, **changes: object) -> Message:
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def digest_identifier(self) -> bytes:
        return algorithms.encode_algorithm(self.digest_oid or algorithms.DIGEST_OIDS[self.digest])

    def signer_info(self) -> bytes:
        attributes = self.attributes
        if attributes is None:
            attributes = [content_type(self.e_content_type), message_digest(self.content, self.digest)]
        encoded = b"".join(sorted(attributes) if self.sorted_attributes else attributes)
        signed = asn1.encode(asn1.SET, encoded) if attributes else self.content
        algorithm = self.signature_algorithm or (
            algorithms.encode_algorithm(algorithms.RSA_ENCRYPTION, asn1.encode_null())
        )
        signature = self.signature
        if signature is None:
            signature = algorithms.sign(self.party.key, self.digest, self.signed(signed))
        return asn1.encode_sequence(
            asn1.encode_integer(1),
            self.sid or identifier(self.party.certificate),
            self.digest_identifier,
            asn1.encode(asn1.context(0), encoded) if attributes else b"",
            algorithm,
            asn1.encode_octets(signature),
            self.unsigned_attributes,
        )

    def encoded(self) -> bytes:
        certificates = [self.party.certificate] if self.certificates is None else list(self.certificates)
        e_content = self.e_content
        if e_content is None:
            e_content = asn1.encode(asn1.context(0), asn1.encode_octets(self.content))
        digests = [self.digest_identifier] if self.digest_algorithms is None else list(self.digest_algorithms)
        signed_data = asn1.encode_sequence(
            asn1.encode_integer(1),
            asn1.encode(asn1.SET, *digests),
            asn1.encode_sequence(asn1.encode_oid(self.e_content_type), e_content),
            asn1.encode(asn1.context(0), *certificates) if certificates else b"",
            asn1.encode(asn1.SET, *[self.signer_info()] * self.signers, *self.more_signers),
        )
        return asn1.encode_sequence(
            asn1.encode_oid(self.outer_type), asn1.encode(asn1.context(0), signed_data)
        )


@dataclass(frozen=True)
class Envelope:
    """An EnvelopedData from parts that are encoded or encrypted already."""

    recipient: bytes
    encrypted_key: bytes
    iv: bytes
    encrypted: bytes
    cipher_oid: str = "2.16.840.1.101.3.4.1.2"
    key_algorithm: bytes = field(
        default_factory=lambda: algorithms.encode_algorithm(algorithms.RSA_ENCRYPTION, asn1.encode_null())
    )
    recipients: int = 1
    parameters: bytes | None = None
    inner_type: str = DATA

    def encoded(self) -> bytes:
        one = asn1.encode_sequence(
            asn1.encode_integer(0),
            identifier(self.recipient),
            self.key_algorithm,
            asn1.encode_octets(self.encrypted_key),
        )
        parameters = asn1.encode_octets(self.iv) if self.parameters is None else self.parameters
        enveloped = asn1.encode_sequence(
            asn1.encode_integer(0),
            asn1.encode(asn1.SET, *[one] * self.recipients),
            asn1.encode_sequence(
                asn1.encode_oid(self.inner_type),
                algorithms.encode_algorithm(self.cipher_oid, parameters),
                asn1.encode(asn1.context(0, constructed=False), self.encrypted),
            ),
        )
        return asn1.encode_sequence(asn1.encode_oid(ENVELOPED_DATA), asn1.encode(asn1.context(0), enveloped))


def indefinite(der: bytes, *, segment: int = 7) -> bytes:
    """The same structure in BER: constructed types of indefinite length, OCTET STRINGs in segments.

    Signed attributes and certificates stay in DER, as RFC 5652 demands.
    """
    node = asn1.read(der)
    return _indefinite(node, segment, depth=0)


def _indefinite(node: asn1.Node, segment: int, depth: int) -> bytes:
    if node.tag == asn1.OCTET_STRING:
        value = node.contents
        parts = [value[start : start + segment] for start in range(0, len(value), segment)] or [b""]
        return b"\x24\x80" + b"".join(asn1.encode_octets(part) for part in parts) + b"\0\0"
    if not node.tag & 0x20 or depth > 5:
        return node.encoded
    inner = []
    for child in asn1.children(node):
        keep = child.tag == asn1.context(0) and depth >= 2
        inner.append(child.encoded if keep else _indefinite(child, segment, depth + 1))
    return bytes((node.tag, 0x80)) + b"".join(inner) + b"\0\0"
