"""Statements put together once, of rows in which nearly everything is the same each time.

What differs is a named parameter, ``%(name)s``; what a new row has of its own accord, its defaults, stands in
the statement. So a row costs no instance of its model, and a column that the model gets later is written here
too. PostgreSQL only: SQLite writes row by row (:mod:`database.rows`).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.db import connection, models, transaction

from database import prepared

_PLACE = re.compile(r"%\((\w+)\)s")
_LENGTH = re.compile(r"\(\d+\)")


class Statement:
    """One statement with named parameters, each of which may stand in it several times."""

    def __init__(self, sql: str) -> None:
        self._names = tuple(_PLACE.findall(sql))
        self._sql = _PLACE.sub("%s", sql)

    def row(self, values: Mapping[str, Any]) -> prepared.Row | None:
        """Run it; the first row that it gives. Values as the driver takes them, JSON as text."""
        return prepared.row(self._sql, [values[name] for name in self._names])


def insertion(model: type[models.Model], columns: Mapping[str, str]) -> str:
    """``INSERT INTO … SELECT …`` of whole rows; what comes after it says from what.

    ``columns``: SQL for each column that is not as it is in a row of which nothing is known; the names are
    those of the model's attributes (``device_id``).
    """
    fields = [field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField)]
    if unknown := set(columns) - {field.attname for field in fields}:
        raise LookupError(f"{model._meta.label} has no {', '.join(sorted(unknown))}")
    names = ", ".join(f'"{field.column}"' for field in fields)
    values = ", ".join(columns.get(field.attname) or _default(field) for field in fields)
    return f"INSERT INTO {model._meta.db_table} ({names}) SELECT {values}"


def places(model: type[models.Model], prefix: str, *attributes: str) -> dict[str, str]:
    """A parameter with its type for each of these columns: ``udid`` is the parameter ``<prefix>_udid``."""
    return {name: f"%({prefix}_{name})s::{kind_of(field_of(model, name))}" for name in attributes}


def field_of(model: type[models.Model], attribute: str) -> models.Field[Any, Any]:
    """The field by the name of its attribute (``device_id``)."""
    (found,) = (field for field in model._meta.concrete_fields if field.attname == attribute)
    return found


def kind_of(field: models.Field[Any, Any]) -> str:
    """The type of a column, for a cast. Without its length: a cast would cut what is too long in silence."""
    return _LENGTH.sub("", field.cast_db_type(connection) or "")


def alone() -> AbstractContextManager[object]:
    """One statement is a transaction of its own; inside another it may fail without ending that one."""
    return transaction.atomic() if connection.in_atomic_block else nullcontext()


def _default(field: models.Field[Any, Any]) -> str:
    if isinstance(field, models.UUIDField) and field.default is uuid.uuid4:
        return "gen_random_uuid()"
    if getattr(field, "auto_now_add", False) or getattr(field, "auto_now", False):
        raise LookupError(f"{field} is not known")
    if not (field.has_default() or field.null or (field.blank and field.empty_strings_allowed)):
        raise LookupError(f"{field} is not known")
    return literal(field, field.get_default())


def literal(field: models.Field[Any, Any], value: Any) -> str:
    """A value of this column that is the same each time, as SQL."""
    kind = kind_of(field)
    if value is None:
        return f"NULL::{kind}"
    text = json.dumps(value) if isinstance(field, models.JSONField) else str(value)
    return "'" + text.replace("'", "''").replace("%", "%%") + f"'::{kind}"
