"""How deliveries end without an answer: cancelled, expired, given up; and doubts, which a person decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import F, Q, QuerySet

from audit.recording import Actor, record
from commands.core.delivery import Event, State, next_state
from commands.models import OUTSTANDING, Command, CommandDelivery
from devices.models import Enrollment, EnrollmentState
from push import outbox
from push.models import PushState

DOUBT_AFTER = timedelta(minutes=15)
"""How long an answer may take until the sweep no longer counts on it."""
BATCH = 1000

_WAITING = (State.QUEUED.value, State.NOT_NOW.value)


class NotUncertain(Exception):
    """There is nothing to decide, or it can no longer be sent. The text says why."""


@dataclass(frozen=True)
class Swept:
    """What one sweep changed."""

    expired: int = 0
    cancelled: int = 0
    uncertain: int = 0


@transaction.atomic
def cancel(command: Command, actor: Actor, now: datetime) -> int:
    """Take a command back from every device that has not got it yet. Returns how many.

    What is with a device at this moment may still be answered; it is not handed out again.
    """
    cancelled = CommandDelivery.objects.filter(command=command, state__in=_WAITING).update(
        state=State.CANCELLED.value, reason=f"cancelled by {actor.name}"[:300], completed_at=now
    )
    Command.objects.filter(pk=command.pk, cancelled_at=None).update(cancelled_at=now)
    record(
        "command.cancelled",
        actor=actor,
        target=command,
        at=now,
        details={"request_type": command.request_type, "cancelled": cancelled},
    )
    return cancelled


def cancel_outstanding(enrollment: Enrollment, reason: str, now: datetime) -> int:
    """End whatever waits for this enrollment: it, or its epoch, is over. Returns how much that was.

    In the caller's transaction, which holds the lock of the enrollment.
    """
    ended = [state.value for state in State if next_state(state, Event.END) is State.CANCELLED]
    return CommandDelivery.objects.filter(enrollment=enrollment, state__in=ended).update(
        state=State.CANCELLED.value, reason=reason[:300], completed_at=now
    )


@transaction.atomic
def decide_uncertain(delivery: CommandDelivery, *, resend: bool, actor: Actor, now: datetime) -> None:
    """Let a command that was handed out without an answer go again, or give it up.

    Raises :class:`NotUncertain`: it was answered or decided meanwhile, or its enrollment is over.
    """
    row = CommandDelivery.objects.select_related("command", "enrollment").get(pk=delivery.pk)
    event = Event.RESEND if resend else Event.GIVE_UP
    new = next_state(State(row.state), event)
    if new is None:
        raise NotUncertain("this was answered or decided meanwhile")
    if resend:
        _verify_still_possible(row, now)
    changes: dict[str, Any] = {"state": new.value}
    changes |= (
        {"reason": ""} if resend else {"reason": f"given up by {actor.name}"[:300], "completed_at": now}
    )
    if not CommandDelivery.objects.filter(pk=row.pk, state=row.state).update(**changes):
        raise NotUncertain("this was answered or decided meanwhile")
    if resend:
        outbox.request_push([row.enrollment_id], now=now)
    record(
        "command.resent" if resend else "command.given_up",
        actor=actor,
        target=row,
        at=now,
        details={"request_type": row.command.request_type, "command_uuid": str(row.command.uuid)},
    )


def _verify_still_possible(row: CommandDelivery, now: datetime) -> None:
    if row.enrollment.state != EnrollmentState.ENROLLED or row.epoch != row.enrollment.epoch:
        raise NotUncertain("the device is no longer enrolled as it was when this was queued")
    if row.command.cancelled_at is not None:
        raise NotUncertain("the command was cancelled")
    if row.command.expires_at is not None and row.command.expires_at <= now:
        raise NotUncertain("the command has expired")


def expire(now: datetime) -> Swept:
    """The sweep over what no device comes for, or answers. Twice at once does no harm.

    Waiting deliveries of expired commands expire. Of those that were handed out more than
    :data:`DOUBT_AFTER` ago without an answer, the dangerous ones become uncertain; the others wait on, to be
    handed out again, unless their command has expired or was cancelled.
    """
    silent = Q(state=State.SENT.value, sent_at__lte=now - DOUBT_AFTER)
    harmless = silent & Q(command__at_most_once=False)
    over = Q(command__expires_at__lte=now)
    return Swept(
        expired=_end((Q(state__in=_WAITING) | harmless) & over, state=State.EXPIRED.value, completed_at=now),
        cancelled=_end(
            harmless & Q(command__cancelled_at__isnull=False),
            state=State.CANCELLED.value,
            reason="cancelled; the device had not answered",
            completed_at=now,
        ),
        uncertain=_end(
            silent & Q(command__at_most_once=True),
            state=State.UNCERTAIN.value,
            reason="handed out, and no answer came",
        ),
    )


def _end(which: Q, **changes: Any) -> int:
    """In batches, past rows that somebody else holds: those are looked at by the next sweep."""
    total = 0
    while True:
        with transaction.atomic():
            found: QuerySet[CommandDelivery, Any] = CommandDelivery.objects.filter(
                which, state__in=OUTSTANDING
            ).order_by("pk")
            if connection.features.has_select_for_update_skip_locked:
                found = found.select_for_update(skip_locked=True, of=("self",))
            ids = list(found.values_list("pk", flat=True)[:BATCH])
            total += CommandDelivery.objects.filter(pk__in=ids).update(**changes) if ids else 0
        if len(ids) < BATCH:
            return total


def push_what_became_due(now: datetime) -> int:
    """Make a push due where a command's ``not_before`` has come and its device has not connected since.

    The push was asked for when the command was queued; a device that connected in between for another reason
    has cleared it. Returns how many pushes that made due.
    """
    waiting = (
        CommandDelivery.objects.filter(
            state=State.QUEUED.value,
            epoch=F("enrollment__epoch"),
            enrollment__state=EnrollmentState.ENROLLED,
            command__not_before__lte=now,
        )
        .filter(Q(enrollment__last_seen_at=None) | Q(enrollment__last_seen_at__lt=F("command__not_before")))
        .exclude(enrollment__push__state__in=[PushState.DUE, PushState.HELD])
        .values_list("enrollment_id", flat=True)
    )
    ids: Iterable[int] = set(waiting)
    return outbox.request_push(ids, now=now) if ids else 0
