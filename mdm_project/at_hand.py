"""A few connections to the database that stay at hand between requests.

Taking a connection from the pool and giving it back costs more in Django than the statement of an idle device
does in the driver. As many as run at once are kept by the process, for a minute each; then the pool has them
again, and its rules apply. To the pool they are in use, so there are never more than it allows
(``connections`` in ``DATABASE_URL``). Whatever request comes next takes one of them first.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from django.db import DEFAULT_DB_ALIAS, close_old_connections, connections

from mdm_project.turns import AT_ONCE

KEPT_SECONDS = 60.0

_at_hand: list[Any] = []
_lock = threading.Lock()


def take() -> None:
    """Before a request: this thread has one of them, unless it has a connection of its own."""
    if not _at_hand:
        return
    # Asking for it by its name would make one.
    if any(own.connection is not None for own in connections.all(initialized_only=True)):
        return
    with _lock:
        if _at_hand:
            connections[DEFAULT_DB_ALIAS] = _at_hand.pop()


def put_back() -> None:
    """After a request: what this thread used is at hand for the next one, or goes back to the pool."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.connection is None or not _is_fit(database):
        close_old_connections()
        return
    if not database.allow_thread_sharing:
        database.inc_thread_sharing()  # from one thread to the next, never of two at once
    with _lock:
        if len(_at_hand) < _at_most(database):
            del connections[DEFAULT_DB_ALIAS]
            _at_hand.append(database)
            return
    close_old_connections()


def _is_fit(database: Any) -> bool:
    return (
        not database.in_atomic_block
        and not database.errors_occurred
        and database.autocommit
        and database.close_at is not None
        # Those of a pool are due as soon as they are made: so it is also when that was.
        and time.monotonic() - database.close_at < KEPT_SECONDS
    )


def _at_most(database: Any) -> int:
    """Half of what the pool allows stays there, for threads that serve no request."""
    pool = database.settings_dict["OPTIONS"].get("pool")
    return min(AT_ONCE, pool["max_size"] // 2) if pool else 0
