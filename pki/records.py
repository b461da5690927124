"""How certificates are looked for and shown to people."""

from __future__ import annotations

import re

_SEPARATORS = str.maketrans("", "", ": \t-")
_DIGITS = frozenset("0123456789ABCDEF")
# One part of a name in RFC 4514 text, up to a comma or plus that is not escaped.
_PART = re.compile(r"(?:^|[,+])([^=,+]+)=((?:\\.|[^\\,+])*)", re.DOTALL)
_ESCAPED = re.compile(r"\\([0-9A-Fa-f]{2}|.)", re.DOTALL)


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


def common_name(subject: str) -> str:
    """``O=Orchard,CN=Anna\\, iPad`` → ``Anna, iPad``; empty where the name has no CN."""
    for key, value in _PART.findall(subject):
        if key == "CN":
            return _ESCAPED.sub(_unescaped, value)
    return ""


def _unescaped(match: re.Match[str]) -> str:
    """Escaped characters as they are; hexadecimal stands for control characters and is left as it is."""
    found: str = match[1]
    return found if len(found) == 1 else match[0]


def grouped(fingerprint: str) -> str:
    """``0a1b2c`` → ``0A:1B:2C``, as other programs show fingerprints."""
    text = fingerprint.upper()
    return ":".join(text[position : position + 2] for position in range(0, len(text), 2))
