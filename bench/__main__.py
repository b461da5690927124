"""``make bench``: start the product on SQLite, then on PostgreSQL and Redis, and measure it.

JSON lines, and at the end a table of what is to be reached and what was (docs/performance.md).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
django.setup(set_prefix=False)

from bench import generators, load, plan, simulated, turns  # noqa: E402
from bench.filling import Filling  # noqa: E402
from bench.generators import Generators  # noqa: E402
from bench.measuring import calibration  # noqa: E402
from bench.soak import Soak  # noqa: E402
from bench.stand import STANDS, Stand  # noqa: E402
from bench.table import table  # noqa: E402
from simulator.exchange import SimulationError  # noqa: E402

COMMIT_SECONDS = 2.0


def main() -> None:
    options = _options()
    # Also one that is ended ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.against:
        turns.against(options.against, options.generators, options.only or turns.PHASES, options.turns)
        return
    lines: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="bramley-bench-") as text:
        folder = Path(text)
        load.devices(options.devices, folder / "keys")
        for name in options.on or (["postgres"] if options.soak else STANDS):
            with STANDS[name](folder / name) as stand:
                lines |= _measure(stand, name, options, folder)
    if not options.soak:
        print(table(lines), flush=True)


def _measure(stand: Stand, name: str, options: argparse.Namespace, folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of one stand by phase, printed as they come."""
    lines: dict[str, dict[str, Any]] = {}

    def tell(line: dict[str, Any]) -> None:
        lines[line["phase"]] = line
        print(json.dumps({"database": name, **line}), flush=True)

    if options.soak:
        Soak(stand, folder / "keys", options.rate, tell).run(options.soak, options.devices)
        return {}
    with_go = name == "postgres" and generators.found(options.generators)
    tell({"phase": "calibration", **calibration()})
    try:
        if not with_go or options.simulated:
            size = simulated.Size(options.devices, 20, 2, 8)
            simulated.measure(stand, size, folder / "keys", tell)
        if with_go:
            _with_generators(stand, options, folder, tell)
    except (SimulationError, SystemExit):
        print(stand.server.output[-5000:], file=sys.stderr)
        raise
    return lines


def _with_generators(stand: Stand, options: argparse.Namespace, folder: Path, tell: plan.Tell) -> None:
    size = plan.LARGE if options.large else plan.TINY if options.tiny else plan.DEFAULT
    with closing(Filling(stand.database_url)) as filling:
        tell({"phase": "commits", "per_second": filling.commits_per_second(COMMIT_SECONDS)})
        made = Generators(options.generators, folder)
        plan.Plan(stand, made, filling, size, tell).run(options.only or plan.PHASES)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--on", choices=STANDS, action="append", help="default: both")
    parser.add_argument("--only", choices=plan.PHASES, action="append", help="of those with the generators")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--large", action="store_true", help="1,000,000 issued, enrolment among 100,000")
    sizes.add_argument("--tiny", action="store_true", help="one run of little: only to see that it works")
    sizes.add_argument("--soak", type=float, metavar="MINUTES", help="paced load; memory of each process")
    sizes.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help=f"another tree (make check made its .venv), in turns with this one: {', '.join(turns.PHASES)}",
    )
    parser.add_argument("--turns", type=int, default=9, help="of each phase with --against (default: 9)")
    parser.add_argument("--rate", type=int, default=150, help="requests a second with --soak (default: 150)")
    parser.add_argument("--devices", type=int, default=60, help="of the simulator (default: 60)")
    parser.add_argument("--simulated", action="store_true", help="the simulator beside the generators too")
    parser.add_argument(
        "--generators",
        type=Path,
        default=generators.BESIDE_US,
        help="folder with the sources of mdmload and scepload (Go); without it the simulator is used",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
