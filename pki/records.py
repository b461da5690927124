"""How certificates are looked for and shown: hexadecimal as people copy it from other places."""

from __future__ import annotations

_SEPARATORS = str.maketrans("", "", ": \t-")
_DIGITS = frozenset("0123456789ABCDEF")


def normal_hexadecimal(text: str) -> str:
    """``0a:1b 2c`` → ``0A1B2C``: whole bytes, upper case, without separators; empty where it is none.

    Serial numbers and fingerprints are compared so. A serial number that lacks its leading zero, or has the
    zero byte that DER puts before a high bit, finds its certificate too.
    """
    digits = text.strip().translate(_SEPARATORS).upper().removeprefix("0X")
    if not digits or not _DIGITS.issuperset(digits):
        return ""
    if len(digits) == 64:
        return digits
    digits = digits.lstrip("0") or "0"
    return digits.zfill(len(digits) + len(digits) % 2)


def grouped(fingerprint: str) -> str:
    """``0a1b2c`` → ``0A:1B:2C``, as other programs show fingerprints."""
    text = fingerprint.upper()
    return ":".join(text[position : position + 2] for position in range(0, len(text), 2))
