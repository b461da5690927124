"""Processes that push when they are told (:mod:`bench.pusher`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.support.server import ROOT


class Pusher:
    """One such process, ready when this returns."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.pusher"],
            cwd=ROOT,
            env={**environment, "BRAMLEY_LOG_LEVEL": "WARNING"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    @property
    def pid(self) -> int:
        return self._process.pid

    def push(self, order: str = "") -> float:
        """Send what is due; returns the seconds that took."""
        self.begin(order)
        return self.wait()

    def begin(self, order: str = "") -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def wait(self) -> float:
        return float(self._line())

    def end(self) -> None:
        self._process.communicate(timeout=60)  # closes its standard input

    def _line(self) -> str:
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a process that was to push has ended")
        return line


@contextmanager
def pushers(environment: Mapping[str, str], count: int) -> Iterator[list[Pusher]]:
    """So many of them, until the block ends."""
    made = [Pusher(environment) for _ in range(count)]
    try:
        yield made
    finally:
        for one in made:
            one.end()
