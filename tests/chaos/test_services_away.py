"""PostgreSQL and Redis go away and come back: requests are refused meanwhile, never lied to, and recover."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import wait_until
from tests.support.server import RunningServer
from tests.support.services import Missing, Postgres, Redis

pytestmark = [pytest.mark.once, pytest.mark.slow]


def ask(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def readiness(server: RunningServer) -> dict[str, object]:
    found: dict[str, object] = json.loads(ask(f"{server.url}/readyz")[1])
    return found


def test_both_die_and_come_back(tmp_path: Path) -> None:
    try:
        postgres, redis = Postgres(), Redis()
    except Missing as reason:
        pytest.skip(str(reason))
    with postgres, redis:
        url = postgres.create_database("away")
        with RunningServer(tmp_path / "home", database_url=url, redis_url=redis.url) as server:
            profile = f"{server.url}/scep/bramley/?operation=GetCACert"
            certificate = ask(profile)
            assert certificate[0] == 200

            redis.kill()
            assert readiness(server) == {
                "ready": False,
                "database": "ok",
                "migrations": "ok",
                "broker": "failed",
            }
            assert ask(profile) == certificate  # what needs no broker goes on
            redis.start()
            wait_until("the broker is back", lambda: readiness(server)["ready"] is True)

            postgres.kill()
            assert readiness(server)["database"] == "failed"
            assert ask(profile) == (503, b"")
            status, page = ask(f"{server.url}/enroll/default/profile")
            assert (status, b"not possible just now" in page) == (503, True)
            assert ask(f"{server.url}/healthz")[0] == 200
            postgres.start()
            wait_until("the database is back", lambda: readiness(server)["ready"] is True, seconds=15)
            # Each process learns by itself that its connections have ended: by one request each.
            wait_until("every process answers", lambda: all(ask(profile) == certificate for _ in range(20)))
            assert server.end() == 0
