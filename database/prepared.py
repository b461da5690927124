"""Running the statements that are written by hand because devices cause them all the time.

PostgreSQL parses and plans each of them once for a connection instead of every time: planning a join of seven
tables takes longer than looking seven rows up. What Django builds is never prepared. Where a pooler cannot
hold prepared statements they are switched off (``?prepared=no`` in ``DATABASE_URL``).

They go to PostgreSQL by libpq's own calls (``psycopg.pq``, see :mod:`database.statements`), past the cursors
of Django and psycopg: those took two thirds of the time that a small statement took in Python. Connections,
transactions and errors are Django's all the same.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

Row = tuple[Any, ...]


def row(sql: str, parameters: Sequence[Any]) -> Row | None:
    """The first row that the statement gives."""
    database = connections[DEFAULT_DB_ALIAS]
    if _by_django(database):
        with database.cursor() as cursor:
            cursor.execute(sql, parameters)
            found: Row | None = cursor.fetchone()
            return found
    with database.wrap_database_errors:
        given: Row | None = _statements(database).row(database.connection, sql, parameters)
        return given


def rows(sql: str, parameters: Sequence[Any]) -> list[Row]:
    """All rows that the statement gives."""
    database = connections[DEFAULT_DB_ALIAS]
    if _by_django(database):
        with database.cursor() as cursor:
            cursor.execute(sql, parameters)
            found: list[Row] = cursor.fetchall()
            return found
    with database.wrap_database_errors:
        given: list[Row] = _statements(database).rows(database.connection, sql, parameters)
        return given


def changes(sql: str, parameters: Sequence[Any]) -> int:
    """How many rows the statement changed."""
    database = connections[DEFAULT_DB_ALIAS]
    if _by_django(database):
        with database.cursor() as cursor:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)
    with database.wrap_database_errors:
        given: int = _statements(database).changes(database.connection, sql, parameters)
        return given


def inserted(sql: str, parameters: Sequence[Any]) -> int | None:
    """The ``id`` of the row that an INSERT made; None where it made none (ON CONFLICT DO NOTHING)."""
    if on_postgresql():
        made = row(sql + " RETURNING id", parameters)
        return made[0] if made else None
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.lastrowid if cursor.rowcount > 0 else None


@cache
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
    return value if on_postgresql() else connections[DEFAULT_DB_ALIAS].ops.adapt_datetimefield_value(value)


def read_instant(value: datetime) -> datetime:
    """A time from a row. SQLite gives times without their zone, which is UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def read_json(value: Any) -> Any:
    """The content of a JSON column from a row."""
    return json.loads(value) if isinstance(value, str) else value


def _by_django(database: Any) -> bool:
    """Whether Django's own cursor runs the statement.

    Who wants to see statements wants to see them with their values, as that cursor shows them.
    """
    return database.vendor != "postgresql" or database.queries_logged or bool(database.execute_wrappers)


def _statements(database: Any) -> Any:
    """Those of the connection that this thread has, which is made if need be."""
    if database.connection is None:
        database.ensure_connection()
    if database.needs_rollback:
        database.validate_no_broken_transaction()
    return _of_connection()(database.connection)


@cache
def _of_connection() -> Any:
    """An installation on SQLite need not have psycopg."""
    from database.statements import of_connection

    return of_connection
