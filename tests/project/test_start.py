"""``manage.py start`` as an administrator meets it: first start, restart, end, deaths, refusals."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import all_processes, is_alive, wait_until
from tests.support.server import ROOT, RunningServer
from tests.support.services import Postgres, Redis

pytestmark = [pytest.mark.once, pytest.mark.slow]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def server(home: Path) -> Iterator[RunningServer]:
    with RunningServer(home) as started:
        yield started


def left_of(home: Path) -> list[str]:
    """Command lines of processes that run with this home."""
    found = []
    for process in all_processes():
        try:
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or not ours to look at
        if f"BRAMLEY_HOME={home}".encode() in variables:
            found.append(process.command)
    return found


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        code: int = answer.status
        return code


def test_first_start_second_start_and_a_clean_end(home: Path) -> None:
    with RunningServer(home) as first:
        output = first.output
        assert output.count("Bramley is ready at") == 1
        assert f"Bramley is ready at {first.url}\n" in output
        assert f"{first.url}/enroll/default/" in output
        assert f"{first.url}/scep/bramley/" in output
        assert re.search(r"^  name      admin$", output, re.MULTILINE)
        assert len(first.password) >= 20
        assert status(f"{first.url}/healthz") == 200
        assert status(f"{first.url}/readyz") == 200
        before = rows(home)
        assert first.end() == 0
    assert left_of(home) == []

    with RunningServer(home, port=first.port) as second:
        assert "password" not in second.output
        assert status(f"{second.url}/readyz") == 200
        assert rows(home) == before
        assert second.end(signal.SIGINT) == 0
    assert left_of(home) == []


def rows(home: Path) -> dict[str, list[tuple[object, ...]]]:
    """What the first set-up made."""
    queries = {
        "users": "SELECT id, username, password FROM auth_user",
        "issuers": "SELECT id, slug FROM pki_issuer",
        "keys": "SELECT id, uuid FROM pki_issuerkey",
        "profiles": "SELECT id, slug, payload_uuid FROM enrollment_enrollmentprofile",
    }
    with closing(sqlite3.connect(home / "bramley.sqlite3")) as database:
        return {name: database.execute(query).fetchall() for name, query in queries.items()}


def test_the_first_set_up_made_one_of_each(server: RunningServer) -> None:
    made = rows(server.home)
    assert [row[1] for row in made["users"]] == ["admin"]
    assert [row[1] for row in made["issuers"]] == ["bramley"]
    assert len(made["keys"]) == 1
    assert [row[1] for row in made["profiles"]] == ["default"]


def test_two_set_ups_at_once_make_one_of_each(home: Path, postgres: Postgres) -> None:
    url = postgres.create_database("two_set_ups")
    program = (
        "import django; django.setup()\n"
        "from mdm_project import first_start\n"
        "first_start.set_up()\n"
        "print(first_start.ensure_administrator() is not None)"
    )
    environment = RunningServer(home, database_url=url).environment | {
        "DJANGO_SETTINGS_MODULE": "mdm_project.settings"
    }
    together = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            # Two machines on one database share the keys, but not the home.
            env=environment | {"BRAMLEY_HOME": str(home / name), "BRAMLEY_ENCRYPTION_KEYS": "A" * 43 + "="},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    outcomes = [process.communicate(timeout=120) for process in together]
    assert [process.returncode for process in together] == [0, 0], outcomes
    assert sorted(output.strip() for output, _ in outcomes) == ["False", "True"]


def test_sqlite_is_set_for_many_writers_and_power_cuts(server: RunningServer) -> None:
    program = (
        "from django.db import connection\n"
        "cursor = connection.cursor()\n"
        "for name in ('journal_mode', 'synchronous', 'busy_timeout', 'foreign_keys'):\n"
        "    print(name, cursor.execute(f'PRAGMA {name}').fetchone()[0])\n"
        "print(connection.transaction_mode)"
    )
    printed = server.manage("shell", "--no-imports", "--command", program).stdout.split("\n")
    assert printed[:4] == ["journal_mode wal", "synchronous 2", "busy_timeout 20000", "foreign_keys 1"]
    assert printed[4] == "IMMEDIATE"


def test_secrets_are_files_that_only_the_owner_reads(server: RunningServer) -> None:
    for name in ("secret.key", "encryption.keys"):
        assert oct((server.home / name).stat().st_mode & 0o777) == "0o600"
    assert oct((server.home / "broker").stat().st_mode & 0o777) == "0o700"
    for name in ("secret.key", "encryption.keys"):
        assert (server.home / name).read_text().strip() not in server.output


@pytest.mark.parametrize("part", ["web", "worker", "beat"])
def test_a_killed_part_comes_back(server: RunningServer, part: str) -> None:
    before = server.pids[part]
    os.kill(before[0], signal.SIGKILL)
    wait_until(
        f"{part} runs again",
        lambda: bool(server.pids[part]) and not set(before) & set(server.pids[part]),
    )
    if part == "web":
        wait_until("the web server answers again", lambda: answers(server))
    assert not any(is_alive(pid) for pid in before)
    assert server.end() == 0
    assert left_of(server.home) == []


def test_a_killed_web_process_comes_back(server: RunningServer) -> None:
    main, worker = server.pids["web"]
    os.kill(worker, signal.SIGKILL)
    wait_until("another web process runs", lambda: len(set(server.pids["web"]) - {main, worker}) == 1)
    wait_until("the web server answers again", lambda: answers(server))
    assert server.pids["web"][0] == main


def answers(server: RunningServer) -> bool:
    try:
        return status(f"{server.url}/healthz") == 200
    except OSError:
        return False


def test_kill_9_of_the_parent_ends_everything(server: RunningServer) -> None:
    below = [process.pid for process in server.processes]
    assert len(below) >= 4
    server.process.kill()
    server.process.wait()
    wait_until("all are gone", lambda: not any(is_alive(pid) for pid in below))


def test_a_second_start_in_the_same_home_is_refused(server: RunningServer, tmp_path: Path) -> None:
    other = RunningServer(server.home)
    refused = other.manage("start", check=False)
    assert refused.returncode == 1
    assert "already runs" in refused.stderr
    assert str(server.process.pid) in refused.stderr
    assert answers(server)


def test_a_taken_port_is_a_clear_error(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = RunningServer(home, port=taken.getsockname()[1])
        refused = server.manage("start", check=False)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("CommandError: cannot listen on 127.0.0.1:")
    assert not (home / "bramley.sqlite3").exists()


def test_a_database_that_is_away_is_a_clear_error(home: Path) -> None:
    server = RunningServer(home, database_url="postgres://nobody@127.0.0.1:1/none")
    refused = server.manage("start", check=False)
    assert refused.returncode == 1
    assert "the database does not answer" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_postgres_and_redis(home: Path, postgres: Postgres, redis_server: Redis) -> None:
    url = postgres.create_database("start")
    with RunningServer(home, database_url=url, redis_url=redis_server.url) as server:
        assert status(f"{server.url}/readyz") == 200
        assert len(server.password) >= 20
        assert server.end() == 0
    assert left_of(home) == []
    assert not (home / "bramley.sqlite3").exists()
    assert not (home / "broker").exists()


def test_parts_on_their_own(home: Path, postgres: Postgres, redis_server: Redis) -> None:
    url = postgres.create_database("parts")
    options: dict[str, Any] = {"database_url": url, "redis_url": redis_server.url}
    with RunningServer(home, arguments=("--only", "web"), **options) as web:
        assert [name for name, pids in web.pids.items() if pids] == ["web"]
        worker = RunningServer(home, arguments=("--only", "worker"), **options)
        worker.launch(log=home / "worker.log")
        wait_until("the worker runs", lambda: bool(worker.pids["worker"]))
        assert [name for name, pids in worker.pids.items() if pids] == ["worker"]
        wait_until("it says so", lambda: "Bramley worker started" in (home / "worker.log").read_text())
        assert worker.end() == 0
    assert left_of(home) == []
