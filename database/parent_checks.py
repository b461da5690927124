"""References that the database checks where the row they point at is deleted, not where one is inserted.

A foreign key looks the parent up, and locks it, once more for every row that is inserted, also where the same
statement has just read the parent: a quarter and more of a command to 100,000 enrollments. Here whoever
deletes a parent pays instead. It waits until every transaction that has read the parents' table has ended, a
few seconds at most, lets none begin meanwhile, and is refused where a row still points at what it deleted.

So this is for references of which all of this holds: parents are hardly ever deleted; who inserts a child has
read its parent in the same transaction; transactions are READ COMMITTED, as PostgreSQL and Django have it.
Who deletes after having changed children may meet somebody who waits for those: one of the two is broken off
and has to try again, unless the deletion began with ``LOCK TABLE … IN ACCESS EXCLUSIVE MODE``. On SQLite the
foreign key stays.
"""

from __future__ import annotations

import time
from typing import Any

from django.db import OperationalError, transaction
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.migrations import RunPython

ATTEMPTS = 24
"""How often a migration asks for its locks; everybody waits behind one who asks."""
LOCK_SECONDS = 5
"""How long one who asks waits, and lets others wait: a backup that reads the table may take an hour."""

_FUNCTIONS = """
CREATE OR REPLACE FUNCTION bramley_wait_for_readers() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'rows of "%" are deleted in READ COMMITTED only', TG_TABLE_NAME
              USING ERRCODE = 'feature_not_supported';
    END IF;
    EXECUTE format('LOCK TABLE %I.%I IN ACCESS EXCLUSIVE MODE', TG_TABLE_SCHEMA, TG_TABLE_NAME);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION bramley_refuse_if_referenced() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    referenced boolean;
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I)', TG_TABLE_SCHEMA, TG_ARGV[0]) INTO referenced;
    ELSE
        EXECUTE format(
            'SELECT EXISTS (SELECT FROM %I.%I WHERE %I = $1)', TG_TABLE_SCHEMA, TG_ARGV[0], TG_ARGV[1]
        ) INTO referenced USING OLD.id;
    END IF;
    IF referenced THEN
        RAISE EXCEPTION 'what is deleted of "%" is still referenced from table "%"', TG_TABLE_NAME, TG_ARGV[0]
              USING ERRCODE = 'foreign_key_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
"""


def checked_by_parent(constraint: str, table: str, column: str, *, parent: str) -> RunPython:
    """Replace the foreign key ``constraint`` from ``table``.``column`` to ``parent``.id by such checks.

    In a transaction of its own where the migration has none: it locks both tables for a moment, and asks for
    that several times where somebody has them. As with Django's foreign keys, what is deleted together in one
    transaction may be deleted in any order. Going back, the checks go and the foreign key is not made again.
    """
    refuses, keeps = f"{table}_{column}_refuses", f"{table}_{column}_keeps"

    def drop(editor: BaseDatabaseSchemaEditor, *triggers: str) -> None:
        for trigger in triggers:
            editor.execute(f'DROP TRIGGER IF EXISTS "{trigger}" ON "{parent}"')

    def change(editor: BaseDatabaseSchemaEditor) -> None:
        limit = f"lock_timeout = '{LOCK_SECONDS}s'"
        editor.execute(f"SET LOCAL {limit}")
        editor.execute(f'LOCK TABLE "{parent}", "{table}" IN ACCESS EXCLUSIVE MODE')
        editor.execute(_FUNCTIONS, params=None)
        editor.execute(f"ALTER FUNCTION bramley_wait_for_readers() SET {limit}")
        drop(editor, f"{parent}_waits", refuses, keeps)
        editor.execute(
            f'CREATE TRIGGER "{parent}_waits" BEFORE DELETE ON "{parent}" '
            "FOR EACH STATEMENT EXECUTE FUNCTION bramley_wait_for_readers()"
        )
        check = f"EXECUTE FUNCTION bramley_refuse_if_referenced('{table}', '{column}')"
        editor.execute(
            f'CREATE CONSTRAINT TRIGGER "{refuses}" AFTER DELETE ON "{parent}" '
            f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW {check}"
        )
        editor.execute(f'CREATE TRIGGER "{keeps}" AFTER TRUNCATE ON "{parent}" FOR EACH STATEMENT {check}')
        editor.execute(f'ALTER TABLE "{table}" DROP CONSTRAINT IF EXISTS "{constraint}"')

    def forwards(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        if editor.connection.vendor != "postgresql":
            return
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with transaction.atomic(using=editor.connection.alias):
                    change(editor)
                return
            except OperationalError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(LOCK_SECONDS)

    def backwards(_apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
        if editor.connection.vendor == "postgresql":
            drop(editor, refuses, keeps)

    return RunPython(forwards, backwards)
