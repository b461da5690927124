"""Callers with tokens, and proof that nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import Permission, User
from django.db import models
from rest_framework.test import APIClient

from api import tokens
from api.scopes import SCOPES
from audit.recording import SERVER

Caller = Callable[..., APIClient]
Unchanged = Callable[[], AbstractContextManager[None]]
# What a refused request may leave behind: its record, and the moment of the token's use.
MAY_CHANGE = {"audit.refusal", "audit.auditevent", "api.apitoken"}


@pytest.fixture
def superuser(db: None) -> User:
    return User.objects.create_superuser("ada", password="orchard-gate-9")


@pytest.fixture
def caller(superuser: User) -> Caller:
    """``caller("devices:read", …)`` is a client whose token has these scopes; all of them by default."""

    def make(*scopes: str, user: User | None = None, days: int | None = None) -> APIClient:
        now = datetime.now(UTC)
        _token, text = tokens.create(
            "inventory",
            user=user or superuser,
            scopes=scopes or SCOPES,
            expires_at=now + timedelta(days=days) if days else None,
            actor=SERVER,
            now=now,
        )
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
        return client

    return make


@pytest.fixture
def helper_user(db: None) -> Callable[..., User]:
    """A user with just these permissions: ``helper_user("devices.view_device")``."""

    def make(*permissions: str) -> User:
        user = User.objects.create_user("grace", password="orchard-gate-9", is_staff=True)
        for permission in permissions:
            app_label, codename = permission.split(".")
            user.user_permissions.add(
                Permission.objects.get(content_type__app_label=app_label, codename=codename)
            )
        return user

    return make


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


@pytest.fixture
def unchanged(db: None) -> Unchanged:
    @contextmanager
    def check() -> Iterator[None]:
        before = everything()
        yield
        assert everything() == before

    return check


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def row_of(model: type[models.Model]) -> models.Model:
    """The newest row."""
    row = model._default_manager.order_by("-pk").first()
    assert row is not None
    return row
