"""One parent for all processes of one machine: starts them, restarts what dies, ends them in order.

Each child has a session of its own, so that Ctrl-C of the terminal reaches the parent only, and so that what
a child leaves behind is found by its group. A child is told when the parent dies (``PR_SET_PDEATHSIG``).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG = 1
TICK = 0.1
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
CALM_AFTER = 5.0
"""Seconds: a child that ran so long starts again after the first pause, not after a longer one."""
SMALL = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    "_RJEM_MALLOC_CONF": "narenas:1,tcache:false",
}
"""Variables of the children, where nothing else is said. glibc has up to eight heaps for each core, shared
by threads, and a store of freed pieces for each thread, of up to 200 KiB; neither gives back what it once
held. That is for threads that run at the same time: Python's lock lets one at a time. Granian brings an
allocator of its own, jemalloc, that does the same once more, for each of its threads: the last one."""
SAME_REQUEST = 0.5
"""Seconds within which a second signal repeats the first one."""

_libc = ctypes.CDLL(None, use_errno=True)


class StartError(Exception):
    """Why the start ended, in words for the administrator."""


@dataclass(frozen=True)
class Part:
    """One process to keep running. ``grace``: seconds to end by itself after SIGTERM."""

    name: str
    argv: Sequence[str]
    grace: float
    environment: Mapping[str, str] = field(default_factory=dict)


def end_with_parent(parent: int, signal_number: int = signal.SIGTERM) -> None:
    """Let the kernel signal this process when its parent ``parent`` dies; end now if it is dead."""
    _libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


class Child:
    """A part and its process, with the back-off between restarts."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.deaths = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._pause = 0.0
        self._start_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process in a session of its own."""
        parent = os.getpid()
        self._process = subprocess.Popen(
            list(self.part.argv),
            stdin=subprocess.DEVNULL,
            env={**SMALL, **os.environ, **self.part.environment},
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(parent),  # noqa: PLW1509  # no threads run in the parent
        )
        self._started_at = time.monotonic()

    def tend(self) -> None:
        """Notice the end of the process, clear what it left, and start it again when its pause is over."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self.start()
            return
        if self._has_ended(self._process.pid):
            code = self._reap()
            self.deaths += 1
            calm = time.monotonic() - self._started_at > CALM_AFTER
            self._pause = FIRST_PAUSE if calm else min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            self._start_at = time.monotonic() + self._pause
            say(f"{self.part.name} ended with {_describe(code)}; starting it again in {self._pause:g} s")

    def ask_to_end(self) -> None:
        """SIGTERM to the process, never to its group: it ends its own children."""
        if self._process is not None:
            # Not Popen.terminate, which would reap a process that has ended already.
            os.kill(self._process.pid, signal.SIGTERM)

    def finish(self, impatient: Callable[[], bool]) -> None:
        """Wait for the end as long as grace and patience last, then kill; nothing of it is left."""
        if self._process is None:
            return
        deadline = time.monotonic() + self.part.grace
        while not self._has_ended(self._process.pid):
            if impatient() or time.monotonic() >= deadline:
                say(f"{self.part.name} did not end in time; killed")
                _kill_group(self._process.pid)
                break
            time.sleep(TICK / 2)
        self._reap()

    def _has_ended(self, pid: int) -> bool:
        # Not reaped yet: the id, and with it the group's, cannot belong to anybody else.
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _reap(self) -> int:
        process, self._process = self._process, None
        if process is None:
            raise RuntimeError("no process to reap")
        _kill_group(process.pid)
        return process.wait()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _describe(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def say(text: str) -> None:
    """One line of the supervisor on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Supervisor:
    """Keeps ``parts`` running until SIGTERM or SIGINT; ends them in the order in which they are given.

    ``ready`` is asked again and again until it says yes; then ``when_ready`` is called once.
    """

    DEATHS_BEFORE_READY = 4

    def __init__(
        self, parts: Sequence[Part], *, ready: Callable[[], bool], when_ready: Callable[[], None]
    ) -> None:
        self.children = [Child(part) for part in parts]
        self._ready = ready
        self._when_ready = when_ready
        self._ending = 0.0  # when the first signal came (monotonic); 0.0 before
        self._impatient = False

    def run(self) -> None:
        """Returns after a clean end. Raises :class:`StartError` when a part does not come up."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        is_ready = False
        try:
            while not self._ending:
                for child in self.children:
                    child.tend()
                    if not is_ready and child.deaths >= self.DEATHS_BEFORE_READY:
                        raise StartError(f"{child.part.name} does not start; its messages are above")
                if not is_ready and self._ready():
                    is_ready = True
                    self._when_ready()
                time.sleep(TICK)
        finally:
            self.end()

    def end(self) -> None:
        """End all parts, one after the other. A second signal ends the patience."""
        for child in self.children:
            child.ask_to_end()
            child.finish(impatient=lambda: self._impatient)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._ending:
            self._ending = time.monotonic()
            say(f"ending on {signal.Signals(number).name}")
        # The same request often arrives twice at once: to the process, and to its group.
        elif time.monotonic() - self._ending > SAME_REQUEST:
            self._impatient = True


@contextlib.contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file. Raises :class:`StartError` with ``refusal`` where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise StartError(f"{refusal} (process {holder or 'unknown'})") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)
