"""What people get while the database is locked, a key is away, or the server has a fault."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.db import InterfaceError, OperationalError, connection
from django.test import Client

from audit.recording import SERVER
from enrollment.models import EnrollmentSession
from enrollment.setup import ensure_default_profile
from pki import issuers
from pki.tokens import TokenUnavailable

PROFILE = "/enroll/default/profile"


@pytest.fixture(autouse=True)
def _as_people_see_it(settings: Any) -> None:
    settings.DEBUG = False
    cache.clear()


@pytest.fixture
def client() -> Client:
    """A browser: what a view raises becomes a page."""
    return Client(raise_request_exception=False)


@pytest.fixture
def locked(transactional_db: None) -> Iterator[None]:
    """The issuer is made; then somebody else writes to the database, and goes on writing."""
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite has one writer at a time")
    ensure_default_profile(issuers.create_issuer("bramley", "CA", algorithm="RSA-2048", actor=SERVER))
    User.objects.create_superuser("ada", password="orchard-gate-9")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout=50")
    other = sqlite3.connect(str(connection.settings_dict["NAME"]), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()
        connection.close()


def test_a_locked_database_is_a_page_to_load_again(locked: None, client: Client) -> None:
    answer = client.get(PROFILE)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "30"
    assert "no-store" in answer.headers["Cache-Control"]
    assert "default-src" in answer.headers["Content-Security-Policy"]
    text = answer.content.decode()
    assert "not possible just now" in text
    assert "locked" not in text
    assert not EnrollmentSession.objects.exists()
    german = client.get(PROFILE, headers={"Accept-Language": "de"}).content.decode()
    assert '<html lang="de">' in german
    assert "Das ist gerade nicht möglich" in german
    signing_in = client.post("/admin/login/", {"username": "ada", "password": "orchard-gate-9"})
    assert (signing_in.status_code, signing_in.headers["Retry-After"]) == (503, "30")


@pytest.mark.once
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationalError("the connection is lost: password=CANARY"), 503),
        (InterfaceError("connection already closed"), 503),
        (TokenUnavailable("CANARY"), 503),
        (ValueError("CANARY"), 500),
    ],
    ids=["operational", "interface", "token", "fault"],
)
@pytest.mark.parametrize("path", ["/enroll/default/", "/api/v1/devices/", "/admin/login/"])
def test_what_passes_is_told_from_a_fault(
    client: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, path: str
) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr("django.middleware.csrf.CsrfViewMiddleware.process_view", fail)
    answer = client.get(path)
    assert answer.status_code == status
    assert answer.headers.get("Retry-After") == ("30" if status == 503 else None)
    assert b"CANARY" not in answer.content
    kind = "application/json" if path.startswith("/api/") else "text/html"
    assert answer.headers["Content-Type"].startswith(kind)
