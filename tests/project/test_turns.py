"""Turns: fair, never more at once than allowed, and whoever cannot be served in time hears so at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from mdm_project import pressure, threshold
from mdm_project.threshold import Threshold
from mdm_project.turns import PATIENT, Turns
from tests.support.processes import wait_until

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("no_connection")]


class Waiters:
    """Threads that ask for a turn one after the other, and note when they had it."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.refused: list[str] = []
        self.threads: list[threading.Thread] = []

    def ask(self, name: str, ask: Callable[[], object]) -> None:
        before = self.turns.waiting

        def run() -> None:
            (self.refused if ask() is None else self.served).append(name)

        thread = threading.Thread(target=run)
        thread.start()
        self.threads.append(thread)
        wait_until(f"{name} waits", lambda: self.turns.waiting == before + 1)

    def let_one_in(self) -> None:
        """Give the turn to the next, and see that it has it."""
        count = len(self.served)
        self.turns.release()
        wait_until("one more had its turn", lambda: len(self.served) == count + 1)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(10)


def back(turns: Turns) -> bool:
    turns.acquire()
    return True


def test_turns_are_given_in_order_and_those_that_began_go_first() -> None:
    turns = Turns(1)
    assert turns.admit() == 0.0
    waiters = Waiters(turns)
    waiters.ask("first", turns.admit)
    waiters.ask("second", turns.admit)
    waiters.ask("began", lambda: back(turns))
    for _waiter in range(3):
        waiters.let_one_in()
    waiters.join()
    assert waiters.served == ["began", "first", "second"]
    turns.release()
    assert turns.admit() == 0.0


def test_never_more_at_once_than_allowed() -> None:
    turns, running, most = Turns(2, room=1000), [0], [0]
    lock = threading.Lock()

    def request(number: int) -> None:
        assert turns.admit() is not None
        for _round in range(number % 3):  # as a body that is read in pieces
            turns.release()
            turns.acquire()
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        with lock:
            running[0] -= 1
        turns.release()

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(request, range(2000)))
    assert most[0] <= 2
    assert turns.waiting == 0
    assert (turns.admit(), turns.admit()) == (0.0, 0.0), "every turn came back"


def test_a_full_room_takes_nobody_in_when_turns_come_slowly() -> None:
    turns = Turns(1, room=2, too_long=0.0)
    assert turns.admit() == 0.0
    waiters = Waiters(turns)
    waiters.ask("a", turns.admit)
    waiters.ask("b", turns.admit)
    waiters.ask("c", turns.admit)  # nobody has waited yet: turns may come quickly
    waiters.let_one_in()
    assert waiters.served == ["a"]
    assert turns.waiting == 2
    assert turns.admit() is None, "the room is full, and a had to wait"
    waiters.ask("operator", lambda: turns.admit(always=True))
    for _waiter in range(3):
        waiters.let_one_in()
    waiters.join()
    assert waiters.served == ["a", "b", "c", "operator"]
    turns.release()
    assert turns.admit() == 0.0


def test_those_who_always_wait_are_few() -> None:
    turns = Turns(1, room=0, too_long=0.0)
    assert turns.admit() == 0.0
    waiters = Waiters(turns)
    for number in range(PATIENT):
        waiters.ask(f"operator {number}", lambda: turns.admit(always=True))
    turns._last_wait = 1.0
    assert turns.admit(always=True) is None, "one more is as everybody"
    for _waiter in range(PATIENT):
        waiters.let_one_in()
    waiters.join()
    assert (len(waiters.served), waiters.refused) == (PATIENT, [])
    turns.release()
    assert turns.admit(always=True) == 0.0, "and none of them is counted still"
    assert turns._patient == 0


def test_a_full_room_takes_more_in_when_turns_come_quickly() -> None:
    turns = Turns(1, room=1, too_long=60.0)
    assert turns.admit() == 0.0
    waiters = Waiters(turns)
    for name in "abc":
        waiters.ask(name, turns.admit)
    for _waiter in range(3):
        waiters.let_one_in()
    waiters.join()
    assert (waiters.served, waiters.refused) == (["a", "b", "c"], [])


def test_nobody_waits_for_ever_and_the_next_turn_is_not_lost() -> None:
    turns = Turns(1, longest_wait=0.05)
    assert turns.admit() == 0.0
    assert turns.admit() is None
    assert turns.waiting == 0
    turns.release()
    assert turns.admit() == 0.0


# --- in front of the doors ---


def environ(path: str = "/mdm/connect") -> dict[str, Any]:
    return {"REQUEST_METHOD": "PUT", "PATH_INFO": path, "REMOTE_ADDR": "192.0.2.1"}


class Asked:
    """One request to a threshold."""

    def __init__(self, door: Threshold, path: str = "/mdm/connect") -> None:
        self.status = ""
        self.headers: dict[str, str] = {}
        self.body = b"".join(door(environ(path), self._start))

    def _start(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = status, dict(headers)


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [])
    return [b"hello"]


def test_whoever_finds_no_place_is_told_when_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[bool] = []
    monkeypatch.setattr(pressure, "note", lambda: noted.append(True))
    called: list[str] = []

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        called.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    door = Threshold(application)
    door.turns = Turns(1, longest_wait=0.01)
    assert door.turns.admit() == 0.0  # another request runs
    asked = Asked(door)
    assert asked.status == "503 Service Unavailable"
    assert threshold.COME_BACK_AFTER[0] <= int(asked.headers["Retry-After"]) <= threshold.COME_BACK_AFTER[1]
    assert asked.headers["Content-Length"] == str(len(asked.body))
    assert called == [] == noted
    door.turns.release()
    assert (Asked(door).status, called, noted) == ("200 OK", ["/mdm/connect"], [])


def test_times_to_come_back_differ() -> None:
    door = Threshold(hello)
    door.turns = Turns(1, longest_wait=0.0001)
    assert door.turns.admit() == 0.0
    assert len({Asked(door).headers["Retry-After"] for _client in range(60)}) > 5


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_load_balancer_gets_its_answer(path: str) -> None:
    door = Threshold(hello)
    door.turns = Turns(1, room=0, too_long=-1.0, longest_wait=0.01)
    assert door.turns.admit() == 0.0
    assert Asked(door).status == "503 Service Unavailable"
    timer = threading.Timer(0.1, door.turns.release)
    timer.start()
    assert Asked(door, path).status == "200 OK"
    timer.join()


def test_a_fault_gives_the_turn_back() -> None:
    def broken(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise RuntimeError("broken")

    door = Threshold(broken)
    door.turns = Turns(1)
    for _request in range(3):
        with pytest.raises(RuntimeError):
            Asked(door)
    assert door.turns.admit() == 0.0


def test_whoever_waited_long_lets_devices_be_woken_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[bool] = []
    monkeypatch.setattr(pressure, "note", lambda: noted.append(True))
    monkeypatch.setattr(threshold, "TOO_LONG", 0.0)
    door = Threshold(hello)
    door.turns = Turns(1)
    assert (Asked(door).status, noted) == ("200 OK", [])
    assert door.turns.admit() == 0.0
    waiters = Waiters(door.turns)
    waiters.ask("client", lambda: Asked(door))
    door.turns.release()
    waiters.join()
    assert noted == [True]
