"""What an enrolment writes beside its rows: no index that nobody reads."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection, models

from audit.models import AuditEvent
from pki.models import Certificate
from scep.models import Transaction

pytestmark = pytest.mark.django_db

WRITTEN = [Certificate, AuditEvent, Transaction]
on_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="as PostgreSQL has it")


def indexes_of(model: type[models.Model]) -> dict[str, list[str]]:
    """By name, the columns; but for the primary key, which SQLite has no index of its own for."""
    with connection.cursor() as cursor:
        found: dict[str, Any] = dict(connection.introspection.get_constraints(cursor, model._meta.db_table))
    return {
        name: facts["columns"]
        for name, facts in found.items()
        if (facts["index"] or facts["unique"]) and not facts["primary_key"]
    }


def declared(model: Any) -> list[list[str]]:
    columns = {field.name: field.column for field in model._meta.local_fields}
    fields = [
        field
        for field in model._meta.local_fields
        if (field.db_index or field.unique) and not field.primary_key
    ]
    groups = [index.fields for index in model._meta.indexes]
    groups += [one.fields for one in model._meta.constraints if isinstance(one, models.UniqueConstraint)]
    return [[field.column] for field in fields] + [[columns[name] for name in group] for group in groups]


@pytest.mark.parametrize("model", WRITTEN)
def test_the_indexes_are_those_of_the_models(model: type[models.Model]) -> None:
    """None for LIKE (every column of text that has an index would have a second one), and none left over."""
    assert sorted(indexes_of(model).values()) == sorted(declared(model))


@on_postgresql
@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (lambda: Certificate.objects.filter(renewed_from=1), "certificate_renewed_from"),
        (lambda: Certificate.objects.filter(renewed_from__in=[1, 2]), "certificate_renewed_from"),
        (lambda: AuditEvent.objects.filter(user=get_user_model()(pk=1)), "audit_by_user"),
        (lambda: Transaction.objects.filter(transaction_id="x", issuer=1), "transaction_id"),
        (
            lambda: Transaction.objects.filter(expires_at__lte="2026-11-24T00:00Z", status="PENDING"),
            "scep_o",
        ),
    ],
)
def test_what_is_looked_for_is_found_by_an_index(rows: Any, index: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    assert index in rows().order_by().explain()
