"""A fleet to look at, and people who look."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from tests.console.fleet import Fleet, make_fleet, make_push_certificate, make_records


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def fleet(db: None, now: datetime) -> Fleet:
    """Devices, commands, certificates, sessions, records: something of everything."""
    fleet = make_fleet(40, now)
    make_push_certificate(now)
    make_records(fleet, now)
    return fleet


@pytest.fixture
def administrator(db: None) -> User:
    return User.objects.create_superuser("ada", password="orchard-gate-9")


@pytest.fixture
def onlooker(db: None) -> User:
    """Staff that may view everything and do nothing."""
    user = User.objects.create_user("grace", password="orchard-gate-9", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    return user


@pytest.fixture
def browser(administrator: User, client: Client) -> Client:
    client.force_login(administrator)
    return client
