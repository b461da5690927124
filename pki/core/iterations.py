"""How much work an encrypted file asks for, read before the work begins.

PKCS #12 (RFC 7292) and encrypted PKCS #8 (RFC 8018) name their own iteration counts: a file of a hundred
bytes can ask for hours of hashing. The counts stand directly behind the salt: ``OCTET STRING, INTEGER``, in
the parameters of the algorithms and in the ``MacData`` of PKCS #12.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
import re
from collections.abc import Iterator

LIMIT = 5_000_000
_SCRYPT_WEIGHT = 4  # so that LIMIT means at most 160 MB
_MAX_DEPTH = 24
_MAX_NODES = 20_000
_UNREASONABLE = LIMIT + 1

_INTEGER, _OCTET_STRING, _CONSTRUCTED = 0x02, 0x04, 0x20
_ARMOUR = re.compile(rb"-----BEGIN [^-]*-----(.*?)-----END", re.DOTALL)


def work(data: bytes) -> int:
    """All iterations that a PKCS #12 file or an encrypted PKCS #8 key (DER or BER) asks for; 0 if none.

    Together, for each part of a file has its own. scrypt (RFC 7914) counts by its memory as well.
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
        found += _count(children)
        for tag, content in children:
            if tag == _OCTET_STRING | _CONSTRUCTED:  # BER: one string in pieces
                stack.append((b"".join(piece for _, piece in _elements(content)), depth + 1))
            elif tag & _CONSTRUCTED or (tag == _OCTET_STRING and content[:1] == b"\x30"):
                stack.append((content, depth + 1))  # or DER within a string: the SafeContents of PKCS #12
    return found


def work_of_key(data: bytes) -> int:
    """The same for a private key in PEM or DER."""
    armour = _ARMOUR.search(data)
    if armour is None:
        return work(data)
    lines = [line for line in armour.group(1).splitlines() if b":" not in line]  # drop RFC 1421 headers
    try:
        return work(base64.b64decode(b"".join(lines)))
    except binascii.Error:
        return 0  # the parser will refuse it


def _count(children: list[tuple[int, bytes]]) -> int:
    """What one sequence asks for: by the INTEGERs directly after an OCTET STRING.

    Salt, iterations and perhaps a key's length (PBES1, PBKDF2, MacData); or salt, N, r, p (scrypt): its
    memory is 128 * N * r bytes.
    """
    found = 0
    for at, (tag, _salt) in enumerate(children):
        numbers = [
            int.from_bytes(content, "big")
            for _tag, content in itertools.takewhile(
                lambda child: child[0] == _INTEGER, children[at + 1 : at + 4]
            )
            if len(content) <= 16
        ]
        if tag == _OCTET_STRING and numbers:
            found += math.prod(numbers) * _SCRYPT_WEIGHT if len(numbers) == 3 else numbers[0]
    return found


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
