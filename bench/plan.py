"""What is measured with the generators in Go, in its order: each phase leaves the server fit for the next.

What fills the database comes after what is compared with the empty one; what sends 100,000 pushes comes last.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.filling import Filling
from bench.generators import Generators, Line
from bench.measuring import measured, median_of, memory
from bench.pushers import Pusher, pushers
from bench.stand import Stand
from tests.support.processes import wait_until

SLUG = "bench"
QUIET = 3.0
"""Seconds that pushes and sweeps get to come to rest before the clock starts."""
PUSHES = 900.0

Tell = Callable[[Line], None]


@dataclass(frozen=True)
class Size:
    """How much of each. ``devices``: of a run; ``history``: devices and finished commands behind each."""

    runs: int = 3
    enrolments: int = 600
    issued: tuple[int, ...] = (50_000, 100_000)
    devices: int = 600
    idle_rounds: int = 6
    history: tuple[int, int] = (50, 10_000)
    fleet: int = 100_000
    pushes: int = 20_000
    large: bool = False


TINY = Size(1, 60, (2_000,), 60, 2, (10, 200), 2_000, 1_000)
DEFAULT = Size()
LARGE = Size(issued=(50_000, 100_000, 1_000_000), large=True)

PHASES = ("scep", "enrol", "idle", "command", "history", "enqueue", "push")


@dataclass
class Plan:
    """Runs the phases against a stand on PostgreSQL; ``tell`` takes the line of each."""

    stand: Stand
    generators: Generators
    filling: Filling
    size: Size
    tell: Tell

    def run(self, phases: Collection[str]) -> None:
        """The chosen ones of :data:`PHASES`. Those that need enrolled devices enrol them."""
        self.begin()
        if "scep" in phases:
            self.scep()
        if "enrol" in phases:
            self.enrol("enrol", "e")
        if {"idle", "command"} & set(phases):
            self.devices("i", self.size.devices)
        if "idle" in phases:
            self.idle("idle", "i", self.size.devices, 8)
            self.idle("idle-32", "i", self.size.devices, 32)
        if "command" in phases:
            self.command("i")
        if "history" in phases:
            self.history("h")
        if {"enqueue", "push"} & set(phases):
            self.filling.fleet(self.size.fleet, self.stand.topic)
        if "enqueue" in phases:
            self.enqueue()
        if "push" in phases:
            self.push()
        self.tell({"phase": "memory", **memory(self.stand.parts())})

    def begin(self) -> None:
        """The generators know the server, and it the CA of their devices."""
        parts = self.stand.parts()
        self.generators.topic = self.stand.topic
        self.generators.watched = {name: pids[0] for name, pids in parts.items() if pids}
        self.stand.server.manage("trust_issuer", str(self.generators.anchor()), "--purpose", "mdm_identity")

    # --- SCEP ----------------------------------------------------------------------------------------------

    def scep(self) -> None:
        self.issuer()
        self.scep_runs("scep", 1 + self.size.runs)
        filled = 0
        for issued in self.size.issued:
            self.filling.issued(SLUG, filled + 1, issued)
            filled = issued
            self.scep_runs(f"scep-{issued}", self.size.runs)

    def issuer(self) -> None:
        """The one that the SCEP phases enrol at."""
        self.stand.server.manage("issuer", "create", SLUG, "--algorithm", "RSA-2048")

    def scep_runs(self, name: str, runs: int) -> None:
        """The last of these runs count: the first of all warms the server up."""
        url = f"{self.stand.server.url}/scep/{SLUG}/"
        lines = [self.generators.scep(url, self._challenges(), 4) for _ in range(runs)]
        self.tell({"phase": name, "at_once": 4, **median_of(lines[-self.size.runs :])})

    def _challenges(self) -> list[str]:
        minted = self.stand.server.manage(
            *("scep_challenge", "--count", str(self.size.enrolments), "--issuer", SLUG, "--json")
        )
        return [one["challenge"] for one in json.loads(minted.stdout)]

    # --- devices -------------------------------------------------------------------------------------------

    def enrol(self, name: str, seed: str) -> None:
        """Authenticate and TokenUpdate; every run with devices that were never seen. The first warms up."""
        self.enrol_runs(name, [f"{seed}{run}" for run in range(1 + self.size.runs)])

    def enrol_runs(self, name: str, seeds: Sequence[str]) -> None:
        """The last of these runs count."""
        url, count = self.stand.server.url, self.size.devices
        lines = [self.generators.mdm(url, "enrol", seed, count, 8) for seed in seeds]
        self.tell({"phase": name, "at_once": 8, **median_of(lines[-self.size.runs :])})

    def devices(self, seed: str, count: int) -> None:
        """Enrolled, with nothing to do any more: what the server asks everybody first is answered."""
        self.generators.mdm(self.stand.server.url, "enrol", seed, count, 8)
        self.generators.mdm(self.stand.server.url, "cmd2", seed, count, 8, "-cmds", "9")
        self._rest()

    def idle(self, name: str, seed: str, devices: int, at_once: int, rounds: int | None = None) -> None:
        options = ("-rounds", str(rounds or self.size.idle_rounds))
        url = self.stand.server.url
        lines = [
            self.generators.mdm(url, "idle", seed, devices, at_once, *options) for _ in range(self.size.runs)
        ]
        if unwanted := [line["commands"] for line in lines if line["commands"]]:
            raise SystemExit(f"devices that should have been idle got commands: {unwanted}")
        self.tell({"phase": name, "at_once": at_once, **median_of(lines)})

    def command(self, seed: str) -> None:
        """A connect that gets a command, and the answer to it."""
        lines, url, token = [], self.stand.server.url, self.stand.token()
        mine = {"udids": self.generators.udids(seed, self.size.devices)}
        for _ in range(self.size.runs):
            _enqueue(url, token, mine)
            self._rest()
            lines.append(self.generators.mdm(url, "cmd2", seed, self.size.devices, 8))
        self.tell({"phase": "command", "at_once": 8, **median_of(lines)})

    def history(self, seed: str) -> None:
        devices, commands = self.size.history
        self.devices(seed, devices)
        rounds = max(1, self.size.devices * self.size.idle_rounds // devices)
        self.idle("history-none", seed, devices, 8, rounds)
        self.filling.finished(self.generators.udids(seed, devices), commands)
        self.idle("history", seed, devices, 8, rounds)

    # --- everybody -----------------------------------------------------------------------------------------

    def enqueue(self) -> None:
        """One call for the whole fleet, by REST; with ``large`` devices enrol while it is queued."""
        token = self.stand.token()
        lines = []
        for _ in range(self.size.runs):
            with self._quiet_worker():
                lines.append(_enqueue(self.stand.server.url, token, {"all": True}))
        self.tell({"phase": "enqueue", **median_of(lines)})
        if self.size.large:
            self.enrol(f"enrol-{self.size.fleet}", "l")

    @contextmanager
    def _quiet_worker(self) -> Iterator[None]:
        """Pushes of the former call are taken away before the next: only the call is measured."""
        self.filling.forget_pushes()
        time.sleep(QUIET)
        yield
        self.filling.forget_pushes()

    def push(self) -> None:
        """Pushes to APNs, which answers each after 50 ms: by one worker process, by two, and after silence.

        Processes of our own push (:mod:`bench.pusher`), so that they begin in the same moment; the worker of
        the server stands still. The clock runs from then until every answer is written down; the first run,
        which opens the connections, is left out. A connection that was silent for an hour is played: its
        first push goes with a PING, as after half a minute.
        """
        with self._worker_at_rest():
            for name, processes in (("push", 1), ("push-2", 2)):
                with pushers(self.stand.server.environment, processes) as working:
                    lines = [self._pushes(working) for _ in range(1 + self.size.runs)][1:]
                self.tell({"phase": name, "processes": processes, **median_of(lines)})
            with pushers(self.stand.server.environment, 1) as (pusher,):
                self.filling.due_pushes(100)
                pusher.push()  # the connection is open
                took = []
                for _ in range(5):
                    time.sleep(1.0)  # what came just before would be waited for together
                    self.filling.due_pushes(1)
                    took.append(round(1000 * pusher.push("quiet"), 1))
                self.tell({"phase": "push-quiet", "ms": sorted(took)[2], "runs": took})
        self.filling.forget_pushes()

    def _pushes(self, working: Sequence[Pusher]) -> Line:
        count = self.size.pushes
        self.filling.due_pushes(count)

        def parts() -> dict[str, list[int]]:
            return {**self.stand.parts(), "worker": [one.pid for one in working]}

        with measured(parts) as phase:
            for one in working:
                one.begin()
            for one in working:
                one.wait()
            phase.count = count
        if (pushed := self.filling.pushed()) != count:
            raise SystemExit(f"{pushed} of {count} pushes were accepted")
        return {**phase.figures(), **memory({"worker": [one.pid for one in working]})}

    @contextmanager
    def _worker_at_rest(self) -> Iterator[None]:
        pids = self.stand.server.pids["worker"]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def _rest(self) -> None:
        """Until the stand-in gets no more pushes."""
        seen = -1

        def at_rest() -> bool:
            nonlocal seen
            before, seen = seen, self.stand.apns.count
            time.sleep(1.0)
            return before == seen

        wait_until("pushes have come to rest", at_rest, seconds=PUSHES)
        time.sleep(QUIET)


def _enqueue(url: str, token: str, targets: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{url}/api/v1/commands/",
        json.dumps({"request_type": "ProfileList", "targets": targets}).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        told = json.load(answer)
    seconds = time.perf_counter() - began
    return {
        "count": told["queued"],
        "seconds": round(seconds, 2),
        "per_second": round(told["queued"] / seconds, 1),
    }
