"""Waking a worker: many commits within a moment are one message to the broker.

Publishing takes half a millisecond of CPU, and longer where the broker is away; taking the message costs a
worker several times that. So whoever has committed only rings. A thread of the process publishes: at once
after a quiet moment, and then at most once in :data:`REST` seconds. What rang meanwhile is one message, and
the worker finds all that is due by then in one look.

A message that is lost, with its process or with the broker, costs time and never work: the rows say what is
due, and the sweep finds them. A process that ends in order publishes what is still to be told.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.util import Finalize

from celery import current_app
from kombu.exceptions import OperationalError as BrokerUnreachable

logger = logging.getLogger(__name__)

TASK = "push.tasks.dispatch"
REST = 0.25
"""Seconds from one message to the next. A push takes longer to reach its device."""


class Bell:
    """Calls ``publish`` in a thread of its own soon after :meth:`ring`, and once for many of them."""

    def __init__(self, publish: Callable[[], None], rest: float = REST) -> None:
        self._publish, self._rest = publish, rest
        self._begin_anew()
        # A forked child has none of the threads, and what rang in its parent is told by its parent.
        os.register_at_fork(after_in_child=self._begin_anew)

    def _begin_anew(self) -> None:
        self._rung = threading.Event()
        self._turn = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def ring(self) -> None:
        """Ask for a message. Takes microseconds, whatever the broker does; to be called after the commit."""
        self._rung.set()
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def flush(self) -> None:
        """Publish now what is still to be told; when this returns, everything that rang before is told."""
        with self._turn:
            if self._rung.is_set():
                self._rung.clear()
                self._tell()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._keep_telling, name="waking", daemon=True)
                self._thread.start()
                # Unlike atexit it also runs where a process was forked by multiprocessing, as granian's are.
                Finalize(None, self.flush, exitpriority=10)

    def _keep_telling(self) -> None:
        while True:
            self._rung.wait()
            self.flush()
            time.sleep(self._rest)

    def _tell(self) -> None:
        try:
            self._publish()
        except BrokerUnreachable:
            logger.warning("the broker cannot be reached: pushes wait for the next sweep")
        except Exception:  # the thread has to go on, whatever one message met
            logger.exception("no worker could be woken: pushes wait for the next sweep")


def _publish() -> None:
    # By its name: with the module of the tasks comes the client for APNs, 3 MB that only a worker needs.
    current_app.send_task(TASK, retry=False)


_bell = Bell(_publish)


def ring() -> None:
    """Something is due, and committed: let a worker know soon."""
    _bell.ring()


def flush() -> None:
    """Let a worker know now, if one is still to be told."""
    _bell.flush()
