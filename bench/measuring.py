"""CPU of processes, and how fast this machine is right now."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

_PYTHON_SPEED = Path(__file__).parents[1] / "tools" / "python_speed.py"
_TICKS = os.sysconf("SC_CLK_TCK")
Figure = str | int | float

WITHOUT_IFMA = "~0x0:~0x200000"
"""``OPENSSL_ia32cap`` (OPENSSL_ia32cap(3)) without bit 21 of the extended features, AVX-512 IFMA: by it new
processors sign three times as fast as they do anything else. Others take no notice."""


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
    took, took_by_the_clock = time.process_time() - began, time.perf_counter() - began_at
    return {
        "S": _openssl_signatures(os.environ) or round(count / took),
        "S_plain": _openssl_signatures({**os.environ, "OPENSSL_ia32cap": WITHOUT_IFMA}),
        "rsa2048_signatures_per_cpu_second": round(count / took),
        "rsa2048_signatures_per_second": round(count / took_by_the_clock),
        "python_microseconds": _python_microseconds(),
        "load_average": round(os.getloadavg()[0], 1),
        "cores": len(os.sched_getaffinity(0)),
    }


def _python_microseconds() -> float:
    """How long this Python takes for a fixed piece of work: builds of one version differ by a third."""
    argv = [sys.executable, "-I", str(_PYTHON_SPEED)]
    return float(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout)


def _openssl_signatures(environment: Mapping[str, str]) -> float:
    """RSA-2048 signatures a second of one core, as ``openssl speed`` says; 0 where there is none."""
    try:
        argv = ["openssl", "speed", "-seconds", "2", "-mr", "rsa2048"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, env=environment)
    except (OSError, subprocess.SubprocessError):
        return 0.0
    # +F2:2:2048:4098.437500:62012.987013 - signatures a second, and checks.
    found = re.search(r"^\+F2:\d+:2048:([0-9.]+):", done.stdout, re.MULTILINE)
    return round(float(found[1]), 1) if found else 0.0


def memory(parts: Mapping[str, list[int]]) -> dict[str, Figure]:
    """Resident memory of the largest process of each part, in MiB."""
    return {f"{name}_largest_mib": max(map(_resident, pids), default=0.0) for name, pids in parts.items()}


def _resident(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), 1)


def median_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle by its rate, with the rates of all of them."""
    by_rate = sorted(lines, key=lambda line: line["per_second"])
    return by_rate[(len(by_rate) - 1) // 2] | {"runs": [line["per_second"] for line in lines]}


@dataclass
class Phase:
    """One measured stretch. ``count``: what is counted, each of one or several ``requests``."""

    count: int = 0
    requests: int = 0
    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)

    def __add__(self, other: Phase) -> Phase:
        cpu = {name: self.cpu.get(name, 0.0) + other.cpu.get(name, 0.0) for name in self.cpu | other.cpu}
        return Phase(
            self.count + other.count,
            self.requests + other.requests,
            self.seconds + other.seconds,
            cpu,
            [*self.took, *other.took],
        )

    def figures(self) -> dict[str, Figure]:
        """What a line of the output says: a rate, and milliseconds of CPU for each thing counted."""
        told: dict[str, Figure] = {
            "count": self.count,
            "requests": self.requests,
            "seconds": round(self.seconds, 2),
            "per_second": round(self.count / self.seconds, 1),
        }
        took = sorted(self.took)
        for percent in (50, 95, 99) if took else ():
            told[f"p{percent}_ms"] = round(1000 * took[(len(took) - 1) * percent // 100], 2)
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
