"""Codes as people type them, and the identifiers of devices as people and devices write them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

# Crockford's base 32: no I, L, O, U, so that nothing is taken for something else.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_READ_AS = str.maketrans({"O": "0", "I": "1", "L": "1"})
CODE_LENGTH = 12
"""Characters of a minted code: 60 bits."""
MIN_CHOSEN_CODE = 8
MAX_CODE = 64
MAX_IDENTIFIER = 64


class CodeRefused(Exception):
    """A code that somebody chose will not do; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def mint_code(random: Callable[[int], bytes]) -> str:
    """A new code as it is shown: ``ABCD-2345-WXYZ``. ``random`` gives that many random bytes."""
    characters = "".join(ALPHABET[byte % len(ALPHABET)] for byte in random(CODE_LENGTH))
    return "-".join(characters[start : start + 4] for start in range(0, CODE_LENGTH, 4))


def normal_code(typed: str) -> str:
    """What of a typed code counts: no case, spaces or hyphens, and O, I, L as the digits they look like."""
    return _bare(typed)[: MAX_CODE + 1].upper().translate(_READ_AS)


def verify_chosen_code(typed: str) -> str:
    """A code that an administrator made up, in normal form. Raises :class:`CodeRefused`."""
    code = normal_code(typed)
    if not MIN_CHOSEN_CODE <= len(code) <= MAX_CODE:
        raise CodeRefused(f"A code has {MIN_CHOSEN_CODE} to {MAX_CODE} letters and digits.")
    if not code.isalnum():
        raise CodeRefused("A code has letters and digits only.")
    if len(set(code)) < 4:
        raise CodeRefused("A code has at least four different characters.")
    return code


def normal_identifier(written: str) -> str:
    """A serial number or UDID in the form in which two of them are compared."""
    return _bare(written).casefold()


def identifiers(text: str) -> list[str]:
    """Serial numbers in a text, separated by line ends, commas or semicolons; normal form, each once."""
    found = (normal_identifier(part) for part in text.replace(",", "\n").replace(";", "\n").splitlines())
    return list(dict.fromkeys(one for one in found if one))


def _bare(text: str) -> str:
    """Without white space, hyphens and characters that nobody sees; look-alike forms made one."""
    return "".join(
        character
        for character in unicodedata.normalize("NFKC", text)
        if not character.isspace() and unicodedata.category(character) not in {"Cc", "Cf", "Pd"}
    )
