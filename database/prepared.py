"""Running the statements that are written by hand because devices cause them all the time.

PostgreSQL parses and plans each of them once for a connection instead of every time: planning a join of seven
tables takes longer than looking seven rows up. What Django builds is never prepared. Where a pooler cannot
hold prepared statements they are switched off (``?prepared=no`` in ``DATABASE_URL``).
"""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

Row = tuple[Any, ...]


def row(sql: str, parameters: Sequence[Any]) -> Row | None:
    """The first row that the statement gives."""
    with _cursor() as cursor:
        cursor.execute(sql, parameters)
        found: Row | None = cursor.fetchone()
        return found


def rows(sql: str, parameters: Sequence[Any]) -> list[Row]:
    """All rows that the statement gives."""
    with _cursor() as cursor:
        cursor.execute(sql, parameters)
        found: list[Row] = cursor.fetchall()
        return found


def changes(sql: str, parameters: Sequence[Any]) -> int:
    """How many rows the statement changed."""
    with _cursor() as cursor:
        cursor.execute(sql, parameters)
        return int(cursor.rowcount)


def inserted(sql: str, parameters: Sequence[Any]) -> int | None:
    """The ``id`` of the row that an INSERT made; None where it made none (ON CONFLICT DO NOTHING)."""
    if on_postgresql():
        made = row(sql + " RETURNING id", parameters)
        return made[0] if made else None
    with _cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.lastrowid if cursor.rowcount > 0 else None


def on_postgresql() -> bool:
    """Whether several changes can go in one statement, and rows be locked one by one."""
    return connections[DEFAULT_DB_ALIAS].vendor == "postgresql"


# Values, as the driver of this database takes and gives them.


def key(value: uuid.UUID) -> Any:
    """A UUID as a parameter."""
    return value if on_postgresql() else value.hex


def read_key(value: uuid.UUID | str) -> uuid.UUID:
    """A UUID from a row."""
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def instant(value: datetime) -> Any:
    """A time as a parameter."""
    return connections[DEFAULT_DB_ALIAS].ops.adapt_datetimefield_value(value)


def read_instant(value: datetime) -> datetime:
    """A time from a row. SQLite gives times without their zone, which is UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def read_json(value: Any) -> Any:
    """The content of a JSON column from a row."""
    return json.loads(value) if isinstance(value, str) else value


def _cursor() -> Any:
    database = connections[DEFAULT_DB_ALIAS]
    # Who wants to see statements wants to see them with their values, as Django's own cursor shows them.
    if database.vendor != "postgresql" or database.queries_logged:
        return database.cursor()
    database.ensure_connection()
    return database.make_cursor(_prepared_cursor()(database.connection))


@cache
def _prepared_cursor() -> Any:
    """A cursor of psycopg, which an installation on SQLite need not have."""
    import psycopg
    from psycopg.types.numeric import Int8

    class PreparedCursor(psycopg.RawCursor[Row]):
        """Binds parameters in the server, and prepares what it runs."""

        def execute(self, query: Any, params: Any = None, **_options: Any) -> Any:
            # One width for every integer: else 1 and 100000 are parameters of two different statements.
            sized = [Int8(value) if type(value) is int else value for value in params or ()]
            return super().execute(_numbered(query), sized, prepare=True)

    return PreparedCursor


@lru_cache(maxsize=256)
def _numbered(sql: str) -> str:
    """``%s`` as ``$1``, ``$2`` and so on, once: the driver would take a long statement apart every time."""
    numbers = itertools.count(1)
    return re.sub("%[s%]", lambda found: "%" if found[0] == "%%" else f"${next(numbers)}", sql)
