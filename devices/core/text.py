"""Texts that devices send: what may be kept and shown of them."""

from __future__ import annotations

import unicodedata

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def is_control(character: str) -> bool:
    """Control characters, lone surrogates, and what turns the direction of a line round."""
    return character in _BIDI_CONTROLS or unicodedata.category(character) in {"Cc", "Cs"}


def has_controls(text: str) -> bool:
    """Whether a text holds a character of :func:`is_control`."""
    return not (text.isascii() and text.isprintable()) and any(map(is_control, text))


def clean(text: str) -> str:
    """A text to show: normalised (NFC), without control characters; line breaks and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    kept = "".join(character for character in text if character in "\n\t" or not is_control(character))
    return unicodedata.normalize("NFC", kept)


def clean_line(text: str) -> str:
    """The same on one line, without space at its ends."""
    return " ".join(clean(text).split())
