"""How much one address may ask for in a minute: downloads, and failures over the air.

Soft: the counts are the cache's, one for each process where there is no shared cache.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from django.conf import settings
from django.core.cache import cache

from audit.addresses import household

DEFAULT_DOWNLOADS_PER_MINUTE = 3000
DEFAULT_FAILURES_PER_MINUTE = 120
DEFAULT_WRONG_PER_MINUTE = 20
WRONG_PASSWORDS = 10
_MINUTE = 60
_QUARTER = 15 * _MINUTE


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


def too_many_wrong(remote_addr: str, now: datetime) -> bool:
    """Whether too many codes, passwords and tickets from this address were wrong in this minute.

    ``BRAMLEY_ENROLL_WRONG_PER_MINUTE``.
    """
    limit: int = getattr(settings, "BRAMLEY_ENROLL_WRONG_PER_MINUTE", DEFAULT_WRONG_PER_MINUTE)
    return int(cache.get(_key("enroll-wrong", remote_addr, now), 0)) >= limit


def count_wrong(remote_addr: str, now: datetime) -> None:
    """Counts one wrong code, password or ticket."""
    _count("enroll-wrong", remote_addr, now)


def too_many_wrong_passwords(account: str, now: datetime) -> bool:
    """Whether this account's password was guessed too often in this quarter of an hour, from anywhere."""
    return int(cache.get(_account_key(account, now), 0)) >= WRONG_PASSWORDS


def count_wrong_password(account: str, now: datetime) -> None:
    """Counts one."""
    _add(_account_key(account, now), 2 * _QUARTER)


def _account_key(account: str, now: datetime) -> str:
    name = hashlib.sha256(account.strip().casefold().encode()).hexdigest()
    return f"enroll-password:{name}:{int(now.timestamp()) // _QUARTER}"


def seconds_to_wait(now: datetime) -> int:
    """Until the next minute."""
    return _MINUTE - now.second


def _count(what: str, remote_addr: str, now: datetime) -> int:
    return _add(_key(what, remote_addr, now), 2 * _MINUTE)


def _add(key: str, seconds: int) -> int:
    if cache.add(key, 1, timeout=seconds):
        return 1
    try:
        return int(cache.incr(key))
    except ValueError:  # it went between the two calls
        return 1


def _key(what: str, remote_addr: str, now: datetime) -> str:
    return f"{what}:{household(remote_addr)}:{int(now.timestamp()) // _MINUTE}"
