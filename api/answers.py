"""What devices answered, for who may see it: secrets in it are masked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "•••"
# Keys of Apple's answers whose values open something. Names, not values: a value that looks harmless may
# be a password, and a key is what says so.
_SECRET = re.compile(
    r"pass(word|code|phrase)|secret|token|magic|bypass|recoverykey|privatekey|devicekey|\bpin\b|hash|keycms",
    re.IGNORECASE,
)
# Facts about a password are none.
_HARMLESS = re.compile(r"^(Passcode(Present|Compliant|CompliantWithProfiles|LockGracePeriod\w*))$")


def masked(value: Any) -> Any:
    """The same, with the values of telling keys replaced by :data:`MASK`."""
    if isinstance(value, Mapping):
        return {key: MASK if _is_secret(key, item) else masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item) for item in value]
    return value


def _is_secret(key: str, value: Any) -> bool:
    return not isinstance(value, bool) and bool(_SECRET.search(key)) and not _HARMLESS.match(key)
