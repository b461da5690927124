"""How much one address may ask for in a minute: downloads, and failures over the air.

Soft: the counts are the cache's, one for each process where there is no shared cache.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime

from django.conf import settings
from django.core.cache import cache

DEFAULT_DOWNLOADS_PER_MINUTE = 3000
DEFAULT_FAILURES_PER_MINUTE = 120
_MINUTE = 60


def too_many_downloads(remote_addr: str, now: datetime) -> bool:
    """Counts one download (a GET that starts a session): ``BRAMLEY_ENROLL_DOWNLOADS_PER_MINUTE``."""
    limit: int = getattr(settings, "BRAMLEY_ENROLL_DOWNLOADS_PER_MINUTE", DEFAULT_DOWNLOADS_PER_MINUTE)
    return _count("enroll", remote_addr, now) > limit


def too_many_failures(remote_addr: str, now: datetime) -> bool:
    """Whether the address has failed too often: ``BRAMLEY_ENROLL_FAILURES_PER_MINUTE``."""
    limit: int = getattr(settings, "BRAMLEY_ENROLL_FAILURES_PER_MINUTE", DEFAULT_FAILURES_PER_MINUTE)
    return int(cache.get(_key("enroll-failures", remote_addr, now), 0)) >= limit


def count_failure(remote_addr: str, now: datetime) -> None:
    """Counts one refused message. What succeeds never counts: a school has one address."""
    _count("enroll-failures", remote_addr, now)


def seconds_to_wait(now: datetime) -> int:
    """Until the next minute."""
    return _MINUTE - now.second


def _count(what: str, remote_addr: str, now: datetime) -> int:
    key = _key(what, remote_addr, now)
    if cache.add(key, 1, timeout=2 * _MINUTE):
        return 1
    try:
        return int(cache.incr(key))
    except ValueError:  # it went between the two calls
        return 1


def _key(what: str, remote_addr: str, now: datetime) -> str:
    return f"{what}:{_who(remote_addr)}:{int(now.timestamp()) // _MINUTE}"


def _who(remote_addr: str) -> str:
    """One household has one IPv4 address, or 2**64 of IPv6."""
    try:
        address = ipaddress.ip_address(remote_addr)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    return str(address)
