"""How much work an encrypted file asks for, read before the work begins.

PKCS #12 (RFC 7292) and encrypted PKCS #8 (RFC 8018) name their own iteration counts: a file of a hundred
bytes can ask for hours of hashing. The counts stand directly behind the salt: ``OCTET STRING, INTEGER``, in
the parameters of the algorithms and in the ``MacData`` of PKCS #12.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Iterator

LIMIT = 5_000_000
_MAX_DEPTH = 24
_MAX_NODES = 20_000
_UNREASONABLE = LIMIT + 1

_INTEGER, _OCTET_STRING, _CONSTRUCTED = 0x02, 0x04, 0x20
_ARMOUR = re.compile(rb"-----BEGIN [^-]*-----(.*?)-----END", re.DOTALL)


def largest(data: bytes) -> int:
    """The largest iteration count in a PKCS #12 file or an encrypted PKCS #8 key (DER or BER); 0 if none.

    What stands inside an encrypted part cannot be seen, and need not be: it is opened after the outer part.
    More structure than any such file has counts as unreasonable.
    """
    found = 0
    nodes = 0
    stack: list[tuple[bytes, int]] = [(data, 0)]
    while stack:
        part, depth = stack.pop()
        children = list(_elements(part))
        nodes += len(children)
        if nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return _UNREASONABLE
        found = max(found, _count(children))
        for tag, content in children:
            if tag == _OCTET_STRING | _CONSTRUCTED:  # BER: one string in pieces
                stack.append((b"".join(piece for _, piece in _elements(content)), depth + 1))
            elif tag & _CONSTRUCTED or (tag == _OCTET_STRING and content[:1] == b"\x30"):
                stack.append((content, depth + 1))  # or DER within a string: the SafeContents of PKCS #12
    return found


def largest_in_key(data: bytes) -> int:
    """The same for a private key in PEM or DER."""
    armour = _ARMOUR.search(data)
    if armour is None:
        return largest(data)
    lines = [line for line in armour.group(1).splitlines() if b":" not in line]  # drop RFC 1421 headers
    try:
        return largest(base64.b64decode(b"".join(lines)))
    except binascii.Error:
        return 0  # the parser will refuse it


def _count(children: list[tuple[int, bytes]]) -> int:
    """The iteration count of one sequence's elements: an INTEGER directly after an OCTET STRING."""
    return max(
        (
            int.from_bytes(content, "big")
            for (before, _salt), (tag, content) in itertools.pairwise(children)
            if before == _OCTET_STRING and tag == _INTEGER and len(content) <= 16
        ),
        default=0,
    )


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of ``data`` as far as they can be read, definite or indefinite lengths. Never raises."""
    position = 0
    while position + 2 <= len(data):
        tag, first = data[position], data[position + 1]
        position += 2
        if first == 0x80:  # indefinite: the rest, whose end marker reads as an element of no interest
            yield tag, data[position:]
            return
        length = first
        if first & 0x80:
            size = first & 0x7F
            length = int.from_bytes(data[position : position + size], "big")
            position += size
        yield tag, data[position : position + length]
        position += length
