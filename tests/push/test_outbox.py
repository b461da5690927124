"""The outbox: bulk requests, the connect path, leases and their races, settling."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from celery import current_app
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from kombu.exceptions import OperationalError as BrokerUnreachable
from pytest_django import DjangoCaptureOnCommitCallbacks

from devices.models import Enrollment, EnrollmentState
from push import outbox, statements, waking
from push.models import PushRequest, PushState
from tests.push.conftest import NOW, TOPIC, MakeEnrollments
from tests.support.concurrency import own_connection, somebody_waits
from tests.support.processes import wait_until

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a worker was woken."""
    calls: list[int] = []
    monkeypatch.setattr(current_app, "send_task", lambda _name, **_options: calls.append(1))
    return calls


def row_of(enrollment: Enrollment) -> PushRequest:
    return PushRequest.objects.get(pk=enrollment.pk)


def snapshot() -> list[Any]:
    return list(PushRequest.objects.order_by("pk").values())


def settlement(row: outbox.Due, **changes: Any) -> outbox.Settlement:
    values: dict[str, Any] = {
        "enrollment_id": row.pk,
        "state": PushState.DUE,
        "due_at": NOW + 2 * MINUTE,
        "attempts": row.attempts + 1,
        "result": "200",
        "sent_at": NOW,
        "apns_id": uuid.uuid4(),
        **changes,
    }
    return outbox.Settlement(**values)


# --- requesting ---


def test_a_request_makes_a_row_that_is_due_now(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    assert outbox.request_push([enrollment.pk], now=NOW) == 1
    row = row_of(enrollment)
    assert (row.state, row.due_at, row.requested_at, row.attempts) == (PushState.DUE, NOW, NOW, 0)
    assert (row.lease_owner, row.last_sent_at, row.last_result) == (None, None, "")


def test_a_request_for_a_thousand_enrollments_is_one_statement(
    make_enrollments: MakeEnrollments, wakes: list[int]
) -> None:
    ids = [e.pk for e in make_enrollments(1000)]
    for _again in range(2):
        with transaction.atomic(), CaptureQueriesContext(connection) as queries:
            assert outbox.request_push(ids, now=NOW) == 1000
        assert len([q for q in queries if "SAVEPOINT" not in q["sql"]]) == 1
    assert PushRequest.objects.filter(state=PushState.DUE).count() == 1000


def test_many_enrollments_are_asked_for_in_chunks(
    make_enrollments: MakeEnrollments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "CHUNK", 40)
    ids = [e.pk for e in make_enrollments(100)]
    with CaptureQueriesContext(connection) as queries:
        assert outbox.request_push(reversed([*ids, *ids]), now=NOW) == 100
    assert len([q for q in queries if "INSERT" in q["sql"]]) == 3


def test_only_enrolled_ones_with_a_living_token_are_pushed(make_enrollments: MakeEnrollments) -> None:
    (good,) = make_enrollments()
    bad = [
        *make_enrollments(state=EnrollmentState.AUTHENTICATED),
        *make_enrollments(state=EnrollmentState.CHECKED_OUT),
        *make_enrollments(push_token=None),
        *make_enrollments(token_dead_at=NOW),
    ]
    assert outbox.request_push([e.pk for e in [good, *bad]] + [10**9], now=NOW) == 1
    assert [row["enrollment_id"] for row in snapshot()] == [good.pk]
    assert outbox.request_push([], now=NOW) == 0


def test_a_worker_is_woken_once_after_the_commit(
    make_enrollments: MakeEnrollments,
    wakes: list[int],
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    (enrollment,) = make_enrollments()
    with django_capture_on_commit_callbacks(execute=True):
        outbox.request_push([enrollment.pk], now=NOW)
        waking.flush()
        assert wakes == []
    waking.flush()
    assert wakes == [1]
    with django_capture_on_commit_callbacks(execute=True):
        outbox.request_push([10**9], now=NOW)
        outbox.request_push([enrollment.pk], now=NOW, due_at=NOW + MINUTE)
    waking.flush()
    assert wakes == [1], "nothing is due at once"


def test_without_a_broker_the_request_stands_all_the_same(
    make_enrollments: MakeEnrollments,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def unreachable(_name: str, **_options: object) -> None:
        raise BrokerUnreachable("refused")

    monkeypatch.setattr(current_app, "send_task", unreachable)
    (enrollment,) = make_enrollments()
    with django_capture_on_commit_callbacks(execute=True):
        outbox.request_push([enrollment.pk], now=NOW)
    waking.flush()
    assert row_of(enrollment).state == PushState.DUE
    assert "sweep" in caplog.text


def test_a_rolled_back_request_leaves_nothing(make_enrollments: MakeEnrollments, wakes: list[int]) -> None:
    (enrollment,) = make_enrollments()
    with transaction.atomic():
        outbox.request_push([enrollment.pk], now=NOW)
        transaction.set_rollback(True)
    waking.flush()
    assert snapshot() == []
    assert wakes == []


def make_row(enrollment: Enrollment, **values: Any) -> PushRequest:
    return PushRequest.objects.create(
        enrollment=enrollment, **{"state": PushState.DUE, "due_at": NOW, "requested_at": NOW, **values}
    )


def test_a_request_does_not_postpone_what_is_due_sooner(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    make_row(enrollment, due_at=NOW - MINUTE, requested_at=NOW - MINUTE, attempts=2)
    outbox.request_push([enrollment.pk], now=NOW)
    outbox.request_push([enrollment.pk], now=NOW, due_at=NOW + MINUTE)
    row = row_of(enrollment)
    assert (row.due_at, row.requested_at, row.attempts) == (NOW - MINUTE, NOW - MINUTE, 2)


def test_a_new_request_cuts_a_long_back_off_short(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    make_row(
        enrollment,
        due_at=NOW + timedelta(hours=20),
        requested_at=NOW - timedelta(days=3),
        last_sent_at=NOW - timedelta(hours=4),
        attempts=6,
    )
    outbox.request_push([enrollment.pk], now=NOW)
    row = row_of(enrollment)
    assert (row.due_at, row.attempts) == (NOW, 6)
    assert row.requested_at == NOW - timedelta(days=3), "it waits since then"


def test_a_hundred_commands_in_a_row_are_not_a_hundred_pushes(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    sent = NOW - timedelta(seconds=5)
    make_row(enrollment, due_at=NOW + 2 * MINUTE, last_sent_at=sent, attempts=1)
    for second in range(10):
        outbox.request_push([enrollment.pk], now=NOW + timedelta(seconds=second))
        due = row_of(enrollment).due_at
        assert due is not None
        assert due == NOW + outbox.AT_LEAST_BETWEEN
    make_row_due = NOW + timedelta(seconds=outbox.AT_LEAST_BETWEEN.seconds - 4)
    outbox.request_push([enrollment.pk], now=make_row_due)
    assert row_of(enrollment).due_at == make_row_due, "20 seconds after the last push it goes out"


def test_after_a_connect_the_next_request_is_pushed_at_once(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    make_row(enrollment, state=PushState.IDLE, last_sent_at=NOW - timedelta(seconds=2), attempts=3)
    outbox.request_push([enrollment.pk], now=NOW)
    row = row_of(enrollment)
    assert (row.state, row.due_at, row.requested_at, row.attempts) == (PushState.DUE, NOW, NOW, 0)


def test_what_is_held_stays_held(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    make_row(enrollment, state=PushState.HELD, due_at=NOW - MINUTE)
    outbox.request_push([enrollment.pk], now=NOW)
    assert row_of(enrollment).state == PushState.HELD


# --- the device connected ---


@pytest.mark.parametrize("state", [PushState.DUE, PushState.HELD])
def test_a_connect_with_nothing_left_ends_it(make_enrollments: MakeEnrollments, state: PushState) -> None:
    enrollment, other = make_enrollments(2)
    make_row(enrollment, state=state, lease_owner=uuid.uuid4(), lease_until=NOW + MINUTE, attempts=2)
    make_row(other)
    with CaptureQueriesContext(connection) as queries:
        outbox.connected(enrollment.pk, more=False, now=NOW)
    assert len(queries) == 1
    row = row_of(enrollment)
    assert (row.state, row.lease_owner, row.lease_until) == (PushState.IDLE, None, None)
    assert row_of(other).state == PushState.DUE


def test_a_connect_of_an_idle_device_changes_nothing(make_enrollments: MakeEnrollments) -> None:
    idle, without_row = make_enrollments(2)
    make_row(idle, state=PushState.IDLE)
    before = snapshot()
    with CaptureQueriesContext(connection) as queries:
        outbox.connected(idle.pk, more=False, now=NOW)
        outbox.connected(without_row.pk, more=False, now=NOW)
    assert len(queries) == 2
    assert snapshot() == before


def test_a_connect_with_work_left_is_pushed_again_later_and_ever_later(
    make_enrollments: MakeEnrollments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "jitter", lambda: 0.0)
    (enrollment,) = make_enrollments()
    for attempts, minutes in ((0, 2), (1, 2), (2, 10), (3, 60), (9, 60)):
        PushRequest.objects.all().delete()
        make_row(enrollment, attempts=attempts, lease_owner=uuid.uuid4(), lease_until=NOW + MINUTE)
        outbox.connected(enrollment.pk, more=False, now=NOW)
        with CaptureQueriesContext(connection) as queries:
            outbox.connected(enrollment.pk, more=True, now=NOW)
        assert len(queries) == 1
        row = row_of(enrollment)
        assert (row.state, row.due_at, row.lease_owner) == (PushState.DUE, NOW + minutes * MINUTE, None)


def test_a_connect_does_not_release_what_is_held(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    make_row(enrollment, state=PushState.HELD)
    outbox.connected(enrollment.pk, more=True, now=NOW)
    assert row_of(enrollment).state == PushState.HELD


# --- leases ---


def test_a_claim_takes_what_is_due_and_free_the_longest_due_first(make_enrollments: MakeEnrollments) -> None:
    late, early, future, leased, idle, held, expired = make_enrollments(7)
    make_row(late, due_at=NOW)
    make_row(early, due_at=NOW - MINUTE)
    make_row(future, due_at=NOW + MINUTE)
    make_row(leased, lease_owner=uuid.uuid4(), lease_until=NOW + MINUTE)
    make_row(idle, state=PushState.IDLE)
    make_row(held, state=PushState.HELD)
    make_row(expired, due_at=NOW - timedelta(seconds=1), lease_owner=uuid.uuid4(), lease_until=NOW)
    assert outbox.anything_due(NOW)
    first = outbox.claim(NOW, 1)
    assert [row.pk for row in first.rows] == [early.pk]
    second = outbox.claim(NOW, 10)
    assert {row.pk for row in second.rows} == {late.pk, expired.pk}
    leases = PushRequest.objects.filter(pk__in=[row.pk for row in second.rows])
    assert set(leases.values_list("lease_owner", "lease_until")) == {(second.owner, NOW + outbox.LEASE)}
    assert outbox.claim(NOW, 10).rows == ()
    assert not outbox.anything_due(NOW)


def test_a_lease_is_at_most_a_minute_and_longer_than_sending() -> None:
    from push.client import SEND_DEADLINE

    assert timedelta(seconds=SEND_DEADLINE) < outbox.LEASE <= MINUTE


def test_a_claim_can_leave_topics_out_or_take_one(make_enrollments: MakeEnrollments) -> None:
    (mine,) = make_enrollments()
    (other,) = make_enrollments(topic="com.apple.mgmt.other")
    make_row(mine)
    make_row(other)
    assert outbox.claim(NOW, 9, not_topics=[TOPIC, "com.apple.mgmt.other"]).rows == ()
    assert [r.pk for r in outbox.claim(NOW, 9, topic="com.apple.mgmt.other").rows] == [other.pk]
    assert [r.pk for r in outbox.claim(NOW, 9, not_topics=["com.apple.mgmt.other"]).rows] == [mine.pk]


def test_after_a_worker_s_death_the_rows_are_claimed_again(make_enrollments: MakeEnrollments) -> None:
    (enrollment,) = make_enrollments()
    make_row(enrollment)
    dead = outbox.claim(NOW, 10)
    assert outbox.claim(NOW + outbox.LEASE - timedelta(seconds=1), 10).rows == ()
    heir = outbox.claim(NOW + outbox.LEASE, 10)
    assert [row.pk for row in heir.rows] == [enrollment.pk]
    assert outbox.settle(dead.owner, [settlement(dead.rows[0])], now=NOW) == 0, "it comes back too late"
    assert row_of(enrollment).lease_owner == heir.owner


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run a function in several threads at once, each with its own connection; errors are raised here."""
    barrier = threading.Barrier(count)

    @own_connection
    def body(number: int) -> None:
        barrier.wait(10)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(body, number) for number in range(count)]:
            done.result(60)


@pytest.mark.django_db(transaction=True)
def test_racing_senders_never_claim_the_same_row(make_enrollments: MakeEnrollments) -> None:
    enrollments = make_enrollments(300)
    outbox.request_push([e.pk for e in enrollments], now=NOW)
    claimed: dict[int, list[int]] = {number: [] for number in range(6)}

    def work(number: int) -> None:
        while rows := outbox.claim(NOW, 7).rows:
            claimed[number] += [row.pk for row in rows]

    in_threads(work, 6)
    everything = [pk for pks in claimed.values() for pk in pks]
    assert len(everything) == len(set(everything))
    # A sender may find nothing while another holds the last locks; what is left is still due, not lost.
    rest = outbox.claim(NOW, 300).rows
    assert len(everything) + len(rest) == 300


@pytest.mark.django_db(transaction=True)
def test_requests_connects_claims_and_settlements_at_once_do_not_deadlock(
    make_enrollments: MakeEnrollments,
) -> None:
    ids = [e.pk for e in make_enrollments(60)]

    def work(number: int) -> None:
        for turn in range(15):
            now = NOW + timedelta(minutes=turn)
            if number in {0, 1}:
                outbox.request_push(ids if number else reversed(ids), now=now)
            elif number == 2:
                for pk in ids[turn::15]:
                    with transaction.atomic():
                        Enrollment.objects.select_for_update(no_key=True).get(pk=pk)
                        outbox.connected(pk, more=False, now=now)
                        outbox.connected(pk, more=bool(pk % 2), now=now)
            elif number == 3:
                claim = outbox.claim(now, 20)
                dead = {row.pk: row.push_token for row in claim.rows[::5]}
                outbox.settle(
                    claim.owner,
                    [settlement(row, due_at=now, dead_token=dead.get(row.pk)) for row in claim.rows],
                    now=now,
                )
            else:
                outbox.hold(TOPIC, "held")
                outbox.release(TOPIC, now=now)

    in_threads(work, 5)
    assert PushRequest.objects.count() == 60


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("state", [PushState.DUE, PushState.IDLE])
def test_a_command_queued_while_the_device_connects_is_not_forgotten(
    make_enrollments: MakeEnrollments, state: PushState
) -> None:
    """The connect has looked into the queue and found nothing; then, before it commits, a command comes."""
    (enrollment,) = make_enrollments()
    make_row(enrollment, state=state)

    @own_connection
    def enqueue() -> None:
        outbox.request_push([enrollment.pk], now=NOW + MINUTE)

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            outbox.connected(enrollment.pk, more=False, now=NOW)
            queued = pool.submit(enqueue)
            time.sleep(0.2)
        queued.result(30)
    row = row_of(enrollment)
    assert (row.state, row.due_at) == (PushState.DUE, NOW + MINUTE)


# --- settling ---


def test_settling_writes_each_row_in_a_constant_number_of_statements(
    make_enrollments: MakeEnrollments,
) -> None:
    outbox.request_push([e.pk for e in make_enrollments(200)], now=NOW)
    claim = outbox.claim(NOW, 200)
    changes = [
        settlement(
            row,
            due_at=NOW + n * MINUTE,
            result=f"2{n:02d}",
            sent_at=None if n % 2 else NOW,
            apns_id=None if n % 3 else uuid.UUID(int=n),
        )
        for n, row in enumerate(claim.rows)
    ]
    with CaptureQueriesContext(connection) as queries:
        assert outbox.settle(claim.owner, changes, now=NOW) == 200
    assert len(queries) == 1
    for change in changes:
        row = PushRequest.objects.get(pk=change.enrollment_id)
        assert (row.state, row.due_at, row.attempts) == (PushState.DUE, change.due_at, 1)
        assert (row.last_result, row.last_sent_at) == (change.result, change.sent_at)
        assert row.last_apns_id == change.apns_id
        assert (row.lease_owner, row.lease_until) == (None, None)


def test_a_device_that_connected_meanwhile_wins(make_enrollments: MakeEnrollments) -> None:
    first, second = make_enrollments(2)
    outbox.request_push([first.pk, second.pk], now=NOW)
    claim = outbox.claim(NOW, 10)
    outbox.connected(first.pk, more=False, now=NOW)
    before = row_of(first)
    changes = [settlement(r, dead_token=r.push_token) for r in claim.rows]
    assert outbox.settle(claim.owner, changes, now=NOW) == 1
    assert row_of(first).state == before.state == PushState.IDLE
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.token_dead_at is None
    assert second.token_dead_at == NOW


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="one writer at a time")
@pytest.mark.parametrize("leaves", [True, False])
def test_a_device_that_connects_in_the_moment_of_settling_wins(
    make_enrollments: MakeEnrollments, leaves: bool
) -> None:
    """Its change is not committed when the statement begins; a rolled back one takes nothing away."""
    enrollment, other = make_enrollments(2)
    outbox.request_push([enrollment.pk, other.pk], now=NOW)
    claim = outbox.claim(NOW, 10)

    @own_connection
    def settle() -> int:
        return outbox.settle(claim.owner, [settlement(row) for row in claim.rows], now=NOW)

    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            outbox.connected(enrollment.pk, more=False, now=NOW)
            running = pool.submit(settle)
            wait_until("the settlement waits", somebody_waits)
            transaction.set_rollback(not leaves)
        assert running.result(30) == (1 if leaves else 2)
    assert row_of(enrollment).state == (PushState.IDLE if leaves else PushState.DUE)
    assert row_of(other).attempts == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="one writer at a time")
def test_a_claim_passes_over_what_somebody_else_is_changing(make_enrollments: MakeEnrollments) -> None:
    enrollment, other = make_enrollments(2)
    outbox.request_push([enrollment.pk, other.pk], now=NOW)

    @own_connection
    def claim() -> list[int]:
        return [row.pk for row in outbox.claim(NOW, 10).rows]

    with ThreadPoolExecutor(1) as pool, transaction.atomic():
        outbox.connected(enrollment.pk, more=True, now=NOW)
        assert pool.submit(claim).result(30) == [other.pk]


def test_a_token_that_came_meanwhile_is_not_killed_but_used(
    make_enrollments: MakeEnrollments,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    (enrollment,) = make_enrollments()
    outbox.request_push([enrollment.pk], now=NOW)
    claim = outbox.claim(NOW, 10)
    old = claim.rows[0].push_token
    Enrollment.objects.filter(pk=enrollment.pk).update(push_token=b"new", token_updated_at=NOW)
    dead = settlement(claim.rows[0], state=PushState.IDLE, dead_token=old)
    with django_capture_on_commit_callbacks() as callbacks:
        assert outbox.settle(claim.owner, [dead], now=NOW) == 1
    assert callbacks == [outbox.wake], "it does not wait for the sweep"
    enrollment.refresh_from_db()
    assert enrollment.token_dead_at is None
    row = row_of(enrollment)
    assert (row.state, row.due_at) == (PushState.DUE, NOW)


def test_giving_back_ends_the_lease_and_counts_no_attempt(make_enrollments: MakeEnrollments) -> None:
    first, second = make_enrollments(2)
    outbox.request_push([first.pk, second.pk], now=NOW)
    owner = outbox.claim(NOW, 10).owner
    given = outbox.give_back(owner, [first.pk], state=PushState.IDLE, due_at=NOW, result="ended")
    assert given == 1
    assert (row_of(first).state, row_of(first).attempts, row_of(first).last_result) == ("IDLE", 0, "ended")
    assert row_of(second).lease_owner == owner
    assert outbox.give_back(owner, None, state=PushState.DUE, due_at=NOW, result="") == 1


def test_holding_and_releasing_a_topic(make_enrollments: MakeEnrollments, wakes: list[int]) -> None:
    mine = make_enrollments(3)
    (other,) = make_enrollments(topic="com.apple.mgmt.other")
    outbox.request_push([e.pk for e in [*mine, other]], now=NOW)
    outbox.connected(mine[2].pk, more=False, now=NOW)
    claim = outbox.claim(NOW, 1)
    assert outbox.hold(TOPIC, "refused") == 2
    assert [row_of(e).state for e in [*mine, other]] == ["HELD", "HELD", "IDLE", "DUE"]
    assert row_of(mine[0]).last_result == "refused"
    assert outbox.settle(claim.owner, [settlement(claim.rows[0])], now=NOW) == 0
    later = NOW + timedelta(days=2)
    assert outbox.release(TOPIC, now=later) == 2
    assert [row_of(e).state for e in [*mine, other]] == ["DUE", "DUE", "IDLE", "DUE"]
    assert row_of(mine[0]).due_at == later


def test_due_rows_are_found_by_the_partial_index(make_enrollments: MakeEnrollments) -> None:
    outbox.request_push([e.pk for e in make_enrollments(50)], now=NOW)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan = off")
    assert "push_due" in outbox._due(NOW).order_by("due_at")[:10].explain()
    if connection.vendor == "postgresql":
        for sql, topics in (
            (statements._LEASE, []),
            (statements._LEASE_OF_TOPIC, [TOPIC]),
            (statements._LEASE_OF_OTHERS, [json.dumps([TOPIC])]),
        ):
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN {sql}", [NOW, NOW, *topics, 500, uuid.uuid4(), NOW])
                plan = "\n".join(line for (line,) in cursor.fetchall())
            assert "push_due" in plan
            assert "Seq Scan" not in plan


@pytest.mark.parametrize("moment", [datetime(2026, 11, 24, 12, 0, 0, 500000, tzinfo=NOW.tzinfo), NOW])
def test_times_with_and_without_microseconds_compare(
    moment: datetime, make_enrollments: MakeEnrollments
) -> None:
    (enrollment,) = make_enrollments()
    outbox.request_push([enrollment.pk], now=moment)
    assert not outbox.anything_due(moment - timedelta(microseconds=1))
    assert outbox.anything_due(moment)
    outbox.request_push([enrollment.pk], now=moment - timedelta(microseconds=1))
    assert outbox.anything_due(moment - timedelta(microseconds=1))
