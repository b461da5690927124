"""A client that waits for one web process, while another has nothing to do, is sent over to that one."""

from __future__ import annotations

import http.client
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from mdm_project import neighbours, threshold
from mdm_project.neighbours import Neighbours
from mdm_project.threshold import Threshold
from mdm_project.turns import AT_ONCE
from tests.conftest import StartServer
from tests.support.processes import wait_until
from tests.support.server import ROOT, RunningServer

PARENT = 4711
CHILD = """
import sys
from pathlib import Path
from mdm_project.neighbours import Neighbours
table = Neighbours(Path(sys.argv[1]), int(sys.argv[2]))
for line in sys.stdin:
    table.tell(int(line))
    print("told", flush=True)
"""


class Child:
    """A web process beside this one."""

    def __init__(self, path: Path, parent: int) -> None:
        argv = [sys.executable, "-c", CHILD, str(path), str(parent)]
        self.process = subprocess.Popen(
            argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, free: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{free}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "told\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def child(path: Path, parent: int = PARENT) -> Iterator[Child]:
    made = Child(path, parent)
    try:
        yield made
    finally:
        made.kill()


@contextmanager
def ourselves(path: Path, parent: int = PARENT) -> Iterator[Neighbours]:
    table = Neighbours(path, parent)
    try:
        yield table
    finally:
        table.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "web.turns"


def test_another_child_of_the_same_parent_has_time_or_not(path: Path) -> None:
    with ourselves(path) as table, child(path) as other:
        table.tell(2)
        other.tell(0)
        assert not table.have_time(), "that we have time ourselves does not count"
        other.tell(1)
        assert table.have_time()
        other.tell(0)
        assert not table.have_time()
    assert path.stat().st_mode & 0o777 == 0o600


def test_children_of_another_parent_do_not_count(path: Path) -> None:
    with ourselves(path) as table, child(path, PARENT + 1) as stranger:
        stranger.tell(2)
        assert not table.have_time()


def test_what_the_dead_left_is_cleared_by_the_next(path: Path) -> None:
    with child(path) as lives, child(path) as dies:
        lives.tell(0)
        dies.tell(2)
        dies.kill()
        with ourselves(path) as table:
            assert not table.have_time()
            lives.tell(2)
            assert table.have_time(), "who lives keeps its slot"


def test_who_finds_no_slot_listens_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with child(path) as other:
        other.tell(0)
        monkeypatch.setattr(neighbours, "SLOTS", 1)
        with ourselves(path) as table:
            table.tell(2)
            assert not table.have_time()
            other.tell(1)
            assert table.have_time()


# --- what comes of it ---


class Told:
    """Neighbours that say what the test wants."""

    def __init__(self) -> None:
        self.free: list[int] = []
        self.time = True

    def tell(self, free: int) -> None:
        self.free.append(free)

    def have_time(self) -> bool:
        return self.time


def hello(_environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"hi"]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def door(told: Told) -> Threshold:
    return Threshold(hello, at_once=1, neighbours=told)  # type: ignore[arg-type]


def ask(door: Threshold, *, waits: bool, **more: Any) -> list[tuple[str, str]]:
    """The headers of the answer to a request that has to wait for its turn, or not."""
    came: list[list[tuple[str, str]]] = []

    def run() -> None:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1", **more}
        assert list(door(environ, lambda _status, headers, _error=None: came.append(headers))) == [b"hi"]

    if not waits:
        run()
        return came[0]
    assert door.turns.admit() == 0.0
    thread = threading.Thread(target=run)
    thread.start()
    wait_until("the request waits", lambda: door.turns.waiting == 1)
    door.turns.release()
    thread.join(10)
    return came[0]


CLOSED = ("Connection", "close")


def test_who_waited_while_another_process_had_time_comes_back_by_another_connection(
    door: Threshold, no_connection: None
) -> None:
    assert ask(door, waits=True) == [("Content-Length", "2"), CLOSED]


def test_who_did_not_wait_stays(door: Threshold, no_connection: None) -> None:
    assert CLOSED not in ask(door, waits=False)


def test_where_all_are_busy_everybody_stays(door: Threshold, told: Told, no_connection: None) -> None:
    told.time = False
    assert CLOSED not in ask(door, waits=True)


def test_a_connection_with_tls_of_ours_stays(door: Threshold, no_connection: None) -> None:
    assert CLOSED not in ask(door, waits=True, **{"wsgi.url_scheme": "https"})


def test_one_whose_tls_ends_at_a_proxy_moves(
    door: Threshold, no_connection: None, settings: Settings
) -> None:
    settings.BRAMLEY_TRUSTED_PROXIES = ("192.0.2.0/24",)
    by_proxy = {"wsgi.url_scheme": "http", "HTTP_X_FORWARDED_PROTO": "https"}
    assert CLOSED in ask(door, waits=True, **by_proxy)


def test_not_all_move_at_once(door: Threshold, no_connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "MOVE_ON_EVERY", 3600.0)
    door._moved_on = -3600.0
    assert [CLOSED in ask(door, waits=True) for _again in range(3)] == [True, False, False]


def test_without_neighbours_everybody_stays(no_connection: None) -> None:
    assert CLOSED not in ask(Threshold(hello, at_once=1), waits=True)


def test_every_change_of_the_free_turns_is_told(door: Threshold, told: Told, no_connection: None) -> None:
    ask(door, waits=False)
    ask(door, waits=True)
    assert told.free == [1, 0, 1, 0, 1]
    door.turns.release()
    with door.turns:
        assert told.free[-1] == 1


def test_every_web_process_says_from_its_start_that_it_has_time(running_server: RunningServer) -> None:
    parent, *_children = running_server.pids["web"]
    wanted = int(running_server.environment["BRAMLEY_WEB_PROCESSES"])
    table = neighbours._place(running_server.home.resolve())

    def all_have_time() -> bool:
        slots = struct.iter_unpack("=II", table.read_bytes())
        return [slot for slot in slots if slot[1]] == [(parent, AT_ONCE)] * wanted

    wait_until("each web process says so", all_have_time)


def test_a_connection_that_waited_is_closed_and_the_client_is_served_all_the_same(
    running_server: RunningServer,
) -> None:
    """By the real web server, whose other processes a child of ours plays here."""
    parent, *_children = running_server.pids["web"]
    with (
        child(neighbours._place(running_server.home.resolve()), parent) as idle,
        ThreadPoolExecutor(16) as pool,
    ):
        idle.tell(1)
        asked = [pool.submit(keep_asking, running_server.port, 40) for _client in range(16)]
        answers = [answer for one in asked for answer in one.result(120)]
    assert {status for status, _closed in answers} == {200}
    assert any(closed for _status, closed in answers)


def test_the_table_goes_with_the_server(start_server: StartServer) -> None:
    server = start_server()
    table = neighbours._place(server.home.resolve())
    assert table.exists()
    server.end()
    assert not table.exists()


def keep_asking(port: int, times: int) -> list[tuple[int, bool]]:
    """Status, and whether the connection was closed, of so many requests by as few connections as can be."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    answers = []
    try:
        for _again in range(times):
            connection.request("GET", "/scep/bramley/?operation=GetCACert")
            answer = connection.getresponse()
            answer.read()
            answers.append((answer.status, answer.getheader("Connection") == "close"))
    finally:
        connection.close()
    return answers


def test_a_file_of_somebody_else_or_none_at_all_stops_no_web_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbours, "MEMORY", tmp_path / "absent")
    assert neighbours.beside(tmp_path, PARENT) is None
    monkeypatch.setattr(neighbours, "MEMORY", tmp_path)
    made = neighbours.beside(tmp_path, PARENT)
    assert made is not None
    made.close()
    (file,) = tmp_path.glob("*.turns")
    assert file.stat().st_mode & 0o777 == 0o600
    us = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: us + 1)
    file.rename(tmp_path / file.name.replace(f"-{us}-", f"-{us + 1}-"))
    assert neighbours.beside(tmp_path, PARENT) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
