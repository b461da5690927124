"""Answers that are awaited: to commands that this very process has handed out a moment ago.

For such an answer nobody is looked up again. What cannot change was kept, and what can is compared by the
statement that takes the answer (:func:`mdm.statements.still_speaks`).

Where another process handed the command out, one statement finds who answers and takes the answer. For that a
message is read before it is known whether its certificate is trusted, which is not done for strangers: so the
certificates of devices are remembered that were here before. Whoever is not known goes the usual way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from commands.statements import Candidate
from devices.models import Enrollment
from mdm.latest import Latest

AT_MOST = 256
"""Devices, some kilobytes for each. Who answers later is found by a statement, which costs little more."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A command that is with a device, by its device channel.

    ``owner``: its enrollment, with its device, as they were read. ``not_after``: of its certificate.
    ``first``: the command, as the database has it.
    """

    owner: Enrollment
    not_after: datetime
    first: Candidate


KNOWN_AT_MOST = 4096
"""Certificates; a hundred bytes for each."""

_known: Latest[int, None] = Latest()  # by the hash of the fingerprint: it decides nothing
_awaited: Latest[str, Awaited] = Latest()


def remember(sha256: str, awaited: Awaited) -> None:
    """``sha256``: the fingerprint of the certificate that the device proved to have."""
    _awaited.put(sha256, awaited, at_most=AT_MOST)


def take(sha256: str) -> Awaited | None:
    """What is awaited of this certificate, once."""
    return _awaited.take(sha256)


def note(sha256: str) -> None:
    """The certificate speaks for a device."""
    _known.put(hash(sha256), None, at_most=KNOWN_AT_MOST)


def disown(sha256: str) -> None:
    """It was not found to: until :func:`note` is told so again, its messages are not read early."""
    _known.take(hash(sha256))


def is_known(sha256: str) -> bool:
    """Whether it did lately."""
    return hash(sha256) in _known


def forget() -> None:
    """Await nothing, as another process does. For tests."""
    _awaited.clear()
    _known.clear()
