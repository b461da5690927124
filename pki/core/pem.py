"""PEM blocks in a file (RFC 7468), in one pass whatever the file holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")


def blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Label and text of each block, its first and last lines included. One without an end ends the search."""
    position = 0
    while begin := _BEGIN.search(data, position):
        end = b"-----END " + begin[1] + b"-----"
        at = data.find(end, begin.end())
        if at < 0:
            return
        position = at + len(end)
        yield begin[1], data[begin.start() : position]


def body_of(block: bytes) -> bytes:
    """What stands between the first line and the last of such a block."""
    begin = block.index(b"-----", len(b"-----BEGIN ")) + len(b"-----")
    return block[begin : block.rindex(b"-----END ")]
