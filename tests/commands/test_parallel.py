"""One device that connects many times at once, on whichever database the suite runs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models import F

from commands import queue
from commands.models import CommandDelivery
from devices.models import Enrollment
from tests.commands.fleet import ALICE, NOW, connect, enqueue, enrolled, one, report, state

pytestmark = pytest.mark.django_db(transaction=True)

PARALLEL = 20


def at_once(work: Callable[[int], Any], count: int = PARALLEL) -> list[Any]:
    """Run ``work(n)`` in so many threads that start together; what one raises is raised here."""
    barrier = threading.Barrier(count)

    def start(number: int) -> Any:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=60)
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))


def uuid_of(handed: queue.Handed | None) -> UUID | None:
    return handed.command_uuid if handed else None


@pytest.mark.parametrize("request_type", ["EraseDevice", "RestartDevice"])
def test_a_dangerous_command_is_handed_out_once(request_type: str) -> None:
    target = one()
    command = enqueue(target, request_type)
    given = Counter(at_once(lambda _: uuid_of(connect(target))))
    assert given == {command.uuid: 1, None: PARALLEL - 1}
    row = CommandDelivery.objects.get()
    assert row.sent_count == 1
    assert row.state in {"SENT", "UNCERTAIN"}


def test_a_harmless_command_may_be_repeated_but_only_the_oldest() -> None:
    target = one()
    first, second = enqueue(target), enqueue(target)
    assert set(at_once(lambda _: uuid_of(connect(target)))) == {first.uuid}
    assert state(second, target) == "QUEUED"
    assert CommandDelivery.objects.get(command=first).sent_count == PARALLEL


def test_a_report_twenty_times_at_once_counts_once() -> None:
    target = one()
    command = enqueue(target)
    connect(target)

    def answer(number: int) -> bool:
        status = "Acknowledged" if number % 2 else "Error"
        with transaction.atomic():
            return queue.record_report(target, report(status, command), NOW).changed

    assert sum(at_once(answer)) == 1
    row = CommandDelivery.objects.get()
    assert (row.state, row.result.status) in {("ACKNOWLEDGED", "Acknowledged"), ("ERROR", "Error")}


def test_a_device_that_does_everything_at_once_neither_loses_nor_blocks() -> None:
    """Idle, answers to several commands, NotNow, cancelling, sweeping and queueing, all in parallel."""
    target = one()
    commands = [enqueue(target, kind) for kind in ("ProfileList", "RestartDevice", "SecurityInfo") * 4]
    CommandDelivery.objects.update(state="SENT", sent_count=1, sent_at=NOW - timedelta(hours=1))

    def act(number: int) -> None:
        for step in range(4):
            command = commands[(number * 5 + step * 3) % len(commands)]
            match (number + step) % 6:
                case 0:
                    connect(target)
                case 1 | 2:
                    connect(target, "Acknowledged", command)
                case 3:
                    connect(target, "NotNow", command)
                case 4:
                    queue.cancel(command, ALICE, NOW)
                    queue.expire(NOW)
                case _:
                    enqueue(target)

    at_once(act)
    open_states = ["QUEUED", "SENT", "NOT_NOW", "UNCERTAIN"]
    assert not CommandDelivery.objects.exclude(state__in=open_states).filter(completed_at=None).exists()
    answered = CommandDelivery.objects.filter(state="ACKNOWLEDGED")
    assert all(hasattr(row, "result") for row in answered)
    # Once, and once more for each time that the device said that it had not carried it out.
    dangerous = CommandDelivery.objects.filter(command__at_most_once=True)
    assert not dangerous.filter(sent_count__gt=F("not_now_count") + 1).exists()


def test_two_decisions_at_once_are_one() -> None:
    target = one()
    enqueue(target, "EraseDevice")
    connect(target)
    connect(target)
    row = CommandDelivery.objects.get()

    def decide(number: int) -> str:
        try:
            queue.decide_uncertain(row, resend=number % 2 == 0, actor=ALICE, now=NOW)
        except queue.NotUncertain:
            return "too late"
        return "resent" if number % 2 == 0 else "given up"

    outcomes = Counter(at_once(decide))
    assert outcomes["too late"] == PARALLEL - 1
    assert state(row.command, target) == ("QUEUED" if outcomes["resent"] else "CANCELLED")


def test_queueing_for_all_while_all_connect() -> None:
    fleet = enrolled(PARALLEL)

    def act(number: int) -> None:
        if number % 4 == 0:
            enqueue(fleet)
            return
        mine: Enrollment = fleet[number]
        handed = connect(mine)
        while handed is not None:
            handed = connect(mine, "Acknowledged", handed.command_uuid)

    at_once(act)
    assert CommandDelivery.objects.count() == PARALLEL * (PARALLEL // 4)
    for enrollment in fleet:
        handed = connect(enrollment)
        while handed is not None:
            handed = connect(enrollment, "Acknowledged", handed.command_uuid)
    assert set(CommandDelivery.objects.values_list("state", flat=True)) == {"ACKNOWLEDGED"}
