"""``kill -9`` of PostgreSQL under load: whatever anybody heard 200 for is there after its recovery.

Handing out a command that may go twice waits for no disk (docs/adr/0011): such a hand-out may be lost, the
command never.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from commands.core import plist
from simulator.device import SimulatedDevice
from simulator.exchange import Conversation, Request, Response, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.chaos.test_services_away import ask, readiness
from tests.support.inside import inside
from tests.support.processes import descendants, wait_until
from tests.support.server import RunningServer
from tests.support.services import Missing, Postgres, Redis

pytestmark = [pytest.mark.once, pytest.mark.slow]

KEYS = 16
"""So many are made, and shared out among the devices."""
PROCESSES = {"BRAMLEY_WEB_PROCESSES": "2", "BRAMLEY_WORKER_PROCESSES": "1"}
CRASHES = 3
MORE = {"issued": 3, "checked_in": 9, "answered": 9, "enqueued": 2}
"""What has to be acknowledged between two crashes: then there is load."""
PATIENCE = 30.0
"""Seconds for which a device repeats a request that nobody answers."""
UNHURRIED = (
    "ALTER SYSTEM SET wal_writer_delay = '10s'",  # usually 0.2: what waits for no disk is lost more often
    "ALTER SYSTEM SET bgwriter_lru_maxpages = 0",
    "ALTER SYSTEM SET autovacuum = off",
    "SELECT pg_reload_conf()",
)
TOKEN = """
from django.contrib.auth import get_user_model; from django.utils import timezone
from api import tokens; from audit.recording import SERVER
value = tokens.create(
    "crash", user=get_user_model().objects.get(username="admin"), scopes=["commands:write"], actor=SERVER,
    now=timezone.now(),
)[1]
"""

ISSUED = "SELECT sha256 FROM pki_certificate WHERE purpose = 'MDM_IDENTITY' AND status = 'ISSUED'"
ISSUED_EVENTS = """
SELECT details ->> 'sha256', count(*) FROM audit_auditevent
 WHERE action = 'certificate.issued' AND details ->> 'purpose' = 'MDM_IDENTITY' GROUP BY 1
"""
_ENROLLMENTS = """
SELECT d.udid FROM devices_device d JOIN devices_enrollment e ON e.device_id = d.id JOIN audit_auditevent a
    ON a.target_kind = 'devices.enrollment' AND a.target_id = e.id::text
"""
CHECKED_IN = {
    "Authenticate": f"{_ENROLLMENTS} WHERE a.action = 'enrollment.authenticated'",
    "TokenUpdate": f"{_ENROLLMENTS} WHERE a.action = 'enrollment.enrolled' AND e.state = 'ENROLLED'"
    " AND e.push_token IS NOT NULL",
    "SetBootstrapToken": """
SELECT d.udid FROM devices_escrowedsecret s JOIN devices_enrollment e ON e.id = s.enrollment_id
  JOIN devices_device d ON d.id = e.device_id
 WHERE s.kind = 'BOOTSTRAP_TOKEN' AND s.withdrawn_at IS NULL
""",
}
"""Who checked in, by message: with the record of it."""
DELIVERIES = """
SELECT device.udid, c.uuid, d.state, count(r.delivery_id)
  FROM commands_commanddelivery d JOIN commands_command c ON c.id = d.command_id
  JOIN devices_enrollment e ON e.id = d.enrollment_id JOIN devices_device device ON device.id = e.device_id
  LEFT JOIN commands_commandresult r ON r.delivery_id = d.id GROUP BY 1, 2, 3
"""
OUTSTANDING = "SELECT id FROM commands_commanddelivery WHERE state <> 'ACKNOWLEDGED'"
COMMANDS = """
SELECT c.uuid, c.targets,
       (SELECT count(*) FROM commands_commanddelivery d WHERE d.command_id = c.id),
       (SELECT count(*) FROM audit_auditevent a WHERE a.action = 'command.enqueued'
           AND a.target_kind = 'commands.command' AND a.target_id = c.id::text)
  FROM commands_command c
"""

Pair = tuple[str, str]


class Remembering(SimulatedDevice):
    """Tells of every certificate that it got."""

    def __init__(self, number: int, key: Any, got: Callable[[bytes], None]) -> None:
        super().__init__(make_hardware("crash", number), key)
        self._got = got

    def _adopt(self, profile: Any, certificate: bytes) -> None:
        super()._adopt(profile, certificate)
        self._got(certificate)


@dataclass
class Witness:
    """What devices and an administrator were told, in several threads. UDIDs go first."""

    issued: list[bytes] = field(default_factory=list)
    checked_in: list[Pair] = field(default_factory=list)
    handed: list[Pair] = field(default_factory=list)
    answered: list[Pair] = field(default_factory=list)
    enqueued: list[tuple[str, int]] = field(default_factory=list)
    broken: int = 0
    problems: list[str] = field(default_factory=list)

    def note(self, request: Request, response: Response) -> None:
        """An exchange that ended well."""
        if request.method != "PUT":
            return
        said = plist.read(request.body, max_size=1 << 20)
        udid = str(said["UDID"])
        if "MessageType" in said:
            self.checked_in.append((udid, str(said["MessageType"])))
        if "CommandUUID" in said:
            self.answered.append((udid, str(said["CommandUUID"])))
        if "MessageType" not in said and response.body:
            self.handed.append((udid, uuid_in(response)))

    def counts(self) -> dict[str, int]:
        return {name: len(getattr(self, name)) for name in MORE}


@dataclass
class Load:
    """Devices that enrol and connect, and an administrator, all at once until the block ends."""

    server: RunningServer
    token: str
    witness: Witness = field(default_factory=Witness)
    enrolled: list[Remembering] = field(default_factory=list)
    _idle: queue.SimpleQueue[Remembering] = field(default_factory=queue.SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, keys: Sequence[Any]) -> Iterator[None]:
        work = (lambda: self._enrol(keys), self._connect, self._connect, self._enqueue)
        with ThreadPoolExecutor(len(work)) as pool:
            tasks = [pool.submit(task) for task in work]
            try:
                yield
            finally:
                self._done.set()
        for task in tasks:
            task.result()

    def _enrol(self, keys: Sequence[Any]) -> None:
        number = 0
        while not self._done.is_set():
            number += 1
            device = Remembering(number, keys[number % len(keys)], self.witness.issued.append)
            self.talk(device.enrol(f"{self.server.url}/enroll/default/profile"))
            self.enrolled.append(device)
            self._idle.put(device)

    def _connect(self) -> None:
        while not self._done.is_set():
            try:
                device = self._idle.get(timeout=0.1)
            except queue.Empty:
                continue
            self.talk(device.connect())
            self._idle.put(device)

    def _enqueue(self) -> None:
        """An administrator who tries again where the server does not answer."""
        while not self._done.is_set():
            serials = [device.hardware.serial_number for device in self.enrolled[-8:]]
            if serials:
                self.enqueue("ProfileList", serials)
            time.sleep(0.1)

    def enqueue(self, request_type: str, serials: Sequence[str]) -> str:
        """The UUID of the command; empty where the server was away."""
        request = urllib.request.Request(
            f"{self.server.url}/api/v1/commands/",
            json.dumps({"request_type": request_type, "targets": {"serial_numbers": serials}}).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                told = json.load(answer)
        except (urllib.error.HTTPError, OSError) as away:
            self._broke(getattr(away, "code", 503), "POST", "/api/v1/commands/")
            return ""
        self.witness.enqueued.append((told["command_uuid"], told["queued"]))
        return str(told["command_uuid"])

    def talk(self, conversation: Conversation[Any]) -> None:
        with Transport(timeout=30) as transport:
            try:
                converse(conversation, lambda request: self.send(transport, request))
            except SimulationError as error:
                self.witness.problems.append(str(error))

    def send(self, transport: Transport, request: Request) -> Response:
        """Where the server is away, the same request again, as devices do."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                response = transport.send(request)
                if response.status == 200:
                    self.witness.note(request, response)
                    return response
                self._broke(response.status, request.method, request.url)
            except SimulationError as error:
                if not error.passing:
                    raise
                self._broke(503, request.method, request.url)
            assert time.monotonic() < deadline, f"nobody answers at {request.url}"
            time.sleep(0.1)

    def fetch(self, device: Remembering) -> str:
        """A connect that breaks off when a command has come: its UUID. The answer is with the device."""
        conversation = device.connect()
        with Transport() as transport:
            response = self.send(transport, next(conversation))
            conversation.send(response)
        conversation.close()
        return uuid_in(response)

    def _broke(self, status: int, method: str, url: str) -> None:
        self.witness.broken += 1
        if status != 503:
            self.witness.problems.append(f"{status} for {method} {url}")


def test_what_was_acknowledged_is_there_after_each_crash(tmp_path: Path) -> None:
    try:
        postgres, redis = Postgres(durable=True), Redis()
    except Missing as reason:
        pytest.skip(str(reason))
    with postgres, redis, ThreadPoolExecutor(2) as pool:
        keys = list(pool.map(lambda _number: new_key(), range(KEYS)))
        url = postgres.create_database("crash")
        for statement in UNHURRIED:
            rows(url, statement)
        with RunningServer(
            tmp_path / "home", database_url=url, redis_url=redis.url, environment=PROCESSES
        ) as server:
            load = Load(server, inside(server, TOKEN))
            before = server.pids
            with load.running(keys):
                for _crash in range(CRASHES):
                    wait_for_more(load.witness)
                    crash(postgres, server)
                wait_for_more(load.witness)
            verify(load.witness, url)
            for device in load.enrolled:
                load.talk(device.connect())
            assert load.witness.broken >= CRASHES
            assert rows(
                url, "SELECT count(*) FROM commands_commanddelivery WHERE state <> 'ACKNOWLEDGED'"
            ) == [(0,)]
            verify(load.witness, url)

            what_was_handed_out_in_the_last_moment(load, postgres, url)
            verify(load.witness, url)
            assert server.pids == before, "no process ended"
            assert server.end() == 0


def what_was_handed_out_in_the_last_moment(load: Load, postgres: Postgres, url: str) -> None:
    """Nobody else writes, so that nobody's wait for the disk saves what waited for none."""
    silent, hurried, careful = load.enrolled[:3]
    helpers = load.server.pids["worker"] + load.server.pids["beat"]
    _signal(helpers, signal.SIGSTOP)
    dangerous = load.enqueue("RestartDevice", [careful.hardware.serial_number])
    harmless = load.enqueue(
        "CertificateList", [device.hardware.serial_number for device in (silent, hurried)]
    )
    log_writer = [child.pid for child in descendants(postgres.pid) if "walwriter" in child.command]
    _signal(log_writer, signal.SIGSTOP)
    assert load.fetch(careful) == dangerous
    assert [load.fetch(silent), load.fetch(hurried)] == [harmless, harmless]
    os.kill(postgres.pid, signal.SIGKILL)
    _signal(log_writer, signal.SIGKILL)
    crash(postgres, load.server)
    _signal(helpers, signal.SIGCONT)
    assert deliveries(url, harmless) == [("QUEUED", 0)] * 2, "the hand-outs are lost, the commands are not"
    assert deliveries(url, dangerous) == [("SENT", 1)], "what must not go twice waited for the disk"
    for device in (silent, careful):  # they forget what they got: their battery was empty too
        device.unsent = None
        device.answered.clear()
    for device in (silent, hurried, careful):
        load.talk(device.connect())
    handed = Counter(load.witness.handed)
    assert handed[silent.hardware.udid, harmless] == 2
    assert handed[hurried.hardware.udid, harmless] == 1, (
        "its answer was taken, although nothing was handed out"
    )
    assert handed[careful.hardware.udid, dangerous] == 1
    assert deliveries(url, harmless) == [("ACKNOWLEDGED", 1), ("ACKNOWLEDGED", 0)]
    assert deliveries(url, dangerous) == [("UNCERTAIN", 1)]


def uuid_in(response: Response) -> str:
    return str(plist.read(response.body, max_size=1 << 20)["CommandUUID"])


def crash(postgres: Postgres, server: RunningServer) -> None:
    """And the way back, which the server finds by itself."""
    postgres.kill()
    assert readiness(server)["database"] == "failed"
    assert ask(f"{server.url}/healthz")[0] == 200
    postgres.start()
    wait_until("the server is well again", lambda: readiness(server)["ready"] is True, seconds=20)


def wait_for_more(witness: Witness) -> None:
    enough = {name: count + MORE[name] for name, count in witness.counts().items()}

    def there_is_load() -> bool:
        return bool(witness.problems) or all(
            witness.counts()[name] >= least for name, least in enough.items()
        )

    wait_until("there is load", there_is_load, seconds=60)
    assert witness.problems == []


def verify(witness: Witness, url: str) -> None:
    """All that was acknowledged is in the database, once, and so is the record of it."""
    assert witness.problems == []
    certificates = {sha256 for (sha256,) in rows(url, ISSUED)}
    assert {hashlib.sha256(der).hexdigest() for der in witness.issued} <= certificates
    assert Counter(dict(rows(url, ISSUED_EVENTS))) == Counter(certificates)
    for message, statement in CHECKED_IN.items():
        there = Counter(udid for (udid,) in rows(url, statement))
        told = {udid for udid, kind in witness.checked_in if kind == message}
        assert told <= set(there)
        assert set(there.values()) == {1}, f"recorded twice: {message}"
    results = {(udid, str(uuid)): found for udid, uuid, *found in rows(url, DELIVERIES)}
    assert {results[pair][0] for pair in witness.answered} == {"ACKNOWLEDGED"}
    assert all(count == (state == "ACKNOWLEDGED") for state, count in results.values())
    assert set(witness.handed) <= set(results)
    enqueued = {str(uuid): tuple(counts) for uuid, *counts in rows(url, COMMANDS)}
    assert {enqueued[uuid] for uuid, _count in witness.enqueued} <= {(n, n, 1) for n in range(1, KEYS)}
    assert [enqueued[uuid][0] for uuid, _count in witness.enqueued] == [n for _uuid, n in witness.enqueued]


def deliveries(url: str, uuid: str) -> list[tuple[str, int]]:
    """State and times handed out, the oldest device first."""
    return rows(
        url,
        "SELECT d.state, d.sent_count FROM commands_commanddelivery d JOIN commands_command c "
        "ON c.id = d.command_id WHERE c.uuid = %s ORDER BY d.enrollment_id",
        uuid,
    )


def rows(url: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else []


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)
