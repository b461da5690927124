"""HPACK (RFC 7541) for requests that differ in two fields, and for answers of which only the status matters.

Requests: what repeats goes through the compression table of the hpack package, and its bytes are kept as soon
as they change the table no more; what differs in every request is never indexed.
Answers: the table is kept as it came, without undoing Huffman's coding of what nobody asks for. Sizes of
entries need not be known for that: an encoder never refers to what it has evicted.
"""

from __future__ import annotations

from collections import deque

from hpack import Encoder, HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman

Headers = tuple[tuple[str, str], ...]

MAX_ENTRIES = 128  # 4,096 bytes of table, at least 32 bytes each (section 4.1)
STATUSES = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
"""Appendix A: what the static table knows of ``:status``."""
STATIC = 61
_STATUS = b":status"
_STATUS_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(_STATUS)

Text = tuple[bool, bytes]
"""Whether it is Huffman-coded, and its bytes as they came."""


class BadBlock(Exception):
    """The block breaks a rule of RFC 7541. The connection cannot go on: the tables differ."""


class RequestBlocks:
    """The sending half of one connection."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._stable_for: tuple[Headers, Headers] | None = None
        self._stable = (b"", b"")

    def set_table_size(self, size: int) -> None:
        """The other side's SETTINGS_HEADER_TABLE_SIZE; more than 4,096 bytes are not used."""
        self._encoder.header_table_size = min(size, 4096)
        self._stable_for = None

    def encode(self, pseudo: Headers, path: bytes, common: Headers, apns_id: bytes) -> bytes:
        """One header block: ``pseudo``, ``:path``, ``common``, ``apns-id``."""
        key = (pseudo, common)
        if self._stable_for != key:
            first, second = self._encode_common(pseudo, common)
        else:
            first, second = self._stable
        # 0x14: never indexed, name 4 of the static table; 0x10: never indexed, name spelled out.
        return b"".join(
            (first, b"\x14", _length(path), path, second, b"\x10\x07apns-id", _length(apns_id), apns_id)
        )

    def _encode_common(self, pseudo: Headers, common: Headers) -> tuple[bytes, bytes]:
        table = self._encoder.header_table
        before, resized = list(table.dynamic_entries), table.resized
        blocks = self._encoder.encode(pseudo), self._encoder.encode(common)
        if list(table.dynamic_entries) == before and not resized:
            self._stable_for, self._stable = (pseudo, common), blocks
        return blocks


def _length(value: bytes) -> bytes:
    """Section 5.1, with a prefix of 7 bits; the top bit stays clear: no Huffman coding."""
    size = len(value)
    if size < 127:
        return bytes((size,))
    rest = [127]
    size -= 127
    while size >= 128:
        rest.append(size & 127 | 128)
        size >>= 7
    rest.append(size)
    return bytes(rest)


class AnswerBlocks:
    """The receiving half of one connection."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int | Text, Text]] = deque(maxlen=MAX_ENTRIES)

    def status(self, block: bytes) -> int:
        """The status of an answer; 0 where the block has none, or none that is a number.

        Raises :class:`BadBlock`. Every block of the connection has to come here, in its order.
        """
        at, status = 0, 0
        while at < len(block):
            first = block[at]
            if first & 0x80:  # section 6.1: indexed
                index, at = _integer(block, at, 7)
                status = status or self._indexed(index)
            elif first & 0xE0 == 0x20:  # section 6.3: table size update
                size, at = _integer(block, at, 5)
                if size > 4096:
                    raise BadBlock("a table larger than allowed")
            else:  # section 6.2: literal
                keep = bool(first & 0x40)
                name, at = self._name(block, at, 6 if keep else 4)
                value, at = _text(block, at)
                if not status and _is_status(name):
                    status = _number(value)
                if keep:
                    self._entries.appendleft((name, value))
        return status

    def _indexed(self, index: int) -> int:
        if index <= STATIC:
            if index == 0:
                raise BadBlock("index 0")
            return STATUSES.get(index, 0)
        name, value = self._entry(index)
        return _number(value) if _is_status(name) else 0

    def _name(self, block: bytes, at: int, prefix: int) -> tuple[int | Text, int]:
        index, at = _integer(block, at, prefix)
        if index == 0:
            return _text(block, at)
        if index <= STATIC:
            return index, at
        return self._entry(index)[0], at

    def _entry(self, index: int) -> tuple[int | Text, Text]:
        try:
            return self._entries[index - STATIC - 1]
        except IndexError:
            raise BadBlock("no such entry in the table") from None


def _is_status(name: int | Text) -> bool:
    if isinstance(name, int):
        return name in STATUSES
    return name[1] == (_STATUS_HUFFMAN if name[0] else _STATUS)


def _number(text: Text) -> int:
    coded, value = text
    if coded:
        try:
            value = decode_huffman(value)
        except HPACKError:
            raise BadBlock("not a Huffman code") from None
    return int(value) if value.isdigit() and len(value) == 3 else 0


def _text(block: bytes, at: int) -> tuple[Text, int]:
    """Section 5.2."""
    if at >= len(block):
        raise BadBlock("cut short")
    coded = bool(block[at] & 0x80)
    size, at = _integer(block, at, 7)
    if at + size > len(block):
        raise BadBlock("cut short")
    return (coded, block[at : at + size]), at + size


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Section 5.1; at most 28 bits behind the prefix."""
    limit = (1 << prefix) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    for shift in (0, 7, 14, 21):
        if at >= len(block):
            raise BadBlock("cut short")
        value += (block[at] & 127) << shift
        at += 1
        if block[at - 1] < 128:
            return value, at
    raise BadBlock("a number too large")
