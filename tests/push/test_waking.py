"""Waking a worker: one message for many commits, in time, and none lost at the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import current_app
from kombu.exceptions import OperationalError as BrokerUnreachable

from push.waking import Bell
from tests.support.server import ROOT

FOR_EVER = 3600.0


class Broker:
    """Counts messages. ``closed``: a message gets stuck until it is opened."""

    def __init__(self) -> None:
        self.messages = 0
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.error: Exception | None = None

    def publish(self) -> None:
        self.entered.release()
        assert self.open.wait(60)
        if self.error is not None:
            raise self.error
        self.messages += 1


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.open.set()


def test_the_first_ring_is_told_at_once_and_many_after_it_together(broker: Broker) -> None:
    bell = Bell(broker.publish, rest=FOR_EVER)
    bell.ring()
    assert broker.entered.acquire(timeout=60)
    for _ in range(100):
        bell.ring()
    bell.flush()
    assert broker.messages == 2
    bell.flush()
    assert broker.messages == 2, "nothing rang"


def test_what_rings_while_the_thread_rests_is_told_afterwards(broker: Broker) -> None:
    bell = Bell(broker.publish, rest=0.001)
    for _ in range(3):
        bell.ring()
        assert broker.entered.acquire(timeout=60)


def test_a_ring_during_a_message_is_a_message_of_its_own(broker: Broker) -> None:
    """The worker may have looked before the commit that rang."""
    bell = Bell(broker.publish, rest=0.001)
    broker.open.clear()
    bell.ring()
    assert broker.entered.acquire(timeout=60)
    bell.ring()
    broker.open.set()
    assert broker.entered.acquire(timeout=60)
    bell.flush()
    assert broker.messages == 2


def test_a_broker_that_does_not_answer_holds_up_nobody(broker: Broker) -> None:
    bell = Bell(broker.publish, rest=0.001)
    broker.open.clear()
    bell.ring()
    assert broker.entered.acquire(timeout=60)
    for _ in range(1000):
        bell.ring()  # would wait for ever
    assert broker.messages == 0


@pytest.mark.parametrize(
    ("error", "said"),
    [(BrokerUnreachable("refused"), "cannot be reached"), (ValueError("odd"), "no worker could be woken")],
)
def test_what_fails_is_said_and_the_next_is_told(
    broker: Broker, error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bell = Bell(broker.publish, rest=0.001)
    broker.error = error
    bell.ring()
    assert broker.entered.acquire(timeout=60)
    bell.flush()
    assert said in caplog.text
    broker.error = None
    bell.ring()
    assert broker.entered.acquire(timeout=60)
    bell.flush()
    assert broker.messages == 1


# Rings twice: the second one falls into the rest, so that only the end of the process can tell it.
RING_AND_END = """
import multiprocessing, sys, threading
from push import waking
told = threading.Event()
def publish():
    with open(sys.argv[1], "a") as file: file.write("x")
    told.set()
bell = waking.Bell(publish, rest=3600)
def work():
    bell.ring(); assert told.wait(60); bell.ring()
"""


@pytest.mark.parametrize(
    ("end", "messages"),
    [
        ("work()", 2),
        ("p = multiprocessing.get_context('fork').Process(target=work); p.start(); p.join()", 2),
        # The thread of the parent is not in the child; what rang in the parent, the parent tells.
        (
            "work(); told.clear(); "
            "p = multiprocessing.get_context('fork').Process(target=work); p.start(); p.join()",
            4,
        ),
        ("work(); sys.exit(3)", 2),
    ],
)
def test_a_process_that_ends_in_order_tells_what_rang(tmp_path: Path, end: str, messages: int) -> None:
    file = tmp_path / "told"
    argv = [sys.executable, "-c", RING_AND_END + end, str(file)]
    done = subprocess.run(argv, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=False)
    assert done.returncode in {0, 3}
    assert file.read_text() == "x" * messages


def test_a_request_rings_after_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's bell publishes the task that sends."""
    from push import outbox, waking
    from push.tasks import dispatch

    published: list[tuple[str, dict[str, object]]] = []
    record: Callable[..., None] = lambda name, **given: published.append((name, given))  # noqa: E731
    waking.flush()
    monkeypatch.setattr(current_app, "send_task", record)
    outbox.wake()
    waking.flush()
    assert published == [(dispatch.name, {"retry": False})], "no retry: a broker away is the sweep's business"
