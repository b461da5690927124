"""Callers with tokens, and proof that nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Permission, User
from rest_framework.test import APIClient

from api import tokens
from api.scopes import SCOPES
from audit.recording import SERVER
from tests.console.unchanged import everything

Caller = Callable[..., APIClient]
Unchanged = Callable[[], AbstractContextManager[None]]


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
