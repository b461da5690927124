"""``no-change`` of the threat model: what a refused request must leave as it was.

:func:`snapshot` digests every row of every table, but for the record of acts and refusals and the columns
that say when somebody was last in touch, or last refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.apps import apps
from django.db import connection, models

IGNORED_APPS = frozenset({"audit", "sessions", "contenttypes", "admin"})
IGNORED_COLUMNS = frozenset({"last_seen_at", "refusal_reason", "refused_at"})


def snapshot() -> dict[str, str]:
    """The digest of every table, by model: comparing two of them names the table that changed."""
    tables = set(connection.introspection.table_names())
    return {
        model._meta.label: _digest(model)
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label not in IGNORED_APPS
        and not model._meta.proxy
        and model._meta.db_table in tables
    }


@contextmanager
def no_change() -> Iterator[None]:
    """Assert that the block changes no row."""
    before = snapshot()
    yield
    assert snapshot() == before


def _digest(model: type[models.Model]) -> str:
    columns = [field.attname for field in model._meta.concrete_fields if field.attname not in IGNORED_COLUMNS]
    digest = hashlib.sha256()
    for row in model._base_manager.order_by("pk").values_list(*columns):
        digest.update(repr([_plain(value) for value in row]).encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, (memoryview, bytearray)) else value
