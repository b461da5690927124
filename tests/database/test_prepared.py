"""Statements written by hand: values, rows, transactions and errors as by Django's own cursor."""

from __future__ import annotations

import gc
import uuid
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction
from django.db.transaction import TransactionManagementError
from django.test.utils import CaptureQueriesContext

from database import prepared, statements

ON_POSTGRESQL = connection.vendor == "postgresql"
only_postgresql = pytest.mark.skipif(not ON_POSTGRESQL, reason="PostgreSQL's driver")
INSERT = "INSERT INTO auth_group (name) VALUES (%s)"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def prepared_here() -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall()]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "value", [0, -1, 2**40, "x", "", 'ä"€', True, None, b"\x00\xff", AT, uuid.UUID(int=5), 1.5]
)
@only_postgresql
def test_values_come_back_as_django_gives_them(value: Any) -> None:
    kinds = {int: "bigint", str: "text", bool: "boolean", bytes: "bytea", float: "float8"}
    kind = kinds.get(type(value)) or {AT: "timestamptz", None: "text"}.get(value, "uuid")
    sql = f"SELECT %s::{kind}, 100%%7"
    given = prepared.row(sql, [value])
    with connection.cursor() as cursor:
        cursor.execute(sql, [value])
        assert given == cursor.fetchone() == (value, 2)
    assert given is not None
    assert type(given[0]) is type(value)


@pytest.mark.django_db
@only_postgresql
def test_so_do_columns_of_other_kinds() -> None:
    sql = """
        SELECT '{"a": [1, "b"]}'::jsonb, '10.0.0.1'::inet, '10.0.0.0/8'::inet, 7::int2, 7::int4, 'v'::varchar,
               1.25::numeric, ARRAY['a', NULL], '2026-01-02'::date, NULL::jsonb, 5 = ANY(%s), 'b' = ANY(%s)
    """
    parameters: list[Any] = [[5, 2**40], ["a", "b"]]
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        assert prepared.rows(sql, parameters) == cursor.fetchall()


@pytest.mark.django_db
def test_a_statement_is_prepared_once_whatever_its_values() -> None:
    if ON_POSTGRESQL:
        for value in (1, 2**40, -(2**15)):
            assert prepared.row("SELECT %s + 0, 'once'", [value]) == (value, "once")
        assert sum("'once'" in statement for statement in prepared_here()) == 1
    assert prepared.rows("SELECT 1 WHERE 1 = %s", [2]) == []
    assert prepared.row("SELECT 1 WHERE 1 = %s", [2]) is None


@pytest.mark.django_db
def test_what_was_changed_is_counted_and_what_was_inserted_named() -> None:
    first = prepared.inserted(INSERT, ["U1"])
    assert first == Group.objects.get(name="U1").pk
    assert prepared.changes("UPDATE auth_group SET name = %s WHERE name = %s", ["n", "U1"]) == 1
    assert prepared.changes("UPDATE auth_group SET name = %s WHERE name = %s", ["n", "U1"]) == 0
    assert prepared.inserted(f"{INSERT} ON CONFLICT (name) DO NOTHING", ["n"]) is None


@pytest.mark.django_db(transaction=True)
def test_a_statement_is_part_of_the_transaction() -> None:
    with transaction.atomic():
        prepared.inserted(INSERT, ["U1"])
        assert Group.objects.count() == 1
        transaction.set_rollback(True)
    assert not Group.objects.exists()
    with transaction.atomic():
        prepared.inserted(INSERT, ["U2"])
    prepared.inserted(INSERT, ["U3"])  # a transaction of its own
    assert Group.objects.count() == 2


@pytest.mark.django_db(transaction=True)
def test_errors_are_djangos_and_leave_a_transaction_unusable() -> None:
    prepared.inserted(INSERT, ["U1"])
    with pytest.raises(IntegrityError, match="name"):
        prepared.inserted(INSERT, ["U1"])
    with transaction.atomic():
        with pytest.raises(IntegrityError), transaction.atomic():
            prepared.inserted(INSERT, ["U1"])
        prepared.inserted(INSERT, ["U2"])  # only the savepoint was lost
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(TransactionManagementError):
            prepared.row("SELECT 1", [])
    with pytest.raises(DatabaseError):
        prepared.row("SELECT nothing FROM nowhere", [])
    assert Group.objects.count() == 2


@pytest.mark.django_db(transaction=True)
@only_postgresql
def test_a_rollback_takes_no_statement_away() -> None:
    with transaction.atomic():
        prepared.row("SELECT 'kept'", [])
        transaction.set_rollback(True)
    assert any("'kept'" in statement for statement in prepared_here())
    assert prepared.row("SELECT 'kept'", []) == ("kept",)


@pytest.mark.django_db(transaction=True)
@only_postgresql
@pytest.mark.parametrize("ending", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_what_the_database_forgot_is_prepared_anew(ending: str) -> None:
    assert prepared.row("SELECT %s + 1", [1]) == (2,)
    with connection.cursor() as cursor:
        cursor.execute(ending)
    assert prepared.row("SELECT %s + 1", [2]) == (3,)
    with connection.cursor() as cursor:
        cursor.execute(ending)
    with pytest.raises(DatabaseError), transaction.atomic():
        prepared.row("SELECT %s + 1", [3])
    with transaction.atomic():
        assert prepared.row("SELECT %s + 1", [4]) == (5,)


@pytest.fixture
def changing() -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE changing AS SELECT 1 AS a")
        yield
        cursor.execute("DROP TABLE changing")


@pytest.mark.django_db(transaction=True)
@only_postgresql
def test_a_changed_table_is_read_anew(changing: None) -> None:
    assert prepared.row("SELECT * FROM changing", []) == (1,)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE changing ADD b text")
    assert prepared.row("SELECT * FROM changing", []) == (1, None)


@pytest.mark.django_db(transaction=True)
@only_postgresql
def test_a_pooler_that_holds_no_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict["OPTIONS"], "prepare_threshold", None)
    prepared.inserted(INSERT, ["U1"])
    assert prepared.row("SELECT name FROM auth_group WHERE name = %s", ["U1"]) == ("U1",)
    assert prepared_here() == []
    connection.close()


@pytest.mark.django_db(transaction=True)
@only_postgresql
def test_no_more_than_so_many_are_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    connection.close()
    monkeypatch.setattr("database.statements.AT_MOST", 3)
    for number in range(5):
        assert prepared.row(f"SELECT {number}", []) == (number,)
    assert len(prepared_here()) == 3
    connection.close()


@pytest.mark.django_db(transaction=True)
@only_postgresql
def test_a_lost_connection_is_an_operational_error_and_is_replaced() -> None:
    (backend,) = prepared.row("SELECT pg_backend_pid()", []) or (None,)
    with connection.copy().cursor() as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
        other.db.close()
    with pytest.raises(OperationalError):
        prepared.row("SELECT 1", [])
    connection.close_if_unusable_or_obsolete()
    assert prepared.row("SELECT 1", []) == (1,)


@pytest.mark.django_db(transaction=True)
@only_postgresql
def test_nothing_stays_of_a_connection_that_is_closed() -> None:
    prepared.row("SELECT 1", [])
    made = statements.of_connection(connection.connection)
    left: list[weakref.ref[Any]] = [weakref.ref(made), weakref.ref(made._values.adapters)]
    del made
    connection.close()
    gc.collect()
    assert [reference() for reference in left] == [None, None]


@pytest.mark.django_db
def test_who_counts_statements_sees_them_with_their_values() -> None:
    with CaptureQueriesContext(connection) as seen:
        prepared.row("SELECT %s", ["a value"])
    assert [query["sql"] for query in seen.captured_queries] == ["SELECT 'a value'"]
    told: list[Any] = []

    def tell(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        told.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(tell):
        prepared.row("SELECT %s", [5])
    assert told == [("SELECT %s", [5])]
