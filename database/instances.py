"""Instances of models made in one go, for what devices cause all the time.

Django's own constructor looks at every field in turn and sends two signals, to which nobody here listens: for
a model of thirty columns it takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from django.db import DEFAULT_DB_ALIAS, models
from django.db.models.base import ModelState

M = TypeVar("M", bound=models.Model)


def new(model: type[M], **values: Any) -> M:
    """As ``model(**values)``: an instance that is not stored yet. Raises ``TypeError`` for unknown names."""
    plan = _plan(model)
    instance, state = model.__new__(model), ModelState()
    attributes = instance.__dict__
    attributes["_state"] = state
    attributes.update(plan.defaults)
    for name, make in plan.made.items():
        if name not in values:
            attributes[name] = make()
    for name, value in values.items():
        if name in plan.relations:
            attributes[plan.relations[name]] = None if value is None else value.pk
            state.fields_cache[name] = value
        else:
            attributes[name] = value
    if len(attributes) != plan.size:
        raise TypeError(f"{model.__name__} has no such fields: {sorted(values)}")
    return instance


def loaded(
    model: type[M], values: dict[str, Any], related: dict[str, models.Model | None] | None = None
) -> M:
    """As ``model.from_db``: an instance of a row that was read, with these columns and related rows.

    Columns that are not named are read on access. ``values`` becomes the instance's own dictionary.
    """
    instance = model.__new__(model)
    state = values["_state"] = ModelState()
    state.adding, state.db = False, DEFAULT_DB_ALIAS
    if related is not None:
        state.fields_cache = related
    instance.__dict__ = values
    return instance


@dataclass(frozen=True)
class _Plan:
    """``made``: defaults that are made anew for each. ``size``: how many attributes an instance has."""

    defaults: Mapping[str, Any]
    made: Mapping[str, Callable[[], Any]]
    relations: Mapping[str, str]
    size: int


@cache
def _plan(model: type[models.Model]) -> _Plan:
    fields = model._meta.concrete_fields
    made = {
        field.attname: field.default for field in fields if field.has_default() and callable(field.default)
    }
    return _Plan(
        {field.attname: field.get_default() for field in fields if field.attname not in made},
        made,
        {field.name: field.attname for field in fields if field.is_relation},
        len(fields) + 1,
    )
