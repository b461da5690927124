"""Bodies on their way: no more than leave threads for those who are here."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mdm_project.bodies import SLOW_SENDERS, THREADS, Bodies, TooMany
from mdm_project.threshold import ASKED_BY_OPERATORS, Threshold
from mdm_project.turns import ROOM

pytestmark = pytest.mark.usefixtures("no_connection")

REQUEST = {"REMOTE_ADDR": "192.0.2.1", "wsgi.url_scheme": "http"}


class Sender:
    """A body that comes when the test says so."""

    def __init__(self) -> None:
        self.asked, self.comes = threading.Event(), threading.Event()

    def read(self, size: int = -1) -> bytes:
        self.asked.set()
        assert self.comes.wait(30)
        return b"x" * size


class Door:
    """Remembers who came in."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], _start: object) -> list[bytes]:
        self.seen.append(environ)
        return [environ["wsgi.input"].read(3)] if "CONTENT_LENGTH" in environ else [b"no body"]


def full(threshold: Threshold, pool: ThreadPoolExecutor) -> Sender:
    """One body may be on its way, and one is."""
    threshold.bodies = Bodies(1)
    slow = Sender()
    pool.submit(threshold, {**REQUEST, "CONTENT_LENGTH": "3", "wsgi.input": slow}, lambda *_: None)
    assert slow.asked.wait(30)
    return slow


def test_there_are_threads_for_all_who_may_wait_for_a_turn_beside_those_who_wait_for_bodies() -> None:
    assert THREADS - SLOW_SENDERS > ROOM


@pytest.mark.parametrize("claim", [{"CONTENT_LENGTH": "3"}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_where_too_many_are_on_their_way_the_next_is_sent_away_unread(claim: dict[str, str]) -> None:
    door = Door()
    threshold = Threshold(door, at_once=1)
    statuses: list[tuple[str, dict[str, str]]] = []
    body = io.BytesIO(b"abc")
    environ = {**REQUEST, **claim, "wsgi.input": body}
    with ThreadPoolExecutor(1) as pool:
        slow = full(threshold, pool)
        try:
            list(threshold(environ, lambda status, headers: statuses.append((status, dict(headers)))))
            ((status, headers),) = statuses
            assert status == "503 Service Unavailable"
            assert headers["Connection"] == "close"
            assert 5 <= int(headers["Retry-After"]) <= 20
            assert (door.seen, body.tell()) == ([], 0)
            for path in ASKED_BY_OPERATORS:
                assert list(threshold({**REQUEST, "PATH_INFO": path}, lambda *_: None)) == [b"no body"]
        finally:
            slow.comes.set()
    assert b"".join(threshold(environ, lambda *_: None)) == b"abc"


@pytest.mark.parametrize("claimed", ["70000", "x", "1" * 13])
def test_long_bodies_have_fewer_places(claimed: str) -> None:
    door, statuses = Door(), list[str]()
    threshold = Threshold(door, at_once=1)
    threshold.bodies = Bodies(2, long_at_most=1)
    body = io.BytesIO(b"abc")
    environ = {**REQUEST, "CONTENT_LENGTH": claimed, "wsgi.input": body}
    with threshold.bodies.place(long=True):
        list(threshold(environ, lambda status, _headers: statuses.append(status)))
        assert (statuses, door.seen) == (["503 Service Unavailable"], [])
        assert b"".join(threshold({**environ, "CONTENT_LENGTH": "3"}, lambda *_: None)) == b"abc"
    body.seek(0)
    assert b"".join(threshold(environ, lambda *_: None)) == b"abc"


@pytest.mark.parametrize("claimed", ["3", "0000000003"])
def test_a_short_body_is_there_before_its_request_takes_a_turn(claimed: str) -> None:
    """By its number, not by how that is written."""
    threshold = Threshold(Door(), at_once=1)
    turns_left = []

    class Coming(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            turns_left.append(threshold.turns._free)
            return super().read(size)

    environ = {**REQUEST, "CONTENT_LENGTH": claimed, "wsgi.input": Coming(b"abc")}
    assert b"".join(threshold(environ, lambda *_: None)) == b"abc"
    assert turns_left == [1]


def test_who_sends_nothing_needs_no_place() -> None:
    threshold = Threshold(Door(), at_once=1)
    threshold.bodies = Bodies(0)
    environ = {**REQUEST, "CONTENT_LENGTH": "0", "wsgi.input": io.BytesIO()}
    assert b"".join(threshold(environ, lambda *_: None)) == b""


def test_a_body_that_breaks_off_leaves_its_place() -> None:
    bodies = Bodies(1)
    for _ in range(2):
        with pytest.raises(ConnectionResetError), bodies.place(long=True):
            raise ConnectionResetError
    with bodies.place(long=True), pytest.raises(TooMany), bodies.place(long=False):
        pass
