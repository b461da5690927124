"""Which of the web processes beside this one could take a request at once.

They accept from one socket, and a connection stays with whoever took it: of eight that a proxy keeps open,
one process may have six and another two. Then the first makes requests wait while the second has nothing to
do. So each process writes here how many turns it has free. Who makes a request wait, and sees that another
could have taken it, closes the connection after its answer, and the client comes back to whoever is quicker.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

SLOTS = 64
"""Processes that can say something. Further ones only listen."""

_SLOT = struct.Struct("=II")  # the parent's process id, and the free turns


class Neighbours:
    """A small table in memory that the children of one parent share, by a file.

    A slot belongs to whoever holds the lock of its bytes, which ends with the process, however that ends.
    What the dead have left there is cleared by the next that begins: a parent replaces them at once.
    """

    def __init__(self, path: Path, parent: int) -> None:
        self._parent = parent
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SLOTS * _SLOT.size)
        self._table = mmap.mmap(self._file, SLOTS * _SLOT.size)
        self._mine = self._claim()

    def tell(self, free: int) -> None:
        """How many turns this process has free now."""
        if self._mine is not None:
            _SLOT.pack_into(self._table, self._mine * _SLOT.size, self._parent, free)

    def have_time(self) -> bool:
        """Whether another child of the same parent has a turn free."""
        return any(
            free and parent == self._parent and slot != self._mine
            for slot, (parent, free) in enumerate(_SLOT.iter_unpack(self._table[:]))
        )

    def close(self) -> None:
        """Give the slot away."""
        self.tell(0)
        self._table.close()
        os.close(self._file)

    def _claim(self) -> int | None:
        mine = None
        for slot in range(SLOTS):
            at = slot * _SLOT.size
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SLOT.size, at)
            except OSError:
                continue  # somebody lives there
            _SLOT.pack_into(self._table, at, 0, 0)
            if mine is None:
                mine = slot
            else:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _SLOT.size, at)
        return mine
