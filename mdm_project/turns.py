"""Who may run: a few requests at once, a waiting room with a measure, and a word to those who find it full.

The threads of a web process wait here for their turn. Beyond them the web server keeps requests that have no
thread yet; how long those wait shows in how long the threads do. As long as turns come quickly, everybody
waits: the burst of ten thousand devices after an outage is served one after the other. When they come slowly,
who finds the room full is sent away at once with a time to come back, which costs next to nothing: so the
server goes on serving those who wait, instead of answering clients that have long given up.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

AT_ONCE = 2
"""Requests that run at once in one process. More would only take the interpreter's lock from each other."""
ROOM = 44
"""Requests that wait for a turn. The web server has more threads: the rest send away whom it cannot hold."""
TOO_LONG = 0.25
"""Seconds: a full room in which the last one waited longer takes nobody in."""
LONGEST_WAIT = 10.0
"""Seconds after which one who waits is sent away: something is wrong below, the database for instance."""
PATIENT = 4
"""How many may wait however full the room is. They are strangers too: more would fill the room with them."""


class Turns:
    """A semaphore that is fair, and that knows how long its waiters wait.

    ``release`` and ``acquire`` are for a request that has been admitted, and waits for somebody else.
    ``tell`` hears how many turns are free whenever that changes.
    """

    def __init__(
        self,
        at_once: int,
        *,
        room: int = ROOM,
        too_long: float = TOO_LONG,
        longest_wait: float = LONGEST_WAIT,
        tell: Callable[[int], None] = lambda _free: None,
    ) -> None:
        self._lock = threading.Lock()
        self._free = at_once
        self._tell = tell
        tell(at_once)
        self._queue: deque[threading.Lock] = deque()
        self._room, self._too_long, self._longest_wait = room, too_long, longest_wait
        self._last_wait = 0.0
        self._patient = 0

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._queue)

    def admit(self, *, always: bool = False) -> float | None:
        """A turn for a new request: the seconds that it waited, or ``None`` if it is sent away.

        ``always``: this one waits, however full the room is and however long it takes, unless
        :data:`PATIENT` others do.
        """
        with self._lock:
            if self._free and not self._queue:
                self._change(-1)
                self._last_wait = 0.0
                return 0.0
            always = always and self._patient < PATIENT
            if not always and len(self._queue) >= self._room and self._last_wait > self._too_long:
                return None
            ticket = self._ticket()
            self._queue.append(ticket)
            self._patient += always
        began = time.monotonic()
        came = self._wait(ticket, -1 if always else self._longest_wait)
        with self._lock:
            self._patient -= always
        if not came:
            self._last_wait = self._longest_wait
            return None
        self._last_wait = waited = time.monotonic() - began
        return waited

    def acquire(self) -> None:
        """The turn back, before those who have not begun."""
        with self._lock:
            if self._free:
                self._change(-1)
                return
            ticket = self._ticket()
            self._queue.appendleft(ticket)
        ticket.acquire()

    def release(self) -> None:
        """Give the turn to whoever waits longest."""
        with self._lock:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._change(+1)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _change(self, by: int) -> None:
        self._free += by
        self._tell(self._free)

    @staticmethod
    def _ticket() -> threading.Lock:
        ticket = threading.Lock()
        ticket.acquire()
        return ticket

    def _wait(self, ticket: threading.Lock, seconds: float) -> bool:
        if ticket.acquire(timeout=seconds):
            return True
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
                return False
        return True  # it was called in this very moment
