"""The CMS messages that nearly every client sends, taken apart along their fixed structure.

Where a message has the shape that is usual (RFC 5652: one signer or one recipient, algorithms that are used
here, DER or the indefinite lengths that Apple's devices write), a single walk finds its parts, and compares
what is constant as bytes. For everything else these functions know nothing (None), and :mod:`pki.core.cms`
goes the long way: it alone says what is refused, and why. What is found here is what it would find, within
the limits of :data:`pki.core.scan.DEFAULT_LIMITS`; the tests hold both against each other.

Nothing is verified here, and nothing is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from pki.core import algorithms, asn1
from pki.core.certificates import read_identifiers
from pki.core.remembering import remembered
from pki.core.scan import DEFAULT_LIMITS, Limits, Malformed, scan

DATA = "1.2.840.113549.1.7.1"
_DATA = asn1.encode_oid(DATA)
_SIGNED_DATA = asn1.encode_oid("1.2.840.113549.1.7.2")
_ENVELOPED_DATA = asn1.encode_oid("1.2.840.113549.1.7.3")

_MAX_CERTIFICATES = 10
_MAX_ATTRIBUTES = 20
# What certificates and attributes may hold, so that the whole message stays within the limits: they are at
# most 9 levels deep in it, and the rest of a usual message is less than 200 nodes.
_INSIDE = Limits(depth=DEFAULT_LIMITS.depth - 9, nodes=DEFAULT_LIMITS.nodes - 200)

_CONTEXT_0, _CONTEXT_0_PRIMITIVE = asn1.context(0), asn1.context(0, constructed=False)
_CONSTRUCTED_OCTETS = asn1.OCTET_STRING | 0x20
_END = b"\0\0"
_INDEFINITE = -1
_PLAIN_VALUES = frozenset(
    {
        asn1.OCTET_STRING,
        asn1.UTF8_STRING,
        asn1.PRINTABLE_STRING,
        asn1.IA5_STRING,
        asn1.UTC_TIME,
        asn1.GENERALIZED_TIME,
    }
)


class Signed(NamedTuple):
    """The parts of a SignedData, nothing of it verified.

    ``content``: None where it is detached. ``signer``: the one certificate that its SignerInfo names.
    ``to_verify``: the signed attributes as they were signed (tag SET), None where there are none.
    ``kind``, ``digest``: what the signature is made with.
    """

    content: bytes | None
    signer: bytes
    certificates: tuple[bytes, ...]
    to_verify: bytes | None
    attributes: dict[str, tuple[bytes, ...]] | None
    kind: str
    digest: str
    signature: bytes


class Enveloped(NamedTuple):
    """The parts of an EnvelopedData for one recipient."""

    cipher: str
    iv: bytes
    encrypted_key: bytes
    encrypted: bytes


class _UnusualError(Exception):
    """The message has another shape."""


def signed(data: bytes) -> Signed | None:
    """The parts of a SignedData of content type id-data, None where it is not a usual one."""
    try:
        return _signed(data)
    except (_UnusualError, IndexError, Malformed):
        return None


def enveloped(data: bytes, recipient: bytes) -> Enveloped | None:
    """The parts of an EnvelopedData for ``recipient`` (DER) and nobody else; None where it is not usual."""
    try:
        return _enveloped(data, recipient)
    except (_UnusualError, IndexError, Malformed):
        return None


def _signed(data: bytes) -> Signed:
    outer, position = _content_info(data, _SIGNED_DATA)
    body, end = _open(data, position, asn1.SET)
    digest = _DIGESTS.get(data[body:end]) or _unusual()
    content, position = _encapsulated(data, end)
    certificates, weight, position = _certificates(data, position)
    signers = _open(data, position, asn1.SET)
    signer_info = _open(data, signers[0], asn1.SEQUENCE)
    position = _version(data, signer_info[0])
    signer, position = _named(data, position, certificates)
    body, end = _open(data, position, asn1.SEQUENCE)
    if _DIGESTS.get(data[position:end]) != digest:
        _unusual()
    to_verify, attributes, position = _attributes(data, end, weight)
    body, end = _open(data, position, asn1.SEQUENCE)
    kind = _SIGNATURES.get((data[position:end], digest)) or _unusual()
    body, end = _open(data, end, asn1.OCTET_STRING)
    position = _close(data, _close(data, end, signer_info[1]), signers[1])
    _close_all(data, position, outer)
    return Signed(content, signer, certificates, to_verify, attributes, kind, digest, data[body:end])


def _enveloped(data: bytes, recipient: bytes) -> Enveloped:
    outer, position = _content_info(data, _ENVELOPED_DATA)
    recipients = _open(data, position, asn1.SET)
    info = _open(data, recipients[0], asn1.SEQUENCE)
    position = _version(data, info[0])
    _weight_of_certificate(recipient)
    _recipient, position = _named(data, position, (recipient,))
    body, end = _open(data, position, asn1.SEQUENCE)
    if data[position:end] not in _RSA_ENCRYPTION:
        _unusual()
    body, end = _open(data, end, asn1.OCTET_STRING)
    encrypted_key = data[body:end]
    position = _close(data, _close(data, end, info[1]), recipients[1])

    content_info = _open(data, position, asn1.SEQUENCE)
    position = content_info[0]
    if not data.startswith(_DATA, position):
        _unusual()
    position += len(_DATA)
    prefix, cipher, block = next(
        (known for known in _CIPHERS if data.startswith(known[0], position)), _NO_CIPHER
    )
    if not block:
        _unusual()
    position += len(prefix)
    iv, position = data[position : position + block], position + block
    encrypted, position = _octets(data, position, _CONTEXT_0_PRIMITIVE, _CONTEXT_0)
    _close_all(data, _close(data, position, content_info[1]), outer)
    return Enveloped(cipher, iv, encrypted_key, encrypted)


# --- the parts -------------------------------------------------------------------------------------------


def _content_info(data: bytes, content_type: bytes) -> tuple[tuple[int, int, int], int]:
    """ContentInfo, [0] and the SEQUENCE in it: where each ends, and where its version is over."""
    if len(data) > DEFAULT_LIMITS.size:
        _unusual()
    body, first = _open(data, 0, asn1.SEQUENCE)
    if not data.startswith(content_type, body):
        _unusual()
    body, second = _open(data, body + len(content_type), _CONTEXT_0)
    body, third = _open(data, body, asn1.SEQUENCE)
    return (third, second, first), _version(data, body)


def _close_all(data: bytes, position: int, ends: tuple[int, int, int]) -> None:
    for end in ends:
        position = _close(data, position, end)
    if position != len(data):
        _unusual()


def _version(data: bytes, position: int) -> int:
    """Where an INTEGER of one octet is over. No version is of interest."""
    if not data.startswith(b"\x02\x01", position):
        _unusual()
    return position + 3


def _encapsulated(data: bytes, position: int) -> tuple[bytes | None, int]:
    body, end = _open(data, position, asn1.SEQUENCE)
    if not data.startswith(_DATA, body):
        _unusual()
    position = body + len(_DATA)
    content = None
    if data[position] == _CONTEXT_0 and position != end:
        body, inner = _open(data, position, _CONTEXT_0)
        content, position = _octets(data, body, asn1.OCTET_STRING, _CONSTRUCTED_OCTETS)
        position = _close(data, position, inner)
    return content, _close(data, position, end)


def _octets(data: bytes, position: int, primitive: int, constructed: int) -> tuple[bytes, int]:
    """An OCTET STRING in one piece, or in pieces that are not in pieces themselves (X.690 section 8.7)."""
    if data[position] == primitive:
        body, end = _open(data, position, primitive)
        return data[body:end], end
    position, end = _open(data, position, constructed)
    pieces: list[bytes] = []
    while position != end and not (end < 0 and data.startswith(_END, position)):
        body, position = _open(data, position, asn1.OCTET_STRING)
        if len(pieces) == _MAX_PIECES:
            _unusual()
        pieces.append(data[body:position])
    return b"".join(pieces), _close(data, position, end)


_MAX_PIECES = 40


def _certificates(data: bytes, position: int) -> tuple[tuple[bytes, ...], int, int]:
    """The certificates, how many nodes they are, and where they are over."""
    position, end = _open(data, position, _CONTEXT_0)
    certificates: list[bytes] = []
    weight = 0
    while position != end and not (end < 0 and data.startswith(_END, position)):
        _body, after = _open(data, position, asn1.SEQUENCE)
        if after < 0 or len(certificates) == _MAX_CERTIFICATES:
            _unusual()
        certificate = data[position:after]
        # Its issuer's name may stand in the SignerInfo once more.
        weight += 2 * _weight_of_certificate(certificate)
        certificates.append(certificate)
        position = after
    return tuple(certificates), weight, _close(data, position, end)


@remembered(256)
def _weight_of_certificate(certificate: bytes) -> int:
    """How many nodes it is. Raises :class:`Malformed`. A device shows the same one with each message."""
    return scan(certificate, _INSIDE)


def _named(data: bytes, position: int, certificates: tuple[bytes, ...]) -> tuple[bytes, int]:
    """The one certificate that issuer and serial number at ``position`` name, and where they are over."""
    found, length = b"", 0
    for certificate in certificates:
        name = name_of(certificate)
        if data.startswith(name, position) and certificate != found:
            if found:
                _unusual()
            found, length = certificate, len(name)
    if not found:
        _unusual()
    return found, position + length


@remembered(256)
def name_of(certificate: bytes) -> bytes:
    """IssuerAndSerialNumber (section 10.2.4) of a certificate, in DER."""
    identifiers = read_identifiers(certificate)
    return asn1.encode_sequence(identifiers.issuer, asn1.encode(asn1.INTEGER, identifiers.serial_number))


_Attributes = dict[str, tuple[bytes, ...]]


def _attributes(data: bytes, position: int, weight: int) -> tuple[bytes | None, _Attributes | None, int]:
    """Signed attributes as they were signed, taken apart, and where they are over."""
    if data[position] != _CONTEXT_0:
        return None, None, _within(weight, position)
    body, end = _open(data, position, _CONTEXT_0)
    found: _Attributes = {}
    count = 0
    while body < end:
        attribute, after = _open(data, body, asn1.SEQUENCE)
        oid, oid_end = _open(data, attribute, asn1.OID)
        values, values_end = _open(data, oid_end, asn1.SET)
        value = data[values:values_end]
        count += 1
        weight += _weight_of_value(value)
        if after < 0 or after != values_end or oid_end - oid > DEFAULT_LIMITS.oid or count > _MAX_ATTRIBUTES:
            _unusual()
        name = asn1.decode_oid_contents(data[oid:oid_end])
        found[name] = (*found[name], value) if name in found else (value,)
        body = after
    if body != end:
        _unusual()
    return bytes((asn1.SET,)) + data[position + 1 : end], found, _within(weight, end)


def _weight_of_value(value: bytes) -> int:
    """How many nodes the one value of an attribute is, in DER."""
    if value == _DATA:
        return 1
    if value[0] in _PLAIN_VALUES:
        if _open(value, 0, value[0])[1] != len(value):
            _unusual()
        return 1
    return scan(value, _INSIDE)


def _within(weight: int, position: int) -> int:
    if weight > _INSIDE.nodes:
        _unusual()
    return position


# --- the bytes -------------------------------------------------------------------------------------------


def _open(data: bytes, position: int, tag: int) -> tuple[int, int]:
    """Where the contents of a TLV with this tag begin and end; -1 where it is of indefinite length.

    That a TLV ends within the one around it is seen when that is closed.
    """
    if data[position] != tag:
        raise _UnusualError
    length = data[position + 1]
    position += 2
    if length >= 0x80:
        if length == 0x80:
            if not tag & 0x20:
                raise _UnusualError
            return position, _INDEFINITE
        if length == 0x82:
            length = data[position] << 8 | data[position + 1]
            position += 2
        elif length == 0x81:
            length = data[position]
            position += 1
        else:
            raise _UnusualError
    if position + length > len(data):
        raise _UnusualError
    return position, position + length


def _close(data: bytes, position: int, end: int) -> int:
    """Where a TLV is over whose last part is over at ``position``."""
    if end == position:
        return position
    if end >= 0 or not data.startswith(_END, position):
        raise _UnusualError
    return position + 2


def _unusual() -> NoReturn:
    raise _UnusualError


# --- what is compared as bytes ---------------------------------------------------------------------------


def _identifiers(oid: str) -> tuple[bytes, bytes]:
    """An AlgorithmIdentifier with NULL and without parameters: both are in use (RFC 5754 section 2)."""
    return algorithms.encode_algorithm(oid, asn1.encode_null()), algorithms.encode_algorithm(oid)


_DIGESTS: Mapping[bytes, str] = {
    encoded: name for oid, name in algorithms.DIGESTS.items() for encoded in _identifiers(oid)
}
_SIGNATURES: Mapping[tuple[bytes, str], str] = {
    (encoded, digest): kind
    for oid, (kind, named) in algorithms.SIGNATURES.items()
    for digest in algorithms.DIGEST_OIDS
    if named in {None, digest}
    for encoded in _identifiers(oid)
}
_RSA_ENCRYPTION = frozenset(_identifiers(algorithms.RSA_ENCRYPTION))


def _cipher(oid: str, name: str, block: int) -> tuple[bytes, str, int]:
    """How the AlgorithmIdentifier begins, up to the initialisation vector; its name; the size of a block."""
    whole = algorithms.encode_algorithm(oid, asn1.encode_octets(bytes(block)))
    return whole[:-block], name, block


_CIPHERS = (
    _cipher("2.16.840.1.101.3.4.1.2", "aes128_cbc", 16),
    _cipher("2.16.840.1.101.3.4.1.42", "aes256_cbc", 16),
    _cipher("1.2.840.113549.3.7", "des_ede3_cbc", 8),
)
_NO_CIPHER = (b"", "", 0)
