"""Proof that a refused request changed nothing."""

from __future__ import annotations

from typing import Any

from django.apps import apps

# What a refused request may leave behind: its record, the session, and the moment of a token's use.
MAY_CHANGE = {"audit.refusal", "audit.auditevent", "api.apitoken", "sessions.session"}


def everything() -> dict[str, list[Any]]:
    """Every row of every table that a refused request must not touch."""
    found: dict[str, list[Any]] = {}
    for model in apps.get_models(include_auto_created=True):
        if model._meta.label_lower not in MAY_CHANGE:
            fields = [field.attname for field in model._meta.concrete_fields]
            found[model._meta.label] = [
                _plain(row) for row in model._default_manager.order_by("pk").values_list(*fields)
            ]
    return found


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)
