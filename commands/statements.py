"""The statements of the hot path, written by hand: building them costs more than running them.

They run for every connect. Their states are literals, so that both databases use the partial index of
outstanding deliveries; the values are parameters. What is chosen for a change is locked by its enrollment
(PostgreSQL; SQLite lets one transaction write at a time), and every change compares and sets.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from commands.core.delivery import Outstanding, State
from commands.models import Command, CommandDelivery, CommandResult
from devices.models import Enrollment

_DELIVERY = CommandDelivery._meta.db_table
_COMMAND = Command._meta.db_table
_ENROLLMENT = Enrollment._meta.db_table
_RESULT = CommandResult._meta.db_table
_MINE = "d.enrollment_id = %s AND d.epoch = %s"
_WAITING = (
    f"{_MINE} AND d.state IN ('QUEUED', 'SENT', 'NOT_NOW') AND (c.not_before IS NULL OR c.not_before <= %s)"
)
_LOCK = " FOR NO KEY UPDATE OF e"

_ANY = f"""
    SELECT 1 FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
     WHERE {_WAITING} AND (c.expires_at IS NULL OR c.expires_at > %s)
     LIMIT 1
"""  # noqa: S608 - here and below only names of our own tables are put together
_OLDEST = f"""
    SELECT d.id, d.state, d.sent_count, c.uuid, c.request_type, c.at_most_once, c.cancelled_at IS NOT NULL,
           c.expires_at IS NOT NULL AND c.expires_at <= %s, c.payload_sealed, c.filled_by
      FROM {_DELIVERY} d
      JOIN {_COMMAND} c ON c.id = d.command_id
      JOIN {_ENROLLMENT} e ON e.id = d.enrollment_id
     WHERE {_WAITING}
"""  # noqa: S608
_FRESH = " AND d.state = 'QUEUED'"
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


@dataclass(frozen=True)
class Candidate:
    """The oldest delivery that waits, as the database has it."""

    delivery_id: int
    sent_count: int
    command_uuid: uuid.UUID
    request_type: str
    payload_sealed: bytes = field(repr=False)
    met: Outstanding
    filled_by: str = ""


def anything_waits(enrollment: Enrollment, now: datetime) -> bool:
    """Whether an outstanding delivery of the present epoch may go out now."""
    moment = _instant(now)
    return _row(_ANY, [enrollment.pk, enrollment.epoch, moment, moment]) is not None


def oldest(
    enrollment: Enrollment, *, fresh_only: bool, now: datetime, only: uuid.UUID | None = None
) -> Candidate | None:
    """The oldest outstanding delivery whose time has come, also an expired one; its enrollment is locked.

    ``fresh_only``: of those that were never handed out. ``only``: that of this one command.
    """
    moment = _instant(now)
    sql = _OLDEST + (_FRESH if fresh_only else "") + (_ONLY if only else "") + _FIRST
    parameters = [moment, enrollment.pk, enrollment.epoch, moment]
    row = _row(_locking(sql), [*parameters, _key(only)] if only else parameters)
    if row is None:
        return None
    delivery_id, state, sent_count, command_uuid, request_type, once, cancelled, expired, payload, filler = (
        row
    )
    return Candidate(
        delivery_id=delivery_id,
        sent_count=sent_count,
        command_uuid=_uuid(command_uuid),
        request_type=request_type,
        payload_sealed=bytes(payload),
        filled_by=filler,
        met=Outstanding(
            state=State(state),
            at_most_once=bool(once),
            cancelled=bool(cancelled),
            expires_at=now if expired else None,
        ),
    )


def mark_sent(candidate: Candidate, now: datetime) -> bool:
    """Hand it out, if it still stands where it was read: of parallel connects one does."""
    return _changes(
        _SEND, [_instant(now), candidate.delivery_id, candidate.met.state.value, candidate.sent_count]
    )


def find(enrollment: Enrollment, command_uuid: uuid.UUID) -> CommandDelivery | None:
    """The delivery of this command to this enrollment in its present epoch; the enrollment is locked.

    What a report needs of it and its command is loaded; the rest is fetched on access.
    """
    row = _row(_locking(_FIND), [enrollment.pk, enrollment.epoch, _key(command_uuid)])
    if row is None:
        return None
    delivery_id, command_id, state, found_uuid, request_type, once, source, filled_by = row
    command = Command.from_db(
        connection.alias,
        ["id", "uuid", "request_type", "at_most_once", "source", "filled_by"],
        [command_id, _uuid(found_uuid), request_type, bool(once), source, filled_by],
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
        moved = _changes(_NOT_NOW, [_instant(now), delivery.pk, delivery.state])
    else:
        moved = _changes(_FINISH, [new.value, _instant(now), delivery.pk, delivery.state])
    if moved:
        delivery.state = new.value
    return moved


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
    _changes(_ANSWER, [delivery.pk, _key(result_uuid), status, report_sealed, chain, _instant(received_at)])


def _locking(sql: str) -> str:
    return sql + _LOCK if connection.features.has_select_for_update else sql


def _row(sql: str, parameters: list[Any]) -> tuple[Any, ...] | None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone()
        return row


def _changes(sql: str, parameters: list[Any]) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return bool(cursor.rowcount == 1)


def _key(value: uuid.UUID) -> Any:
    return value if connection.features.has_native_uuid_field else value.hex


def _uuid(value: uuid.UUID | str) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(value)


def _instant(value: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(value)
