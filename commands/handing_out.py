"""The hot path: what a device reports, and what it gets next.

The two of the long way, :func:`record_report` and :func:`next_command`, belong into one transaction that
the caller opens (:mod:`mdm` does): the report is stored and the next command chosen together, or neither
(reliability C8). They take the lock of the enrollment's row before they touch its deliveries, so that
parallel connects of one device queue up; every change of a delivery asks again for the state it was read in,
so that on any database one hand-out is one.

The usual connects go a short way, :func:`hand_out` and :func:`take_answer`: the same in one statement, where
the database can do that and nothing about the command asks for a decision.
"""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

from django.utils import timezone

from audit.recording import refuse
from commands import statements
from commands.core import plist
from commands.core.delivery import FINAL, Event, Outstanding, State, event_when_met, next_state
from commands.core.envelope import encode_envelope
from commands.core.report import Report, Status
from commands.enqueueing import MAX_PAYLOAD, payload_context
from commands.models import Command, CommandDelivery, CommandResult
from commands.statements import CLEAR_PASSCODE, Answer, Answered, Candidate, Condition, Part
from database import prepared
from devices import escrow
from devices.models import Enrollment, SecretKind
from push import outbox
from vault.sealed import SealError, seal, unseal

logger = logging.getLogger(__name__)

COMPRESSION = 3
MAX_REPORT = 16 * 1024 * 1024

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


class CannotBeFilled(Exception):
    """A filler has no values for this device; the text says why, in words for an administrator."""


@dataclass(frozen=True)
class Filling:
    """A command on its way to one device, for whoever completes it."""

    enrollment: Enrollment
    command_uuid: uuid.UUID
    delivery_id: int
    now: datetime


Filler = Callable[[Filling, Mapping[str, Any]], Mapping[str, Any]]
"""From the Command dictionary as it was queued to the one that this device gets.

It runs inside the transaction of the connect, under the lock of the enrollment, again each time that the
command is handed out. Raises :class:`CannotBeFilled`: then the delivery is cancelled with that reason.
"""


@dataclass(frozen=True)
class Handed:
    """A command for the device. ``body`` is the answer to the connect; it may hold secrets."""

    command_uuid: uuid.UUID
    request_type: str
    delivery_id: int
    body: bytes = field(repr=False)


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
    while (delivery := _answered(enrollment, report)) is not None:
        new = next_state(State(delivery.state), event, at_most_once=delivery.command.at_most_once)
        if new is None:
            return Recorded(delivery)
        if statements.move(delivery, new, now):
            if new is not State.NOT_NOW:
                text = plist.write(report.raw) if body is None else body
                statements.insert_result(delivery.pk, _answer(report, new, text), now)
            return Recorded(delivery, changed=True)
    _record_orphan(enrollment, report, now)
    return Recorded(None, orphan=True)


def next_command(
    enrollment: Enrollment,
    *,
    after_not_now: bool,
    now: datetime,
    fillers: Mapping[str, Filler] = MappingProxyType({}),
    only: uuid.UUID | None = None,
) -> Handed | None:
    """Choose the next command of this enrollment, mark it as sent, and give its bytes; None: nothing to do.

    The oldest first, by delivery id. A command that was handed out and never answered goes again under the
    same UUID, but one of the dangerous class becomes uncertain instead. ``after_not_now``: the device is in
    the middle of a connection in which it said NotNow (more widely: its report was not Idle), so that only
    commands go out which it has not been given yet, or whose NotNow is a minute old: one push is enough for
    all that was put off before. The others wait for its next Idle. ``fillers``: who
    completes the commands that were queued with a ``filled_by``. ``only``: this command, or none.

    Call it inside the transaction of the connect. One query when there is nothing, and one UPDATE more when
    there is something.
    """
    while candidate := statements.oldest(enrollment, fresh_only=after_not_now, now=now, only=only):
        event = event_when_met(candidate.met, now=now)
        if event is not Event.HAND_OUT:
            _leave_queue(candidate, event, now)
            if event is Event.EXPIRE:
                _expire_waiting(enrollment, now)
            continue
        try:
            body = _body(candidate, enrollment, fillers, now)
        except CannotBeFilled as problem:
            logger.error("command %s cannot be sent: %s", candidate.command_uuid, problem)
            _leave_queue(candidate, Event.CANCEL, now, reason=str(problem))
            continue
        if statements.mark_sent(candidate, now):
            return Handed(candidate.command_uuid, candidate.request_type, candidate.delivery_id, body)
    return None


@dataclass(frozen=True)
class Taken:
    """An answer that was recorded by the short way.

    ``handed``: what goes out with it. ``look_again``: something follows for which :func:`next_command` is
    needed; the push of the device is already put off. ``delivery``: what was answered, where the caller did
    not know it.
    """

    handed: Handed | None
    look_again: bool = False
    delivery: CommandDelivery | None = None


def hand_out(enrollment: Enrollment, first: Candidate, now: datetime) -> Handed | None:
    """The short way to hand out ``first``, that was read a moment ago, and to put the next push off.

    None where that does not go, and then nothing is changed: go the long way.
    """
    sealed = first.payload_sealed
    if (
        sealed is None
        or first.filled_by
        or first.request_type == CLEAR_PASSCODE
        or event_when_met(first.met, now=now) is not Event.HAND_OUT
    ):
        return None
    try:
        body = _envelope(sealed, first.command_uuid)
    except SealError:
        return None
    if not statements.send_at_once(enrollment, first, now, outbox.jitter()):
        return None
    return Handed(first.command_uuid, first.request_type, first.delivery_id, body)


def with_device(handed: Handed) -> Candidate:
    """What went out by the short way, as the database has it from then on, for :func:`take_first_answer`."""
    return Candidate(
        delivery_id=handed.delivery_id,
        sent_count=0,
        command_uuid=handed.command_uuid,
        request_type=handed.request_type,
        payload_sealed=None,
        met=Outstanding(State.SENT, at_most_once=False, cancelled=False, expires_at=None),
    )


def take_first_answer(
    enrollment: Enrollment,
    report: Report,
    first: Candidate,
    now: datetime,
    *,
    body: bytes,
    careful: Sequence[str],
    also: Part | None = None,
    if_still: Condition | None = None,
) -> Taken | None:
    """The short way to record a final answer to ``first``, hand out what follows and settle the push.

    All of it together. ``first``: what was first in the queue a moment ago. ``careful``: the commands whose
    answers go the long way, by name. ``also``: what is made of the answer, kept together with it
    (PostgreSQL). ``if_still``: what is compared, because it was not read for this request (PostgreSQL). None
    where the short way does not go, and then nothing is changed.
    """
    new = _final(report)
    if new is None or first.command_uuid != report.command_uuid or first.met.state is not State.SENT:
        return None
    if first.filled_by or first.request_type in careful:
        return None
    answer = _answer(report, new, body)
    return _taken(
        statements.answer_first(enrollment, first, answer, now, outbox.jitter(), also=also, if_still=if_still)
    )


def take_answer_of(
    who: Part, report: Report, now: datetime, *, body: bytes, careful: Sequence[str]
) -> tuple[Taken, prepared.Row] | None:
    """As :func:`take_first_answer`, with who answers: :func:`commands.statements.answer_of`. PostgreSQL only.

    What the server makes of the answer is not kept with it: only for those of which it makes nothing.
    """
    new = _final(report)
    if new is None or report.command_uuid is None:
        return None
    answer = _answer(report, new, body)
    found = statements.answer_of(who, report.command_uuid, answer, now, outbox.jitter(), careful=careful)
    if found is None:
        return None
    answered, row = found
    return _opened(answered), row


def take_answer(
    enrollment: Enrollment, report: Report, now: datetime, *, body: bytes, careful: Sequence[str]
) -> Taken | None:
    """The same for an answer to another command than the first, which the device has put off.

    PostgreSQL only.
    """
    new = _final(report)
    if new is None or report.command_uuid is None or not prepared.on_postgresql():
        return None
    answer = _answer(report, new, body)
    return _taken(
        statements.answer_at_once(
            enrollment, report.command_uuid, answer, now, outbox.jitter(), careful=careful
        )
    )


def _final(report: Report) -> State | None:
    """The state that an answer leads to, if that is a final one."""
    event = _EVENTS.get(report.status)
    new = next_state(State.SENT, event) if event is not None else None
    return new if new in FINAL else None


def _taken(answered: Answered | None) -> Taken | None:
    return None if answered is None else _opened(answered)


def _opened(answered: Answered) -> Taken:
    if (followed := answered.followed) is None:
        return Taken(None, answered.more_to_see, answered.delivery)
    try:
        content = _envelope(followed.payload_sealed, followed.command_uuid)
    except SealError:
        return Taken(None, True, answered.delivery)  # where it is met again, and cancelled
    handed = Handed(followed.command_uuid, followed.request_type, followed.delivery_id, content)
    return Taken(handed, delivery=answered.delivery)


def has_outstanding(enrollment: Enrollment, *, now: datetime | None = None) -> bool:
    """Whether something waits for this enrollment, be it after a NotNow; what is for later does not count."""
    return statements.anything_waits(enrollment, now or timezone.now())


# Reports


def _answered(enrollment: Enrollment, report: Report) -> CommandDelivery | None:
    if report.command_uuid is None:
        return None
    return statements.find(enrollment, report.command_uuid)


def _answer(report: Report, new: State, body: bytes) -> Answer:
    """What is kept of the report."""
    result_uuid = uuid.uuid4()
    return Answer(
        state=new,
        status=report.status.value,
        report_sealed=seal(zlib.compress(body, COMPRESSION), context=_report_context(result_uuid)),
        error_chain=[error.as_dict() for error in report.error_chain],
        result_uuid=result_uuid,
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

_REASONS = {
    Event.DOUBT: "handed out, and the device came again without an answer",
    Event.CANCEL: "cancelled; the device had not answered",
    Event.EXPIRE: "",
}


def _body(
    candidate: Candidate, enrollment: Enrollment, fillers: Mapping[str, Filler], now: datetime
) -> bytes:
    try:
        command = unseal(candidate.payload_sealed or b"", context=payload_context(candidate.command_uuid))
    except SealError:
        raise CannotBeFilled("its content cannot be decrypted with the keys of this server") from None
    if candidate.filled_by:
        filler = fillers.get(candidate.filled_by)
        if filler is None:
            raise CannotBeFilled(f"this version of the server does not know {candidate.filled_by}")
        filling = Filling(enrollment, candidate.command_uuid, candidate.delivery_id, now)
        command = plist.write(filler(filling, plist.read(command, max_size=2 * MAX_PAYLOAD)))
    if candidate.request_type == CLEAR_PASSCODE:
        command = _with_unlock_token(command, enrollment)
    return encode_envelope(command, candidate.command_uuid)


def _envelope(payload_sealed: bytes, command_uuid: uuid.UUID) -> bytes:
    return encode_envelope(unseal(payload_sealed, context=payload_context(command_uuid)), command_uuid)


def _with_unlock_token(command: bytes, enrollment: Enrollment) -> bytes:
    """ClearPasscode needs the token that this very device deposited."""
    content = plist.read(command, max_size=2 * MAX_PAYLOAD)
    if "UnlockToken" in content:
        return command
    token = escrow.current(enrollment, SecretKind.UNLOCK_TOKEN)
    if token is None:
        raise CannotBeFilled("the device has no unlock token in escrow")
    return plist.write({**content, "UnlockToken": token})


def _leave_queue(candidate: Candidate, event: Event, now: datetime, *, reason: str = "") -> None:
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
