"""The hot path: what a device reports, and what it gets next.

Both functions belong into one transaction that the caller opens (:mod:`mdm` does, for each connect): the
report is stored and the next command chosen together, or neither (reliability C8). They take the lock of the
enrollment's row before they touch its deliveries, so that parallel connects of one device queue up; every
change of a delivery asks again for the state it was read in, so that on any database one hand-out is one.

The statements are written by hand: they run for every connect, and building them costs more than running
them. Their states are literals so that both databases use the partial index of outstanding deliveries.
"""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection
from django.db.models import F
from django.utils import timezone

from audit.recording import refuse
from commands.core import plist
from commands.core.delivery import Event, Outstanding, State, event_when_met, next_state
from commands.core.envelope import encode_envelope
from commands.core.report import Report, Status
from commands.enqueueing import MAX_PAYLOAD, payload_context
from commands.models import Command, CommandDelivery, CommandResult
from devices import escrow
from devices.models import Enrollment, SecretKind
from vault.sealed import SealError, seal, unseal

logger = logging.getLogger(__name__)

COMPRESSION = 3
MAX_REPORT = 16 * 1024 * 1024

_DELIVERY = CommandDelivery._meta.db_table
_COMMAND = Command._meta.db_table
_ENROLLMENT = Enrollment._meta.db_table
_OUTSTANDING = "d.state IN ('QUEUED', 'SENT', 'NOT_NOW')"
_DUE = "(c.not_before IS NULL OR c.not_before <= %s)"

_EVENTS = {
    Status.ACKNOWLEDGED: Event.ACKNOWLEDGED,
    Status.ERROR: Event.ERROR,
    Status.COMMAND_FORMAT_ERROR: Event.FORMAT_ERROR,
    Status.NOT_NOW: Event.NOT_NOW,
}


@dataclass(frozen=True)
class Recorded:
    """What became of a report.

    ``delivery`` is the one it answers, with its command; None for Idle and for an ``orphan``: an answer to
    nothing that this enrollment was given in its present epoch. ``changed`` is False where the delivery was
    finished before (a late or repeated answer): nothing more is to be made of it then.
    """

    delivery: CommandDelivery | None
    orphan: bool = False
    changed: bool = False


@dataclass(frozen=True)
class Handed:
    """A command for the device. ``body`` is the answer to the connect; it may hold secrets."""

    command_uuid: uuid.UUID
    request_type: str
    delivery_id: int
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class _Next:
    """The oldest outstanding delivery, as the database has it."""

    delivery_id: int
    sent_count: int
    command_uuid: uuid.UUID
    request_type: str
    payload_sealed: bytes = field(repr=False)
    met: Outstanding


def record_report(
    enrollment: Enrollment, report: Report, now: datetime, *, body: bytes | None = None
) -> Recorded:
    """Store what the device answered. Final states absorb what comes late or twice.

    ``body``: the report as it came, kept with the result; without it the decoded report is written anew.
    Call it inside the transaction of the connect. No query for Idle.
    """
    event = _EVENTS.get(report.status)
    if event is None:
        return Recorded(None)
    while (delivery := _find(enrollment, report.command_uuid)) is not None:
        state = State(delivery.state)
        new = next_state(state, event, at_most_once=delivery.command.at_most_once)
        if new is None:
            return Recorded(delivery)
        if _move(delivery, state, new, now):
            if new is not State.NOT_NOW:
                _store_result(delivery, report, body, now)
            return Recorded(delivery, changed=True)
    _record_orphan(enrollment, report, now)
    return Recorded(None, orphan=True)


def next_command(enrollment: Enrollment, *, after_not_now: bool, now: datetime) -> Handed | None:
    """Choose the next command of this enrollment, mark it as sent, and give its bytes; None: nothing to do.

    The oldest first, by delivery id. A command that was handed out and never answered goes again under the
    same UUID, but one of the dangerous class becomes uncertain instead. ``after_not_now``: the device is in
    the middle of a connection in which it said NotNow (more widely: its report was not Idle), so that only
    commands go out which it has not been given yet; the others wait for its next Idle.

    Call it inside the transaction of the connect. One query when there is nothing, and one UPDATE more when
    there is something.
    """
    while (candidate := _oldest(enrollment, fresh_only=after_not_now, now=now)) is not None:
        event = event_when_met(candidate.met, now=now)
        if event is not Event.HAND_OUT:
            _leave_queue(candidate, event, now)
            if event is Event.EXPIRE:
                _expire_waiting(enrollment, now)
            continue
        try:
            body = _body(candidate, enrollment)
        except _CannotBeSent as problem:
            logger.error("command %s cannot be sent: %s", candidate.command_uuid, problem)
            _leave_queue(candidate, Event.CANCEL, now, reason=str(problem))
            continue
        if _mark_sent(candidate, now):
            return Handed(candidate.command_uuid, candidate.request_type, candidate.delivery_id, body)
    return None


def has_outstanding(enrollment: Enrollment, *, now: datetime | None = None) -> bool:
    """Whether something waits for this enrollment, be it after a NotNow; what is for later does not count."""
    moment = _instant(now or timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(_ANY, [enrollment.pk, enrollment.epoch, moment, moment])
        return cursor.fetchone() is not None


# Reports


def _find(enrollment: Enrollment, command_uuid: uuid.UUID | None) -> CommandDelivery | None:
    """The delivery of this command to this enrollment in its present epoch; the enrollment is locked."""
    if command_uuid is None:
        return None
    return (
        CommandDelivery.objects.filter(
            enrollment=enrollment, command__uuid=command_uuid, epoch=enrollment.epoch
        )
        .select_related("command", "enrollment")
        .defer("command__payload_sealed")
        .select_for_update(of=("enrollment",), no_key=True)
        .first()
    )


def _move(delivery: CommandDelivery, old: State, new: State, now: datetime) -> bool:
    """Compare and set."""
    changes: dict[str, Any] = {"state": new.value}
    if new is State.NOT_NOW:
        changes |= {"not_now_at": now, "not_now_count": F("not_now_count") + 1}
    else:
        changes |= {"completed_at": now, "reason": ""}
    moved = CommandDelivery.objects.filter(pk=delivery.pk, state=old.value).update(**changes)
    if moved:
        delivery.state = new.value
    return bool(moved)


def _store_result(delivery: CommandDelivery, report: Report, body: bytes | None, now: datetime) -> None:
    result_uuid = uuid.uuid4()
    text = plist.write(report.raw) if body is None else body
    CommandResult.objects.create(
        delivery=delivery,
        uuid=result_uuid,
        status=report.status.value,
        report_sealed=seal(zlib.compress(text, COMPRESSION), context=_report_context(result_uuid)),
        error_chain=[error.as_dict() for error in report.error_chain],
        received_at=now,
    )


def _record_orphan(enrollment: Enrollment, report: Report, now: datetime) -> None:
    refuse(
        "mdm",
        "orphan result",
        remote_addr="",
        detail=f"{report.status.value} for {report.command_uuid_text}, which it was not given",
        target=enrollment,
        now=now,
    )


def open_report(result: CommandResult) -> Mapping[str, Any]:
    """The stored answer of a device. It may hold secrets. Raises SealError and PlistError."""
    packed = unseal(bytes(result.report_sealed), context=_report_context(result.uuid))
    text = zlib.decompressobj().decompress(packed, MAX_REPORT + 1)
    return plist.read(text, max_size=MAX_REPORT)


def open_payload(command: Command) -> Mapping[str, Any]:
    """The Command dictionary as it was queued. It may hold secrets. Raises SealError and PlistError."""
    body = unseal(bytes(command.payload_sealed), context=payload_context(command.uuid))
    return plist.read(body, max_size=2 * MAX_PAYLOAD)


def _report_context(result_uuid: uuid.UUID) -> str:
    return f"commands.commandresult.report:{result_uuid}"


# The next command

_ANY = f"""
    SELECT 1 FROM {_DELIVERY} d JOIN {_COMMAND} c ON c.id = d.command_id
     WHERE d.enrollment_id = %s AND {_OUTSTANDING} AND d.epoch = %s AND {_DUE}
       AND (c.expires_at IS NULL OR c.expires_at > %s)
     LIMIT 1
"""  # noqa: S608 - only names of our own tables are put together here
_OLDEST = f"""
    SELECT d.id, d.state, d.sent_count, c.uuid, c.request_type, c.at_most_once, c.cancelled_at IS NOT NULL,
           c.expires_at IS NOT NULL AND c.expires_at <= %s, c.payload_sealed
      FROM {_DELIVERY} d
      JOIN {_COMMAND} c ON c.id = d.command_id
      JOIN {_ENROLLMENT} e ON e.id = d.enrollment_id
     WHERE d.enrollment_id = %s AND {_OUTSTANDING} AND d.epoch = %s AND {_DUE}
"""  # noqa: S608
_FRESH = " AND d.state = 'QUEUED'"
_FIRST = " ORDER BY d.id LIMIT 1"
_LOCK = " FOR NO KEY UPDATE OF e"
_SEND = f"""
    UPDATE {_DELIVERY} SET state = 'SENT', sent_count = sent_count + 1, sent_at = %s
     WHERE id = %s AND state = %s AND sent_count = %s
"""  # noqa: S608

_REASONS = {
    Event.DOUBT: "handed out, and the device came again without an answer",
    Event.CANCEL: "cancelled; the device had not answered",
    Event.EXPIRE: "",
}


class _CannotBeSent(Exception):
    """The command has no bytes for this device; the text says why."""


def _oldest(enrollment: Enrollment, *, fresh_only: bool, now: datetime) -> _Next | None:
    lock = _LOCK if connection.features.has_select_for_update else ""
    sql = _OLDEST + (_FRESH if fresh_only else "") + _FIRST + lock
    moment = _instant(now)
    with connection.cursor() as cursor:
        cursor.execute(sql, [moment, enrollment.pk, enrollment.epoch, moment])
        row = cursor.fetchone()
    if row is None:
        return None
    delivery_id, state, sent_count, command_uuid, request_type, once, cancelled, expired, payload = row
    return _Next(
        delivery_id=delivery_id,
        sent_count=sent_count,
        command_uuid=command_uuid if isinstance(command_uuid, uuid.UUID) else uuid.UUID(command_uuid),
        request_type=request_type,
        payload_sealed=bytes(payload),
        met=Outstanding(
            state=State(state),
            at_most_once=bool(once),
            cancelled=bool(cancelled),
            expires_at=now if expired else None,
        ),
    )


def _body(candidate: _Next, enrollment: Enrollment) -> bytes:
    try:
        command = unseal(candidate.payload_sealed, context=payload_context(candidate.command_uuid))
    except SealError:
        raise _CannotBeSent("its content cannot be decrypted with the keys of this server") from None
    if candidate.request_type == "ClearPasscode":
        command = _with_unlock_token(command, enrollment)
    return encode_envelope(command, candidate.command_uuid)


def _with_unlock_token(command: bytes, enrollment: Enrollment) -> bytes:
    """ClearPasscode needs the token that this very device deposited."""
    content = plist.read(command, max_size=2 * MAX_PAYLOAD)
    if "UnlockToken" in content:
        return command
    token = escrow.current(enrollment, SecretKind.UNLOCK_TOKEN)
    if token is None:
        raise _CannotBeSent("the device has no unlock token in escrow")
    return plist.write({**content, "UnlockToken": token})


def _mark_sent(candidate: _Next, now: datetime) -> bool:
    """Compare and set: of parallel connects one hands it out."""
    with connection.cursor() as cursor:
        cursor.execute(
            _SEND, [_instant(now), candidate.delivery_id, candidate.met.state.value, candidate.sent_count]
        )
        return bool(cursor.rowcount == 1)


def _leave_queue(candidate: _Next, event: Event, now: datetime, *, reason: str = "") -> None:
    """The oldest delivery is not to be handed out: it ends, or becomes a doubt."""
    state = candidate.met.state
    new = next_state(state, event, at_most_once=candidate.met.at_most_once)
    if new is None:  # pragma: no cover - event_when_met gives only events of the table
        raise AssertionError(f"{event} of {state}")
    changes: dict[str, Any] = {"state": new.value, "reason": (reason or _REASONS[event])[:300]}
    if new is not State.UNCERTAIN:
        changes["completed_at"] = now
    CommandDelivery.objects.filter(
        pk=candidate.delivery_id, state=state.value, sent_count=candidate.sent_count
    ).update(**changes)


def _expire_waiting(enrollment: Enrollment, now: datetime) -> None:
    """Where one has expired others have too: all of them in one statement."""
    CommandDelivery.objects.filter(
        enrollment=enrollment,
        state__in=[State.QUEUED.value, State.NOT_NOW.value],
        command__expires_at__lte=now,
    ).update(state=State.EXPIRED.value, completed_at=now)


def _instant(value: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(value)
