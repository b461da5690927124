"""Answers that are awaited: to commands that this very process has handed out a moment ago.

For such an answer nobody is looked up again. What cannot change was kept, and what can is compared by the
statement that takes the answer (:func:`mdm.statements.still_speaks`). Whoever is not known here, because
another process handed the command out, or it was too long ago, goes the usual way.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from commands.statements import Candidate
from devices.models import Enrollment

AT_MOST = 1024
"""Devices. Few answer later than a thousand others have got a command."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A command that is with a device, by its device channel.

    ``owner``: its enrollment, with its device, as they were read. ``not_after``: of its certificate.
    ``first``: the command, as the database has it.
    """

    owner: Enrollment
    not_after: datetime
    first: Candidate


_awaited: OrderedDict[str, Awaited] = OrderedDict()
_lock = Lock()


def remember(sha256: str, awaited: Awaited) -> None:
    """``sha256``: the fingerprint of the certificate that the device proved to have."""
    with _lock:
        _awaited[sha256] = awaited
        _awaited.move_to_end(sha256)
        if len(_awaited) > AT_MOST:
            _awaited.popitem(last=False)


def take(sha256: str) -> Awaited | None:
    """What is awaited of this certificate, once."""
    with _lock:
        return _awaited.pop(sha256, None)


def forget() -> None:
    """Await nothing, as another process does. For tests."""
    with _lock:
        _awaited.clear()
