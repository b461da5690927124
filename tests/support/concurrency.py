"""Threads beside the test's own, each with its own connection to the database, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import connection, connections

P = ParamSpec("P")
T = TypeVar("T")


def own_connection(act: Callable[P, T]) -> Callable[P, T]:
    """For what runs in a thread of its own: its connections are closed, however it ends."""

    @wraps(act)
    def acted(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return act(*arguments, **options)
        finally:
            connections.close_all()

    return acted


def somebody_waits() -> bool:
    """Whether somebody waits for a lock, of whatever kind. PostgreSQL only."""
    return _is_so("SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)")


def somebody_waits_for(table: str, mode: str) -> bool:
    """Whether somebody waits for a lock of this table, in this mode (as pg_locks has it)."""
    return _is_so(
        "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND mode = %s AND relation = %s::regclass "
        "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        mode,
        table,
    )


def _is_so(question: str, *parameters: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(question, parameters)
        (answer,) = cursor.fetchone()
    return bool(answer)
