"""More clients at once than the server can take: none is lost, none is told to unenrol, and it stays up."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from bench.load import idle_request
from simulator.device import SimulatedDevice
from simulator.exchange import converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.support.processes import wait_until
from tests.support.server import RunningServer
from tests.support.services import Postgres, Redis

pytestmark = [pytest.mark.once, pytest.mark.slow]

CLIENTS = 400
"""Far more than the 64 threads of the one web process."""
SLOW = 40
"""Clients that send half a request and no more."""


class Client:
    """Connects with a device's idle report, and comes back when it is told to."""

    def __init__(self, port: int, request: bytes) -> None:
        self.port, self.request = port, request
        self.answers: list[int] = []
        self.waits: list[int] = []

    async def run(self) -> None:
        while self.answers[-1:] != [200]:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(self.request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            writer.close()
            self.answers.append(int(head[9:12]))
            assert self.answers[-1] in {200, 503}, head
            if self.answers[-1] == 503:
                found = re.search(r"(?i)^retry-after: (\d+)\r$", head, re.MULTILINE)
                assert found, head
                self.waits.append(int(found.group(1)))
                await asyncio.sleep(self.waits[-1] / 20)  # the clock of these clients runs faster


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    """Every statement on the table has to wait until the block ends."""
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield


def memory(pids: list[int]) -> float:
    """Resident memory in MiB."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * 4096 / 2**20


async def flood(port: int, requests: list[bytes], url: str) -> list[Client]:
    slow = [await asyncio.open_connection("127.0.0.1", port) for _client in range(SLOW)]
    for _reader, writer in slow:
        writer.write(requests[0][: len(requests[0]) // 2])
    clients = [Client(port, requests[n % len(requests)]) for n in range(CLIENTS)]
    with locked(url, "devices_enrollment"):
        tasks = [asyncio.create_task(client.run()) for client in clients]
        await asyncio.sleep(1.0)  # everybody stands at the door; nobody gets an answer meanwhile
    await asyncio.gather(*tasks)
    for _reader, writer in slow:
        writer.close()
    return clients


def test_all_are_served_those_who_find_no_place_a_little_later(
    tmp_path: Path, postgres: Postgres, redis_server: Redis
) -> None:
    url = postgres.create_database("flood")
    with RunningServer(tmp_path / "home", database_url=url, redis_url=redis_server.url) as server:
        devices = [SimulatedDevice(make_hardware("flood", n), new_key()) for n in (1, 2)]
        for device in devices:
            with Transport() as transport:
                converse(device.enrol(f"{server.url}/enroll/default/profile"), transport.send)
                converse(device.connect(), transport.send)
        requests = [idle_request(device) for device in devices]
        before = memory(server.pids["web"])
        clients = asyncio.run(flood(server.port, requests, url))
        outcomes = Counter(answer for client in clients for answer in client.answers)
        assert set(outcomes) == {200, 503}, outcomes
        assert outcomes[200] == CLIENTS
        assert all(5 <= seconds <= 20 for client in clients for seconds in client.waits)
        assert memory(server.pids["web"]) - before < 60
        with psycopg.connect(url) as connection:
            told = connection.execute("SELECT count(*) FROM push_pushpace WHERE web_busy_until IS NOT NULL")
            assert told.fetchone() == (1,), "fewer devices are woken meanwhile"
        wait_until("it is calm again", lambda: calm(server.port, requests[0]))


def calm(port: int, request: bytes) -> bool:
    client = Client(port, request)
    asyncio.run(client.run())
    return client.answers == [200]
