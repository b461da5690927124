"""This tree and another one in turns, on one machine at one time: which is faster, and by how much.

Two figures of a shared machine that are minutes apart differ by a quarter for no reason of ours. Here the two
runs of a pair are seconds apart, in changing order, and what counts is their quotient.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from bench import generators, plan
from bench.filling import Filling
from bench.generators import Generators, Line
from bench.plan import Plan
from bench.stand import on_postgres
from tests.support.server import ROOT

PHASES = ("scep", "enrol", "idle", "command")
SIZE = replace(plan.DEFAULT, runs=1, issued=(), idle_rounds=4)
FIGURES = ("per_second", "web_cpu_ms", "database_cpu_ms")
SEED = "i"

Run = Callable[[str, int], Line]
"""One run of a phase by one tree; the number of the turn says which devices are new."""


def against(other: Path, source: Path, phases: Collection[str], turns: int) -> None:
    """Start both trees, each with a PostgreSQL and a Redis of its own, and print a line for each phase.

    ``source``: of the load generators in Go. Raises :class:`SystemExit` where one of all this is missing.
    """
    if not generators.found(source):
        raise SystemExit(f"no Go, or no source of the load generators in {source}")
    if not (other / ".venv").is_dir():
        raise SystemExit(f"no .venv in {other}: run make check there")
    chosen = [phase for phase in PHASES if phase in phases]
    if not chosen:
        raise SystemExit(f"nothing to run: of these there are turns, {', '.join(PHASES)}")
    with tempfile.TemporaryDirectory(prefix="bramley-turns-") as text, ExitStack() as stack:
        folder = Path(text)
        runs: list[Run] = []
        for name, root in (("this", ROOT), ("other", other.resolve())):
            stand = stack.enter_context(on_postgres(folder / name, root))
            filling = stack.enter_context(closing(Filling(stand.database_url)))
            told: list[Line] = []
            # One folder: the devices and their keys are the same for both.
            made = Plan(stand, Generators(source, folder), filling, SIZE, told.append)
            _begin(made, chosen)
            runs.append(_Tree(made, told).run)
        for line in in_turns(runs[0], runs[1], chosen, turns):
            print(json.dumps(line), flush=True)


def in_turns(this: Run, other: Run, phases: Sequence[str], turns: int) -> list[Line]:
    """A line for each phase. The first turn of all warms both up, and is left out."""
    pairs: Mapping[str, list[tuple[Line, Line]]] = {phase: [] for phase in phases}
    for turn in range(1 + turns):
        for phase in phases:
            if turn % 2:
                ours, theirs = this(phase, turn), other(phase, turn)
            else:
                theirs, ours = other(phase, turn), this(phase, turn)
            if turn:
                pairs[phase].append((ours, theirs))
    return [compared(phase, pairs[phase]) for phase in phases]


def compared(phase: str, pairs: Sequence[tuple[Line, Line]]) -> Line:
    """Medians of both, and of the quotients (this by the other) with their quartiles."""
    line: Line = {"phase": phase, "turns": len(pairs)}
    for figure in FIGURES:
        line[figure] = round(statistics.median(ours[figure] for ours, _theirs in pairs), 3)
        line[f"other_{figure}"] = round(statistics.median(theirs[figure] for _ours, theirs in pairs), 3)
        quotients = sorted(ours[figure] / theirs[figure] for ours, theirs in pairs if theirs[figure])
        if len(quotients) > 1:
            quartiles = statistics.quantiles(quotients, n=4, method="inclusive")
            line[f"{figure}_of_other"] = [round(quotient, 3) for quotient in quartiles]
    return line


def _begin(made: Plan, phases: Sequence[str]) -> None:
    made.begin()
    if "scep" in phases:
        made.issuer()
    if {"idle", "command"} & set(phases):
        made.devices(SEED, SIZE.devices)


@dataclass
class _Tree:
    made: Plan
    told: list[Line]

    def run(self, phase: str, turn: int) -> Line:
        self.told.clear()
        match phase:
            case "scep":
                self.made.scep_runs(phase, 1)
            case "enrol":
                self.made.enrol_runs(phase, [f"t{turn}"])
            case "idle":
                self.made.idle(phase, SEED, SIZE.devices, 8)
            case "command":
                self.made.command(SEED)
        (line,) = self.told
        return line
