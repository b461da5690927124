"""Three hosts with three web servers, two workers and two beats on one PostgreSQL and one Redis.

Where PgBouncer is installed, all hosts but the first reach PostgreSQL through it.

Any process may be killed at any time (``kill -9``) while commands are queued, devices are woken and answer:
every command arrives at every device, none twice after its answer, and nothing is recorded twice.
"""

from __future__ import annotations

import base64
import queue
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from simulator.exchange import Request, Response, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.chaos.hosts import (
    BridgedPostgres,
    BridgedRedis,
    Host,
    Network,
    PgBouncer,
    bridged_apns,
    network,
)
from tests.support.apns import ApnsStandIn, Push
from tests.support.processes import wait_until
from tests.support.server import ROOT
from tests.support.services import Missing
from tests.support.woken import CarefulDevice, import_push_certificate

pytestmark = [pytest.mark.once, pytest.mark.slow]

DEVICES = 6
COMMANDS = 12
VICTIMS = (
    *((0, "web"), (0, "worker"), (2, "beat"), (2, "web"), (0, "beat"), (2, "worker")),
    *((1, "web"), (0, "worker")),
)
ARRIVES_WITHIN = 75.0
"""Seconds: the lease of a killed sender, the next sweep, and a busy machine."""

ENQUEUE = f"""
import time
from django.utils import timezone
from audit.recording import Actor
from commands import queue
from devices.models import Enrollment
ids = list(Enrollment.objects.filter(state="ENROLLED").values_list("pk", flat=True))
for number in range({COMMANDS}):
    kind = ("ProfileList", "CertificateList", "InstalledApplicationList")[number % 3]
    done = queue.enqueue(kind, None, ids, source="API", actor=Actor(name="test"), now=timezone.now())
    print(done.command.uuid, done.queued, flush=True)
    time.sleep(0.25)
"""


@dataclass
class Installation:
    """The hosts, and devices that come when they are woken, to whichever web server answers."""

    hosts: list[Host]
    database: str
    devices: list[CarefulDevice] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    broken: int = 0
    _by_token: dict[bytes, CarefulDevice] = field(default_factory=dict)
    _pushes: queue.SimpleQueue[Push] = field(default_factory=queue.SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)
    _turn: int = 0

    def enrol(self, count: int) -> None:
        for number in range(1, count + 1):
            device = CarefulDevice(make_hardware("scale-out", number), new_key())
            device.handed = Counter()
            self._talk(device.enrol(f"{self.hosts[0].url}/enroll/default/profile"))
            self._talk(device.connect())
            assert device.enrolled is not None
            self._by_token[device.enrolled.token] = device
            self.devices.append(device)

    def note(self, push: Push) -> None:
        """Called by the stand-in for APNs, in its thread."""
        self._pushes.put(push)

    def follow(self) -> None:
        """Connect whenever a push asks for it."""
        while not self._done.is_set():
            try:
                push = self._pushes.get(timeout=0.1)
            except queue.Empty:
                continue
            device = self._by_token.get(push.token)
            while device is not None and not self._done.is_set():
                try:
                    self._talk(device.connect())
                    break
                except SimulationError as error:
                    self.broken += 1
                    if not error.passing:
                        self.problems.append(str(error))
                        break

    def stop(self) -> None:
        self._done.set()

    def _talk(self, conversation: object) -> None:
        """One conversation with the next host in turn, as behind a load balancer that knows no health."""
        self._turn += 1
        host = self.hosts[self._turn % len(self.hosts)]
        name = urlsplit(self.hosts[0].url).netloc
        with Transport(stay_at=host.url, timeout=5) as transport:

            def send(request: Request) -> Response:
                return transport.send(replace(request, headers={**request.headers, "Host": name}))

            converse(conversation, send)  # type: ignore[arg-type]

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.database) as connection:
            return connection.execute(sql).fetchall()


@contextmanager
def installation(
    net: Network, folder: Path, apns: ApnsStandIn, databases: tuple[str, str, str], redis: str
) -> Iterator[Installation]:
    keys = {
        "BRAMLEY_SECRET_KEY": secrets.token_urlsafe(48),
        "BRAMLEY_ENCRYPTION_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
    }
    options = {"redis_url": redis, "apns_url": apns.url, "apns_ca": apns.ca_file}
    hosts = [
        Host(
            folder / f"host-{number}",
            place,
            only="web" if number == 2 else None,
            database_url=databases[number - 1],
            **options,
        )
        for number, place in enumerate(net.hosts, 1)
    ]
    for host in hosts:
        host.environment |= {**keys, "BRAMLEY_PUBLIC_URL": hosts[0].url}
    with ExitStack() as stack:
        for host in hosts:  # together: the first set-up is one host's, the others wait for it
            stack.callback(host.end, expect_clean=False)
            host.launch()
        for host in hosts:
            host.wait()
        yield Installation(hosts, databases[0])
        for host in hosts:
            host.process.send_signal(signal.SIGTERM)
        assert [host.process.wait(60) for host in hosts] == [0, 0, 0]


def test_any_process_is_killed_under_load(tmp_path: Path) -> None:
    with network(3) as net, ExitStack() as stack:
        try:
            postgres = stack.enter_context(BridgedPostgres(net.inside))
            redis = stack.enter_context(BridgedRedis(net.inside))
        except Missing as reason:
            pytest.skip(str(reason))
        apns = stack.enter_context(bridged_apns(net.inside))
        database = postgres.create_database("scale")
        pooled = pooled_url(stack, postgres, "scale") or database
        databases = (database, pooled, pooled)
        site = stack.enter_context(installation(net, tmp_path, apns, databases, redis.url))
        import_push_certificate(site.hosts[0], apns)
        site.enrol(DEVICES)
        apns.on_push = site.note
        followers = [threading.Thread(target=site.follow) for _thread in range(2)]
        for follower in followers:
            follower.start()
        try:
            kill_under_load(site)
            # The half minute of the leases that killed workers held is over.
            site.rows("UPDATE push_pushrequest SET lease_until = now() RETURNING enrollment_id")
            wait_until("every command arrived", lambda: unfinished(site) == 0, seconds=ARRIVES_WITHIN)
        finally:
            site.stop()
            for follower in followers:
                follower.join()
        verify(site)


def pooled_url(stack: ExitStack, postgres: BridgedPostgres, name: str) -> str:
    """The database's address at a PgBouncer; empty where there is none."""
    try:
        return stack.enter_context(PgBouncer(postgres)).url(name)
    except Missing:
        return ""


def kill_under_load(site: Installation) -> None:
    enqueuing = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "--no-imports", "--command", ENQUEUE],
        cwd=ROOT,
        env=site.hosts[1].environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert enqueuing.stdout is not None
    lines = [enqueuing.stdout.readline()]
    for number, part in VICTIMS:
        site.hosts[number].kill(part)
    lines += enqueuing.stdout.readlines()
    assert enqueuing.wait(60) == 0
    assert [line.split()[1] for line in lines] == [str(DEVICES)] * COMMANDS


def unfinished(site: Installation) -> int:
    sql = "SELECT count(*) FROM commands_commanddelivery WHERE state <> 'ACKNOWLEDGED'"
    return int(str(site.rows(sql)[0][0]))


def verify(site: Installation) -> None:
    assert site.problems == []
    assert [device.tally.twice for device in site.devices if device.tally.twice] == []
    per_device = site.rows(
        "SELECT d.enrollment_id, count(*), count(r.delivery_id), count(DISTINCT r.uuid) "
        "FROM commands_commanddelivery d JOIN commands_command c ON c.id = d.command_id "
        "LEFT JOIN commands_commandresult r ON r.delivery_id = d.id WHERE c.created_by = 'test' GROUP BY 1"
    )
    assert [tuple(row[1:]) for row in per_device] == [(COMMANDS,) * 3] * DEVICES
    for device in site.devices:
        handed = [count for count in device.handed.values() if count > 1]
        assert len(handed) <= site.broken, "a command came again though no exchange broke"
    recorded = site.rows(
        "SELECT count(*) FROM audit_auditevent WHERE action = 'command.enqueued' AND actor = 'test'"
    )
    assert recorded == [(COMMANDS,)]
    issued = site.rows(
        "SELECT count(*), count(DISTINCT serial_number) FROM pki_certificate WHERE purpose = 'MDM_IDENTITY'"
    )
    assert issued == [(DEVICES, DEVICES)]
    assert site.rows("SELECT count(*) FROM pki_issuer WHERE slug = 'bramley'") == [(1,)]
    assert site.rows("SELECT count(*) FROM auth_user") == [(1,)], "one first start of three"
    assert site.rows("SELECT count(*) FROM push_pushrequest WHERE state <> 'IDLE'") == [(0,)]
