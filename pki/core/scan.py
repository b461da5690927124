"""A byte-level look over ASN.1 before any parser sees it (BER and DER, ITU-T X.690).

One pass, no recursion, no allocation that grows with what a length field claims. What passes is one complete
TLV of bounded size, depth and number of nodes, with short OIDs and INTEGERs; parsers that come after may be
quadratic in these without harm.
"""

from __future__ import annotations

from dataclasses import dataclass

_INDEFINITE = 0x80
_MAX_LENGTH_OCTETS = 4

# What a first octet means here, by its value.
_PRIMITIVE, _CONSTRUCTED, _INTEGER, _OID, _END, _REFUSED = range(6)
_REASONS = {
    "high tag number": [tag for tag in range(256) if tag & 0x1F == 0x1F],
    "primitive encoding of a constructed type": [0x10, 0x11],
    # BOOLEAN, INTEGER, NULL, OBJECT IDENTIFIER, REAL, ENUMERATED, RELATIVE-OID
    "constructed encoding of a primitive type": [0x21, 0x22, 0x25, 0x26, 0x29, 0x2A, 0x2D],
}
_REFUSED_TAGS = {tag: reason for reason, tags in _REASONS.items() for tag in tags}
_KINDS = bytes(
    _REFUSED
    if tag in _REFUSED_TAGS
    else _CONSTRUCTED
    if tag & 0x20
    else {0x00: _END, 0x02: _INTEGER, 0x06: _OID}.get(tag, _PRIMITIVE)
    for tag in range(256)
)


class Malformed(Exception):
    """The bytes are not what they should be: the one error of every parser in ``pki.core``."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What one message may hold: bytes in all, nesting, nodes, and bytes of one OID and one INTEGER."""

    size: int = 65536
    depth: int = 24
    nodes: int = 2000
    oid: int = 64
    integer: int = 1040


DEFAULT_LIMITS = Limits()


def scan(data: bytes, limits: Limits = DEFAULT_LIMITS) -> int:  # noqa: PLR0912, PLR0915 - one hot loop
    """Check that ``data`` is exactly one TLV within ``limits``, of definite or indefinite length.

    Returns how many nodes it is, ends of contents among them.
    Raises :class:`Malformed`: too large, too deep, too many nodes, a length that points outside, a missing or
    stray end-of-contents, high tag numbers (no structure here uses them), bytes after the end.
    """
    size = len(data)
    if size > limits.size:
        raise Malformed("too large")
    if not size:
        raise Malformed("empty")
    max_depth, max_nodes, max_oid, max_integer = limits.depth, limits.nodes, limits.oid, limits.integer
    # The ends of the constructed nodes around the current position; None for indefinite length.
    open_ends: list[int | None] = []
    end: int | None = size
    bound = size
    position = nodes = 0
    while True:
        # Close what ends here.
        while position == end:
            if not open_ends:
                return nodes
            end = open_ends.pop()
            bound = _bound(open_ends, size) if end is None else end
            if not open_ends and position != size:
                raise Malformed("bytes after the end")
        if position + 2 > bound:
            raise Malformed("cut off")
        nodes += 1
        if nodes > max_nodes:
            raise Malformed("too many nodes")
        tag, length = data[position], data[position + 1]
        kind = _KINDS[tag]
        position += 2
        if length < _INDEFINITE:
            node_end: int | None = position + length
        elif length == _INDEFINITE:
            if kind != _CONSTRUCTED:
                raise Malformed(_REFUSED_TAGS.get(tag, "indefinite length of a primitive value"))
            node_end = None
        else:
            octets = length & 0x7F
            if octets > _MAX_LENGTH_OCTETS or position + octets > bound:
                raise Malformed("length out of range")
            length = int.from_bytes(data[position : position + octets])
            position += octets
            node_end = position + length
        if node_end is not None and node_end > bound:
            raise Malformed("length points outside")
        if kind == _CONSTRUCTED:
            if len(open_ends) >= max_depth:
                raise Malformed("too deep")
            open_ends.append(end)
            end = node_end
            if node_end is not None:
                bound = node_end
            continue
        if kind == _OID:
            if length > max_oid or not length:
                raise Malformed("object identifier too long" if length else "empty object identifier")
        elif kind == _INTEGER:
            if length > max_integer or not length:
                raise Malformed("integer too long" if length else "empty integer")
        elif kind == _REFUSED:
            raise Malformed(_REFUSED_TAGS[tag])
        elif kind == _END:
            # End of contents: closes the innermost node of indefinite length, and nothing else may.
            if length or end is not None:
                raise Malformed("stray end of contents")
            end = open_ends.pop()
            bound = _bound(open_ends, size) if end is None else end
        position += length
        if not open_ends and position != size:
            raise Malformed("bytes after the end")


def _bound(open_ends: list[int | None], size: int) -> int:
    """Where the innermost node of definite length around one of indefinite length ends."""
    return next((outer for outer in reversed(open_ends) if outer is not None), size)
