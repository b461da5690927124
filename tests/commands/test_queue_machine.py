"""The queue against a model of it: any order of events, with faults of the network and the clock.

Invariants of ``reliability.md`` 4.2: C1 final states absorb, C2 an answer belongs to its owner, C3 nothing is
lost, C4 order by sequence, C5 one command a response and the rules of NotNow, C6 only in its epoch, C7 the
dangerous class at most once unless released.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run

from commands import queue
from commands.models import Command, CommandDelivery
from devices.models import Enrollment
from tests.commands.fleet import ALICE, NOW, connect_shortly, enqueue, enrolled

FINAL = {"ACKNOWLEDGED", "ERROR", "FORMAT_ERROR", "EXPIRED", "CANCELLED"}
ANSWERS = {"Acknowledged": "ACKNOWLEDGED", "Error": "ERROR", "CommandFormatError": "FORMAT_ERROR"}


@dataclass
class Expected:
    """What the model knows of one delivery."""

    command: Command
    owner: int
    epoch: int
    once: bool
    not_before: datetime | None
    expires_at: datetime | None
    state: str = "QUEUED"
    cancelled: bool = False
    sent_at: datetime | None = None
    not_now_at: datetime | None = None
    handed_out: int = 0
    may_be_handed_out: int = 1  # for the dangerous class: once, and once more for each release or NotNow
    history: list[str] = field(default_factory=list)

    def become(self, state: str) -> None:
        assert self.state not in FINAL
        self.state = state
        self.history.append(state)


class QueueMachine(RuleBasedStateMachine):
    """Two devices and an administrator."""

    @initialize()
    def start(self) -> None:
        self.now = NOW
        self.devices: list[Enrollment] = enrolled(2)
        self.expected: list[Expected] = []

    def pick(self, number: int) -> Expected:
        return self.expected[number % len(self.expected)]

    # The administrator

    @rule(
        owner=st.integers(0, 1),
        request_type=st.sampled_from(["ProfileList", "EraseDevice", "RestartDevice"]),
        delay=st.none() | st.integers(1, 90),
        life=st.none() | st.integers(91, 200),
    )
    def queue_command(self, owner: int, request_type: str, delay: int | None, life: int | None) -> None:
        not_before = None if delay is None else self.now + timedelta(minutes=delay)
        expires_at = None if life is None else self.now + timedelta(minutes=life)
        command = enqueue(
            self.devices[owner], request_type, now=self.now, not_before=not_before, expires_at=expires_at
        )
        self.expected.append(
            Expected(
                command,
                owner,
                self.devices[owner].epoch,
                request_type != "ProfileList",
                not_before,
                expires_at,
            )
        )

    @precondition(lambda self: self.expected)
    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        chosen = self.pick(number)
        queue.cancel(chosen.command, ALICE, self.now)
        chosen.cancelled = True
        if chosen.state in {"QUEUED", "NOT_NOW"}:
            chosen.become("CANCELLED")

    @precondition(lambda self: self.expected)
    @rule(number=st.integers(0, 99), resend=st.booleans())
    def decide(self, number: int, resend: bool) -> None:
        chosen = self.pick(number)
        row = CommandDelivery.objects.get(command=chosen.command)
        over = chosen.expires_at is not None and chosen.expires_at <= self.now
        possible = chosen.state == "UNCERTAIN" and not (resend and (chosen.cancelled or over))
        if not possible:
            with pytest.raises(queue.NotUncertain):
                queue.decide_uncertain(row, resend=resend, actor=ALICE, now=self.now)
            return
        queue.decide_uncertain(row, resend=resend, actor=ALICE, now=self.now)
        chosen.become("QUEUED" if resend else "CANCELLED")
        chosen.may_be_handed_out += 1

    # Time

    @rule(minutes=st.integers(1, 60))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def sweep(self) -> None:
        queue.expire(self.now)
        for row in self.expected:
            silent = (
                row.state == "SENT"
                and row.sent_at is not None
                and row.sent_at <= self.now - timedelta(minutes=15)
            )
            over = row.expires_at is not None and row.expires_at <= self.now
            if (row.state in {"QUEUED", "NOT_NOW"} or (silent and not row.once)) and over:
                row.become("EXPIRED")
            elif silent and row.once:
                row.become("UNCERTAIN")
            elif silent and row.cancelled:
                row.become("CANCELLED")

    # The devices

    @rule(owner=st.integers(0, 1))
    def idle(self, owner: int) -> None:
        """Also a device whose last response was lost: it starts again with Idle."""
        self.check_handed(owner, connect_shortly(self.devices[owner], now=self.now), fresh_only=False)

    @precondition(lambda self: self.expected)
    @rule(
        owner=st.integers(0, 1),
        number=st.integers(0, 99),
        status=st.sampled_from(["Acknowledged", "Error", "CommandFormatError", "NotNow"]),
    )
    def answer(self, owner: int, number: int, status: str) -> None:
        """To what it has, to what is long finished, to what was never its own."""
        chosen = self.pick(number)
        handed = connect_shortly(self.devices[owner], status, chosen.command, now=self.now)
        ours = chosen.owner == owner and chosen.epoch == self.devices[owner].epoch
        if ours and chosen.state not in FINAL:
            chosen.become(ANSWERS.get(status, "NOT_NOW"))
            if status == "NotNow":
                chosen.may_be_handed_out = chosen.handed_out + 1
                chosen.not_now_at = self.now
        self.check_handed(owner, handed, fresh_only=True)

    @rule(owner=st.integers(0, 1))
    def enrol_again(self, owner: int) -> None:
        enrollment = self.devices[owner]
        queue.cancel_outstanding(enrollment, "enrolled again", self.now)
        enrollment.epoch += 1
        enrollment.save()
        for row in self.expected:
            if row.owner == owner and row.state not in FINAL:
                row.become("CANCELLED")

    def check_handed(self, owner: int, handed: queue.Handed | None, *, fresh_only: bool) -> None:
        wanted = self.next_of(owner, fresh_only=fresh_only)
        assert (handed.command_uuid if handed else None) == (wanted.command.uuid if wanted else None)
        if wanted is not None:
            wanted.become("SENT")
            wanted.sent_at = self.now
            wanted.handed_out += 1
            assert not wanted.once or wanted.handed_out <= wanted.may_be_handed_out

    def next_of(self, owner: int, *, fresh_only: bool) -> Expected | None:
        waiting = {"QUEUED"} if fresh_only else {"QUEUED", "NOT_NOW", "SENT"}
        for row in self.expected:
            rested = (
                row.state == "NOT_NOW"
                and row.not_now_at is not None
                and row.not_now_at <= self.now - timedelta(minutes=1)
            )
            if row.owner != owner or not (row.state in waiting or rested):
                continue
            if row.not_before is not None and row.not_before > self.now:
                continue
            if row.state == "SENT" and row.once:
                row.become("UNCERTAIN")
            elif row.cancelled:
                row.become("CANCELLED")
            elif row.expires_at is not None and row.expires_at <= self.now:
                self.expire_all(owner)
                if row.state == "SENT":
                    row.become("EXPIRED")
            else:
                return row
        return None

    def expire_all(self, owner: int) -> None:
        for row in self.expected:
            waiting = row.owner == owner and row.state in {"QUEUED", "NOT_NOW"}
            if waiting and row.expires_at is not None and row.expires_at <= self.now:
                row.become("EXPIRED")

    # What always holds

    @invariant()
    def the_database_agrees(self) -> None:
        rows = self.stored()
        assert len(rows) == len(self.expected)
        for row in self.expected:
            state, sent_count, results = rows[row.command.uuid]
            assert state == row.state, row.history
            assert sent_count == row.handed_out
            assert results == (1 if state in {"ACKNOWLEDGED", "ERROR", "FORMAT_ERROR"} else 0)

    @invariant()
    def what_is_outstanding_is_known(self) -> None:
        for owner, enrollment in enumerate(self.devices):
            deliverable = any(
                row.owner == owner
                and row.state in {"QUEUED", "SENT", "NOT_NOW"}
                and (row.not_before is None or row.not_before <= self.now)
                and (row.expires_at is None or row.expires_at > self.now)
                for row in self.expected
            )
            assert queue.has_outstanding(enrollment, now=self.now) == deliverable

    def stored(self) -> dict[UUID, tuple[str, int, int]]:
        rows: Any = CommandDelivery.objects.filter(enrollment__in=self.devices).values_list(
            "command__uuid", "state", "sent_count", "result"
        )
        return {uuid: (state, sent, 0 if result is None else 1) for uuid, state, sent, result in rows}


@pytest.mark.django_db
def test_the_queue_behaves_as_its_model() -> None:
    run(
        QueueMachine,
        settings=settings(
            deadline=None,
            max_examples=40,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )
