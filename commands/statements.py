"""The statements of the hot path, written by hand: building them costs more than running them.

They run for every connect. Their states are literals, so that both databases use the partial index of
outstanding deliveries; the values are parameters. What is chosen for a change is locked by its enrollment
(PostgreSQL; SQLite lets one transaction write at a time), and every change compares and sets.

On PostgreSQL the usual connects change all that they change in one statement (:func:`send_at_once`,
:func:`answer_first`, :func:`answer_at_once`), which is a transaction of its own. Whatever is unusual changes
nothing there, and goes the long way of :mod:`commands.handing_out`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from django.db import connection, transaction

from commands.core.delivery import Outstanding, State
from commands.models import Command, CommandDelivery, CommandResult
from database import prepared
from devices.models import Enrollment
from push import statements as push

NOT_NOW_RESTS = timedelta(seconds=60)
"""After a NotNow: for so long the command is not offered again but to a device that is Idle."""

CLEAR_PASSCODE = "ClearPasscode"
"""It needs the unlock token of the very device."""

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
_REST = f"interval '{NOT_NOW_RESTS.seconds} seconds'"
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
def _locked(if_still: str = "true") -> str:
    return f"""
    SELECT e.id, e.epoch FROM {_ENROLLMENT} e
     WHERE e.id = %s AND e.epoch = %s AND e.state = 'ENROLLED' AND {if_still} FOR NO KEY UPDATE
    """  # noqa: S608


_LOCKED = _locked()
# By the device, not by the command: the same command may be with a hundred thousand devices. Materialized,
# because the planner does not know that.
_WITH_DEVICE = f"""
    SELECT d.id, d.command_id FROM {_DELIVERY} d WHERE {_MINE} AND {_OUTSTANDING} AND d.state = 'SENT'
"""  # noqa: S608
_SENT_AT_ONCE = f"""
    WITH sent AS (
        UPDATE {_DELIVERY} d SET state = 'SENT', sent_count = d.sent_count + 1, sent_at = %s
          FROM ({_LOCKED}) locked
         WHERE d.enrollment_id = locked.id AND d.id = %s AND d.state = %s AND d.sent_count = %s
        RETURNING d.enrollment_id, d.sent_at),
    pushed AS (
        {push.work_left_since("sent.sent_at")}
          FROM sent
         WHERE {push.TABLE}.enrollment_id = sent.enrollment_id AND {push.is_put_off_since("sent.sent_at")})
"""  # noqa: S608
_SEND_AT_ONCE = f"{_SENT_AT_ONCE} SELECT 1 FROM sent"  # noqa: S608
# This waits for no disk, as an answer does. Where PostgreSQL falls within that second, the command is queued
# as before: its answer counts all the same (commands.core.delivery), and a device that comes without one gets
# it again under the same UUID, as when it was sent and never answered. So not for what must not go out twice.
_SEND_UNHURRIED = f"{_SENT_AT_ONCE} SELECT set_config('synchronous_commit', 'off', true) FROM sent"  # noqa: S608
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
               AND (c.expires_at IS NULL OR c.expires_at > %s)
               AND c.request_type <> '{CLEAR_PASSCODE}' AS plain
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


# The same for the usual answer: to the command that is first in the queue. The queue is read once: what comes
# next goes out, or asks for a closer look, or there is nothing.
_AND_GO_ON = f"""
    kept AS (
        INSERT INTO {_RESULT} (delivery_id, uuid, status, report_sealed, error_chain, received_at)
        SELECT id, %s::uuid, %s::varchar, %s::bytea, %s::jsonb, completed_at FROM answered),
    following AS (
        SELECT a.enrollment_id, a.completed_at, n.*
          FROM answered a LEFT JOIN LATERAL (
            SELECT d.id, d.state, d.sent_count, c.uuid, c.request_type, c.payload_sealed,
                   c.filled_by = '' AND c.cancelled_at IS NULL AND NOT c.at_most_once
                   AND (c.expires_at IS NULL OR c.expires_at > a.completed_at)
                   AND c.request_type <> '{CLEAR_PASSCODE}'
                   AND (d.state = 'QUEUED'
                        OR d.state = 'NOT_NOW' AND d.not_now_at <= a.completed_at - {_REST}) AS plain
              FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
             WHERE d.enrollment_id = a.enrollment_id AND d.epoch = a.epoch AND d.id <> a.id AND {_OUTSTANDING}
               AND (c.not_before IS NULL OR c.not_before <= a.completed_at)
             ORDER BY d.id LIMIT 1) n ON true),
    sent AS (
        UPDATE {_DELIVERY} d SET state = 'SENT', sent_count = d.sent_count + 1, sent_at = f.completed_at
          FROM following f
         WHERE f.plain AND d.id = f.id AND d.state = f.state AND d.sent_count = f.sent_count
        RETURNING d.id),
    settled AS (
        {push.settled_since("f.completed_at", "f.id IS NOT NULL")}
          FROM following f
         WHERE {push.TABLE}.enrollment_id = f.enrollment_id
           AND {push.TABLE}.xmin = (
               SELECT p.xmin FROM {push.TABLE} p WHERE p.enrollment_id = f.enrollment_id)
           AND CASE WHEN f.id IS NULL THEN {push.TABLE}.state <> 'IDLE'
                    ELSE {push.is_put_off_since("f.completed_at")} END)
"""  # noqa: S608
_FOLLOWED = "f.id, f.uuid, f.request_type, CASE WHEN sent.id IS NOT NULL THEN f.payload_sealed END"


@cache
def _answer_first_sql(if_still: str, also: str) -> str:
    """``if_still``: a condition about the enrollment ``e``. ``also``: a part more, or none."""
    return f"""
    WITH answered AS (
        UPDATE {_DELIVERY} d SET state = %s, reason = '', completed_at = %s
          FROM ({_locked(if_still)}) locked
         WHERE d.enrollment_id = locked.id AND d.epoch = locked.epoch AND d.id = %s AND d.state = 'SENT'
        RETURNING d.id, d.enrollment_id, d.epoch, d.completed_at), {_AND_GO_ON}
    {f", also AS ({also})" if also else ""}
    SELECT {_FOLLOWED} FROM following f LEFT JOIN sent ON true
    """  # noqa: S608


@cache
def _answer_of_sql(who: str) -> str:
    """``who`` gives ``id`` and ``epoch`` of an enrollment that it locks, and what else is told of it."""
    return f"""
    WITH who AS MATERIALIZED ({who}),
    first AS MATERIALIZED (
        SELECT n.* FROM who, LATERAL (
            SELECT d.id, d.command_id FROM {_DELIVERY} d
             WHERE d.enrollment_id = who.id AND d.epoch = who.epoch AND {_OUTSTANDING}
             ORDER BY d.id LIMIT 1) n),
    answered AS (
        UPDATE {_DELIVERY} d SET state = %s, reason = '', completed_at = %s
          FROM who, first JOIN {_COMMAND} c ON c.id = first.command_id
         WHERE d.enrollment_id = who.id AND d.epoch = who.epoch AND d.id = first.id AND d.state = 'SENT'
           AND c.uuid = %s AND c.filled_by = '' AND NOT c.request_type = ANY(%s)
        RETURNING d.id, d.enrollment_id, d.epoch, d.completed_at), {_AND_GO_ON}
    SELECT {_FOLLOWED}, who.* FROM who, following f LEFT JOIN sent ON true
    """  # noqa: S608


_ANSWER_FIRST_BY_STEPS = f"""
    UPDATE {_DELIVERY} SET state = %s, reason = '', completed_at = %s
     WHERE id = %s AND state = 'SENT' AND epoch = %s
       AND EXISTS (SELECT 1 FROM {_ENROLLMENT} WHERE id = %s AND epoch = %s AND state = 'ENROLLED')
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
    """What came of an answer. ``more_to_see``: something follows that asks for a closer look.

    ``delivery``: the one that was answered; None where the caller knew it.
    """

    followed: Followed | None
    more_to_see: bool
    delivery: CommandDelivery | None = None


@dataclass(frozen=True)
class Part:
    """A part of the statement that takes an answer. PostgreSQL only.

    Mostly a change that is kept together with it: an UPDATE that ends in ``FROM answered WHERE …``.
    That is empty where the answer does not count, and its ``completed_at`` is the time. ``parameters``: of
    ``sql``, in order.
    """

    sql: str
    parameters: Sequence[Any] = field(repr=False)


@dataclass(frozen=True)
class Condition:
    """What has to be so still when an answer is taken: SQL about the enrollment ``e``. PostgreSQL only."""

    sql: str
    parameters: Sequence[Any] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """What a device said of a command, as it is kept. ``state``: one that is final."""

    state: State
    status: str
    report_sealed: bytes = field(repr=False)
    error_chain: Sequence[dict[str, Any]]
    result_uuid: uuid.UUID


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
    """Hand it out and put the next push off: one statement on PostgreSQL, two on SQLite.

    False, and nothing is changed, where the enrollment or the delivery is no longer as it was read.
    """
    standing, moment = (enrollment.pk, enrollment.epoch), prepared.instant(now)
    as_read = (first.delivery_id, first.met.state.value, first.sent_count)
    if prepared.on_postgresql():
        # Inside a larger transaction, that one has to reach the disk.
        hurried = first.met.at_most_once or connection.in_atomic_block
        sql = _SEND_AT_ONCE if hurried else _SEND_UNHURRIED
        return prepared.row(sql, [moment, *standing, *as_read, push.spread(jitter)]) is not None
    # Two transactions: between them the device has its command and is pushed once too often, no more.
    if not prepared.changes(_SEND_IF_ENROLLED, [moment, *as_read, *standing]):
        return False
    push.put_off(enrollment.pk, now, jitter)
    return True


def answer_first(
    enrollment: Enrollment,
    first: Candidate,
    answer: Answer,
    now: datetime,
    jitter: float,
    *,
    also: Part | None = None,
    if_still: Condition | None = None,
) -> Answered | None:
    """Take a final answer to ``first``, keep it, hand out what follows, settle the push.

    One statement on PostgreSQL, and what it makes of the answer (``also``) with it; a few in a transaction on
    SQLite. None, and nothing is changed, where the command is no longer with the device. ``if_still``: nor
    where this does not hold (PostgreSQL).
    """
    if not prepared.on_postgresql():
        with transaction.atomic(savepoint=False):
            return _answer_by_steps(enrollment, first, answer, now, jitter)
    parameters = [
        *(answer.state.value, prepared.instant(now), enrollment.pk, enrollment.epoch),
        *(if_still.parameters if if_still else ()),
        *(first.delivery_id, answer.result_uuid, answer.status, answer.report_sealed),
        *(json.dumps(answer.error_chain), push.spread(jitter), *(also.parameters if also else ())),
    ]
    sql = _answer_first_sql(if_still.sql if if_still else "true", also.sql if also else "")
    row = prepared.row(sql, parameters)
    return None if row is None else Answered(*_followed(row))


def answer_of(
    who: Part,
    command_uuid: uuid.UUID,
    answer: Answer,
    now: datetime,
    jitter: float,
    *,
    careful: Sequence[str],
) -> tuple[Answered, prepared.Row] | None:
    """The same, where it is not known yet who answers, nor to what. PostgreSQL only.

    ``who``: a SELECT that gives ``id`` and ``epoch`` of an enrollment that is enrolled, and locks it. Its row
    is given back. Only for the command that is first in the queue, is none of ``careful`` (names of commands)
    and is filled in by nobody; else None, and nothing is changed.
    """
    parameters = [
        *(*who.parameters, answer.state.value, now, command_uuid, list(careful)),
        *(answer.result_uuid, answer.status, answer.report_sealed, json.dumps(answer.error_chain)),
        push.spread(jitter),
    ]
    row = prepared.row(_answer_of_sql(who.sql), parameters)
    return None if row is None else (Answered(*_followed(row[:4])), row[4:])


def _followed(row: Sequence[Any]) -> tuple[Followed | None, bool]:
    """From what an answer's statement gives: what went out, and whether something is there that did not."""
    next_id, next_uuid, next_type, payload = row
    if payload is not None:
        return Followed(next_id, next_uuid, next_type, bytes(payload)), False
    return None, next_id is not None


def _answer_by_steps(
    enrollment: Enrollment, first: Candidate, answer: Answer, now: datetime, jitter: float
) -> Answered | None:
    """The same, one after the other: the first UPDATE takes the lock, for SQLite lets one write at a time."""
    standing = (enrollment.pk, enrollment.epoch)
    finished = [answer.state.value, prepared.instant(now), first.delivery_id, enrollment.epoch, *standing]
    if not prepared.changes(_ANSWER_FIRST_BY_STEPS, finished):
        return None
    insert_result(first.delivery_id, answer, now)
    following = oldest(enrollment, fresh_only=False, now=now)
    if following is None:
        push.nothing_left(enrollment.pk)
        return Answered(None, more_to_see=False)
    push.put_off(enrollment.pk, now, jitter)
    if not _is_plain(following) or not mark_sent(following, now):
        return Answered(None, more_to_see=True)
    body = following.payload_sealed or b""
    sent = Followed(following.delivery_id, following.command_uuid, following.request_type, body)
    return Answered(sent, more_to_see=False)


def _is_plain(following: Candidate) -> bool:
    """Whether it goes out without further ado. What the device has put off is left to a closer look."""
    met = following.met
    doubtful = met.at_most_once or met.cancelled or met.expires_at is not None or following.filled_by
    return met.state is State.QUEUED and not doubtful and following.request_type != CLEAR_PASSCODE


def answer_at_once(
    enrollment: Enrollment,
    command_uuid: uuid.UUID,
    answer: Answer,
    now: datetime,
    jitter: float,
    *,
    careful: Sequence[str],
) -> Answered | None:
    """Take a final answer to whatever command is with the device, as :func:`answer_first`. PostgreSQL only.

    Only for a command that is with the device, is none of ``careful`` (names of commands) and is filled in by
    nobody; else None, and nothing is changed.
    """
    mine, moment = (enrollment.pk, enrollment.epoch), prepared.instant(now)
    parameters = [
        *(*mine, *mine, answer.state.value, moment, command_uuid, list(careful)),
        *(answer.result_uuid, answer.status, answer.report_sealed, json.dumps(answer.error_chain), moment),
        *(moment, *mine, moment, prepared.instant(now - NOT_NOW_RESTS), moment),
        *(*mine, moment, moment, enrollment.pk, *push.pauses(now, jitter)),
    ]
    row = prepared.row(_ANSWER_AT_ONCE, parameters)
    if row is None:
        return None
    delivery_id, command_id, request_type = row[:3]
    command = Command.from_db(
        connection.alias,
        ["id", "uuid", "request_type", "filled_by"],
        [command_id, command_uuid, request_type, ""],
    )
    delivery = CommandDelivery.from_db(
        connection.alias,
        ["id", "command_id", "enrollment_id", "epoch", "state"],
        [delivery_id, command_id, enrollment.pk, enrollment.epoch, answer.state.value],
    )
    delivery.command, delivery.enrollment = command, enrollment
    return Answered(*_followed(row[3:]), delivery=delivery)


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


def insert_result(delivery_id: int, answer: Answer, received_at: datetime) -> None:
    """Keep what the device answered."""
    chain = json.dumps(answer.error_chain)
    parameters = [
        *(delivery_id, prepared.key(answer.result_uuid), answer.status, answer.report_sealed, chain),
        prepared.instant(received_at),
    ]
    prepared.changes(_ANSWER, parameters)


def _locking(sql: str) -> str:
    return sql + _LOCK if connection.features.has_select_for_update else sql
