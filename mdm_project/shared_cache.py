"""Django's cache in Redis, with connections that the threads of a process share.

Django makes a cache object for every thread, and each holds a connection of its own for as long as the thread
lives: as many connections, and what belongs to them, as a web process has threads, of which two are used at
any moment. redis-py's pool may be used by any number of threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.core.cache.backends.redis import RedisCache, RedisCacheClient


class SharedRedisCache(RedisCache):
    """As its base; all threads of a process have one client."""

    @property
    def _cache(self) -> RedisCacheClient:
        return _client(tuple(self._servers), tuple(self._options.items()))  # type: ignore[attr-defined]


@lru_cache(maxsize=8)
def _client(servers: tuple[str, ...], options: tuple[tuple[str, Any], ...]) -> RedisCacheClient:
    """One for each Redis. Two threads that ask first at the same moment may get two; one is forgotten."""
    return RedisCacheClient(list(servers), **dict(options))
