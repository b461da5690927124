"""What a connect makes of the row in the outbox, written by hand: it runs each time that a command goes out.

The pieces are put into larger statements by :mod:`commands`, so they are given as text.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from database import prepared
from push.core import backoff
from push.models import PushCertificate, PushRequest, PushState

TABLE = PushRequest._meta.db_table

WORK_LEFT = f"""
    UPDATE {TABLE} SET state = 'DUE', lease_owner = NULL, lease_until = NULL,
           due_at = CASE WHEN attempts <= 1 THEN %s WHEN attempts <= 2 THEN %s
                         ELSE %s END
"""  # noqa: S608 - here and below only names of our own tables are put together
_MORE = WORK_LEFT + f" WHERE enrollment_id = %s AND state <> '{PushState.HELD}'"
_NOTHING = f"""
    UPDATE {TABLE} SET state = 'IDLE', lease_owner = NULL, lease_until = NULL
     WHERE enrollment_id = %s AND state <> 'IDLE'
"""  # noqa: S608

_CERTIFICATE = f"SELECT 1 FROM {PushCertificate._meta.db_table} WHERE topic = %s AND state = 'ACTIVE'"  # noqa: S608


def pauses(now: datetime, jitter: float) -> list[Any]:
    """When the device is pushed again if it has work left: the three parameters of :data:`WORK_LEFT`."""
    return [prepared.instant(now + delay) for delay in backoff.after_connect(jitter)]


def can_wake(topic: str) -> bool:
    """Whether there is a push certificate in use for the topic, be it held or expired."""
    return prepared.row(_CERTIFICATE, [topic]) is not None


def work_left(enrollment_id: int, now: datetime, jitter: float) -> None:
    """The device has something to do: it is pushed later, if it does not come by itself."""
    prepared.changes(_MORE, [*pauses(now, jitter), enrollment_id])


def nothing_left(enrollment_id: int) -> None:
    """The device is here and nothing is known to wait for it; a lease on its push ends."""
    prepared.changes(_NOTHING, [enrollment_id])
