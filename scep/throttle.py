"""Failures of one address are limited; successes never count (threats B6, J1)."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.core.cache import cache

from audit.addresses import household

DEFAULT_FAILURES_A_MINUTE = 120
_MINUTE = 60


def limit() -> int:
    """Failures that one address may cause in a minute: ``BRAMLEY_SCEP_FAILURES_PER_MINUTE``."""
    return int(getattr(settings, "BRAMLEY_SCEP_FAILURES_PER_MINUTE", DEFAULT_FAILURES_A_MINUTE))


def seconds_to_wait(remote_addr: str, now: datetime) -> int:
    """0 while the address may go on, else after how many seconds it may."""
    if cache.get(_key(remote_addr, now), 0) < limit():
        return 0
    return _MINUTE - now.second


def count_failure(remote_addr: str, now: datetime) -> bool:
    """Count one failure. True for the one that reaches the limit, so that it is recorded once a minute."""
    key = _key(remote_addr, now)
    cache.add(key, 0, timeout=2 * _MINUTE)
    try:
        return cache.incr(key) == limit()
    except ValueError:
        # The entry went between the two calls: the minute is over, or the cache is full.
        return False


def _key(remote_addr: str, now: datetime) -> str:
    return f"scep-failures:{household(remote_addr)}:{int(now.timestamp()) // _MINUTE}"
