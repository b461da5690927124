"""``--soak MINUTES``: a paced load of everything at once, and what the memory of each process does.

The load is our own simulator's: the generators in Go send as fast as they can, and this one is to be even.
Every second gets its share of idle connects, commands with their answers, enrolments and pages of the
console; once a minute many connect in the same moment, so that every thread of the web server has worked.
"""

from __future__ import annotations

import http.cookiejar
import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench import load
from bench.measuring import Figure
from bench.stand import Stand
from simulator.device import SimulatedDevice
from simulator.exchange import Request, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.transport import Transport

MEGABYTE = 1_000_000
LIMITS = {"web": 150 * MEGABYTE, "worker": 200 * MEGABYTE}
"""Resident bytes of one process."""
GROWTH = 4.0
"""MiB an hour in the second half, above which a process is said to grow."""
AT_ONCE, CROWD = 8, 96
"""Requests at once in an ordinary second, and in the one of each minute in which all threads are to work."""
BUSY = 503
PAGES = (
    "/admin/",
    "/admin/devices/device/",
    "/admin/devices/device/?q=Mac",
    "/admin/devices/device/{device}/change/",
    "/admin/pki/certificate/",
    "/admin/pki/issuer/1/change/",
    "/admin/commands/command/",
    "/admin/scep/transaction/",
    "/admin/audit/auditevent/",
    "/enroll/default/",
)
ENROLMENT_REQUESTS = 12
"""What a whole enrolment takes, with the answers to the first questions."""

Tell = Callable[[dict[str, Any]], None]


class Size(NamedTuple):
    """Bytes of a process: resident; what only it has (the rest is shared with others); and open files."""

    resident: int
    private: int
    files: int


def size_of(pid: int) -> Size | None:
    """``None`` where it is no more."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Size(1024 * kib["Rss"], 1024 * (kib["Private_Clean"] + kib["Private_Dirty"]), files)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line through ``points`` by least squares; 0 where no line can be drawn."""
    if len(points) < 2:
        return 0.0
    x_mean = sum(x for x, _y in points) / len(points)
    y_mean = sum(y for _x, y in points) / len(points)
    spread = sum((x - x_mean) ** 2 for x, _y in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / spread if spread else 0.0


@dataclass
class Diary:
    """What was seen of each process: ``(part, pid)`` with seconds since the start and its size."""

    seen: dict[tuple[str, int], list[tuple[float, Size]]] = field(default_factory=dict)

    def look(self, parts: dict[str, list[int]], at: float) -> dict[str, list[str]]:
        """Note all of them; for the line: resident and private MiB and files of each, by part."""
        told: dict[str, list[str]] = {}
        for part, pids in parts.items():
            for pid in pids if part in LIMITS else pids[:1]:
                if (size := size_of(pid)) is not None:
                    self.seen.setdefault((part, pid), []).append((at, size))
                    words = f"{mib(size.resident)} {mib(size.private)} {size.files}"
                    told.setdefault(part, []).append(words)
        return told

    def verdict(self) -> dict[str, Any]:
        """Largest and growth (MiB an hour over the second half) of each process, and whether that is kept."""
        processes = [self._judged(part, pid, points) for (part, pid), points in self.seen.items()]
        return {"processes": processes, "kept": all(one["kept"] for one in processes)}

    @staticmethod
    def _judged(part: str, pid: int, points: list[tuple[float, Size]]) -> dict[str, Any]:
        half = points[len(points) // 2 :]
        growth = slope([(at / 3600, mib(size.private)) for at, size in half])
        largest = max(size.resident for _at, size in points)
        limited = part in LIMITS
        return {
            "part": part,
            "pid": pid,
            "largest_mib": mib(largest),
            "mib_an_hour": round(growth, 1),
            "files": max(size.files for _at, size in half),
            "kept": not limited or (largest < LIMITS[part] and growth <= GROWTH),
        }


def mib(count: int) -> float:
    return round(count / (1 << 20), 1)


def signed_in(stand: Stand) -> urllib.request.OpenerDirector:
    """What opens pages as the first administrator."""
    cookies = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    url = f"{stand.server.url}/admin/login/"
    opener.open(url, timeout=60).close()
    form = {
        "csrfmiddlewaretoken": next(str(one.value) for one in cookies if one.name == "csrftoken"),
        "username": "admin",
        "password": stand.server.password,
        "next": "/admin/",
    }
    opener.open(url, urllib.parse.urlencode(form).encode(), timeout=60).close()
    return opener


@dataclass
class Soak:
    """Load against a stand. ``rate``: requests a second, roughly."""

    stand: Stand
    keys: Path
    rate: int
    tell: Tell
    fleet: list[SimulatedDevice] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    requests: int = 0
    sent_away: int = 0
    _diary: Diary = field(default_factory=Diary)

    def run(self, minutes: float, devices: int) -> None:
        """Enrol ``devices``, then load for so long; a line a minute, and one at the end."""
        self.fleet = load.devices(devices, self.keys)
        newcomers = self._newcomers(self.fleet)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self._enrol, self.fleet))
        self._idle = itertools.cycle([load.idle_request(device) for device in self.fleet])
        self._turn = itertools.cycle(self.fleet)
        self._token, self._session = self.stand.token(), signed_in(self.stand)
        self._pages = itertools.cycle(PAGES)
        began = time.monotonic()
        self.requests = 0
        with ThreadPoolExecutor(CROWD) as pool:
            for second in range(round(minutes * 60)):
                self._second(pool, newcomers, crowded=second % 60 == 30)
                if second % 60 == 59:
                    self._line(time.monotonic() - began)
                time.sleep(max(0.0, began + second + 1 - time.monotonic()))
        seconds = time.monotonic() - began
        self._line(seconds)
        verdict = {"minutes": round(seconds / 60, 1), "failed": len(self.failures), **self._diary.verdict()}
        self.tell({"phase": "soak", **verdict, "failures": self.failures[:5]})

    def _newcomers(self, kept: Sequence[SimulatedDevice]) -> Iterator[SimulatedDevice]:
        """Devices never seen, with keys of others: making a key takes longer than all that is measured."""
        for number in itertools.count(1):
            yield SimulatedDevice(make_hardware("soak", number), kept[number % len(kept)].private_key)

    def _second(
        self, pool: ThreadPoolExecutor, newcomers: Iterator[SimulatedDevice], *, crowded: bool
    ) -> None:
        """The share of one second; it has ended when this returns."""
        enrolments, pages, commands = max(1, self.rate // 100), max(1, self.rate // 50), self.rate // 12
        idle = max(1, self.rate - enrolments * ENROLMENT_REQUESTS - pages - 2 * commands)
        work: list[Future[None]] = [
            pool.submit(self._enrol, device) for device in itertools.islice(newcomers, enrolments)
        ]
        work += [pool.submit(self._visit, path) for path in itertools.islice(self._pages, pages)]
        work.append(pool.submit(self._command, list(itertools.islice(self._turn, commands))))
        for _share in range(CROWD if crowded else AT_ONCE):
            part = 2 if crowded else max(1, idle // AT_ONCE)
            work.append(pool.submit(self._connect, list(itertools.islice(self._idle, part))))
        for one in work:
            try:
                one.result()
            except OSError as error:  # refused or broken off: counted, and the load goes on
                self.failures.append(repr(error))

    def _enrol(self, device: SimulatedDevice) -> None:
        """The whole way in, and the answers to what the server asks at first."""
        self._talk(device.enrol(f"{self.stand.server.url}/enroll/default/profile"))
        self._talk(device.connect())

    def _command(self, devices: Sequence[SimulatedDevice]) -> None:
        """One command for some, by REST, and all of them fetch and answer it."""
        body = {"request_type": "ProfileList", "targets": {"udids": [one.hardware.udid for one in devices]}}
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.stand.server.url}/api/v1/commands/",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            answer.read()
        self.requests += 1
        for device in devices:
            self._talk(device.connect())

    def _talk(self, conversation: Any) -> None:
        with Transport() as transport:

            def send(request: Request) -> Any:
                self.requests += 1
                return transport.send(request)

            try:
                converse(conversation, send)
            except SimulationError as error:
                if f"HTTP {BUSY}" in str(error):
                    self.sent_away += 1
                else:
                    self.failures.append(str(error))

    def _connect(self, requests: Iterable[bytes]) -> None:
        """Idle, one after the other on one connection."""
        line = load.Line(self.stand.server.url)
        for request in requests:
            status, _body = line.send(request)
            self.requests += 1
            if status == BUSY:  # and the connection is closed: the device comes again later
                self.sent_away += 1
                break
            if status != 200:
                self.failures.append(f"idle: {status}")
        line.close()

    def _visit(self, path: str) -> None:
        self.requests += 1
        try:
            with self._session.open(self.stand.server.url + path.format(device=1), timeout=60) as answer:
                answer.read()
        except urllib.error.HTTPError as refused:
            self.failures.append(f"{path}: {refused.code}")

    def _line(self, at: float) -> None:
        told: dict[str, Figure | list[str]] = {
            "phase": "soak-minute",
            "minute": round(at / 60, 1),
            "per_second": round(self.requests / at, 1),
            "failed": len(self.failures),
            "sent_away": self.sent_away,
            **self._diary.look(self.stand.parts(), at),
        }
        self.tell(told)
