"""An administrator at the pages of devices, and an issuer for the devices."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from pki import trust
from pki.models import Issuer
from tests.support.devices import make_issuer


@pytest.fixture
def issuer(db: None) -> Issuer:
    trust.forget_anchors()
    return make_issuer()


@pytest.fixture
def ada(issuer: Issuer, settings: Any) -> Client:
    """A superuser, signed in."""
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }
    client = Client()
    client.force_login(User.objects.create_superuser("ada", password="orchard-gate-9"))
    return client


def staff(*permissions: str) -> Client:
    """Somebody with these permissions only."""
    user = User.objects.create_user("grace", password="orchard-gate-9", is_staff=True)
    for name in permissions:
        app, codename = name.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client = Client()
    client.force_login(user)
    return client
