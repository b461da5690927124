"""What a process remembers of the devices that came last: bounded, and of all its threads."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Latest(OrderedDict[K, V]):
    """The values that were put in last."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def put(self, key: K, value: V, *, at_most: int) -> None:
        """Remember it as the newest; what is older than ``at_most`` others is forgotten."""
        with self._lock:
            self[key] = value
            self.move_to_end(key)
            if len(self) > at_most:
                self.popitem(last=False)

    def take(self, key: K) -> V | None:
        """What is remembered under ``key``, once."""
        with self._lock:
            return self.pop(key, None)
