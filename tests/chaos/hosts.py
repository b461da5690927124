"""Several hosts on one machine: network namespaces, joined by a bridge, on which the services listen.

Where namespaces cannot be made (no root, no ``ip``) every "host" is this one, on a port of its own; what a
host keeps for itself, its home folder, is separate in both cases.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import apns
from tests.support.processes import free_port, wait_until
from tests.support.server import NARROW, ROOT, RunningServer
from tests.support.services import Missing, Postgres, Redis, Service

PORT = 8000


@dataclass(frozen=True)
class Network:
    """``inside``: the address of the services. ``hosts``: each with the command that runs something there."""

    inside: str
    hosts: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def is_real(self) -> bool:
        """Whether hosts are apart from each other."""
        return bool(self.hosts[0][1])


@contextmanager
def network(count: int) -> Iterator[Network]:
    """Make ``count`` hosts; they are gone when the block ends."""
    number = os.getpid() % 200
    bridge, inside = f"brm{number}", f"10.77.{number}.254"
    names = [f"bramley-{os.getpid()}-{host}" for host in range(1, count + 1)]
    try:
        try:
            _make(bridge, inside, number, names)
        except (OSError, subprocess.CalledProcessError):
            _unmake(bridge, names)
            yield Network("127.0.0.1", (("127.0.0.1", ()),) * count)
            return
        yield Network(
            inside,
            tuple(
                (f"10.77.{number}.{host}", ("ip", "netns", "exec", name))
                for host, name in enumerate(names, 1)
            ),
        )
    finally:
        _unmake(bridge, names)


def _make(bridge: str, inside: str, number: int, names: Sequence[str]) -> None:
    _ip("link", "add", bridge, "type", "bridge")
    _ip("addr", "add", f"{inside}/24", "dev", bridge)
    _ip("link", "set", bridge, "up")
    for host, name in enumerate(names, 1):
        outer = f"{bridge}h{host}"
        _ip("netns", "add", name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outer, "master", bridge, "up")
        _ip("-n", name, "addr", "add", f"10.77.{number}.{host}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")


def _unmake(bridge: str, names: Sequence[str]) -> None:
    if shutil.which("ip") is None:
        return
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class BridgedPostgres(Postgres):
    """PostgreSQL that the hosts reach."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(f"listen_addresses = '127.0.0.1,{address}'\n")
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {address}/24 trust\n")

    def url(self, name: str = "postgres") -> str:
        return f"postgres://{self.USER}@{self.address}:{self.port}/{name}"


class BridgedRedis(Redis):
    """Redis that the hosts reach."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def start(self) -> None:
        addresses = sorted({"127.0.0.1", self.address})
        self._spawn(
            [
                self.program,
                *("--port", str(self.port), "--bind", *addresses, "--protected-mode", "no"),
                *("--dir", str(self.folder), "--save", "", "--appendonly", "no"),
            ]
        )
        self._wait_for_port()

    @property
    def url(self) -> str:
        return f"redis://{self.address}:{self.port}/0"


class PgBouncer(Service):
    """A pooler in front of PostgreSQL that lends its few connections for one transaction each."""

    def __init__(self, postgres: BridgedPostgres, connections: int = 8) -> None:
        self.program = shutil.which("pgbouncer")
        if self.program is None:
            raise Missing("pgbouncer is not installed")
        super().__init__()
        self.postgres = postgres
        self.settings = self.folder / "pgbouncer.ini"
        self.settings.write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={postgres.port} user={postgres.USER}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1,{postgres.address}\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n"
            "max_client_conn = 500\n"
        )
        if postgres.owner:
            shutil.chown(self.folder, postgres.owner)
            shutil.chown(self.settings, postgres.owner)

    def start(self) -> None:
        self._spawn([str(self.program), "-q", str(self.settings)], self.postgres.owner)
        self._wait_for_port()

    def url(self, name: str) -> str:
        user, address = self.postgres.USER, self.postgres.address
        return f"postgres://{user}@{address}:{self.port}/{name}?prepared=no&cursors=no"


@contextmanager
def bridged_apns(address: str) -> Iterator[apns.ApnsStandIn]:
    """The stand-in for APNs at an address that the hosts reach."""
    before, apns.HOST = apns.HOST, address
    try:
        with apns.ApnsStandIn() as stand_in:
            yield stand_in
    finally:
        apns.HOST = before


class Host(RunningServer):
    """``manage.py start`` on one host; ``only``: one part of it."""

    def __init__(
        self, home: Path, place: tuple[str, tuple[str, ...]], *, only: str | None = None, **options: object
    ) -> None:
        self.address, self.prefix = place
        port = PORT if self.prefix else free_port()
        super().__init__(home, port=port, arguments=("--only", only) if only else (), **options)  # type: ignore[arg-type]
        self.url = f"http://{self.address}:{port}"
        self.environment["BRAMLEY_BIND"] = f"{self.address}:{port}"
        self.environment |= NARROW  # the hosts are what there are several of
        self.only = only

    def launch(self, log: Path | None = None) -> None:
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, "manage.py", "start", *self.arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Until it is ready, after :meth:`launch`."""
        line = "Bramley is ready at" if self.only in {None, "web"} else f"Bramley {self.only} started"
        ended = "the server ended:\n"
        wait_until(
            f"{self.home.name} is ready",
            lambda: line in self.output or self.process.poll() is not None,
            seconds=180,
        )
        assert self.process.poll() is None, ended + self.output[-4000:]

    def kill(self, part: str) -> None:
        """kill -9 of the newest process of ``web``, ``worker`` or ``beat``; the supervisor starts another."""
        wait_until(f"{part} of {self.home.name} runs", lambda: bool(self.pids[part]))
        pid = max(self.pids[part])
        os.kill(pid, signal.SIGKILL)
        wait_until(f"{part} of {self.home.name} is gone", lambda: pid not in self.pids[part])
