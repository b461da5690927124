"""Which of the web processes beside this one could take a request at once.

They accept from one socket, and a connection stays with whoever took it: of eight that a proxy keeps open,
one process may have six and another two. Then the first makes requests wait while the second has nothing to
do. So each process writes here how many turns it has free. Who makes a request wait, and sees that another
could have taken it, closes the connection after its answer, and the client comes back to whoever is quicker.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import struct
from pathlib import Path

logger = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")  # noqa: S108 - a file there is opened only where it is ours
"""Not on a disk: a store into a page that is being written back would wait for it, and so would requests."""
SLOTS = 64
"""Processes that can say something. Further ones only listen."""

_SLOT = struct.Struct("=II")  # the parent's process id, and the free turns


def beside(home: Path, parent: int) -> Neighbours | None:
    """The table of the children of ``parent``, which serve ``home``; ``None`` where there can be none."""
    try:
        return Neighbours(_place(home), parent)
    except OSError as error:
        logger.warning("Web processes know nothing of each other; some may be busier than others: %s", error)
        return None


def forget(home: Path) -> None:
    """Remove the table of ``home``, when its web processes have ended."""
    _place(home).unlink(missing_ok=True)


def _place(home: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(home)).hexdigest()
    return MEMORY / f"bramley-{os.getuid()}-{digest[:16]}.turns"


class Neighbours:
    """A small table in memory that the children of one parent share, by a file.

    A slot belongs to whoever holds the lock of its bytes, which ends with the process, however that ends.
    What the dead have left there is cleared by the next that begins: a parent replaces them within seconds.
    Raises :class:`OSError` where the file cannot be had.
    """

    def __init__(self, path: Path, parent: int) -> None:
        self._parent = parent
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if os.fstat(self._file).st_uid != os.getuid():
            os.close(self._file)
            raise PermissionError(f"{path} belongs to somebody else")
        os.posix_fallocate(self._file, 0, SLOTS * _SLOT.size)
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
                continue  # somebody lives there, or there are no locks to be had
            _SLOT.pack_into(self._table, at, 0, 0)
            if mine is None:
                mine = slot
            else:
                fcntl.lockf(self._file, fcntl.LOCK_UN, _SLOT.size, at)
        return mine
