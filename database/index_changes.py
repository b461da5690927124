"""Steps of migrations that change indexes and constraints of large tables while the server works.

Indexes on PostgreSQL concurrently: nobody waits for them, and they cannot stand in a transaction. So the
migration has ``atomic = False``.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import RunPython


def drop_index(name: str) -> RunPython:
    """Drop an index, where there is one of that name. Going back it is not made again: nothing needs it."""

    def forwards(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        _drop(editor, name)

    return RunPython(forwards, RunPython.noop)


def create_index(name: str, table: str, column: str, *, where: str) -> RunPython:
    """Make a partial index. One that was begun before and not finished is made anew."""

    def forwards(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        _drop(editor, name)
        editor.execute(f'CREATE INDEX {_concurrently(editor)} "{name}" ON {table} ("{column}") WHERE {where}')

    def backwards(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        _drop(editor, name)

    return RunPython(forwards, backwards)


def drop_constraint(name: str, table: str) -> RunPython:
    """Drop a constraint, where there is one of that name; it takes no longer the more rows there are.

    On SQLite, which would copy the table, it stays. Going back it is not made again.
    """

    def forwards(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        if editor.connection.vendor == "postgresql":
            editor.execute(f'ALTER TABLE "{table}" DROP CONSTRAINT IF EXISTS "{name}"')

    return RunPython(forwards, RunPython.noop)


def _drop(editor: BaseDatabaseSchemaEditor, name: str) -> None:
    editor.execute(f'DROP INDEX {_concurrently(editor)} IF EXISTS "{name}"')


def _concurrently(editor: BaseDatabaseSchemaEditor) -> str:
    return "CONCURRENTLY" if editor.connection.vendor == "postgresql" else ""
