"""Requests and answers made fit to be looked at: secrets masked, data said in bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from commands.core import plist

MASK = "••••••"
MAX_LINES = 3000

_SECRET = re.compile(
    r"password|passphrase|secret|token$|bypasscode|pin$|key$|challenge|magic$|redemptioncode|credential"
    r"|salt$|entropy|verifier",
    re.IGNORECASE,
)
_PIN = re.compile(r"pin$", re.IGNORECASE)


def masked(value: Any, key: str = "") -> Any:
    """The same shape, without what an onlooker must not learn.

    Masked are texts and data under keys that name secrets (PIN, Password, UnlockToken, …Key). Other data
    (profiles, certificates, icons) is only counted. ``key`` is the name that ``value`` stands under.
    """
    if isinstance(value, Mapping):
        return {name: masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(item, key) for item in value]
    if isinstance(value, bool | float | datetime):
        return value
    if isinstance(value, int):
        return MASK if _PIN.search(key) else value
    if _SECRET.search(key):
        return MASK if value else value
    return f"({len(value)} bytes)" if isinstance(value, bytes) else value


def readable(value: Mapping[str, Any]) -> tuple[str, bool]:
    """A masked property list as text, and whether the end of it was left out for its length."""
    text = plist.write(masked(value))[len(plist.HEADER) : -len(plist.FOOTER)].decode()
    lines = text.replace("\t", "  ").splitlines()
    return "\n".join(lines[:MAX_LINES]), len(lines) > MAX_LINES
