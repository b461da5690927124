"""A web process that cannot keep up says so where those who send pushes look, and not too often."""

from __future__ import annotations

import pytest
from django.db import OperationalError
from django.utils import timezone

from mdm_project import pressure
from push import pace
from push.models import PushPace

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure._Told, "at", float("-inf"))


def test_devices_are_woken_more_slowly_after_a_note() -> None:
    assert pace.allowed(timezone.now(), 500) == 500
    pressure.note()
    assert pace.allowed(timezone.now(), 500) == pace.WHILE_BUSY


def test_one_note_a_second_is_enough() -> None:
    pressure.note()
    PushPace.objects.update(web_busy_until=None)
    pressure.note()
    assert PushPace.objects.get().web_busy_until is None


def test_a_database_that_is_away_does_not_fail_the_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(now: object) -> None:
        raise OperationalError("gone")

    monkeypatch.setattr(pace, "note_web_busy", away)
    pressure.note()
    assert "OperationalError" in caplog.text
