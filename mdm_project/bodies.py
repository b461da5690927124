"""Waiting for bodies: slow senders never hold all threads of a web process.

granian has no time limit for bodies, and a read that waits cannot be broken off: not by another thread, and
not by answering without it. So there are more threads than are needed, and a bound for those that wait for
bodies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

THREADS = 256
"""Of one web process. They are made when they are needed, and granian ends those that were idle for half a
minute; waiting ones take little memory."""
SLOW_SENDERS = THREADS - 64
"""Threads that may wait for bodies at the same time. The others are for those who are here."""

Read = Callable[[int], bytes]


class TooMany(OSError):
    """As many bodies are on their way as may be."""


class Bodies:
    """The bodies that one process waits for."""

    def __init__(self, at_most: int = SLOW_SENDERS) -> None:
        self._lock = threading.Lock()
        self._free = at_most

    def read(self, read: Read, size: int) -> bytes:
        """What ``read(size)`` gives. Raises :class:`TooMany`, without reading, and whatever it raises."""
        with self._lock:
            if not self._free:
                raise TooMany("too many bodies are on their way")
            self._free -= 1
        try:
            return read(size)
        finally:
            with self._lock:
                self._free += 1
