"""Writing one row, as ``save()`` does, by a statement that was put together once.

For what devices cause all the time: Django takes several times longer to build such a statement than the
database to carry it out. Nobody listens to the signals of the models that are written so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, connections, models

from database import prepared

M = TypeVar("M", bound=models.Model)


def insert(instance: M) -> M:
    """Insert a new row; the instance has its primary key afterwards. Raises ``IntegrityError``."""
    sql, fields = _insertion(type(instance))
    instance.pk = prepared.inserted(sql, _values(instance, fields, add=True))
    _stored(instance)
    return instance


def insert_all(instances: Sequence[M]) -> Sequence[M]:
    """The same for several rows of one model: one statement where the database tells all their keys."""
    if not prepared.on_postgresql() or len(instances) < 2:
        return [insert(instance) for instance in instances]
    sql, fields = _insertion(type(instances[0]))
    more = ", ".join([sql[sql.rindex("(") :]] * (len(instances) - 1))
    values = [value for one in instances for value in _values(one, fields, add=True)]
    keys = prepared.rows(f"{sql}, {more} RETURNING id", values)
    for instance, (key,) in zip(instances, keys, strict=True):
        instance.pk = key
        _stored(instance)
    return instances


def insert_unless_there(instance: M, unique: str) -> bool:
    """Insert a row unless there is one with the same value in the column ``unique``. False if there is."""
    sql, fields = _insertion(type(instance))
    (column,) = (field.column for field in fields if field.name == unique)
    values = _values(instance, fields, add=True)
    key = prepared.inserted(f"{sql} ON CONFLICT ({column}) DO NOTHING", values)
    if key is None:
        return False
    instance.pk = key
    _stored(instance)
    return True


def update(instance: models.Model, *names: str) -> None:
    """Write these fields of a row that is there."""
    sql, fields = _alteration(type(instance), names)
    prepared.changes(sql, [*_values(instance, fields, add=False), instance.pk])


def _values(instance: models.Model, fields: tuple[Any, ...], *, add: bool) -> list[Any]:
    database = connections[DEFAULT_DB_ALIAS]
    return [field.get_db_prep_save(field.pre_save(instance, add), database) for field in fields]


def _stored(instance: models.Model) -> None:
    instance._state.adding, instance._state.db = False, DEFAULT_DB_ALIAS


@cache
def _insertion(model: type[models.Model]) -> tuple[str, tuple[Any, ...]]:
    fields = tuple(field for field in model._meta.concrete_fields if not field.primary_key)
    columns = ", ".join(f'"{field.column}"' for field in fields)
    places = ", ".join(["%s"] * len(fields))
    return f"INSERT INTO {model._meta.db_table} ({columns}) VALUES ({places})", fields  # noqa: S608


@cache
def _alteration(model: type[models.Model], names: tuple[str, ...]) -> tuple[str, tuple[Any, ...]]:
    known = {field.name: field for field in model._meta.concrete_fields}
    fields = tuple(known[name] for name in names)
    changes = ", ".join(f'"{field.column}" = %s' for field in fields)
    return f"UPDATE {model._meta.db_table} SET {changes} WHERE id = %s", fields  # noqa: S608
