"""More clients at once than the server can take: none is lost, none is told to unenrol, and it stays up."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from bench.load import idle_request
from mdm_project.bodies import SLOW_SENDERS
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
"""Far more than the threads of the one web process."""
SLOW = 70
"""Clients that send half a request and no more. So many stop nobody:"""
MANY = SLOW_SENDERS + 10
"""with these no more bodies are waited for."""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
PROCESSES = {"BRAMLEY_WEB_PROCESSES": "1", "BRAMLEY_WORKER_PROCESSES": "1"}


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


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def status(connection: Connection) -> int:
    """Of the answer that comes over it, whatever is sent or not."""
    head = (await connection[0].readuntil(b"\r\n\r\n")).decode()
    assert ("retry-after" in head.lower()) == (" 503 " in head)
    return int(head[9:12])


async def begin(port: int, part: bytes, count: int) -> list[Connection]:
    """So many connections over which something is sent."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _client in range(count)]
    for _reader, writer in opened:
        writer.write(part)
    return opened


async def slow_senders(port: int, request: bytes) -> list[Connection]:
    """They come, more of them, too many, and most of them go again. The rest stay."""
    first, second = request[:-50], request[-50:]
    (device,) = await begin(port, first, 1)
    slow = await begin(port, first, SLOW)
    assert await status((await begin(port, request, 1))[0]) == 200
    slow += await begin(port, first, MANY - SLOW)
    told = [asyncio.create_task(status(connection)) for connection in slow]
    refused = [await answer for answer in itertools.islice(asyncio.as_completed(told), 10)]
    assert set(refused) == {503}
    assert await status((await begin(port, request, 1))[0]) == 503, "nobody's body is waited for"
    assert await status((await begin(port, HEALTH, 1))[0]) == 200
    device[1].write(second)
    assert await status(device) == 200, "who is on its way is served, however slow"
    for task in told:
        task.cancel()
    for _reader, writer in slow[SLOW:]:
        writer.close()
    return slow[:SLOW]


async def flood(port: int, requests: list[bytes], url: str) -> list[Client]:
    slow = await slow_senders(port, requests[0])
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
    with RunningServer(
        tmp_path / "home", database_url=url, redis_url=redis_server.url, environment=PROCESSES
    ) as server:
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
