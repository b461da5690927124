"""Binary property lists: what administrators upload (threats D4).

Layout: ``bplist00``, objects, a table of offsets, a trailer of 32 bytes. Objects refer to each other by
number, so a small file can describe a cycle or an exponentially large tree: every visit is counted and the
path from the top is remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from commands.core.plist_error import PlistError

MAGIC = b"bplist00"
TRAILER = 32
APPLE_EPOCH = datetime(2001, 1, 1, tzinfo=UTC)
MAX_SECONDS = 10_000_000_000  # about 317 years either way

NULL, FALSE, TRUE = 0x00, 0x08, 0x09
INTEGER, REAL, DATE, DATA, ASCII, UTF16, ARRAY, DICT = 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0xA, 0xD


def read(data: bytes, *, max_depth: int, max_nodes: int, verify: Callable[[Any], Any]) -> Any:
    """Decode the top object. ``verify`` sees every scalar and returns it or raises :class:`PlistError`.

    Raises :class:`PlistError`, and nothing else.
    """
    return _Reader(data, max_depth, max_nodes, verify).top()


class _Reader:
    def __init__(self, data: bytes, max_depth: int, max_nodes: int, verify: Callable[[Any], Any]) -> None:
        if len(data) < len(MAGIC) + 1 + TRAILER or not data.startswith(MAGIC):
            raise PlistError("not a binary property list")
        self.data = data
        self.max_depth = max_depth
        self.nodes_left = max_nodes
        self.verify = verify
        self.path: set[int] = set()
        self.offset_size, self.reference_size, self.count, self.top_reference, table = struct.unpack(
            ">6xBBQQQ", data[-TRAILER:]
        )
        self.end = table
        body = len(data) - TRAILER
        if (
            self.offset_size not in range(1, 9)
            or self.reference_size not in range(1, 9)
            or not len(MAGIC) < table < body
            or not 0 < self.count <= body
            or table + self.count * self.offset_size > body
        ):
            raise PlistError("a binary property list with a false trailer")
        self.table = table

    def top(self) -> Any:
        return self._object(self.top_reference, self.max_depth)

    def _bytes(self, at: int, size: int) -> bytes:
        if at < len(MAGIC) or at + size > self.end:
            raise PlistError("a binary property list that points outside itself")
        return self.data[at : at + size]

    def _object(self, reference: int, depth: int) -> Any:
        self.nodes_left -= 1
        if self.nodes_left < 0:
            raise PlistError("more nodes than allowed")
        if reference >= self.count:
            raise PlistError("a binary property list that points outside itself")
        start = self.table + reference * self.offset_size
        offset = int.from_bytes(self.data[start : start + self.offset_size], "big")
        marker = self._bytes(offset, 1)[0]
        kind, low = marker >> 4, marker & 0x0F
        if kind in {ARRAY, DICT}:
            return self._container(reference, offset, kind, low, depth)
        return self.verify(self._scalar(offset, marker, kind, low))

    def _container(self, reference: int, offset: int, kind: int, low: int, depth: int) -> Any:
        if depth <= 0:
            raise PlistError("nested deeper than allowed")
        if reference in self.path:
            raise PlistError("a property list that contains itself")
        self.path.add(reference)
        size, at = self._size(offset + 1, low)
        if kind == ARRAY:
            value: Any = [self._object(item, depth - 1) for item in self._references(at, size)]
        else:
            value = self._dictionary(at, size, depth)
        self.path.remove(reference)
        return value

    def _dictionary(self, at: int, size: int, depth: int) -> dict[str, Any]:
        references = self._references(at, 2 * size)
        result: dict[str, Any] = {}
        for key_reference, value_reference in zip(references[:size], references[size:], strict=True):
            key = self._object(key_reference, 0)
            if not isinstance(key, str):
                raise PlistError("a key that is not text")
            if key in result:
                raise PlistError("a key occurs twice")
            result[key] = self._object(value_reference, depth - 1)
        return result

    def _references(self, at: int, count: int) -> list[int]:
        if count > self.nodes_left:
            raise PlistError("more nodes than allowed")
        size = self.reference_size
        raw = self._bytes(at, count * size)
        return [int.from_bytes(raw[i : i + size], "big") for i in range(0, len(raw), size)]

    def _size(self, at: int, low: int) -> tuple[int, int]:
        """The count of a variable object, and where its content starts."""
        if low != 0x0F:
            return low, at
        marker = self._bytes(at, 1)[0]
        if marker >> 4 != INTEGER or marker & 0x0F > 3:
            raise PlistError("a binary property list with a false length")
        width = 1 << (marker & 0x0F)
        return int.from_bytes(self._bytes(at + 1, width), "big"), at + 1 + width

    def _scalar(self, offset: int, marker: int, kind: int, low: int) -> Any:
        at = offset + 1
        if marker in {FALSE, TRUE}:
            return marker == TRUE
        if kind == INTEGER and low <= 4:
            # One, two and four bytes are unsigned; eight and sixteen are signed.
            return int.from_bytes(self._bytes(at, 1 << low), "big", signed=low >= 3)
        if kind == REAL and low in {2, 3}:
            return struct.unpack(">f" if low == 2 else ">d", self._bytes(at, 1 << low))[0]
        if marker == 0x33:
            return _moment(struct.unpack(">d", self._bytes(at, 8))[0])
        if kind in {DATA, ASCII, UTF16}:
            size, at = self._size(at, low)
            return self._sized(kind, at, size)
        raise PlistError("a value that XML property lists do not have")

    def _sized(self, kind: int, at: int, size: int) -> bytes | str:
        raw = self._bytes(at, size * 2 if kind == UTF16 else size)
        if kind == DATA:
            return raw
        try:
            return raw.decode("ascii" if kind == ASCII else "utf-16-be")
        except UnicodeDecodeError:
            raise PlistError("a text that cannot be decoded") from None


def _moment(seconds: float) -> datetime:
    if not -MAX_SECONDS < seconds < MAX_SECONDS:
        raise PlistError("a date that is none, or not between 1970 and 2200")
    return APPLE_EPOCH + timedelta(seconds=seconds)
