"""Where the pushes of the measured server go: a stand-in for APNs in Go, or the tests' where Go is missing.

The Python one takes more CPU than the worker that is measured; its pushes are no measure of anything.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bench.generators import go_program
from tests.support.apns import ApnsStandIn, Authority
from tests.support.processes import wait_until

SOURCE = Path(__file__).parent / "apns"
DELAY = "50ms"
"""From a push to its answer."""


class PushDoor(Protocol):
    """What of a stand-in for APNs is used here."""

    authority: Authority

    @property
    def url(self) -> str: ...
    @property
    def ca_file(self) -> str: ...
    @property
    def count(self) -> int:
        """How many pushes came so far."""


class PythonDoor(ApnsStandIn):
    """The stand-in of the tests."""

    @property
    def count(self) -> int:
        return len(self.pushes)


class GoDoor:
    """``bench/apns``, built and started on a free port of the loopback address; ends with the block."""

    def __init__(self, go: str) -> None:
        self._go = go
        self.authority = Authority()
        self._folder = tempfile.TemporaryDirectory(prefix="bramley-apns-")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        (folder / "ca.pem").write_bytes(self.authority.pem)
        (folder / "server.pem").write_bytes(b"".join(self.authority.server_certificate()))
        program = folder / "apns"
        subprocess.run([self._go, "build", "-o", str(program), "."], cwd=SOURCE, check=True)
        self._process = subprocess.Popen(
            [str(program), "-folder", str(folder), "-delay", DELAY],
            # It stands in for machines that are not ours: of ours it shall take as little as it can.
            env=os.environ | {"GOGC": "800"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = f"https://127.0.0.1:{self._answer()}"
        self.ca_file = str(folder / "ca.pem")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=10)  # closes its standard input
        self._folder.cleanup()

    @property
    def count(self) -> int:
        with self._lock:
            assert self._process.stdin is not None  # noqa: S101 - a pipe
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the stand-in for APNs ended")
        return int(line)


def push_door() -> GoDoor | PythonDoor:
    """A stand-in to be used as a context."""
    go = go_program()
    return GoDoor(go) if go else PythonDoor()


def wait_for_pushes(door: PushDoor, count: int, seconds: float) -> None:
    """Until so many pushes have come since the stand-in started."""
    wait_until(f"{count} pushes have come", lambda: door.count >= count, seconds=seconds, pause=0.02)
