"""What a connect makes of the row in the outbox, written by hand: it runs each time that a command goes out.

The pieces are put into larger statements by :mod:`commands`, so they are given as text.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from database import prepared
from devices.models import Enrollment
from push.core import backoff
from push.models import PushCertificate, PushPace, PushRequest, PushState

TABLE = PushRequest._meta.db_table
_ENROLLMENT = Enrollment._meta.db_table

WORK_LEFT = f"""
    UPDATE {TABLE} SET state = 'DUE', lease_owner = NULL, lease_until = NULL,
           due_at = CASE WHEN attempts <= 1 THEN %s WHEN attempts <= 2 THEN %s
                         ELSE %s END
"""  # noqa: S608 - here and below only names of our own tables are put together
_FIRST, _SECOND, _LATER = (
    f"interval '{delay.total_seconds():.0f} seconds'" for delay in backoff.AFTER_CONNECT
)
_PAUSE = f"CASE WHEN attempts <= 1 THEN {_FIRST} WHEN attempts <= 2 THEN {_SECOND} ELSE {_LATER} END"
_MORE = WORK_LEFT + f" WHERE enrollment_id = %s AND state <> '{PushState.HELD}'"
_RESTS, _RESTS_AT_MOST = 0.75, backoff.spread(1.0)
"""A push that is due after so much of its pause, at least and at most, is as good as put off: nothing is
written. What was put off for longer, because the device did not come, is due sooner now that it is here."""
_MORE_UNLESS_IT_RESTS = f"""
    {_MORE} AND NOT (state = 'DUE' AND lease_owner IS NULL
                     AND due_at >= CASE WHEN attempts <= 1 THEN %s WHEN attempts <= 2 THEN %s ELSE %s END
                     AND due_at <= CASE WHEN attempts <= 1 THEN %s WHEN attempts <= 2 THEN %s ELSE %s END)
"""
_NOTHING = f"""
    UPDATE {TABLE} SET state = 'IDLE', lease_owner = NULL, lease_until = NULL
     WHERE enrollment_id = %s AND state <> 'IDLE'
"""  # noqa: S608

_CERTIFICATE = f"SELECT 1 FROM {PushCertificate._meta.db_table} WHERE topic = %s AND state = 'ACTIVE'"  # noqa: S608


def work_left_since(moment: str) -> str:
    """:data:`WORK_LEFT` for a device that connected at ``moment``, which is SQL. PostgreSQL only.

    One parameter: :func:`spread`.
    """
    return f"""
    UPDATE {TABLE} SET state = 'DUE', lease_owner = NULL, lease_until = NULL,
           due_at = {moment} + ({_PAUSE}) * %s
    """  # noqa: S608


def is_put_off_since(moment: str) -> str:
    """Which rows :func:`work_left_since` is about: not what is held, and not what rests anyway.

    Most devices connect because of a push, and the next one is due after the same pause.
    """
    return f"""
        {TABLE}.state <> 'HELD' AND NOT (
            {TABLE}.state = 'DUE' AND {TABLE}.lease_owner IS NULL
            AND {TABLE}.due_at >= {moment} + ({_PAUSE}) * {_RESTS}
            AND {TABLE}.due_at <= {moment} + ({_PAUSE}) * {_RESTS_AT_MOST})
    """


def settled_since(moment: str, more: str) -> str:
    """The same where ``more``, SQL too, is true; else nothing is left to do and no push is due."""
    return f"""
    UPDATE {TABLE} SET lease_owner = NULL, lease_until = NULL,
           state = CASE WHEN {more} THEN 'DUE' ELSE 'IDLE' END,
           due_at = CASE WHEN {more} THEN {moment} + ({_PAUSE}) * %s ELSE due_at END
    """  # noqa: S608


def spread(jitter: float) -> float:
    """What the pauses are stretched by, so that not all devices are pushed at once."""
    return backoff.spread(jitter)


_FREE = "state = 'DUE' AND due_at <= %s AND (lease_until IS NULL OR lease_until <= %s)"
_ANY_DUE = f"SELECT 1 FROM {TABLE} WHERE {_FREE} LIMIT 1"  # noqa: S608
_PACE = f"SELECT web_busy_until FROM {PushPace._meta.db_table} WHERE id = {PushPace.ONLY}"  # noqa: S608


def _lease(of_topics: str) -> str:
    """PostgreSQL only: what is due and free, leased, with what a push needs; by rising enrollment."""
    return f"""
    WITH due AS MATERIALIZED (
        SELECT enrollment_id FROM {TABLE} AS p
         WHERE {_FREE} {of_topics}
         ORDER BY due_at LIMIT %s FOR NO KEY UPDATE OF p SKIP LOCKED
    ), leased AS (
        UPDATE {TABLE} SET lease_owner = %s, lease_until = %s FROM due
         WHERE {TABLE}.enrollment_id = due.enrollment_id
        RETURNING {TABLE}.enrollment_id, attempts, last_sent_at
    )
    SELECT e.id, l.attempts, l.last_sent_at, e.state, e.topic, e.push_magic, e.push_token,
           e.token_updated_at, e.token_dead_at
      FROM leased AS l JOIN {_ENROLLMENT} AS e ON e.id = l.enrollment_id ORDER BY e.id
    """  # noqa: S608


_OF_TOPIC = f"AND EXISTS (SELECT FROM {_ENROLLMENT} WHERE id = p.enrollment_id AND topic {{}})"
_LEASE = _lease("")
_LEASE_OF_TOPIC = _lease(_OF_TOPIC.format("= %s"))
_LEASE_OF_OTHERS = _lease(
    _OF_TOPIC.format("NOT IN (SELECT json_array_elements_text(%s::json))")  # a JSON list
)


_SETTLED = {
    "enrollment_id": "bigint",
    "state": "varchar",
    "due_at": "timestamptz",
    "attempts": "integer",
    "last_result": "varchar",
    "last_sent_at": "timestamptz",
    "last_apns_id": "uuid",
}
_CHANGES = ", ".join(f"{name} = new.{name}" for name in list(_SETTLED)[1:])
_FROM_SQLITE = ", ".join(f"json_extract(value, '$[{n}]') AS {name}" for n, name in enumerate(_SETTLED))
_FROM_POSTGRESQL = ", ".join(
    f"(value->>{n})::{kind} AS {name}" for n, (name, kind) in enumerate(_SETTLED.items())
)
_SETTLE_ON_SQLITE = f"""
    UPDATE {TABLE} SET {_CHANGES}, lease_owner = NULL, lease_until = NULL
      FROM (SELECT {_FROM_SQLITE} FROM json_each(%s)) AS new
     WHERE {TABLE}.enrollment_id = new.enrollment_id AND {TABLE}.lease_owner = %s
"""  # noqa: S608
_SETTLE = f"""
    WITH new AS MATERIALIZED (
        SELECT {_FROM_POSTGRESQL} FROM json_array_elements(%s::json)
    ), ours AS MATERIALIZED (
        SELECT enrollment_id FROM {TABLE}
         WHERE enrollment_id IN (SELECT enrollment_id FROM new) AND lease_owner = %s
         ORDER BY enrollment_id FOR NO KEY UPDATE
    )
    UPDATE {TABLE} SET {_CHANGES}, lease_owner = NULL, lease_until = NULL
      FROM ours JOIN new USING (enrollment_id)
     WHERE {TABLE}.enrollment_id = ours.enrollment_id AND {TABLE}.lease_owner = %s
"""  # noqa: S608


def anything_due(now: datetime) -> bool:
    """Whether a push is due that nobody is sending: one look into the index of due rows."""
    at = prepared.instant(now)
    return prepared.row(_ANY_DUE, [at, at]) is not None


def web_busy_until(now: datetime) -> datetime | None:
    """Until when the web server is busy, if it is."""
    found = prepared.row(_PACE, [])
    until = found[0] and prepared.read_instant(found[0]) if found else None
    return until if until is not None and until > now else None


def lease(
    owner: uuid.UUID,
    now: datetime,
    until: datetime,
    limit: int,
    *,
    not_topics: Sequence[str] = (),
    topic: str | None = None,
) -> list[prepared.Row]:
    """PostgreSQL only: :func:`push.outbox.claim` in one statement; the fields of its rows in their order.

    Rows that another sender has locked are passed over. The enrollment is read as it was at the beginning:
    a token that changes in this moment makes the push due again, as one that changes a moment later does.
    """
    if topic is not None:
        return prepared.rows(_LEASE_OF_TOPIC, [now, now, topic, limit, owner, until])
    if not_topics:
        return prepared.rows(_LEASE_OF_OTHERS, [now, now, json.dumps(list(not_topics)), limit, owner, until])
    return prepared.rows(_LEASE, [now, now, limit, owner, until])


def settle(owner: uuid.UUID, changes: str) -> int:
    """Write what became of the rows that still bear the lease; returns how many they were.

    ``changes``: a JSON list of lists, each the values of the columns in :data:`_SETTLED`.
    """
    if prepared.on_postgresql():
        return prepared.changes(_SETTLE, [changes, owner, owner])
    return prepared.changes(_SETTLE_ON_SQLITE, [changes, prepared.key(owner)])


def pauses(now: datetime, jitter: float) -> list[Any]:
    """When the device is pushed again if it has work left: the three parameters of :data:`WORK_LEFT`."""
    return [prepared.instant(now + delay) for delay in backoff.after_connect(jitter)]


def can_wake(topic: str) -> bool:
    """Whether there is a push certificate in use for the topic, be it held or expired."""
    return prepared.row(_CERTIFICATE, [topic]) is not None


def work_left(enrollment_id: int, now: datetime, jitter: float) -> None:
    """The device has something to do: it is pushed later, if it does not come by itself."""
    prepared.changes(_MORE, [*pauses(now, jitter), enrollment_id])


def put_off(enrollment_id: int, now: datetime, jitter: float) -> None:
    """The same, unless it is as good as put off: by :func:`is_put_off_since`, on both databases."""
    least = [prepared.instant(now + _RESTS * delay) for delay in backoff.AFTER_CONNECT]
    most = [prepared.instant(now + _RESTS_AT_MOST * delay) for delay in backoff.AFTER_CONNECT]
    prepared.changes(_MORE_UNLESS_IT_RESTS, [*pauses(now, jitter), enrollment_id, *least, *most])


def nothing_left(enrollment_id: int) -> None:
    """The device is here and nothing is known to wait for it; a lease on its push ends."""
    prepared.changes(_NOTHING, [enrollment_id])
