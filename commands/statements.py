"""The statements of the hot path, written by hand: building them costs more than running them.

They run for every connect. Their states are literals, so that both databases use the partial index of
outstanding deliveries; the values are parameters. What is chosen for a change is locked by its enrollment
(PostgreSQL; SQLite lets one transaction write at a time), and every change compares and sets.

On PostgreSQL the usual connects change all that they change in one statement (:func:`send_at_once`,
:func:`answer_at_once`), which is a transaction of its own. Whatever is unusual changes nothing there, and
goes the long way of :mod:`commands.handing_out`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction

from commands.core.delivery import Outstanding, State
from commands.models import Command, CommandDelivery, CommandResult
from database import prepared
from devices.models import Enrollment
from push import statements as push

NOT_NOW_RESTS = timedelta(seconds=60)
"""After a NotNow: for so long the command is not offered again but to a device that is Idle."""

_DELIVERY = CommandDelivery._meta.db_table
_COMMAND = Command._meta.db_table
_ENROLLMENT = Enrollment._meta.db_table
_RESULT = CommandResult._meta.db_table
_MINE = "d.enrollment_id = %s AND d.epoch = %s"
_OUTSTANDING = "d.state IN ('QUEUED', 'SENT', 'NOT_NOW')"
_TIME_HAS_COME = "(c.not_before IS NULL OR c.not_before <= %s)"
_WAITING = f"{_MINE} AND {_OUTSTANDING} AND {_TIME_HAS_COME}"
_LOCK = " FOR NO KEY UPDATE OF e"

CANDIDATE_COLUMNS = """
    d.id, d.state, d.sent_count, c.uuid, c.request_type, c.at_most_once, c.cancelled_at IS NOT NULL,
    c.expires_at IS NOT NULL AND c.expires_at <= %s,
    CASE WHEN d.state <> 'SENT' THEN c.payload_sealed END, c.filled_by
"""
"""What :func:`candidate` reads, of a delivery ``d`` and its command ``c``; one parameter, the time.

The content of what is with the device already is not fetched: mostly it is about to be answered.
"""
FIRST_OF_QUEUE = f"""
      FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
     WHERE d.enrollment_id = e.id AND d.epoch = e.epoch AND {_OUTSTANDING} AND {_TIME_HAS_COME}
     ORDER BY d.id LIMIT 1
"""
"""From where: the oldest delivery of the enrollment ``e`` that may go out now; one parameter, the time."""

_ANY = f"""
    SELECT 1 FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
     WHERE {_WAITING} AND (c.expires_at IS NULL OR c.expires_at > %s)
     LIMIT 1
"""  # noqa: S608
_OLDEST = f"""
    SELECT d.id, d.state, d.sent_count, c.uuid, c.request_type, c.at_most_once, c.cancelled_at IS NOT NULL,
           c.expires_at IS NOT NULL AND c.expires_at <= %s, c.payload_sealed, c.filled_by
      FROM {_DELIVERY} d
      JOIN {_COMMAND} c ON c.id = d.command_id
      JOIN {_ENROLLMENT} e ON e.id = d.enrollment_id
     WHERE {_WAITING}
"""  # noqa: S608
_FRESH = "(d.state = 'QUEUED' OR (d.state = 'NOT_NOW' AND d.not_now_at <= %s))"
_ONLY = " AND c.uuid = %s"
_FIRST = " ORDER BY d.id LIMIT 1"
_SEND = f"""
    UPDATE {_DELIVERY} SET state = 'SENT', sent_count = sent_count + 1, sent_at = %s
     WHERE id = %s AND state = %s AND sent_count = %s
"""  # noqa: S608
_FIND = f"""
    SELECT d.id, d.command_id, d.state, c.uuid, c.request_type, c.at_most_once, c.source, c.filled_by
      FROM {_DELIVERY} d
      JOIN {_COMMAND} c ON c.id = d.command_id
      JOIN {_ENROLLMENT} e ON e.id = d.enrollment_id
     WHERE {_MINE} AND c.uuid = %s
"""  # noqa: S608
_FIND_WITH_DEVICE = f"""
    WITH w AS MATERIALIZED (
        SELECT d.id, d.command_id, d.enrollment_id, d.state FROM {_DELIVERY} d
         WHERE {_MINE} AND {_OUTSTANDING})
    SELECT w.id, w.command_id, w.state, c.uuid, c.request_type, c.at_most_once, c.source, c.filled_by
      FROM w JOIN {_COMMAND} c ON c.id = w.command_id
      JOIN {_ENROLLMENT} e ON e.id = w.enrollment_id
     WHERE c.uuid = %s
"""  # noqa: S608
_NOT_NOW = f"""
    UPDATE {_DELIVERY} SET state = 'NOT_NOW', not_now_count = not_now_count + 1, not_now_at = %s
     WHERE id = %s AND state = %s
"""  # noqa: S608
_FINISH = f"""
    UPDATE {_DELIVERY} SET state = %s, reason = '', completed_at = %s WHERE id = %s AND state = %s
"""  # noqa: S608
_ANSWER = f"""
    INSERT INTO {_RESULT} (delivery_id, uuid, status, report_sealed, error_chain, received_at)
    VALUES (%s, %s, %s, %s, %s, %s)
"""  # noqa: S608

# All of it under the lock of the enrollment, as everything else that changes its deliveries and its push.
_LOCKED = f"""
    SELECT id FROM {_ENROLLMENT} WHERE id = %s AND epoch = %s AND state = 'ENROLLED' FOR NO KEY UPDATE
"""  # noqa: S608
# By the device, not by the command: the same command may be with a hundred thousand devices. Materialized,
# because the planner does not know that.
_WITH_DEVICE = f"""
    SELECT d.id, d.command_id FROM {_DELIVERY} d WHERE {_MINE} AND {_OUTSTANDING} AND d.state = 'SENT'
"""  # noqa: S608
_SEND_AT_ONCE = f"""
    WITH locked AS ({_LOCKED}),
    sent AS (
        UPDATE {_DELIVERY} d SET state = 'SENT', sent_count = d.sent_count + 1, sent_at = %s
          FROM locked
         WHERE d.enrollment_id = locked.id AND d.id = %s AND d.state = %s AND d.sent_count = %s
        RETURNING d.enrollment_id),
    pushed AS (
        {push.WORK_LEFT}
          FROM sent WHERE {push.TABLE}.enrollment_id = sent.enrollment_id AND {push.TABLE}.state <> 'HELD')
    SELECT 1 FROM sent
"""  # noqa: S608
_SEND_IF_ENROLLED = f"""
    {_SEND} AND EXISTS (SELECT 1 FROM {_ENROLLMENT} WHERE id = %s AND epoch = %s AND state = 'ENROLLED')
"""  # noqa: S608
# Every part sees the rows as they were when the statement began. A push that was asked for since then must
# not be cleared, for what it is about was not seen: its row is another version (xmin), and stays.
_ANSWER_AT_ONCE = f"""
    WITH locked AS ({_LOCKED}),
    with_device AS MATERIALIZED ({_WITH_DEVICE}),
    answered AS (
        UPDATE {_DELIVERY} d SET state = %s, reason = '', completed_at = %s
          FROM locked, with_device w JOIN {_COMMAND} c ON c.id = w.command_id
         WHERE d.enrollment_id = locked.id AND d.id = w.id AND d.state = 'SENT'
           AND c.uuid = %s AND c.filled_by = '' AND NOT c.request_type = ANY(%s)
        RETURNING d.id, d.command_id, d.enrollment_id, c.request_type),
    kept AS (
        INSERT INTO {_RESULT} (delivery_id, uuid, status, report_sealed, error_chain, received_at)
        SELECT id, %s::uuid, %s::varchar, %s::bytea, %s::jsonb, %s::timestamptz FROM answered),
    following AS (
        SELECT d.id, d.state, d.sent_count, c.uuid, c.request_type, c.payload_sealed,
               c.filled_by = '' AND c.cancelled_at IS NULL AND NOT c.at_most_once
               AND (c.expires_at IS NULL OR c.expires_at > %s) AND c.request_type <> 'ClearPasscode' AS plain
          FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
         WHERE {_WAITING} AND {_FRESH}
         ORDER BY d.id LIMIT 1),
    sent AS (
        UPDATE {_DELIVERY} d SET state = 'SENT', sent_count = d.sent_count + 1, sent_at = %s
          FROM following f, answered
         WHERE f.plain AND d.id = f.id AND d.state = f.state AND d.sent_count = f.sent_count
        RETURNING d.id),
    waiting AS (
        SELECT EXISTS (
            SELECT 1 FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
             WHERE {_WAITING} AND (c.expires_at IS NULL OR c.expires_at > %s)
               AND d.id <> (SELECT id FROM answered)) AS more),
    seen AS (SELECT enrollment_id, xmin AS version FROM {push.TABLE} WHERE enrollment_id = %s),
    pushed_later AS (
        {push.WORK_LEFT}
          FROM answered, seen, waiting
         WHERE waiting.more AND {push.TABLE}.enrollment_id = seen.enrollment_id
           AND {push.TABLE}.xmin = seen.version AND {push.TABLE}.state <> 'HELD'),
    cleared AS (
        UPDATE {push.TABLE} SET state = 'IDLE', lease_owner = NULL, lease_until = NULL
          FROM answered, seen, waiting
         WHERE NOT waiting.more AND {push.TABLE}.enrollment_id = seen.enrollment_id
           AND {push.TABLE}.xmin = seen.version AND {push.TABLE}.state <> 'IDLE')
    SELECT a.id, a.command_id, a.request_type, f.id, f.uuid, f.request_type,
           CASE WHEN sent.id IS NOT NULL THEN f.payload_sealed END
      FROM answered a LEFT JOIN following f ON true LEFT JOIN sent ON true
"""  # noqa: S608


@dataclass(frozen=True)
class Candidate:
    """The oldest delivery that waits, as the database has it. ``payload_sealed``: None if not fetched."""

    delivery_id: int
    sent_count: int
    command_uuid: uuid.UUID
    request_type: str
    payload_sealed: bytes | None = field(repr=False)
    met: Outstanding
    filled_by: str = ""


@dataclass(frozen=True)
class Followed:
    """What went out with an answer: a command that is sent now, with its content."""

    delivery_id: int
    command_uuid: uuid.UUID
    request_type: str
    payload_sealed: bytes = field(repr=False)


@dataclass(frozen=True)
class Answered:
    """The delivery that was answered. ``more_to_see``: something follows that asks for a closer look."""

    delivery: CommandDelivery
    followed: Followed | None
    more_to_see: bool


def anything_waits(enrollment: Enrollment, now: datetime) -> bool:
    """Whether an outstanding delivery of the present epoch may go out now."""
    moment = prepared.instant(now)
    return prepared.row(_ANY, [enrollment.pk, enrollment.epoch, moment, moment]) is not None


def oldest(
    enrollment: Enrollment, *, fresh_only: bool, now: datetime, only: uuid.UUID | None = None
) -> Candidate | None:
    """The oldest outstanding delivery whose time has come, also an expired one; its enrollment is locked.

    ``fresh_only``: of those that were never handed out, or have rested since a NotNow. ``only``: that of this
    one command.
    """
    moment = prepared.instant(now)
    sql, parameters = _OLDEST, [moment, enrollment.pk, enrollment.epoch, moment]
    if fresh_only:
        sql, parameters = f"{sql} AND {_FRESH}", [*parameters, prepared.instant(now - NOT_NOW_RESTS)]
    if only:
        sql, parameters = sql + _ONLY, [*parameters, prepared.key(only)]
    row = prepared.row(_locking(sql + _FIRST), parameters)
    return None if row is None else candidate(row, now)


def candidate(row: Sequence[Any], now: datetime) -> Candidate:
    """From the values of :data:`CANDIDATE_COLUMNS`."""
    delivery_id, state, sent_count, command_uuid, request_type, once, cancelled, expired, payload, filler = (
        row
    )
    return Candidate(
        delivery_id=delivery_id,
        sent_count=sent_count,
        command_uuid=prepared.read_key(command_uuid),
        request_type=request_type,
        payload_sealed=bytes(payload) if payload is not None else None,
        filled_by=filler,
        met=Outstanding(
            state=State(state),
            at_most_once=bool(once),
            cancelled=bool(cancelled),
            expires_at=now if expired else None,
        ),
    )


def send_at_once(enrollment: Enrollment, first: Candidate, now: datetime, jitter: float) -> bool:
    """Hand it out and put the next push off: one statement on PostgreSQL, two in a transaction on SQLite.

    False, and nothing is changed, where the enrollment or the delivery is no longer as it was read.
    """
    standing, moment = (enrollment.pk, enrollment.epoch), prepared.instant(now)
    as_read = (first.delivery_id, first.met.state.value, first.sent_count)
    if prepared.on_postgresql():
        parameters = [*standing, moment, *as_read, *push.pauses(now, jitter)]
        return prepared.row(_SEND_AT_ONCE, parameters) is not None
    with transaction.atomic():
        if not prepared.changes(_SEND_IF_ENROLLED, [moment, *as_read, *standing]):
            return False
        push.work_left(enrollment.pk, now, jitter)
        return True


def answer_at_once(
    enrollment: Enrollment,
    command_uuid: uuid.UUID,
    new: State,
    now: datetime,
    *,
    result_uuid: uuid.UUID,
    status: str,
    report_sealed: bytes,
    error_chain: Sequence[dict[str, Any]],
    careful: Sequence[str],
    jitter: float,
) -> Answered | None:
    """Take a final answer, keep it, hand out what follows, settle the push: one statement. PostgreSQL only.

    Only for a command that is with the device, is none of ``careful`` (names of commands) and is filled in by
    nobody; else None, and nothing is changed.
    """
    mine, moment = (enrollment.pk, enrollment.epoch), prepared.instant(now)
    parameters = [
        *(*mine, *mine, new.value, moment, command_uuid, list(careful)),
        *(result_uuid, status, report_sealed, json.dumps(error_chain), moment),
        *(moment, *mine, moment, prepared.instant(now - NOT_NOW_RESTS), moment),
        *(*mine, moment, moment, enrollment.pk, *push.pauses(now, jitter)),
    ]
    row = prepared.row(_ANSWER_AT_ONCE, parameters)
    if row is None:
        return None
    delivery_id, command_id, request_type, next_id, next_uuid, next_type, payload = row
    command = Command.from_db(
        connection.alias,
        ["id", "uuid", "request_type", "filled_by"],
        [command_id, command_uuid, request_type, ""],
    )
    delivery = CommandDelivery.from_db(
        connection.alias,
        ["id", "command_id", "enrollment_id", "epoch", "state"],
        [delivery_id, command_id, enrollment.pk, enrollment.epoch, new.value],
    )
    delivery.command, delivery.enrollment = command, enrollment
    followed = Followed(next_id, next_uuid, next_type, bytes(payload)) if payload is not None else None
    return Answered(delivery, followed, more_to_see=next_id is not None and followed is None)


def mark_sent(chosen: Candidate, now: datetime) -> bool:
    """Hand it out, if it still stands where it was read: of parallel connects one does."""
    parameters = [chosen.delivery_id, chosen.met.state.value, chosen.sent_count]
    return prepared.changes(_SEND, [prepared.instant(now), *parameters]) == 1


def find(enrollment: Enrollment, command_uuid: uuid.UUID) -> CommandDelivery | None:
    """The delivery of this command to this enrollment in its present epoch; the enrollment is locked.

    What a report needs of it and its command is loaded; the rest is fetched on access.
    """
    parameters = [enrollment.pk, enrollment.epoch, prepared.key(command_uuid)]
    row = prepared.row(_locking(_FIND_WITH_DEVICE), parameters) if prepared.on_postgresql() else None
    if row is None:
        row = prepared.row(_locking(_FIND), parameters)
    if row is None:
        return None
    delivery_id, command_id, state, found_uuid, request_type, once, source, filled_by = row
    command = Command.from_db(
        connection.alias,
        ["id", "uuid", "request_type", "at_most_once", "source", "filled_by"],
        [command_id, prepared.read_key(found_uuid), request_type, bool(once), source, filled_by],
    )
    delivery = CommandDelivery.from_db(
        connection.alias,
        ["id", "command_id", "enrollment_id", "epoch", "state"],
        [delivery_id, command_id, enrollment.pk, enrollment.epoch, state],
    )
    delivery.command, delivery.enrollment = command, enrollment
    return delivery


def move(delivery: CommandDelivery, new: State, now: datetime) -> bool:
    """Take an answer to the delivery, if it still stands where it was read."""
    if new is State.NOT_NOW:
        moved = prepared.changes(_NOT_NOW, [prepared.instant(now), delivery.pk, delivery.state])
    else:
        moved = prepared.changes(_FINISH, [new.value, prepared.instant(now), delivery.pk, delivery.state])
    if moved:
        delivery.state = new.value
    return bool(moved)


def insert_result(
    delivery: CommandDelivery,
    result_uuid: uuid.UUID,
    *,
    status: str,
    report_sealed: bytes,
    error_chain: Sequence[dict[str, Any]],
    received_at: datetime,
) -> None:
    """Keep what the device answered."""
    chain = json.dumps(error_chain)
    parameters = [delivery.pk, prepared.key(result_uuid), status, report_sealed, chain]
    prepared.changes(_ANSWER, [*parameters, prepared.instant(received_at)])


def _locking(sql: str) -> str:
    return sql + _LOCK if connection.features.has_select_for_update else sql
