"""Every row of every table, without the numbers and random values that two runs of the same cannot share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from django.apps import apps
from django.db import connection, models

from commands.enqueueing import payload_context
from commands.models import Command
from vault.sealed import unseal

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_IGNORED_APPS = frozenset({"sessions", "contenttypes", "admin", "auth"})
Rows = dict[str, list[dict[str, Any]]]


def everything() -> Rows:
    """By model, in the order in which the rows were made.

    Ids are replaced by the place of the row among those of its table, UUIDs that a row was given by a word,
    and the content of commands is opened.
    """
    tables = set(connection.introspection.table_names())
    known = [
        model
        for model in apps.get_models(include_auto_created=True)
        if model._meta.app_label not in _IGNORED_APPS
        and not model._meta.proxy
        and model._meta.db_table in tables
    ]
    places = {model._meta.label_lower: _places(model) for model in known}
    return {model._meta.label: [_row(one, places) for one in _rows(model)] for model in known}


def _rows(model: type[models.Model]) -> models.QuerySet[models.Model]:
    return model._base_manager.order_by("pk")


def _places(model: type[models.Model]) -> dict[Any, int]:
    return {pk: number for number, pk in enumerate(_rows(model).values_list("pk", flat=True))}


def _row(instance: models.Model, places: Mapping[str, Mapping[Any, int]]) -> dict[str, Any]:
    row = {field.attname: _value(instance, field, places) for field in instance._meta.concrete_fields}
    if isinstance(instance, Command):
        context = payload_context(instance.uuid)
        row["payload_sealed"] = unseal(bytes(instance.payload_sealed), context=context)
    if "target_kind" in row and row["target_id"]:
        row["target_id"] = places[row["target_kind"]][int(row["target_id"])]
    return row


def _value(
    instance: models.Model, field: models.Field[Any, Any], places: Mapping[str, Mapping[Any, int]]
) -> Any:
    value = getattr(instance, field.attname)
    if value is None:
        return None
    if isinstance(field, models.ForeignKey):
        return places.get(field.related_model._meta.label_lower, {}).get(value, value)
    if field.primary_key:
        return places[instance._meta.label_lower][value]
    if isinstance(field, models.UUIDField) and field.unique:
        return "a UUID"
    if isinstance(field, models.JSONField):
        return _UUID.sub("a UUID", json.dumps(value, sort_keys=True))
    return bytes(value) if isinstance(value, memoryview) else value
