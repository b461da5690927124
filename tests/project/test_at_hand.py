"""Connections that stay at hand between requests: few, sound, and of one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import OperationalError, connection, connections, transaction

from database import prepared
from mdm_project import at_hand
from mdm_project.doors import Doors
from mdm_project.threshold import PatientBody
from mdm_project.turns import Turns

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no pool"),
]


@pytest.fixture
def pooled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Gives the calling thread a connection of a pool of four, as the product has it."""
    kept: list[Any] = []
    made: list[Any] = []
    monkeypatch.setattr(at_hand, "_at_hand", kept)

    def give() -> Any:
        wrapper: Any = connection.copy(alias="pooled")
        wrapper.settings_dict["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 4, "timeout": 3}
        made.append(wrapper)
        connections["default"] = wrapper
        return wrapper

    yield give
    for wrapper in [*kept, *made]:
        wrapper.inc_thread_sharing()
        wrapper.close()
    made[0].close_pool()


def in_thread(call: Callable[[], Any]) -> Any:
    """Threads have connections of their own; the test's stays what it is."""
    with ThreadPoolExecutor(1) as one:
        return one.submit(call).result(30)


def backend() -> int:
    (pid,) = prepared.row("SELECT pg_backend_pid()", []) or (0,)
    return int(pid)


def request() -> int:
    """What the door does around a view."""
    at_hand.take()
    try:
        return backend()
    finally:
        at_hand.put_back()


def test_the_next_request_has_the_same_connection_in_whatever_thread(pooled: Callable[[], Any]) -> None:
    def first() -> int:
        pooled()
        return request()

    pid = in_thread(first)
    assert {in_thread(request), in_thread(request)} == {pid}
    assert len(at_hand._at_hand) == 1


def test_two_at_once_have_two_and_no_more_are_kept(pooled: Callable[[], Any]) -> None:
    together = threading.Barrier(3)

    def one_of_three() -> int:
        pooled()
        at_hand.take()
        pid = backend()
        together.wait(30)
        at_hand.put_back()
        return pid

    with ThreadPoolExecutor(3) as three:
        pids = {future.result(30) for future in [three.submit(one_of_three) for _ in range(3)]}
    assert len(pids) == 3
    assert len(at_hand._at_hand) == 2


def test_a_thread_that_has_a_connection_keeps_it(pooled: Callable[[], Any]) -> None:
    in_thread(lambda: (pooled(), request()))

    def other() -> tuple[int, int]:
        pooled()
        mine = backend()
        return mine, request()

    mine, used = in_thread(other)
    assert mine == used


def test_who_waits_for_a_long_body_holds_none_of_them(
    pooled: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_thread(lambda: (pooled(), request()))
    held: list[Any] = []

    class Slow:
        def read(self, _size: int = -1) -> bytes:
            held.append(connections["default"].connection)
            return b""

    def view(environ: dict[str, Any], _start_response: Callable[..., Any]) -> list[bytes]:
        assert backend()
        held.append(connections["default"].connection is not None)
        return [environ["wsgi.input"].read()]

    doors, turns = Doors(), Turns(1)
    turns.acquire()
    monkeypatch.setattr(doors, "devices", view)
    environ = {"PATH_INFO": "/mdm/connect", "wsgi.input": PatientBody(Slow(), turns)}
    assert in_thread(lambda: list(doors(environ, lambda *_: None))) == [b""]
    assert held == [True, None]
    assert len(at_hand._at_hand) == 1


def test_what_is_not_as_it_should_be_is_not_kept(pooled: Callable[[], Any]) -> None:
    def lost() -> None:
        wrapper = pooled()
        at_hand.take()
        wrapper.ensure_connection()
        wrapper.connection.pgconn.finish()
        with pytest.raises(OperationalError):
            backend()
        at_hand.put_back()
        assert wrapper.connection is None

    def left_in_a_transaction() -> None:
        wrapper = pooled()
        at_hand.take()
        transaction.set_autocommit(False)
        backend()
        at_hand.put_back()
        assert wrapper.connection is None

    def old() -> None:
        wrapper = pooled()
        at_hand.take()
        backend()
        wrapper.close_at -= at_hand.KEPT_SECONDS
        at_hand.put_back()
        assert wrapper.connection is None

    for spoiled in (lost, left_in_a_transaction, old):
        in_thread(spoiled)
        assert at_hand._at_hand == []


def test_a_pool_of_one_keeps_its_connection(pooled: Callable[[], Any]) -> None:
    def small() -> None:
        wrapper = pooled()
        wrapper.settings_dict["OPTIONS"]["pool"]["max_size"] = 1
        request()
        assert wrapper.connection is None

    in_thread(small)
    assert at_hand._at_hand == []


def test_without_a_pool_connections_stay_with_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_hand, "_at_hand", [])

    def plain() -> None:
        request()
        assert at_hand._at_hand == []
        connections["default"].close()

    in_thread(plain)
