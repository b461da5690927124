"""Reading and writing ASN.1 by its bytes: BER in (X.690 section 8), DER out (section 10).

Reading gives slices of the received bytes, so that a signature can be checked over what was received and
nothing is encoded again. Call :func:`pki.core.scan.scan` first: these functions trust its limits.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from pki.core.scan import Malformed

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID, ENUMERATED = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0A
UTF8_STRING, PRINTABLE_STRING, TELETEX_STRING, IA5_STRING = 0x0C, 0x13, 0x14, 0x16
UTC_TIME, GENERALIZED_TIME, UNIVERSAL_STRING, BMP_STRING = 0x17, 0x18, 0x1C, 0x1E
SEQUENCE, SET = 0x30, 0x31

_TEXT_CODECS = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    IA5_STRING: "ascii",
    TELETEX_STRING: "latin-1",
    BMP_STRING: "utf-16-be",
    UNIVERSAL_STRING: "utf-32-be",
}
_CONSTRUCTED_OCTET_STRING = 0x24
_PRINTABLE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 '()+,-./:=?")


def context(number: int, *, constructed: bool = True) -> int:
    """The tag ``[number]`` of the context class."""
    return (0xA0 if constructed else 0x80) | number


class Node(NamedTuple):
    """One TLV inside ``data``: header from ``start``, contents ``[body, body_end)``, over at ``end``."""

    data: bytes
    tag: int
    start: int
    body: int
    body_end: int
    end: int

    @property
    def encoded(self) -> bytes:
        """The whole TLV as received."""
        return self.data[self.start : self.end]

    @property
    def contents(self) -> bytes:
        """What is between header and end, as received."""
        return self.data[self.body : self.body_end]

    @property
    def indefinite(self) -> bool:
        """Whether it is of indefinite length (BER, never DER)."""
        return self.body_end != self.end


_make = tuple.__new__


def read(data: bytes, start: int = 0) -> Node:
    """The TLV at ``start``. Raises :class:`Malformed`."""
    try:
        tag, length = data[start], data[start + 1]
    except IndexError:
        raise Malformed("cut off") from None
    body = start + 2
    if length == 0x80:
        body_end = body
        while data[body_end : body_end + 2] != b"\0\0":
            body_end = read(data, body_end).end
        return Node(data, tag, start, body, body_end, body_end + 2)
    if length > 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[body : body + octets])
        body += octets
    end = body + length
    if end > len(data):
        raise Malformed("length points outside")
    # As Node(…) does it, without a call of Python in between: this runs more than a hundred times a message.
    return _make(Node, (data, tag, start, body, end, end))


def children(node: Node) -> Iterator[Node]:
    """The TLVs inside a constructed node."""
    position = node.body
    while position < node.body_end:
        child = read(node.data, position)
        position = child.end
        yield child


class Fields:
    """The members of a SEQUENCE, taken in their order."""

    def __init__(self, node: Node, what: str, tag: int = SEQUENCE) -> None:
        if node.tag != tag:
            raise Malformed(f"{what}: unexpected type")
        self._data, self._position, self._end, self._what = node.data, node.body, node.body_end, what

    def take(self, *tags: int) -> Node:
        """The next member, which must have one of ``tags`` (any where none is given)."""
        if self._position >= self._end:
            raise Malformed(f"{self._what}: something is missing")
        node = read(self._data, self._position)
        if tags and node.tag not in tags:
            raise Malformed(f"{self._what}: unexpected type")
        self._position = node.end
        return node

    def take_optional(self, *tags: int) -> Node | None:
        """The next member if there is one and it has one of ``tags`` (any where none is given)."""
        if self._position >= self._end:
            return None
        if tags and self._data[self._position] not in tags:
            return None
        return self.take(*tags)

    def end(self) -> None:
        """Nothing may follow."""
        if self._position != self._end:
            raise Malformed(f"{self._what}: something too much")


def decode_oid(node: Node) -> str:
    """An OBJECT IDENTIFIER in dotted form."""
    if node.tag != OID:
        raise Malformed("not an object identifier")
    return decode_oid_contents(node.contents)


@lru_cache(maxsize=512)
def decode_oid_contents(contents: bytes) -> str:
    """What is inside an OBJECT IDENTIFIER, in dotted form."""
    if not contents or contents[-1] & 0x80:
        raise Malformed("object identifier cut off")
    arcs: list[int] = []
    value, fresh = 0, True
    for octet in contents:
        if fresh and octet == 0x80:
            raise Malformed("object identifier padded")
        value = value << 7 | octet & 0x7F
        fresh = not octet & 0x80
        if fresh:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def decode_integer(node: Node) -> int:
    """An INTEGER or ENUMERATED."""
    if node.tag not in (INTEGER, ENUMERATED) or node.body == node.body_end:
        raise Malformed("not an integer")
    return int.from_bytes(node.contents, signed=True)


def decode_octets(node: Node, tag: int = OCTET_STRING) -> bytes:
    """An OCTET STRING (or one with the implicit ``tag``), in one piece or in segments (X.690 section 8.7)."""
    if node.tag == tag:
        return node.contents
    if node.tag == tag | 0x20:
        return b"".join(decode_octets(part) for part in children(node))
    raise Malformed("not an octet string")


def decode_bits(node: Node) -> bytes:
    """A BIT STRING of whole bytes."""
    contents = node.contents
    if node.tag != BIT_STRING or not contents or contents[0] != 0:
        raise Malformed("not a bit string of whole bytes")
    return contents[1:]


def decode_text(node: Node) -> str:
    """Any of the character string types that occur in names and attributes."""
    codec = _TEXT_CODECS.get(node.tag)
    if codec is None:
        raise Malformed("not a character string")
    try:
        return node.contents.decode(codec)
    except UnicodeDecodeError:
        raise Malformed("a character string holds other bytes") from None


def encode(tag: int, *parts: bytes) -> bytes:
    """A TLV with ``parts`` as contents, in DER."""
    contents = parts[0] if len(parts) == 1 else b"".join(parts)
    return _header(tag, len(contents)) + contents


@lru_cache(maxsize=1024)
def _header(tag: int, length: int) -> bytes:
    if length < 0x80:
        return bytes((tag, length))
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets


def encode_sequence(*parts: bytes) -> bytes:
    """SEQUENCE of parts that are encoded already."""
    contents = b"".join(parts)
    return _header(SEQUENCE, len(contents)) + contents


def encode_set_of(parts: list[bytes], tag: int = SET) -> bytes:
    """SET OF, in the order that DER demands (X.690 section 11.6)."""
    return encode(tag, *sorted(parts))


def encode_integer(value: int) -> bytes:
    """INTEGER."""
    return encode(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


@lru_cache(maxsize=256)
def encode_oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    contents = bytearray()
    for arc in (40 * first + second, *rest):
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(arc & 0x7F | 0x80)
        contents += bytes(reversed(octets))
    return encode(OID, bytes(contents))


def encode_octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return _header(OCTET_STRING, len(value)) + value


def encode_null() -> bytes:
    """NULL."""
    return b"\x05\x00"


def encode_text(value: str) -> bytes:
    """PrintableString where the characters allow it, otherwise UTF8String."""
    if _PRINTABLE.issuperset(value):
        return encode(PRINTABLE_STRING, value.encode("ascii"))
    return encode(UTF8_STRING, value.encode())


def encode_time(at: datetime) -> bytes:
    """UTCTime until 2049, then GeneralizedTime (RFC 5280 section 4.1.2.5). ``at`` is aware."""
    if at.tzinfo is not UTC:
        at = at.astimezone(UTC)
    if 1950 <= at.year < 2050:
        return encode(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").encode())
    return encode_generalized_time(at)


def encode_generalized_time(at: datetime) -> bytes:
    """GeneralizedTime in whole seconds. ``at`` is aware."""
    return encode(GENERALIZED_TIME, at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode())
