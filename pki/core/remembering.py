"""Remembering what was read of bytes that come again and again: certificates and keys of clients and issuers.

Strangers send such bytes too, and before anything of them is verified. What they make longer than it has to
be is read each time anew, so that a few hundred messages do not fill the memory of a process.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

LONGEST = 4096
"""Bytes. A certificate of a device has about a thousand, one with a key of 8192 bits about two."""

T = TypeVar("T")


def remembered(count: int) -> Callable[[Callable[[bytes], T]], Callable[[bytes], T]]:
    """As ``lru_cache(count)`` for a function of bytes, but for bytes longer than :data:`LONGEST`."""

    def remember(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
        kept = lru_cache(maxsize=count)(read)

        @wraps(read)
        def look(data: bytes) -> T:
            return kept(data) if len(data) <= LONGEST else read(data)

        return look

    return remember
