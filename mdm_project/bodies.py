"""Waiting for bodies: slow senders never hold all threads of a web process.

granian has no time limit for bodies, and a read that waits cannot be broken off: not by another thread, and
not by answering without it. So there are more threads than are needed, and a bound for those that wait for
bodies.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

THREADS = 256
"""Of one web process. They are made when they are needed, and granian ends those that were idle for half a
minute; waiting ones take little memory."""
SLOW_SENDERS = THREADS - 64
"""Threads that may wait for bodies at the same time. The others are for those who are here."""
LONG_BODIES = 64
"""Of those, threads with a body that may be long: up to 10 MiB each, before it is known who sends it."""


class TooMany(Exception):
    """As many bodies are on their way as may be."""


class Bodies:
    """The bodies that one process waits for."""

    def __init__(self, at_most: int = SLOW_SENDERS, long_at_most: int = LONG_BODIES) -> None:
        self._lock = threading.Lock()
        self._free, self._free_for_long = at_most, long_at_most

    @contextmanager
    def place(self, *, long: bool) -> Iterator[None]:
        """For as long as a body is on its way. Raises :class:`TooMany`, before anything of it is read."""
        with self._lock:
            if not self._free or (long and not self._free_for_long):
                raise TooMany("too many bodies are on their way")
            self._free -= 1
            self._free_for_long -= long
        try:
            yield
        finally:
            with self._lock:
                self._free += 1
                self._free_for_long += long
