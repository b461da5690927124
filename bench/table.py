"""What is to be reached, beside what was: the table at the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]
"""The line of each phase by its name."""


@dataclass(frozen=True)
class Target:
    """One row. ``reached`` reads the lines; ``least`` in the unit that ``unit`` says."""

    name: str
    least: float
    unit: str
    reached: Callable[[Figures], float]
    more_is_better: bool = True

    @property
    def is_share(self) -> bool:
        """Whether it is a share of the yardstick, so that it matters which one."""
        return self.unit == "S"


def _rate(phase: str) -> Callable[[Figures], float]:
    return lambda lines: float(lines[phase]["per_second"])


def _share(phase: str) -> Callable[[Figures], float]:
    return lambda lines: float(lines[phase]["per_second"]) / float(lines["calibration"]["S"])


def _ratio(phase: str, of: str) -> Callable[[Figures], float]:
    return lambda lines: float(lines[phase]["per_second"]) / float(lines[of]["per_second"])


def _largest_mb(part: str) -> Callable[[Figures], float]:
    return lambda lines: float(lines["memory"][f"{part}_largest_mib"]) * 2**20 / 1e6


def _figure(phase: str, name: str) -> Callable[[Figures], float]:
    return lambda lines: float(lines[phase][name])


TARGETS = (
    Target("SCEP enrolments/s, RSA-2048 issuer, 4 clients", 0.5, "S", _share("scep")),
    Target("… with 50,000 issued", 0.95, "of empty", _ratio("scep-50000", "scep")),
    Target("… with 100,000 issued", 0.95, "of empty", _ratio("scep-100000", "scep")),
    Target("… with 1,000,000 issued", 0.95, "of empty", _ratio("scep-1000000", "scep")),
    Target("connects/s, idle, Mdm-Signature, 8 clients", 1.1, "S", _share("idle")),
    Target("… CPU of web for each", 0.7, "ms", _figure("idle", "web_cpu_ms"), more_is_better=False),
    Target("… CPU of database for each", 0.3, "ms", _figure("idle", "database_cpu_ms"), more_is_better=False),
    Target("… 32 clients", 1.0, "of 8 clients", _ratio("idle-32", "idle")),
    Target("command round trips/s, 8 clients", 0.48, "S", _share("command")),
    Target("enrolments/s (Authenticate, TokenUpdate), 8 clients", 0.37, "S", _share("enrol")),
    Target("… with 100,000 enrolled, a command for each", 0.9, "of empty", _ratio("enrol-100000", "enrol")),
    Target("connects/s, finished commands behind each", 0.95, "of none", _ratio("history", "history-none")),
    Target("enqueue to 100,000, one call", 50_000, "a second", _rate("enqueue")),
    Target("pushes, one worker, APNs answering after 50 ms", 2000, "a second", _rate("push")),
    Target("… two workers", 1.6, "of one", _ratio("push-2", "push")),
    Target("… the first after a quiet hour", 200, "ms", _figure("push-quiet", "ms"), more_is_better=False),
    Target("memory of a web process", 150, "MB", _largest_mb("web"), more_is_better=False),
    Target("memory of a worker", 200, "MB", _largest_mb("worker"), more_is_better=False),
)


def table(lines: Figures) -> str:
    """The targets in Markdown. What was not measured in this run says so.

    Shares of S stand beside the same shares of S_plain, where that was measured.
    """
    rows = ["| | to reach | reached | of the target |", "|---|---|---|---|"]
    for target in TARGETS:
        to_reach = f"{'at least' if target.more_is_better else 'at most'} {target.least:g} {target.unit}"
        rows.append(f"| {target.name} | {to_reach} | {' | '.join(_reached(target, lines))} |")
    return "\n".join([*rows, "", *_yardsticks(lines)])


def _reached(target: Target, lines: Figures) -> tuple[str, str]:
    try:
        reached = target.reached(lines)
    except (KeyError, ZeroDivisionError):
        return "not measured", "–"
    share = reached / target.least if target.more_is_better else target.least / max(reached, 0.001)
    told, of_target = f"{reached:.4g} {target.unit}", f"{share:.0%}"
    if target.is_share and (factor := _plain_factor(lines)):
        return f"{told}, {reached * factor:.4g} S_plain", f"{of_target}, of S_plain {share * factor:.0%}"
    return told, of_target


def _plain_factor(lines: Figures) -> float:
    """How many S_plain make one S; 0 where it was not measured."""
    calibration = lines.get("calibration", {})
    plain = float(calibration.get("S_plain", 0.0))
    return float(calibration["S"]) / plain if plain else 0.0


def _yardsticks(lines: Figures) -> list[str]:
    if not _plain_factor(lines):
        return []
    calibration = lines["calibration"]
    return [
        f"S: {calibration['S']:g} RSA-2048 signatures a second, openssl on one core of this machine.",
        f"S_plain: {calibration['S_plain']:g}, the same without AVX-512 IFMA, as most processors sign.",
    ]
