"""Cryptographic Message Syntax (RFC 5652): verify, sign, encrypt, decrypt.

Verification works on the received bytes and decides nothing about trust: it returns the certificate whose key
verified the signature, and the caller decides whether that certificate may act.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, cached_property
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm as BackendUnsupported
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.padding import PKCS7

from pki.core import algorithms, asn1, usual_cms
from pki.core.algorithms import PrivateKey
from pki.core.certificates import (
    load_certificate,
    load_public_key,
    public_key_of,
    read_identifiers,
    subject_key_identifier,
)
from pki.core.scan import DEFAULT_LIMITS, Limits, Malformed, scan
from pki.core.usual_cms import Signed

__all__ = [
    "Attribute",
    "CmsError",
    "Decrypted",
    "DecryptionFailed",
    "Limits",
    "Malformed",
    "SignedContent",
    "SignedData",
    "UnsupportedAlgorithm",
    "certificates_of",
    "decode_signed_data",
    "decrypt",
    "degenerate",
    "encrypt",
    "find_recipient",
    "sign",
    "verify_signed_data",
]

DATA = "1.2.840.113549.1.7.1"
SIGNED_DATA = "1.2.840.113549.1.7.2"
ENVELOPED_DATA = "1.2.840.113549.1.7.3"
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_TIME = "1.2.840.113549.1.9.5"

MAX_CERTIFICATES = 10
MAX_RECIPIENTS = 10
MAX_ATTRIBUTES = 20

_CONTEXT_0, _CONTEXT_1 = asn1.context(0), asn1.context(1)
_CONTEXT_0_PRIMITIVE = asn1.context(0, constructed=False)


class CmsError(Malformed):
    """The message is refused; ``reason`` says why, in words for an administrator."""


class UnsupportedAlgorithm(CmsError):
    """An algorithm that is not used here, named in the clear part of the message."""


class DecryptionFailed(CmsError):
    """The message did not decrypt. One error for every cause, so that nobody learns which (RFC 3218)."""

    def __init__(self) -> None:
        super().__init__("the message could not be decrypted")


@dataclass(frozen=True)
class Attribute:
    """A signed attribute: its OID and the DER of each of its values."""

    oid: str
    values: tuple[bytes, ...]

    @cached_property
    def encoded(self) -> bytes:
        """In DER."""
        return _encode_attribute(self.oid, *self.values)


@dataclass(frozen=True)
class SignedContent:
    """What a verified SignedData holds.

    ``signer``: DER of the certificate that verified the signature. ``certificates``: DER of all that came
    along, unverified. ``attributes``: signed attributes by OID, the DER of each value; None where there were
    none.
    ``digest_algorithm``: ``sha1``, ``sha256``, ``sha384`` or ``sha512``.
    """

    content: bytes = field(repr=False)
    content_type: str
    signer: bytes = field(repr=False)
    certificates: tuple[bytes, ...] = field(repr=False)
    attributes: Mapping[str, tuple[bytes, ...]] | None = field(repr=False)
    digest_algorithm: str


@dataclass(frozen=True)
class Decrypted:
    """The content of an EnvelopedData, and the cipher that carried it, e.g. ``aes128_cbc``."""

    content: bytes = field(repr=False)
    cipher: str


@dataclass(frozen=True)
class SignerIdentifier:
    """Which certificate is meant: issuer and serial number (DER of each), or the subject key identifier."""

    issuer: bytes = b""
    serial_number: bytes = b""
    key_identifier: bytes = b""


@dataclass(frozen=True)
class SignerInfo:
    """One SignerInfo, nothing of it verified. ``signed_attributes``: the bytes that were signed, tag SET."""

    identifier: SignerIdentifier
    digest_algorithm: asn1.Node
    signed_attributes: bytes | None
    signature_algorithm: tuple[str, asn1.Node | None]
    signature: bytes


@dataclass(frozen=True)
class SignedData:
    """A SignedData taken apart, nothing of it verified. ``content`` is None where it is detached."""

    digest_algorithms: tuple[asn1.Node, ...]
    content_type: str
    content: bytes | None
    certificates: tuple[bytes, ...]
    crls: tuple[bytes, ...]
    signers: tuple[asn1.Node, ...]


@contextmanager
def _as_cms_error() -> Iterator[None]:
    """Every refusal leaves this module as a CmsError."""
    try:
        yield
    except CmsError:
        raise
    except algorithms.Unsupported as error:
        raise UnsupportedAlgorithm(error.reason) from None
    except Malformed as error:
        raise CmsError(error.reason) from None


# --- Verifying -------------------------------------------------------------------------------------------


def verify_signed_data(
    data: bytes,
    *,
    detached_content: bytes | None = None,
    allow_sha1: bool = False,
    require_attributes: bool = False,
    certificates: Sequence[bytes] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> SignedContent:
    """Verify the one signature of a SignedData and return its content and signer (RFC 5652 section 5.6).

    ``detached_content``: the signed bytes where they travel outside; then the message must hold none.
    ``certificates``: DER of certificates that the signer's may be among, beside those in the message.
    No trust decision is made. Raises :class:`CmsError`.
    """
    if limits is DEFAULT_LIMITS and not certificates and (usual := usual_cms.signed(data)):
        verified = _verify_usual(usual, detached_content, allow_sha1, require_attributes)
        if verified:
            return verified
    with _as_cms_error():
        scan(data, limits)
        message = decode_signed_data(data, limits=None)
        content = _content(message, detached_content)
        # Exactly one signer: with several, it would be unclear who is meant (threats C3).
        if len(message.signers) != 1:
            raise CmsError(f"{len(message.signers)} signers where one is expected")
        signer = _decode_signer(message.signers[0])
        digest = algorithms.decode_digest(signer.digest_algorithm, allow_sha1=allow_sha1)
        _verify_digest_announced(message, digest)
        kind, digest = algorithms.signature_digest(*signer.signature_algorithm, digest)
        certificate = _find_certificate(signer.identifier, (*message.certificates, *certificates))
        if signer.signed_attributes is None:
            attributes = None
            _verify_plain_content(message, content, require_attributes=require_attributes)
            signed = content
        else:
            attributes = _decode_attributes(signer.signed_attributes)
            _verify_attributes(attributes, message.content_type, content, digest)
            signed = signer.signed_attributes
        key = _key_of(certificate)
        algorithms.verify_signature(key, kind, digest, signer.signature, signed)
        return SignedContent(
            content, message.content_type, certificate, message.certificates, attributes, digest
        )


def _verify_usual(
    usual: Signed, detached_content: bytes | None, allow_sha1: bool, require_attributes: bool
) -> SignedContent | None:
    """The same for a message that is taken apart already. None where it would be refused for its form.

    Then :func:`verify_signed_data` says why. Raises :class:`CmsError` where the signature is wrong.
    """
    content = usual.content if detached_content is None else detached_content
    if content is None or (detached_content is not None and usual.content is not None):
        return None
    if usual.digest == "sha1" and not allow_sha1:
        return None
    with _as_cms_error():
        if usual.to_verify is None or usual.attributes is None:
            if require_attributes or content[:1] == b"\x31":
                return None
        elif not _fits(usual.attributes, DATA, content, usual.digest):
            return None
        key = _key_of(usual.signer)
        to_verify = content if usual.to_verify is None else usual.to_verify
        algorithms.verify_signature(key, usual.kind, usual.digest, usual.signature, to_verify)
    return SignedContent(content, DATA, usual.signer, usual.certificates, usual.attributes, usual.digest)


def _key_of(certificate: bytes) -> PublicKeyTypes:
    """The key of a certificate, as the same object for the same key. Raises :class:`Malformed`."""
    loaded = load_certificate(certificate)
    try:
        return load_public_key(read_identifiers(certificate).public_key)
    except Malformed:
        return public_key_of(loaded)


def decode_signed_data(data: bytes, *, limits: Limits | None = DEFAULT_LIMITS) -> SignedData:
    """Take a SignedData apart without verifying anything. Raises :class:`CmsError`.

    ``limits`` is None only where the bytes were scanned already.
    """
    with _as_cms_error():
        if limits is not None:
            scan(data, limits)
        fields = asn1.Fields(_content_info(data, SIGNED_DATA), "SignedData")
        asn1.decode_integer(fields.take(asn1.INTEGER))
        digest_algorithms = tuple(asn1.children(fields.take(asn1.SET)))
        content_type, content = _decode_encapsulated(fields.take(asn1.SEQUENCE))
        certificates = _decode_certificates(fields.take_optional(_CONTEXT_0))
        crls = fields.take_optional(_CONTEXT_1)
        signers = tuple(asn1.children(fields.take(asn1.SET)))
        fields.end()
        return SignedData(
            digest_algorithms,
            content_type,
            content,
            certificates,
            tuple(crl.encoded for crl in asn1.children(crls)) if crls else (),
            signers,
        )


def _content_info(data: bytes, expected: str) -> asn1.Node:
    fields = asn1.Fields(asn1.read(data), "ContentInfo")
    content_type = asn1.decode_oid(fields.take(asn1.OID))
    if content_type != expected:
        raise CmsError(f"unexpected content type {content_type}")
    content = _only_child(fields.take(_CONTEXT_0))
    fields.end()
    return content


def _only_child(node: asn1.Node) -> asn1.Node:
    nodes = tuple(asn1.children(node))
    if len(nodes) != 1:
        raise CmsError("one value was expected inside a tag")
    return nodes[0]


def _decode_encapsulated(node: asn1.Node) -> tuple[str, bytes | None]:
    fields = asn1.Fields(node, "encapContentInfo")
    content_type = asn1.decode_oid(fields.take(asn1.OID))
    content = fields.take_optional(_CONTEXT_0)
    fields.end()
    return content_type, asn1.decode_octets(_only_child(content)) if content else None


def _decode_certificates(node: asn1.Node | None) -> tuple[bytes, ...]:
    if node is None:
        return ()
    certificates = tuple(asn1.children(node))
    if len(certificates) > MAX_CERTIFICATES:
        raise CmsError("too many certificates")
    for certificate in certificates:
        if certificate.tag != asn1.SEQUENCE or certificate.indefinite:
            raise CmsError("a certificate is not in DER")
    return tuple(certificate.encoded for certificate in certificates)


def _decode_signer(node: asn1.Node) -> SignerInfo:
    fields = asn1.Fields(node, "SignerInfo")
    asn1.decode_integer(fields.take(asn1.INTEGER))
    identifier = _decode_identifier(fields.take(asn1.SEQUENCE, _CONTEXT_0_PRIMITIVE))
    digest_algorithm = fields.take(asn1.SEQUENCE)
    signed_attributes = fields.take_optional(_CONTEXT_0)
    signature_algorithm = algorithms.decode_algorithm(fields.take(asn1.SEQUENCE))
    signature = asn1.decode_octets(fields.take())
    fields.take_optional(_CONTEXT_1)
    fields.end()
    if signed_attributes is not None and signed_attributes.indefinite:
        raise CmsError("signed attributes are not in DER")
    return SignerInfo(
        identifier,
        digest_algorithm,
        # What was signed carries the tag of a SET instead of [0]; the rest stays as received (section 5.4).
        bytes((asn1.SET,)) + signed_attributes.encoded[1:] if signed_attributes else None,
        signature_algorithm,
        signature,
    )


def _decode_identifier(node: asn1.Node) -> SignerIdentifier:
    if node.tag == _CONTEXT_0_PRIMITIVE:
        return SignerIdentifier(key_identifier=node.contents)
    fields = asn1.Fields(node, "issuerAndSerialNumber")
    issuer, serial_number = fields.take(asn1.SEQUENCE), fields.take(asn1.INTEGER)
    fields.end()
    return SignerIdentifier(issuer.encoded, serial_number.contents)


def _content(message: SignedData, detached_content: bytes | None) -> bytes:
    if detached_content is None:
        if message.content is None:
            raise CmsError("the message holds no content")
        return message.content
    if message.content is not None:
        raise CmsError("the message holds content beside the detached one")
    return detached_content


def _verify_digest_announced(message: SignedData, digest: str) -> None:
    named = {
        algorithms.DIGESTS.get(algorithms.decode_algorithm(node)[0]) for node in message.digest_algorithms
    }
    if digest not in named:
        raise CmsError("the signer's digest algorithm is not among the message's")


def _find_certificate(wanted: SignerIdentifier, certificates: Sequence[bytes]) -> bytes:
    """The one certificate that the identifier names; by identifier, never by position (threats C5)."""
    found = [certificate for certificate in dict.fromkeys(certificates) if _is_meant(certificate, wanted)]
    if len(found) != 1:
        raise CmsError(
            "several certificates fit the signer" if found else "the signer's certificate is missing"
        )
    return found[0]


def _is_meant(certificate: bytes, wanted: SignerIdentifier) -> bool:
    if wanted.key_identifier:
        return subject_key_identifier(load_certificate(certificate)) == wanted.key_identifier
    identifiers = read_identifiers(certificate)
    return (identifiers.issuer, identifiers.serial_number) == (wanted.issuer, wanted.serial_number)


def _decode_attributes(encoded: bytes) -> dict[str, tuple[bytes, ...]]:
    attributes: dict[str, tuple[bytes, ...]] = {}
    for count, node in enumerate(asn1.children(asn1.read(encoded))):
        if count >= MAX_ATTRIBUTES:
            raise CmsError("too many signed attributes")
        fields = asn1.Fields(node, "attribute")
        oid = asn1.decode_oid(fields.take(asn1.OID))
        values = tuple(value.encoded for value in asn1.children(fields.take(asn1.SET)))
        fields.end()
        # An attribute that occurs twice keeps all its values: who expects one value then sees two.
        attributes[oid] = attributes.get(oid, ()) + values
    return attributes


def _verify_attributes(
    attributes: Mapping[str, tuple[bytes, ...]], content_type: str, content: bytes, digest: str
) -> None:
    """contentType and messageDigest: each exactly once, and equal to what the message holds (section 11)."""
    if attributes.get(CONTENT_TYPE, ()) != (asn1.encode_oid(content_type),):
        raise CmsError("the content type attribute does not fit the content")
    if not _fits(attributes, content_type, content, digest):
        raise CmsError("the message digest does not fit the content")


def _fits(
    attributes: Mapping[str, tuple[bytes, ...]], content_type: str, content: bytes, digest: str
) -> bool:
    types, digests = attributes.get(CONTENT_TYPE, ()), attributes.get(MESSAGE_DIGEST, ())
    expected = asn1.encode_octets(hashlib.new(digest, content).digest())
    return (
        types == (asn1.encode_oid(content_type),)
        and len(digests) == 1
        and hmac.compare_digest(digests[0], expected)
    )


def _verify_plain_content(message: SignedData, content: bytes, *, require_attributes: bool) -> None:
    if require_attributes:
        raise CmsError("signed attributes are missing")
    if message.content_type != DATA:
        raise CmsError("signed attributes are required with this content type")
    # A signature over attributes must not pass as one over content that has the attributes' bytes (C2).
    if content[:1] == b"\x31" and _looks_like_attributes(content):
        raise CmsError("the content could be the signed attributes of another message")


def _looks_like_attributes(content: bytes) -> bool:
    try:
        scan(content)
        return MESSAGE_DIGEST in _decode_attributes(content)
    except Malformed:
        return False


# --- Signing ---------------------------------------------------------------------------------------------


def sign(
    content: bytes,
    *,
    certificate: bytes,
    private_key: PrivateKey,
    chain: Sequence[bytes] = (),
    attributes: Sequence[Attribute] | None = (),
    detached: bool = False,
    digest: str = "sha256",
    signing_time: datetime | None = None,
) -> bytes:
    """A SignedData of type id-data with one signer, in DER.

    ``certificate`` and ``chain``: DER, sent along. ``attributes``: signed attributes beside contentType,
    messageDigest and (with ``signing_time``) signingTime; None for no signed attributes at all.
    ``digest``: sha256, sha384 or sha512 (sha1 for tests of what old devices send).
    """
    digest_algorithm = _digest_algorithm(digest)
    signed_attributes = b""
    to_sign = content
    if attributes is not None:
        encoded = [attribute.encoded for attribute in attributes]
        encoded.append(_CONTENT_TYPE_DATA)
        value = asn1.encode_octets(hashlib.new(digest, content).digest())
        encoded.append(_encode_attribute(MESSAGE_DIGEST, value))
        if signing_time is not None:
            encoded.append(_encode_attribute(SIGNING_TIME, asn1.encode_time(signing_time)))
        to_sign = asn1.encode_set_of(encoded)
        signed_attributes = _CONTEXT_0_TAG + to_sign[1:]
    signer = asn1.encode_sequence(
        _VERSION_1,
        usual_cms.name_of(certificate),
        digest_algorithm,
        signed_attributes,
        _signature_algorithm(private_key, digest),
        asn1.encode_octets(algorithms.sign(private_key, digest, to_sign)),
    )
    return _encode_content_info(
        SIGNED_DATA,
        asn1.encode_sequence(
            _VERSION_1,
            asn1.encode(asn1.SET, digest_algorithm),
            asn1.encode_sequence(
                asn1.encode_oid(DATA),
                b"" if detached else asn1.encode(_CONTEXT_0, asn1.encode_octets(content)),
            ),
            asn1.encode_set_of(list(dict.fromkeys((certificate, *chain))), _CONTEXT_0),
            asn1.encode(asn1.SET, signer),
        ),
    )


@cache
def _digest_algorithm(digest: str) -> bytes:
    return algorithms.encode_algorithm(algorithms.DIGEST_OIDS[digest])


def _encode_attribute(oid: str, *values: bytes) -> bytes:
    return asn1.encode(asn1.SEQUENCE, asn1.encode_oid(oid), asn1.encode(asn1.SET, *sorted(values)))


_CONTENT_TYPE_DATA = _encode_attribute(CONTENT_TYPE, asn1.encode_oid(DATA))
_CONTEXT_0_TAG = bytes((_CONTEXT_0,))
_VERSION_0, _VERSION_1 = asn1.encode_integer(0), asn1.encode_integer(1)
# Version, no digest algorithms, and no content.
_DEGENERATE = _VERSION_1 + asn1.encode(asn1.SET) + asn1.encode_sequence(asn1.encode_oid(DATA))


def _signature_algorithm(private_key: PrivateKey, digest: str) -> bytes:
    """rsaEncryption for RSA keys: strongSwan takes nothing else (RFC 8894 peers; RFC 3370 section 3.2)."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        return _RSA_ENCRYPTION
    return algorithms.encode_algorithm(algorithms.ECDSA_OIDS[digest])


_RSA_ENCRYPTION = algorithms.encode_algorithm(algorithms.RSA_ENCRYPTION, asn1.encode_null())


def _encode_content_info(content_type: str, content: bytes) -> bytes:
    return asn1.encode_sequence(asn1.encode_oid(content_type), asn1.encode(_CONTEXT_0, content))


# --- Certificates only -----------------------------------------------------------------------------------


def degenerate(certificates: Sequence[bytes], crls: Sequence[bytes] = ()) -> bytes:
    """A SignedData without content and signers, that carries certificates and CRLs (RFC 8894 section 3.4).

    They keep their order, which DER would not: Apple takes the first certificate for the issued one.
    """
    return _encode_content_info(
        SIGNED_DATA,
        asn1.encode_sequence(
            _DEGENERATE,
            asn1.encode(_CONTEXT_0, *certificates) if certificates else b"",
            asn1.encode(_CONTEXT_1, *crls) if crls else b"",
            asn1.encode(asn1.SET),
        ),
    )


def certificates_of(data: bytes) -> tuple[bytes, ...]:
    """The certificates in a SignedData, in their order, unverified. Raises :class:`CmsError`."""
    return decode_signed_data(data).certificates


# --- Encrypting ------------------------------------------------------------------------------------------


class _CipherFacts(NamedTuple):
    oid: str
    make: Callable[[bytes], AES | TripleDES]
    key_size: int
    block_size: int


_CIPHERS: Mapping[str, _CipherFacts] = {
    "aes128_cbc": _CipherFacts("2.16.840.1.101.3.4.1.2", AES, 16, 16),
    "aes256_cbc": _CipherFacts("2.16.840.1.101.3.4.1.42", AES, 32, 16),
    "des_ede3_cbc": _CipherFacts("1.2.840.113549.3.7", TripleDES, 24, 8),
}
_CIPHER_NAMES: Mapping[str, str] = {facts.oid: name for name, facts in _CIPHERS.items()}


def encrypt(
    content: bytes, *, recipient: bytes, cipher: str = "aes128_cbc", random: Callable[[int], bytes]
) -> bytes:
    """An EnvelopedData for one recipient with an RSA key, in DER (RFC 5652 section 6).

    ``recipient``: DER of its certificate. ``cipher``: aes128_cbc, aes256_cbc or des_ede3_cbc. ``random``
    gives that many random bytes. Raises :class:`CmsError` where the key cannot encrypt.
    """
    with _as_cms_error():
        facts = _CIPHERS[cipher]
        public_key = _key_of(recipient)
        if not isinstance(public_key, rsa.RSAPublicKey):
            raise CmsError("the recipient's key is not an RSA key")
        algorithms.verify_rsa_bounds(public_key)
        key, iv = _content_key(facts, random), random(facts.block_size)
        try:
            encrypted_key = public_key.encrypt(key, padding.PKCS1v15())
        except (ValueError, BackendUnsupported):
            raise CmsError("the recipient's key cannot encrypt") from None
        recipient_info = asn1.encode_sequence(
            _VERSION_0, usual_cms.name_of(recipient), _RSA_ENCRYPTION, asn1.encode_octets(encrypted_key)
        )
        pad = facts.block_size - len(content) % facts.block_size
        encryptor = Cipher(facts.make(key), CBC(iv)).encryptor()
        encrypted = encryptor.update(content + bytes((pad,)) * pad) + encryptor.finalize()
        return _encode_content_info(
            ENVELOPED_DATA,
            asn1.encode_sequence(
                _VERSION_0,
                asn1.encode(asn1.SET, recipient_info),
                asn1.encode_sequence(
                    asn1.encode_oid(DATA),
                    algorithms.encode_algorithm(facts.oid, asn1.encode_octets(iv)),
                    asn1.encode(_CONTEXT_0_PRIMITIVE, encrypted),
                ),
            ),
        )


def decrypt(
    data: bytes,
    *,
    recipient: bytes,
    private_key: rsa.RSAPrivateKey,
    random: Callable[[int], bytes],
    ciphers: Collection[str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Decrypted:
    """Open an EnvelopedData that was encrypted to ``recipient`` (DER of a certificate).

    Whatever the cause, a message that does not open raises the same :class:`DecryptionFailed` after the same
    steps (RFC 3218; threats C8, C9): a content key that does not decrypt is replaced by a random one. What
    the clear part shows to anybody may be told: :class:`UnsupportedAlgorithm`, :class:`CmsError`.
    ``ciphers``: the names that are accepted, where they are fewer than all that can be decrypted.
    """
    usual = usual_cms.enveloped(data, recipient) if limits is DEFAULT_LIMITS else None
    if usual is not None and (ciphers is None or usual.cipher in ciphers):
        name, iv, encrypted_key, encrypted = usual
    else:
        with _as_cms_error():
            scan(data, limits)
            recipients, encrypted_content = _decode_enveloped(data)
            name, iv, encrypted = _decode_encrypted_content(encrypted_content)
            if ciphers is not None and name not in ciphers:
                raise UnsupportedAlgorithm(f"content encryption algorithm {name} is not accepted here")
            encrypted_key = _encrypted_key(recipients, recipient)
    facts = _CIPHERS[name]
    key = _decrypt_key(encrypted_key, private_key, facts, random)
    return Decrypted(_decrypt_content(facts, key, iv, encrypted), name)


def find_recipient(
    data: bytes, certificates: Sequence[bytes], *, limits: Limits = DEFAULT_LIMITS
) -> bytes | None:
    """The first of ``certificates`` (DER) that the clear part of an EnvelopedData names as recipient.

    None where it names none of them, or is no EnvelopedData. Never raises.
    """
    try:
        scan(data, limits)
        recipients, _content = _decode_enveloped(data)
        named = [
            _decode_identifier(_recipient_fields(node).take(asn1.SEQUENCE, _CONTEXT_0_PRIMITIVE))
            for node in recipients
            if node.tag == asn1.SEQUENCE
        ]
    except Malformed:
        return None
    return next(
        (
            certificate
            for certificate in certificates
            if any(_is_meant(certificate, identifier) for identifier in named)
        ),
        None,
    )


def _decode_enveloped(data: bytes) -> tuple[tuple[asn1.Node, ...], asn1.Node]:
    """The recipients and the encrypted content of an EnvelopedData that was scanned."""
    fields = asn1.Fields(_content_info(data, ENVELOPED_DATA), "EnvelopedData")
    asn1.decode_integer(fields.take(asn1.INTEGER))
    fields.take_optional(_CONTEXT_0)
    recipients = tuple(asn1.children(fields.take(asn1.SET)))
    if len(recipients) > MAX_RECIPIENTS:
        raise CmsError("too many recipients")
    content = fields.take(asn1.SEQUENCE)
    fields.take_optional(_CONTEXT_1)
    fields.end()
    return recipients, content


def _recipient_fields(node: asn1.Node) -> asn1.Fields:
    """A KeyTransRecipientInfo behind its version."""
    fields = asn1.Fields(node, "recipient")
    asn1.decode_integer(fields.take(asn1.INTEGER))
    return fields


def _decode_encrypted_content(node: asn1.Node) -> tuple[str, bytes, bytes]:
    fields = asn1.Fields(node, "encryptedContentInfo")
    content_type = asn1.decode_oid(fields.take(asn1.OID))
    oid, parameters = algorithms.decode_algorithm(fields.take(asn1.SEQUENCE))
    content = fields.take_optional(_CONTEXT_0, _CONTEXT_0_PRIMITIVE)
    fields.end()
    if content_type != DATA:
        raise CmsError(f"unexpected encrypted content type {content_type}")
    name = _CIPHER_NAMES.get(oid)
    if name is None:
        raise UnsupportedAlgorithm(f"content encryption algorithm {oid} is not supported")
    if parameters is None or len(iv := asn1.decode_octets(parameters)) != _CIPHERS[name].block_size:
        raise CmsError("initialisation vector of the wrong length")
    return name, iv, asn1.decode_octets(content, _CONTEXT_0_PRIMITIVE) if content else b""


def _encrypted_key(recipients: Sequence[asn1.Node], recipient: bytes) -> bytes:
    """The encrypted content key that is meant for ``recipient``; empty where there is none."""
    keys = []
    for node in recipients:
        if node.tag != asn1.SEQUENCE:
            continue  # key agreement, passwords: not ours
        fields = _recipient_fields(node)
        identifier = _decode_identifier(fields.take(asn1.SEQUENCE, _CONTEXT_0_PRIMITIVE))
        oid, _parameters = algorithms.decode_algorithm(fields.take(asn1.SEQUENCE))
        encrypted_key = asn1.decode_octets(fields.take())
        fields.end()
        if _is_meant(recipient, identifier):
            if oid != algorithms.RSA_ENCRYPTION:
                raise UnsupportedAlgorithm(f"key encryption algorithm {oid} is not supported")
            keys.append(encrypted_key)
    return keys[0] if len(keys) == 1 else b""


def _content_key(facts: _CipherFacts, random: Callable[[int], bytes]) -> bytes:
    key = random(facts.key_size)
    while _is_single_des(key, facts):
        key = random(facts.key_size)
    return key


def _is_single_des(key: bytes, facts: _CipherFacts) -> bool:
    """Whether a 3DES key is single DES in disguise: two neighbouring parts are the same."""
    return facts.make is TripleDES and (key[:8] == key[8:16] or key[8:16] == key[16:])


def _decrypt_key(
    encrypted_key: bytes,
    private_key: rsa.RSAPrivateKey,
    facts: _CipherFacts,
    random: Callable[[int], bytes],
) -> bytes:
    """The content key, or a random one of the same size where anything about it is wrong."""
    substitute = random(facts.key_size)
    try:
        key = private_key.decrypt(encrypted_key or bytes(private_key.key_size // 8), padding.PKCS1v15())
    except ValueError:
        return substitute
    return substitute if len(key) != facts.key_size or _is_single_des(key, facts) else key


def _decrypt_content(facts: _CipherFacts, key: bytes, iv: bytes, encrypted: bytes) -> bytes:
    """Decrypt and remove the padding, all of which is looked at before anything is said about it."""
    block = facts.block_size
    if not encrypted or len(encrypted) % block:
        raise DecryptionFailed
    decryptor = Cipher(facts.make(key), CBC(iv)).decryptor()
    content = decryptor.update(encrypted) + decryptor.finalize()
    opened = _without_padding(content, block)
    if opened is None:
        raise DecryptionFailed
    return opened


def _without_padding(content: bytes, block: int) -> bytes | None:
    """All of the padding is looked at, in constant time."""
    unpadder = PKCS7(8 * block).unpadder()
    try:
        return content[:-block] + unpadder.update(content[-block:]) + unpadder.finalize()
    except ValueError:
        return None
