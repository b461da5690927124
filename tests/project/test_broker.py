"""The embedded broker: every message is taken once, whole, by one of several workers."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from mdm_project import embedded_broker

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
QUEUE = Queue("wake", routing_key="wake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "broker"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def connection(folder: Path) -> Iterator[Connection]:
    with connect(folder) as opened:
        yield opened


def connect(folder: Path) -> Connection:
    return Connection(
        f"{embedded_broker.SCHEME}://", transport_options={"folder": str(folder), "polling_interval": 0.01}
    )


def test_messages_come_back_in_order_and_are_gone_then(connection: Connection, folder: Path) -> None:
    with connection.SimpleQueue("wake") as queue:
        for number in range(20):
            queue.put({"number": number})
        assert queue.qsize() == 20
        assert [queue.get(timeout=1).payload["number"] for _ in range(20)] == list(range(20))
        with pytest.raises(Empty):
            queue.get(block=False)
    assert list(folder.iterdir()) == []


def test_other_queues_and_half_written_messages_are_left_alone(connection: Connection, folder: Path) -> None:
    (folder / ".00-aside.wake.msg").write_text("{half")
    with connection.SimpleQueue("wake") as queue, connection.SimpleQueue("sleep") as other:
        other.put({"for": "other"})
        with pytest.raises(Empty):
            queue.get(block=False)
        assert queue.qsize() == 0
        assert other.get(timeout=1).payload == {"for": "other"}
    embedded_broker.remove_leftovers(folder)
    assert list(folder.iterdir()) == []


def test_purging_takes_what_waits(connection: Connection, folder: Path) -> None:
    with connection.SimpleQueue("wake") as queue:
        queue.put(1)
        queue.put(2)
        assert queue.clear() == 2
    assert list(folder.iterdir()) == []


def test_several_publishers_and_consumers_share_without_loss_or_double(folder: Path) -> None:
    taken: list[int] = []
    done = threading.Event()

    def consume() -> None:
        with connect(folder) as connection, connection.SimpleQueue("wake") as queue:
            while not done.is_set():
                try:
                    message = queue.get(timeout=0.05)
                except Empty:
                    continue
                taken.append(message.payload)
                message.ack()

    def publish(first: int) -> None:
        with connect(folder) as connection, connection.SimpleQueue("wake") as queue:
            for number in range(first, first + 100):
                queue.put(number)

    consumers = [threading.Thread(target=consume) for _ in range(3)]
    publishers = [threading.Thread(target=publish, args=(first,)) for first in (0, 100, 200)]
    for thread in consumers + publishers:
        thread.start()
    for thread in publishers:
        thread.join()
    deadline = time.monotonic() + 30
    while len(taken) < 300 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in consumers:
        thread.join()
    assert sorted(taken) == list(range(300))


PUBLISH = """
import sys, time
from mdm_project.celery import app
before = time.monotonic()
try:
    app.send_task("some.task", args=[1])
    print("sent")
except Exception as error:
    print(type(error).__module__, type(error).__name__)
print(time.monotonic() - before < 5)
"""


def publish(home: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH],
        cwd=ROOT,
        env=os.environ
        | {"BRAMLEY_HOME": str(home), "DJANGO_SETTINGS_MODULE": "mdm_project.settings", "REDIS_URL": ""}
        | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_products_broker_is_a_private_folder(tmp_path: Path) -> None:
    assert publish(tmp_path) == ["sent", "True"]
    broker = tmp_path / "broker"
    assert stat.S_IMODE(broker.stat().st_mode) == 0o700
    assert len(list(broker.glob("*.bramley.msg"))) == 1


def test_publishing_fails_at_once_when_redis_is_away(tmp_path: Path) -> None:
    expected = f"{OperationalError.__module__} {OperationalError.__name__}"
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{nobody_listens.getsockname()[1]}/0"
        assert publish(tmp_path, REDIS_URL=url) == [expected, "True"]


def test_publishing_fails_soon_when_redis_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        outcome, in_time = publish(tmp_path, REDIS_URL=url)
    assert outcome != "sent"
    assert in_time == "True"
