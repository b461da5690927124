"""The product as it is measured: real processes over loopback, on SQLite or on PostgreSQL with Redis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.push_door import PushDoor, PythonDoor, push_door
from tests.support.processes import descendants
from tests.support.server import ROOT, RunningServer
from tests.support.services import Postgres, Redis
from tests.support.woken import TOPIC, import_push_certificate

PROCESSES = {"BRAMLEY_WEB_PROCESSES": "2", "BRAMLEY_WORKER_PROCESSES": "1"}
"""As many as are measured where nothing else is said."""
_MAKE_ACCESS = """
from django.contrib.auth import get_user_model; from django.utils import timezone
from api import tokens; from audit.recording import SERVER
user = get_user_model().objects.get(username="admin")
made = tokens.create("bench", user=user, scopes=["commands:write"], actor=SERVER, now=timezone.now())
print("token", made[1])
"""


@dataclass(frozen=True)
class Stand:
    """A running server, the stand-in for APNs, and the processes whose CPU counts."""

    server: RunningServer
    apns: PushDoor
    postgres: Postgres | None = None
    redis: Redis | None = None
    database_url: str = ""
    topic: str = TOPIC

    def parts(self) -> dict[str, list[int]]:
        """Process ids by name; the first of each is above the others."""
        pids = self.server.pids
        parts = {"web": pids["web"], "worker": pids["worker"]}
        if self.postgres is not None:
            below = [process.pid for process in descendants(self.postgres.pid)]
            parts["database"] = [self.postgres.pid, *below]
        if self.redis is not None:
            parts["redis"] = [self.redis.pid]
        return parts

    def token(self) -> str:
        """One for the API, of the first administrator."""
        made = self.server.manage("shell", "--no-imports", "--command", _MAKE_ACCESS)
        return made.stdout.rpartition("token ")[2].strip()


@contextmanager
def on_sqlite(home: Path) -> Iterator[Stand]:
    with PythonDoor() as apns, _server(home, apns) as running:
        import_push_certificate(running, apns)
        yield Stand(running, apns)


@contextmanager
def on_postgres(home: Path, root: Path = ROOT) -> Iterator[Stand]:
    """PostgreSQL with fsync, as it is run in earnest. ``root``: another tree of the product."""
    with ExitStack() as stack:
        apns = push_door()
        stack.enter_context(apns)
        postgres = stack.enter_context(Postgres(durable=True))
        redis = stack.enter_context(Redis())
        url = postgres.create_database("bench")
        running = stack.enter_context(_server(home, apns, root=root, database_url=url, redis_url=redis.url))
        import_push_certificate(running, apns)
        yield Stand(running, apns, postgres, redis, url)


def _server(home: Path, apns: PushDoor, *, root: Path = ROOT, **options: str) -> RunningServer:
    return RunningServer(
        home,
        apns_url=apns.url,
        apns_ca=apns.ca_file,
        environment={name: os.environ.get(name, usual) for name, usual in PROCESSES.items()},
        database_url=options.get("database_url"),
        redis_url=options.get("redis_url"),
        root=root,
    )


STANDS = {"sqlite": on_sqlite, "postgres": on_postgres}
