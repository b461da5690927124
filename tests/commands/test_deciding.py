"""Cancelling, expiring, ending, and deciding doubts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine

from audit.models import AuditEvent
from commands import deciding, queue
from commands.deciding import DOUBT_AFTER
from commands.models import Command
from commands.tasks import expire_commands
from devices.models import Enrollment, EnrollmentState
from push import outbox
from push.models import PushRequest, PushState
from tests.commands.fleet import ALICE, NOW, connect, delivery, enqueue, enrolled, later, one, state
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def uncertain(enrollment: Enrollment, request_type: str = "EraseDevice", **options: Any) -> Command:
    command = enqueue(enrollment, request_type, **options)
    connect(enrollment)
    connect(enrollment)
    assert state(command, enrollment) == "UNCERTAIN"
    return command


# Cancelling


def test_cancelling_takes_back_what_is_not_with_a_device() -> None:
    queued, busy, has_it, done = enrolled(4)
    command = enqueue([queued, busy, has_it, done])
    for enrollment in (busy, has_it, done):
        connect(enrollment)
    connect(busy, "NotNow", command)
    connect(done, "Acknowledged", command)
    assert queue.cancel(command, ALICE, later(minutes=1)) == 2
    assert [state(command, row) for row in (queued, busy, has_it, done)] == [
        "CANCELLED",
        "CANCELLED",
        "SENT",
        "ACKNOWLEDGED",
    ]
    row = delivery(command, queued)
    assert (row.reason, row.completed_at) == ("cancelled by alice", later(minutes=1))
    assert Command.objects.get(pk=command.pk).cancelled_at == later(minutes=1)
    event = AuditEvent.objects.get(action="command.cancelled")
    assert (event.actor, event.details["cancelled"]) == ("alice", 2)
    # The one that has it may answer still.
    connect(has_it, "Acknowledged", command)
    assert state(command, has_it) == "ACKNOWLEDGED"


def test_a_cancelled_command_that_was_lost_on_its_way_is_not_handed_out_again() -> None:
    target = one()
    command = enqueue(target)
    connect(target)
    queue.cancel(command, ALICE, NOW)
    assert connect(target) is None
    assert state(command, target) == "CANCELLED"


def test_a_cancelled_dangerous_command_without_answer_stays_a_doubt() -> None:
    target = one()
    command = enqueue(target, "EraseDevice")
    connect(target)
    queue.cancel(command, ALICE, NOW)
    assert connect(target) is None
    row = delivery(command, target)
    assert row.state == "UNCERTAIN"
    with no_change(), pytest.raises(queue.NotUncertain, match="cancelled"):
        queue.decide_uncertain(row, resend=True, actor=ALICE, now=NOW)


def test_cancelling_twice_keeps_the_first_moment() -> None:
    target = one()
    command = enqueue(target)
    queue.cancel(command, ALICE, NOW)
    assert queue.cancel(command, ALICE, later(hours=1)) == 0
    assert Command.objects.get(pk=command.pk).cancelled_at == NOW


def test_the_end_of_an_enrollment_ends_what_waits_for_it() -> None:
    target, other = enrolled(2)
    doubt = uncertain(target)
    done = enqueue(target)
    connect(target)
    connect(target, "Acknowledged", done)
    busy = enqueue(target)
    connect(target)
    connect(target, "NotNow", busy)
    sent = enqueue(target, "RestartDevice")
    connect(target, "Error", "unknown")
    queued, theirs = enqueue(target), enqueue(other)
    assert state(sent, target) == "SENT"
    assert queue.cancel_outstanding(target, "the device enrolled again", NOW) == 4
    for command in (doubt, busy, sent, queued):
        row = delivery(command, target)
        assert (row.state, row.reason) == ("CANCELLED", "the device enrolled again")
    assert state(done, target) == "ACKNOWLEDGED"
    assert state(theirs, other) == "QUEUED"


# Doubts


def test_an_administrator_lets_it_go_again() -> None:
    target = one()
    command = uncertain(target)
    outbox.connected(target.pk, more=False, now=NOW)
    queue.decide_uncertain(delivery(command, target), resend=True, actor=ALICE, now=later(minutes=1))
    row = delivery(command, target)
    assert (row.state, row.reason) == ("QUEUED", "")
    assert PushRequest.objects.get(enrollment=target).state == PushState.DUE
    assert AuditEvent.objects.get(action="command.resent").actor == "alice"
    handed = connect(target)
    assert handed is not None
    assert handed.command_uuid == command.uuid
    # Released once, not for ever.
    assert connect(target) is None
    row = delivery(command, target)
    assert (row.state, row.sent_count) == ("UNCERTAIN", 2)


def test_an_administrator_gives_it_up() -> None:
    target = one()
    command = uncertain(target)
    queue.decide_uncertain(delivery(command, target), resend=False, actor=ALICE, now=later(minutes=1))
    row = delivery(command, target)
    assert (row.state, row.reason, row.completed_at) == ("CANCELLED", "given up by alice", later(minutes=1))
    assert AuditEvent.objects.get(action="command.given_up").actor == "alice"
    assert connect(target) is None


@pytest.mark.parametrize("resend", [True, False])
def test_there_is_nothing_to_decide_about_anything_else(resend: bool) -> None:
    target = one()
    command = enqueue(target, "EraseDevice")
    for _ in range(3):
        row = delivery(command, target)
        with no_change(), pytest.raises(queue.NotUncertain):
            queue.decide_uncertain(row, resend=resend, actor=ALICE, now=NOW)
        connect(target) if row.state == "QUEUED" else connect(target, "Acknowledged", command)
    assert state(command, target) == "ACKNOWLEDGED"
    assert not AuditEvent.objects.filter(action__in=["command.resent", "command.given_up"]).exists()


@pytest.mark.parametrize("resend", [True, False])
def test_an_answer_that_came_meanwhile_wins(resend: bool) -> None:
    target = one()
    command = uncertain(target)
    stale = delivery(command, target)
    connect(target, "Acknowledged", command)
    with no_change(), pytest.raises(queue.NotUncertain):
        queue.decide_uncertain(stale, resend=resend, actor=ALICE, now=NOW)


def test_it_cannot_go_again_to_another_life_of_the_device() -> None:
    again, gone, late = enrolled(3)
    rows = []
    for enrollment in (again, gone):
        rows.append(delivery(uncertain(enrollment), enrollment))
    rows.append(delivery(uncertain(late, expires_at=later(minutes=5)), late))
    Enrollment.objects.filter(pk=again.pk).update(epoch=2)
    Enrollment.objects.filter(pk=gone.pk).update(state=EnrollmentState.CHECKED_OUT)
    for row in rows:
        with no_change(), pytest.raises(queue.NotUncertain):
            queue.decide_uncertain(row, resend=True, actor=ALICE, now=later(minutes=6))


# The sweep


def test_the_sweep_expires_what_nobody_came_for() -> None:
    target = one()
    expiring, lasting = enqueue(target, expires_at=later(hours=1)), enqueue(target)
    busy = one()
    refused = enqueue(busy, expires_at=later(hours=1))
    connect(busy)
    connect(busy, "NotNow", refused)
    with no_change():
        assert queue.expire(later(minutes=59)) == queue.Swept()
    assert queue.expire(later(hours=1)) == queue.Swept(expired=2)
    assert state(expiring, target) == state(refused, busy) == "EXPIRED"
    assert state(lasting, target) == "QUEUED"
    assert delivery(expiring, target).completed_at == later(hours=1)
    with no_change():
        assert queue.expire(later(hours=1)) == queue.Swept()


def test_the_sweep_gives_an_answer_time() -> None:
    dangerous, harmless, cancelled = enrolled(3)
    lock = enqueue(dangerous, "DeviceLock")
    expiring = enqueue(harmless, expires_at=later(minutes=1))
    taken_back = enqueue(cancelled)
    for enrollment in (dangerous, harmless, cancelled):
        connect(enrollment)
    queue.cancel(taken_back, ALICE, NOW)
    with no_change():
        assert queue.expire(NOW + DOUBT_AFTER - timedelta(seconds=1)) == queue.Swept()
    assert queue.expire(NOW + DOUBT_AFTER) == queue.Swept(expired=1, cancelled=1, uncertain=1)
    assert state(lock, dangerous) == "UNCERTAIN"
    assert delivery(lock, dangerous).completed_at is None
    assert state(expiring, harmless) == "EXPIRED"
    assert state(taken_back, cancelled) == "CANCELLED"


def test_a_harmless_command_with_a_silent_device_waits_on() -> None:
    target = one()
    command = enqueue(target)
    connect(target)
    with no_change():
        queue.expire(later(days=100))
    assert state(command, target) == "SENT"


def test_the_sweep_works_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "BATCH", 3)
    fleet = enrolled(8)
    enqueue(fleet, expires_at=later(minutes=1))
    assert queue.expire(later(minutes=1)).expired == 8


# What becomes due


def test_a_push_for_what_has_become_due() -> None:
    target, asleep, came = enrolled(3)
    command = enqueue([target, asleep, came], not_before=later(hours=1))
    # Two connect early, for another reason: their pushes are cleared.
    for enrollment in (target, came):
        Enrollment.objects.filter(pk=enrollment.pk).update(last_seen_at=later(minutes=5))
        outbox.connected(enrollment.pk, more=False, now=later(minutes=5))
    with no_change():
        assert queue.push_what_became_due(later(minutes=59)) == 0
    Enrollment.objects.filter(pk=came.pk).update(last_seen_at=later(minutes=61))
    connect(came, now=later(minutes=61))
    assert queue.push_what_became_due(later(minutes=62)) == 1
    assert PushRequest.objects.get(enrollment=target).state == PushState.DUE
    assert PushRequest.objects.get(enrollment=asleep).due_at == later(hours=1)
    assert state(command, came) == "SENT"
    with no_change():
        assert queue.push_what_became_due(later(minutes=63)) == 0


@time_machine.travel(later(minutes=2), tick=False)
def test_the_task_sweeps() -> None:
    target = one()
    command = enqueue(target, expires_at=later(minutes=1))
    expire_commands()
    assert state(command, target) == "EXPIRED"
