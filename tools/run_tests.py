"""Run the suite: ``run-tests sqlite postgres [-- pytest's arguments]``. Ends with pytest's closing line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.services import Missing, Postgres, Redis  # noqa: E402

NO_SECOND_RUN = "not clients and not browser and not once"


def pytest(heading: str, arguments: list[str], environment: dict[str, str]) -> int:
    """One run of the suite; returns pytest's exit code."""
    print(f"== {heading}", flush=True)
    inherited = {
        name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}
    }
    # In the order of files: else those of few tests, which are the long ones, would be left for the end.
    spread = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    argv = [sys.executable, "-m", "pytest", "-q", *spread, *arguments]
    return subprocess.run(argv, cwd=ROOT, env=inherited | environment, check=False).returncode


def on_sqlite(extra: list[str]) -> int:
    return pytest("SQLite and the embedded broker", extra, {})


def on_postgres(extra: list[str]) -> int:
    """On a PostgreSQL and a Redis that are started here and ended afterwards."""
    with Postgres() as postgres, Redis() as redis:
        services = {"DATABASE_URL": postgres.create_database("bramley"), "REDIS_URL": redis.url}
        return pytest("PostgreSQL and Redis", ["-m", NO_SECOND_RUN, *extra], services)


RUNS = {"sqlite": on_sqlite, "postgres": on_postgres}


def main(arguments: list[str]) -> int:
    names, extra = arguments, []
    if "--" in arguments:
        at = arguments.index("--")
        names, extra = arguments[:at], arguments[at + 1 :]
    for name in names:
        try:
            code = RUNS[name](extra)
        except Missing as reason:
            print(f"== {name} not run: {reason}", flush=True)
            code = 1 if os.environ.get("CI") else 0
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
