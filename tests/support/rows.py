"""Rows of any model, with whatever it demands filled in: for tests of what holds for all models."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime
from typing import Any

from django.db import models

_numbers = itertools.count(1)


def make_row(model: type[models.Model], **given: Any) -> Any:
    """Save a row of ``model`` and return it; what is not ``given`` and has no default is made up."""
    values = dict(given)
    for column in model._meta.concrete_fields:
        if column.name in values or column.has_default() or column.null:
            continue
        if isinstance(column, models.AutoField):
            continue
        if isinstance(column, models.OneToOneField | models.ForeignKey):
            values[column.name] = make_row(column.related_model)
        elif not (column.blank and column.empty_strings_allowed):
            values[column.name] = _value(column)
    return model._base_manager.create(**values)


def _value(column: Any) -> Any:
    number = next(_numbers)
    match column:
        case models.UUIDField():
            return uuid.uuid4()
        case models.DateTimeField():
            return datetime(2026, 11, 24, tzinfo=UTC)
        case models.DateField():
            return datetime(2026, 11, 24, tzinfo=UTC).date()
        case models.BinaryField():
            return number.to_bytes(32)
        case models.BooleanField():
            return False
        case models.IntegerField():
            return number
        case models.JSONField():
            return {}
        case models.CharField() if column.choices:
            return next(value for value, _label in column.flatchoices)
        case models.CharField() | models.TextField():
            return f"row-{number}"[: column.max_length or None]
    raise NotImplementedError(f"no value for {column}")
