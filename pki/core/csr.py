"""PKCS #10 certification requests (RFC 2986).

Read without ``cryptography``'s own parser, which refuses the version number that Apple's client writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID

from pki.core import algorithms, asn1
from pki.core.algorithms import PrivateKey
from pki.core.certificates import describe_key, load_public_key, signing_hash
from pki.core.names import (
    MAX_NAME_PARTS,
    NAME_OIDS,
    Name,
    NameRefused,
    describe_name,
    encode_alternative_names,
    encode_name,
    encode_name_part,
)
from pki.core.scan import DEFAULT_LIMITS, Limits, Malformed, scan

CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
MAX_ATTRIBUTES = 20
MAX_EXTENSIONS = 40
MAX_ALTERNATIVE_NAMES = 16
_SUBJECT_ALTERNATIVE_NAME = "2.5.29.17"
_NAMES_OF_OIDS = {oid.dotted_string: key for key, oid in NAME_OIDS.items()}
# GeneralName (RFC 5280 section 4.2.1.6) by tag.
_GENERAL_NAMES = {
    asn1.context(1, constructed=False): "email",
    asn1.context(2, constructed=False): "DNS",
    asn1.context(6, constructed=False): "URI",
}
_IP_ADDRESS = asn1.context(7, constructed=False)
# 0 says RFC 2986; Apple's closed client on macOS writes 2 (real messages).
_VERSIONS = frozenset({0, 2})


class CsrError(Malformed):
    """The certification request is refused; ``reason`` says why."""


@dataclass(frozen=True)
class SigningRequest:
    """A request whose own signature verified: the sender holds the private key.

    ``subject``: RFC 4514 text of what was asked for, for the record only. ``public_key``: DER of the
    SubjectPublicKeyInfo. ``key``: in words. ``challenge_passwords``: every value that occurs, in its order.
    ``extension_oids``: what extensions were asked for.
    """

    der: bytes = field(repr=False)
    subject: str
    subject_der: bytes = field(repr=False)
    public_key: bytes = field(repr=False)
    key: str
    challenge_passwords: tuple[str, ...] = field(repr=False)
    extension_oids: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 of the request, in hexadecimal."""
        return hashlib.sha256(self.der).hexdigest()


def decode_signing_request(
    data: bytes, *, allow_sha1: bool = True, limits: Limits = DEFAULT_LIMITS
) -> SigningRequest:
    """Read a request in DER and verify its signature over the received bytes. Raises :class:`CsrError`."""
    try:
        scan(data, limits)
        return _decode(data, allow_sha1=allow_sha1)
    except CsrError:
        raise
    except Malformed as error:
        raise CsrError(error.reason) from None


def _decode(data: bytes, *, allow_sha1: bool) -> SigningRequest:
    request = asn1.Fields(asn1.read(data), "certification request")
    info = request.take(asn1.SEQUENCE)
    oid, parameters = algorithms.decode_algorithm(request.take(asn1.SEQUENCE))
    signature = asn1.decode_bits(request.take(asn1.BIT_STRING))
    request.end()

    fields = asn1.Fields(info, "certification request")
    if asn1.decode_integer(fields.take(asn1.INTEGER)) not in _VERSIONS:
        raise CsrError("unknown version of the certification request")
    subject = fields.take(asn1.SEQUENCE)
    public_key = fields.take(asn1.SEQUENCE)
    attributes = fields.take_optional(asn1.context(0))
    fields.end()

    kind, digest = algorithms.signature_digest(oid, parameters, None)
    if digest == "sha1" and not allow_sha1:
        raise CsrError("SHA-1 is not allowed here")
    key = load_public_key(public_key.encoded)
    algorithms.verify_signature(key, kind, digest, signature, info.encoded)

    passwords, extensions = _decode_attributes(attributes)
    return SigningRequest(
        der=data,
        subject=describe_name(subject),
        subject_der=subject.encoded,
        public_key=public_key.encoded,
        key=describe_key(key),
        challenge_passwords=passwords,
        extension_oids=extensions,
    )


def _decode_attributes(node: asn1.Node | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    passwords: list[str] = []
    extensions: list[str] = []
    for count, attribute in enumerate(asn1.children(node) if node else ()):
        if count >= MAX_ATTRIBUTES:
            raise CsrError("too many attributes")
        fields = asn1.Fields(attribute, "attribute")
        oid = asn1.decode_oid(fields.take(asn1.OID))
        values = tuple(asn1.children(fields.take(asn1.SET)))
        fields.end()
        if oid == CHALLENGE_PASSWORD:
            passwords.extend(asn1.decode_text(value) for value in values)
        elif oid == EXTENSION_REQUEST:
            for value in values:
                extensions.extend(_decode_extension_oids(value))
    if len(extensions) > MAX_EXTENSIONS:
        raise CsrError("too many extensions")
    return tuple(passwords), tuple(extensions)


def _decode_extension_oids(node: asn1.Node) -> Iterable[str]:
    if node.tag != asn1.SEQUENCE:
        raise CsrError("extensions: unexpected type")
    for extension in asn1.children(node):
        yield asn1.decode_oid(asn1.Fields(extension, "extension").take(asn1.OID))


@dataclass(frozen=True)
class AskedNames:
    """The names that a request asks for, as far as a certificate of ours could hold them.

    ``subject``: most significant part first. ``left_out``: in words, what could not stand in a certificate.
    """

    subject: Name
    alternative_names: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


def asked_names(request: SigningRequest) -> AskedNames:
    """What a request wants to be called. It decides nothing: whoever approves it may take it over.

    Never raises: what cannot be read is left out.
    """
    left_out: list[str] = []
    subject = tuple(_fit(_subject_parts(request.subject_der), encode_name_part, left_out))
    if len(subject) > MAX_NAME_PARTS:
        left_out.append("the name has too many parts")
        subject = ()
    # Most requests name none, and this is another walk through the request.
    named = _SUBJECT_ALTERNATIVE_NAME in request.extension_oids
    asked = _alternative_names(request.der) if named else ()
    names = tuple(_fit(asked, _encode_alternative_name, left_out))
    return AskedNames(subject, names[:MAX_ALTERNATIVE_NAMES], tuple(left_out))


def _fit(
    pairs: Iterable[tuple[str, str]], encode: Callable[[str, str], object], left_out: list[str]
) -> Iterable[tuple[str, str]]:
    """Those pairs that our own encoder takes."""
    for key, value in pairs:
        try:
            encode(key, value)
        except NameRefused as refused:
            left_out.append(f"{key}: {refused.reason}")
        else:
            yield key, value


def _encode_alternative_name(kind: str, value: str) -> object:
    return encode_alternative_names(((kind, value),))


def _subject_parts(subject_der: bytes) -> Iterable[tuple[str, str]]:
    """The attributes in their order; what is no text stands as an empty value, which no name takes."""
    for rdn in asn1.children(asn1.read(subject_der)):
        for attribute in asn1.children(rdn):
            fields = asn1.Fields(attribute, "name")
            oid, value = asn1.decode_oid(fields.take(asn1.OID)), fields.take()
            yield _NAMES_OF_OIDS.get(oid, oid), _text(value)


def _alternative_names(der: bytes) -> Iterable[tuple[str, str]]:
    info = asn1.Fields(next(asn1.children(asn1.read(der))), "certification request")
    for _ in range(3):
        info.take()
    attributes = info.take_optional()
    for attribute in asn1.children(attributes) if attributes else ():
        oid, values = asn1.children(attribute)
        if asn1.decode_oid(oid) != EXTENSION_REQUEST:
            continue
        for extension in (extension for value in asn1.children(values) for extension in asn1.children(value)):
            parts = tuple(asn1.children(extension))
            if asn1.decode_oid(parts[0]) == _SUBJECT_ALTERNATIVE_NAME:
                yield from _general_names(parts[-1])


def _general_names(value: asn1.Node) -> Iterable[tuple[str, str]]:
    try:
        contents = asn1.decode_octets(value)
        scan(contents)
        nodes = tuple(asn1.children(asn1.read(contents)))
    except Malformed:
        nodes = ()
    for node in nodes:
        kind = _GENERAL_NAMES.get(node.tag)
        if kind is not None:
            yield kind, node.contents.decode("ascii", "replace")
        elif node.tag == _IP_ADDRESS:
            yield "IP", _address(node.contents)
        else:
            yield "other", ""


def _address(octets: bytes) -> str:
    try:
        return str(ip_address(octets))
    except ValueError:
        return ""


def _text(node: asn1.Node) -> str:
    try:
        return asn1.decode_text(node)
    except Malformed:
        return ""


def encode_signing_request(
    *,
    subject: Name,
    private_key: PrivateKey,
    challenge_password: str | None = None,
    san: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A request in DER, as a client sends it. Raises :class:`pki.core.names.NameRefused`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(encode_name(subject))
    if san:
        names = x509.SubjectAlternativeName(encode_alternative_names(san))
        builder = builder.add_extension(names, critical=False)
    if challenge_password is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge_password.encode())
    return builder.sign(private_key, signing_hash(private_key)).public_bytes(Encoding.DER)
