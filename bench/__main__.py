"""``make bench``: start the product on SQLite, then on PostgreSQL and Redis, and measure it. JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup(set_prefix=False)

from bench import load  # noqa: E402
from bench.generators import Generators  # noqa: E402
from bench.measuring import Figure, Phase, calibration, measured  # noqa: E402
from simulator.device import SimulatedDevice  # noqa: E402
from simulator.exchange import SimulationError  # noqa: E402
from tests.support.apns import ApnsStandIn  # noqa: E402
from tests.support.processes import descendants  # noqa: E402
from tests.support.server import RunningServer  # noqa: E402
from tests.support.services import Postgres, Redis  # noqa: E402
from tests.support.woken import import_push_certificate  # noqa: E402

QUIET = 3.0
"""Seconds that pushes and sweeps get to come to rest before the clock starts."""

Tell = Callable[[dict[str, Figure]], None]


@dataclass(frozen=True)
class Size:
    devices: int
    idle_rounds: int
    command_rounds: int
    at_once: int


@dataclass(frozen=True)
class Stand:
    """A running server, the stand-in for APNs, and the processes whose CPU counts."""

    server: RunningServer
    apns: ApnsStandIn
    postgres: Postgres | None

    def parts(self) -> dict[str, list[int]]:
        pids = self.server.pids
        parts = {"web": pids["web"], "worker": pids["worker"]}
        if self.postgres is not None:
            below = [process.pid for process in descendants(self.postgres.pid)]
            parts["database"] = [self.postgres.pid, *below]
        return parts


@contextmanager
def on_sqlite(home: Path) -> Iterator[Stand]:
    with ApnsStandIn() as apns, server(home, apns) as running:
        yield Stand(running, apns, None)


@contextmanager
def on_postgres(home: Path) -> Iterator[Stand]:
    """PostgreSQL with fsync, as it is run in earnest."""
    with ExitStack() as stack:
        apns = stack.enter_context(ApnsStandIn())
        postgres = stack.enter_context(Postgres(durable=True))
        redis = stack.enter_context(Redis())
        options = {"database_url": postgres.create_database("bench"), "redis_url": redis.url}
        running = stack.enter_context(server(home, apns, **options))
        yield Stand(running, apns, postgres)


def server(home: Path, apns: ApnsStandIn, **options: str) -> RunningServer:
    return RunningServer(
        home,
        apns_url=apns.url,
        apns_ca=apns.ca_file,
        environment={"BRAMLEY_WEB_PROCESSES": os.environ.get("BRAMLEY_WEB_PROCESSES", "2")},
        database_url=options.get("database_url"),
        redis_url=options.get("redis_url"),
    )


STANDS = {"sqlite": on_sqlite, "postgres": on_postgres}


def measure(stand: Stand, size: Size, keys: Path, tell: Tell) -> None:
    """Enrol all devices; connect with an empty queue; connect with one command each."""
    import_push_certificate(stand.server, stand.apns)
    url = stand.server.url
    fleet = load.devices(size.devices, keys)

    with measured(stand.parts) as phase:
        phase.requests = load.spread(
            lambda device: load.enrol(device, f"{url}/enroll/default/profile"), fleet, size.at_once
        )
        phase.count = size.devices
    tell({"phase": "enrol", **phase.figures()})
    load.spread(load.settle, fleet, size.at_once)
    time.sleep(QUIET)

    idle = [load.idle_request(device) for device in fleet]
    with measured(stand.parts) as phase:
        sequences = [[request] for _ in range(size.idle_rounds) for request in idle]
        phase.count = phase.requests = load.replay(url, sequences, size.at_once, [False])
    tell({"phase": "idle", **phase.figures()})

    total = Phase()
    for _ in range(size.command_rounds):
        total += command_round(stand, fleet, idle, size.at_once)
    tell({"phase": "command", **total.figures()})


def command_round(stand: Stand, fleet: list[SimulatedDevice], idle: list[bytes], at_once: int) -> Phase:
    """One command for all; the clock runs while they fetch and answer it, not while they are pushed."""
    pushed = len(stand.apns.pushes)
    queued = json.loads(stand.server.manage("enqueue", "ProfileList", "--all", "--json").stdout)
    if queued["queued"] != len(fleet):
        raise SystemExit(f"not all devices can be sent commands: {queued}")
    stand.apns.wait_for_pushes(pushed + len(fleet), 60)
    time.sleep(QUIET)
    sequences = [
        [request, load.acknowledgement(device, queued["command_uuid"])]
        for request, device in zip(idle, fleet, strict=True)
    ]
    with measured(stand.parts) as phase:
        phase.requests = load.replay(stand.server.url, sequences, at_once, [True, False])
        phase.count = len(fleet)
    return phase


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--idle-rounds", type=int, default=20)
    parser.add_argument("--command-rounds", type=int, default=4)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--on", choices=STANDS, action="append", help="default: both")
    parser.add_argument(
        "--generators", type=Path, help="folder with the sources of mdmload and scepload (Go)"
    )
    options = parser.parse_args()
    size = Size(options.devices, options.idle_rounds, options.command_rounds, options.at_once)
    with tempfile.TemporaryDirectory(prefix="bramley-bench-") as text:
        folder = Path(text)
        generators = Generators(options.generators, folder) if options.generators else None
        load.devices(size.devices, folder / "keys")
        for name in options.on or STANDS:

            def tell(figures: dict[str, Figure], name: str = name) -> None:
                print(json.dumps({"database": name, "at_once": size.at_once, **figures}), flush=True)

            with STANDS[name](folder / name) as stand:
                tell({"phase": "calibration", **calibration()})
                try:
                    measure(stand, size, folder / "keys", tell)
                except SimulationError:
                    print(stand.server.output[-5000:], file=sys.stderr)
                    raise
                if generators is not None:
                    for line in generators.run(stand.server, stand.parts(), size.devices, size.at_once):
                        tell({"phase": "generator", **line})


if __name__ == "__main__":
    main()
