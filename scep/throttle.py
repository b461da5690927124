"""Failures of one address are limited; successes never count (threats B6, J1).

The count is in the cache, for all processes. A process asks for it only about addresses that failed before it
itself in this minute: the others would be asked about in vain nearly always. So an address that used up its
limit elsewhere gets one more request looked at by each process; where that fails too, the answer is that of
the limit, and says nothing else (:attr:`Counted.BEYOND`).
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from functools import lru_cache

from django.conf import settings
from django.core.cache import cache

from audit.addresses import household

DEFAULT_FAILURES_A_MINUTE = 120
_MINUTE = 60
_MOST_REMEMBERED = 10_000

_household = lru_cache(maxsize=1024)(household)


class Counted(Enum):
    """Where a failure stands that was counted just now. One REACHED the limit, so that is recorded once."""

    WITHIN = "within the limit"
    REACHED = "the last within the limit"
    BEYOND = "beyond the limit"


class _Failed:
    """The addresses that failed before this process in one minute. ``everybody``: too many to keep."""

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.addresses: set[str] = set()
        self.everybody = False

    def add(self, address: str) -> None:
        if len(self.addresses) >= _MOST_REMEMBERED:
            self.everybody = True
            return
        self.addresses.add(address)


_failed = _Failed(0)


def limit() -> int:
    """Failures that one address may cause in a minute: ``BRAMLEY_SCEP_FAILURES_PER_MINUTE``."""
    return int(getattr(settings, "BRAMLEY_SCEP_FAILURES_PER_MINUTE", DEFAULT_FAILURES_A_MINUTE))


def seconds_to_wait(remote_addr: str, now: datetime) -> int:
    """0 while the address may go on, else after how many seconds it may."""
    address, minute, failed = _household(remote_addr), _minute(now), _failed
    if failed.minute != minute or not (failed.everybody or address in failed.addresses):
        return 0
    if cache.get(_key(address, minute), 0) < limit():
        return 0
    return seconds_left(now)


def seconds_left(now: datetime) -> int:
    """How long the minute lasts, after which an address may fail again."""
    return _MINUTE - now.second


def count_failure(remote_addr: str, now: datetime) -> Counted:
    """Count one failure."""
    global _failed  # noqa: PLW0603 - those of a new minute take the place of those before
    address, minute = _household(remote_addr), _minute(now)
    if _failed.minute != minute:
        _failed = _Failed(minute)
    _failed.add(address)
    key = _key(address, minute)
    cache.add(key, 0, timeout=2 * _MINUTE)
    try:
        count = cache.incr(key)
    except ValueError:
        # The entry went between the two calls: the minute is over, or the cache is full.
        return Counted.WITHIN
    if count == limit():
        return Counted.REACHED
    return Counted.BEYOND if count > limit() else Counted.WITHIN


def _minute(now: datetime) -> int:
    return int(now.timestamp()) // _MINUTE


def _key(address: str, minute: int) -> str:
    return f"scep-failures:{address}:{minute}"
