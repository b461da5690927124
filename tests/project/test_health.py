"""Readiness and figures, against the test database."""

from __future__ import annotations

import json

import pytest
from django.db.migrations.recorder import MigrationRecorder
from django.test import RequestFactory
from pytest_django import Settings

from mdm_project import health

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def not_yet_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test meets a fresh process: nothing is known about migrations, nothing is counted."""
    monkeypatch.setattr(health, "_migrated", type(health._migrated)())
    monkeypatch.setattr(health, "_figures", type(health._figures)())


def readiness() -> tuple[int, dict[str, object]]:
    answer = health.readyz(RequestFactory().get("/readyz"))
    return answer.status_code, json.loads(answer.content)


def test_all_is_well() -> None:
    assert readiness() == (200, {"ready": True, "database": "ok", "migrations": "ok", "broker": "ok"})


def test_a_missing_migration_is_seen_until_it_is_applied() -> None:
    row = MigrationRecorder.Migration.objects.filter(app="audit").latest("id")
    row.delete()
    status, parts = readiness()
    assert (status, parts["migrations"], parts["database"]) == (503, "failed", "ok")
    MigrationRecorder.Migration.objects.create(app=row.app, name=row.name)
    assert readiness()[0] == 200


def test_a_redis_that_is_away_is_named_and_not_shown(settings: Settings) -> None:
    settings.REDIS_URL = "redis://:canary@127.0.0.1:1/0"
    status, parts = readiness()
    assert (status, parts["broker"], parts["database"]) == (503, "failed", "ok")
    assert "canary" not in json.dumps(parts)


def test_a_broker_folder_that_is_gone_is_named(settings: Settings) -> None:
    settings.REDIS_URL = ""
    settings.BROKER_FOLDER = settings.BRAMLEY_HOME / "not there"
    assert readiness()[1]["broker"] == "failed"


def metrics(address: str) -> tuple[int, str]:
    answer = health.metrics(RequestFactory(REMOTE_ADDR=address).get("/metrics"))
    return answer.status_code, answer.content.decode()


def test_figures_are_for_operators() -> None:
    status, text = metrics("127.0.0.1")
    assert status == 200
    assert "\nbramley_pushes_due 0.0\n" in text
    assert metrics("192.0.2.1") == (403, "")


def test_figures_cost_statements_once_in_ten_seconds(django_assert_num_queries: object) -> None:
    metrics("127.0.0.1")
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert metrics("127.0.0.1")[0] == 200
