"""Several requests of one device at the same moment, on a real database with real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.recording import SERVER
from commands import queue
from commands.models import Command, CommandDelivery, CommandSource, DeliveryState
from devices.models import Enrollment, Identity
from push import outbox
from push.models import PushRequest, PushState
from tests.mdm.support import enrollment_of
from tests.support.concurrency import somebody_waits
from tests.support.device_door import Answer
from tests.support.devices import Device, command_uuid, make_device, make_issuer
from tests.support.processes import wait_until

T = TypeVar("T")
pytestmark = pytest.mark.django_db(transaction=True)


def together(calls: list[Callable[[], T]]) -> list[T]:
    """Run the calls at once, each in a thread with a connection of its own."""
    results: list[T] = []
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> None:
        try:
            start.wait()
            results.append(call())
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(calls)
    return results


def enrolled(letter: str = "A") -> Device:
    make_issuer()
    device = make_device(letter)
    device.enrol()
    queue.cancel_outstanding(enrollment_of(device), "test", timezone.now())
    return device


def test_parallel_connects_hand_a_dangerous_command_out_once() -> None:
    device = enrolled()
    queue.enqueue(
        "RestartDevice",
        None,
        [enrollment_of(device).pk],
        source=CommandSource.ADMIN,
        actor=SERVER,
        now=timezone.now(),
    )
    answers: list[Answer] = together([device.idle] * 8)
    assert {answer.status for answer in answers} == {200}
    assert len([answer for answer in answers if answer.body]) == 1
    assert CommandDelivery.objects.get(command__request_type="RestartDevice").sent_count == 1


def test_parallel_reports_of_one_command_are_one() -> None:
    device = enrolled()
    queue.enqueue(
        "ProfileList",
        None,
        [enrollment_of(device).pk],
        source=CommandSource.ADMIN,
        actor=SERVER,
        now=timezone.now(),
    )
    uuid = command_uuid(device.idle())
    calls = [lambda: device.answer(uuid)] * 4 + [lambda: device.answer(uuid, "Error", ErrorChain=[])] * 4
    assert {answer.status for answer in together(calls)} == {200}
    delivery = CommandDelivery.objects.get(command__request_type="ProfileList")
    assert delivery.state in (DeliveryState.ACKNOWLEDGED, DeliveryState.ERROR)
    assert delivery.result.status == {"ACKNOWLEDGED": "Acknowledged", "ERROR": "Error"}[delivery.state]


def test_of_parallel_authenticates_with_one_certificate_one_device_results() -> None:
    make_issuer()
    device = make_device("A")
    others = [Device(device.certificate, device.key, udid=f"UDID-{number}") for number in range(6)]
    statuses = [
        answer.status
        for answer in together([lambda d=other: d.check_in(d.authenticate_message()) for other in others])  # type: ignore[misc]
    ]
    assert sorted(statuses) == [200, 400, 400, 400, 400, 400]
    assert Enrollment.objects.count() == 1
    assert Identity.objects.count() == 1


def test_of_parallel_newcomers_one_is_the_device() -> None:
    make_issuer()
    newcomers = [make_device(letter, udid="UDID-1") for letter in "ABCD"]
    answers = together([lambda d=d: d.check_in(d.authenticate_message()) for d in newcomers])  # type: ignore[misc]
    assert {answer.status for answer in answers} <= {200, 400}
    assert Enrollment.objects.filter(state="AUTHENTICATED").count() == 1
    assert Enrollment.objects.exclude(state="AUTHENTICATED").exclude(state="QUARANTINED").count() == 0


def test_check_ins_and_connects_of_one_device_do_not_block_each_other() -> None:
    device = enrolled()
    queue.enqueue(
        "DeviceInformation",
        None,
        [enrollment_of(device).pk],
        source=CommandSource.ADMIN,
        actor=SERVER,
        now=timezone.now(),
    )
    uuid = command_uuid(device.idle())
    calls: list[Callable[[], Answer]] = [
        lambda: device.answer(uuid, QueryResponses={"DeviceName": "x"}),
        lambda: device.check_in(device.authenticate_message(OSVersion="99")),
        device.idle,
        lambda: device.check_in(device.token_update_message(b"\x42" * 32, "other")),
        lambda: device.check_in(device.message(MessageType="SetBootstrapToken", BootstrapToken=b"b")),
        device.idle,
    ]
    assert {answer.status for answer in together(calls)} == {200}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="on SQLite one transaction writes at a time")
def test_a_command_that_is_queued_while_an_answer_is_taken_keeps_its_push() -> None:
    """What is queued when the answer has begun to look at the queue is not seen: its push has to stay due."""
    device = enrolled()
    enrollment = enrollment_of(device)
    first = enqueue(enrollment)
    assert command_uuid(device.idle()).lower() == str(first.uuid)
    answering = threading.Thread(target=answer_and_close, args=(device, str(first.uuid)))
    with transaction.atomic():
        second = enqueue(enrollment)  # holds the row of the push, as yet invisible to others
        answering.start()
        wait_until("the answer waits for the push", somebody_waits)
    answering.join()
    states = dict(CommandDelivery.objects.values_list("command__uuid", "state"))
    assert (states[first.uuid], states[second.uuid]) == (DeliveryState.ACKNOWLEDGED, DeliveryState.QUEUED)
    push = PushRequest.objects.get(enrollment=enrollment)
    assert push.state == PushState.DUE
    assert push.due_at is not None
    assert push.due_at < timezone.now() + outbox.AT_LEAST_BETWEEN


def enqueue(enrollment: Enrollment, name: str = "ProfileList") -> Command:
    now = timezone.now()
    return queue.enqueue(
        name, None, [enrollment.pk], source=CommandSource.ADMIN, actor=SERVER, now=now
    ).command


def answer_and_close(device: Device, uuid: str) -> None:
    try:
        assert device.answer(uuid).status == 200
    finally:
        connection.close()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite waits for the disk at every commit")
def test_only_what_may_go_out_twice_waits_for_no_disk() -> None:
    """An answer, and the hand-out of what must not go twice, are on disk before the device hears of it."""
    device = enrolled()
    enqueue(enrollment_of(device))
    enqueue(enrollment_of(device), "RestartDevice")
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
    with CaptureQueriesContext(connection) as harmless:
        uuid = command_uuid(device.idle())
    with CaptureQueriesContext(connection) as answering:
        dangerous = command_uuid(device.answer(uuid))
    with CaptureQueriesContext(connection) as done:
        assert device.answer(dangerous).body == b""
    enqueue(enrollment_of(device), "RestartDevice")
    with CaptureQueriesContext(connection) as alone:
        assert command_uuid(device.idle())
    assert ["synchronous_commit" in one["sql"] for one in harmless.captured_queries] == [False, True]
    others = [*answering.captured_queries, *done.captured_queries, *alone.captured_queries]
    assert not [one for one in others if "synchronous_commit" in one["sql"]]
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        assert cursor.fetchone() == ("on",)
