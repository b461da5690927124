"""CPU of processes, and how fast this machine is right now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

_TICKS = os.sysconf("SC_CLK_TCK")
Figure = str | int | float


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes, and of those of their children that were waited for."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(value) for value in fields[11:15])
    return total / _TICKS


def calibration(seconds: float = 1.0) -> dict[str, Figure]:
    """The yardstick of this machine at this moment: RSA-2048 signatures of one core, by its own time and by
    the clock. Where the two differ, others use the machine, and rates (not CPU) below are lower for it."""
    key = rsa.generate_private_key(65537, 2048)
    count, began, began_at = 0, time.process_time(), time.perf_counter()
    while time.process_time() - began < seconds:
        key.sign(b"calibration", padding.PKCS1v15(), SHA256())
        count += 1
    return {
        "rsa2048_signatures_per_cpu_second": round(count / (time.process_time() - began)),
        "rsa2048_signatures_per_second": round(count / (time.perf_counter() - began_at)),
        "load_average": round(os.getloadavg()[0], 1),
        "cores": len(os.sched_getaffinity(0)),
    }


@dataclass
class Phase:
    """One measured stretch. ``count``: what is counted, each of one or several ``requests``."""

    count: int = 0
    requests: int = 0
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: Phase) -> Phase:
        cpu = {name: self.cpu.get(name, 0.0) + other.cpu.get(name, 0.0) for name in self.cpu | other.cpu}
        return Phase(
            self.count + other.count, self.requests + other.requests, self.seconds + other.seconds, cpu
        )

    def figures(self) -> dict[str, Figure]:
        """What a line of the output says: a rate, and milliseconds of CPU for each thing counted."""
        told: dict[str, Figure] = {
            "count": self.count,
            "requests": self.requests,
            "seconds": round(self.seconds, 2),
            "per_second": round(self.count / self.seconds, 1),
        }
        for name, seconds in self.cpu.items():
            told[f"{name}_cpu_ms"] = round(1000 * seconds / self.count, 2)
        if "web" in self.cpu and self.requests:
            told["web_cpu_ms_a_request"] = round(1000 * self.cpu["web"] / self.requests, 2)
        return told


@contextmanager
def measured(parts: Callable[[], dict[str, list[int]]]) -> Iterator[Phase]:
    """Measure a block; it sets ``count`` and ``requests``. ``parts``: process ids by name, asked twice."""
    phase = Phase()
    before = {name: cpu_seconds(pids) for name, pids in parts().items()}
    began = time.perf_counter()
    yield phase
    phase.seconds = time.perf_counter() - began
    after = {name: cpu_seconds(pids) for name, pids in parts().items()}
    phase.cpu = {name: after[name] - before.get(name, 0.0) for name in after}
