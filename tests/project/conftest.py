"""Fixtures of the tests of the whole."""

from __future__ import annotations

import pytest

from mdm_project import at_hand


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to put back: a test without a database must not touch the connection that another test left."""
    monkeypatch.setattr(at_hand, "put_back", lambda: None)
