"""From the row to the device: the right push to the right device, and what each answer does to the row."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from audit.models import AuditEvent
from devices.models import Enrollment, EnrollmentState
from push import certificates, client, connections, dispatch, outbox, tasks, waking
from push.core import backoff
from push.models import PushCertificate, PushCertificateState, PushRequest, PushState
from tests.push.conftest import ADMIN, TOPIC, MakeEnrollments, import_for
from tests.support.apns import ApnsStandIn, Authority, Drop, GoAway, Reply, Reset, refusal
from tests.support.concurrency import own_connection

# Batches are sent by a thread of their own, but no thread of these tests touches the database.
pytestmark = pytest.mark.django_db

OTHER_TOPIC = "com.apple.mgmt.External.other"
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "jitter", lambda: 0.0)


def row_of(enrollment: Enrollment) -> PushRequest:
    return PushRequest.objects.get(pk=enrollment.pk)


def token_of(enrollment: Enrollment) -> bytes:
    assert enrollment.push_token is not None
    return bytes(enrollment.push_token)


def request(enrollments: list[Enrollment], now: datetime) -> None:
    outbox.request_push([e.pk for e in enrollments], now=now)


def fresh(enrollment: Enrollment) -> Enrollment:
    return Enrollment.objects.get(pk=enrollment.pk)


def test_each_device_gets_its_own_push(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    enrollments = make_enrollments(25)
    request(enrollments, now)
    done = dispatch.dispatch_due(now)
    assert (done.claimed, dict(done.outcomes)) == (25, {"accepted": 25})
    assert push_door.violations == []
    assert len(push_door.pushes) == 25
    for enrollment in enrollments:
        (seen,) = push_door.pushes_to(token_of(enrollment))
        assert seen.magic == enrollment.push_magic
        assert seen.topic == TOPIC == seen.client_topic
        assert seen.headers["apns-push-type"] == "mdm"
        assert int(seen.headers["apns-expiration"]) > now.timestamp()
        row = row_of(enrollment)
        assert seen.headers["apns-id"] == str(row.last_apns_id)
        assert (row.state, row.attempts, row.last_result, row.last_sent_at) == ("DUE", 1, "200", now)
        assert row.due_at == now + timedelta(minutes=2)
        assert row.lease_owner is None


def test_two_topics_go_with_their_own_certificates(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    import_for(push_door, OTHER_TOPIC, now, confirm_topic_change=True)
    request([*make_enrollments(3), *make_enrollments(3, topic=OTHER_TOPIC)], now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 6}
    assert sorted(seen.client_topic for seen in push_door.pushes) == sorted([TOPIC, OTHER_TOPIC] * 3)
    assert push_door.violations == []


def test_nothing_due_costs_one_statement_and_no_connection(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    request(make_enrollments(2), now + SECOND)
    with CaptureQueriesContext(connection) as queries:
        assert dispatch.dispatch_due(now).claimed == 0
    assert len(queries) == 1
    assert push_door.accepted == 0


def test_a_batch_takes_a_constant_number_of_statements(
    certificate: PushCertificate, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    counts = []
    for size in (10, 200):
        request(make_enrollments(size), now)
        with CaptureQueriesContext(connection) as queries:
            dispatch.dispatch_due(now)
        counts.append(len(queries))
    assert counts[0] == counts[1] <= 12


def test_the_connection_is_kept_between_batches(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    for _batch in range(5):
        request(make_enrollments(4), now)
        dispatch.dispatch_due(now)
    assert len(push_door.pushes) == 20
    assert push_door.accepted == 1


def test_pushed_again_until_the_device_connects(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    (enrollment,) = make_enrollments()
    request([enrollment], now)
    at, sent = now, []
    for _push in range(7):
        assert dispatch.dispatch_due(at - SECOND).claimed == 0
        assert dispatch.dispatch_due(at).outcomes == {"accepted": 1}
        sent.append(at - now)
        due = row_of(enrollment).due_at
        assert due is not None
        at = due
    minutes = [step / timedelta(minutes=1) for step in sent]
    assert minutes == [0, 2, 12, 72, 432, 1872, 3312]
    outbox.connected(enrollment.pk, more=False, now=at)
    assert dispatch.dispatch_due(at + timedelta(days=30)).claimed == 0
    assert len(push_door.pushes_to(token_of(enrollment))) == 7


def test_a_device_that_connects_during_the_push_wins(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (enrollment,) = make_enrollments()
    request([enrollment], now)
    settle = outbox.settle

    def after_a_connect(*arguments: Any, **options: Any) -> int:
        outbox.connected(enrollment.pk, more=False, now=now)
        return settle(*arguments, **options)

    monkeypatch.setattr(outbox, "settle", after_a_connect)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 1, "overtaken": 1}
    assert row_of(enrollment).state == PushState.IDLE


# --- answers ---


def test_410_marks_the_token_dead_and_keeps_the_device(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    gone, well = make_enrollments(2)
    assert gone.token_updated_at is not None
    push_door.script(token_of(gone), refusal(410, "Unregistered", timestamp=gone.token_updated_at))
    request([gone, well], now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 1, "token dead": 1}
    after = fresh(gone)
    assert (after.token_dead_at, after.state) == (now, EnrollmentState.ENROLLED)
    assert token_of(after) == token_of(gone)
    assert (row_of(gone).state, row_of(gone).last_result) == (PushState.IDLE, "410 Unregistered")
    assert fresh(well).token_dead_at is None
    assert outbox.request_push([gone.pk], now=now) == 0, "it is not pushed again"
    Enrollment.objects.filter(pk=gone.pk).update(
        push_token=b"new token", token_dead_at=None, token_updated_at=now
    )
    assert outbox.request_push([gone.pk], now=now) == 1, "a TokenUpdate revives it"
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 1}
    assert len(push_door.pushes_to(b"new token")) == 1


@pytest.mark.parametrize("milliseconds", [-1, None])
def test_410_older_than_the_token_keeps_it_and_tries_again(
    milliseconds: int | None,
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
) -> None:
    (enrollment,) = make_enrollments()
    assert enrollment.token_updated_at is not None
    told = milliseconds and enrollment.token_updated_at + timedelta(milliseconds=milliseconds)
    push_door.script(token_of(enrollment), refusal(410, "Unregistered", timestamp=told))
    request([enrollment], now)
    assert dispatch.dispatch_due(now).outcomes == {"retry": 1}
    assert fresh(enrollment).token_dead_at is None
    row = row_of(enrollment)
    assert (row.state, row.attempts) == (PushState.DUE, 1)
    assert row.due_at == now + backoff.FAILURE_FIRST
    assert dispatch.dispatch_due(row.due_at).outcomes == {"accepted": 1}


@pytest.mark.parametrize("reason", ["BadDeviceToken", "DeviceTokenNotForTopic"])
def test_a_bad_token_is_dead(
    reason: str,
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
) -> None:
    (enrollment,) = make_enrollments()
    push_door.default = refusal(400, reason)
    request([enrollment], now)
    assert dispatch.dispatch_due(now).outcomes == {"token dead": 1}
    assert fresh(enrollment).token_dead_at == now
    assert row_of(enrollment).state == PushState.IDLE


def test_when_every_token_is_called_bad_none_is_given_up(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    push_door.default = refusal(400, "BadDeviceToken")
    enrollments = make_enrollments(30)
    request(enrollments, now)
    dispatch.dispatch_due(now)
    assert not Enrollment.objects.filter(token_dead_at__isnull=False).exists()
    assert PushRequest.objects.filter(state=PushState.HELD).count() == 30
    certificate.refresh_from_db()
    assert "every device token" in certificate.held_reason


def test_429_rests_that_device_longer_and_longer(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    busy, well = make_enrollments(2)
    push_door.script(token_of(busy), *[refusal(429, "TooManyRequests")] * 9)
    request([busy, well], now)
    at, pauses = now, []
    for _try in range(9):
        dispatch.dispatch_due(at)
        due = row_of(busy).due_at
        assert due is not None
        pauses.append((due - at) / SECOND)
        at = due
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3000, 3000]
    assert len(push_door.pushes_to(token_of(well))) > 1
    certificate.refresh_from_db()
    assert (certificate.held_at, certificate.failures) == (None, 0)


def test_a_request_that_apns_calls_wrong_is_dropped(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    (enrollment,) = make_enrollments()
    push_door.default = refusal(413, "PayloadTooLarge")
    request([enrollment], now)
    assert dispatch.dispatch_due(now).outcomes == {"drop": 1}
    row = row_of(enrollment)
    assert (row.state, row.last_result) == (PushState.IDLE, "413 PayloadTooLarge")
    assert fresh(enrollment).token_dead_at is None


# --- the certificate is refused ---


def import_foreign(topic: str, now: datetime) -> PushCertificate:
    """A certificate that looks right, by a CA that the stand-in does not know."""
    pem, key = Authority("Somebody else").push_certificate(topic)
    return certificates.import_certificate(pem + key, actor=ADMIN, now=now)


def test_a_wrong_client_certificate_is_refused_and_shown(
    push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    wrong = import_foreign(TOPIC, now)
    enrollments = make_enrollments(5)
    request(enrollments, now)
    dispatch.dispatch_due(now)
    assert push_door.pushes == []
    assert push_door.refused_handshakes
    wrong.refresh_from_db()
    assert (wrong.state, wrong.held_at) == (PushCertificateState.ACTIVE, now)
    assert "unknown ca" in wrong.held_reason
    for enrollment in enrollments:
        row = row_of(enrollment)
        assert (row.state, row.attempts, row.last_sent_at) == (PushState.HELD, 0, None)
        assert "unknown ca" in row.last_result
        assert fresh(enrollment).token_dead_at is None
    event = AuditEvent.objects.get(action="push_certificate.held")
    assert event.actor == "server"
    assert "unknown ca" in event.reason
    assert event.details["pushes_held"] == 5


def test_a_held_topic_stays_quiet_and_a_new_certificate_sends_all(
    push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    import_foreign(TOPIC, now)
    first = make_enrollments(3)
    request(first, now)
    dispatch.dispatch_due(now)
    more = make_enrollments(2)
    request(more, now)
    handshakes = len(push_door.refused_handshakes)
    assert dispatch.dispatch_due(now).outcomes == {"held": 2}
    assert len(push_door.refused_handshakes) == handshakes, "it is not tried again and again"
    assert AuditEvent.objects.filter(action="push_certificate.held").count() == 1

    import_for(push_door, TOPIC, now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 5}
    assert {seen.token for seen in push_door.pushes} == {token_of(e) for e in [*first, *more]}


@pytest.mark.parametrize(
    "behaviour",
    [
        refusal(403, "BadCertificate"),
        refusal(403, "Forbidden"),
        refusal(400, "TopicDisallowed"),
        GoAway(reason="BadCertificateEnvironment", close=True),
    ],
)
def test_a_refusal_of_the_topic_holds_it(
    behaviour: Reply | GoAway,
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
) -> None:
    push_door.default = behaviour
    request(make_enrollments(4), now)
    dispatch.dispatch_due(now)
    certificate.refresh_from_db()
    assert certificate.held_at == now
    assert set(PushRequest.objects.values_list("state", "attempts")) == {("HELD", 0)}
    push_door.default = Reply()
    certificates.release(certificate, actor=ADMIN, now=now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 4}


def test_an_expired_certificate_is_not_even_tried(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    end = certificate.not_after
    assert end is not None
    (enrollment,) = make_enrollments()
    request([enrollment], now)
    assert dispatch.dispatch_due(end).outcomes == {"held": 1}
    assert push_door.accepted == 0
    certificate.refresh_from_db()
    assert "expired" in certificate.held_reason
    assert (row_of(enrollment).state, row_of(enrollment).attempts) == (PushState.HELD, 0)
    with pytest.raises(certificates.PushCertificateRefused, match="expired"):
        certificates.release(certificate, actor=ADMIN, now=end)


def test_without_a_certificate_pushes_are_held_and_say_so(
    push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    (enrollment,) = make_enrollments()
    request([enrollment], now)
    assert dispatch.dispatch_due(now).outcomes == {"held": 1}
    row = row_of(enrollment)
    assert (row.state, row.last_result) == (PushState.HELD, f"no push certificate for topic {TOPIC}")
    import_for(push_door, TOPIC, now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 1}


def test_a_certificate_that_came_during_the_refusal_of_the_old_one_is_used(
    push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = import_foreign(TOPIC, now)
    request(make_enrollments(3), now)
    finish = dispatch.Sending.finish

    def after_an_import(self: dispatch.Sending, at: datetime) -> Any:
        self.future.result(30)
        import_for(push_door, TOPIC, now)
        return finish(self, at)

    with monkeypatch.context() as patch:
        patch.setattr(dispatch.Sending, "finish", after_an_import)
        dispatch.dispatch_due(now)
    old.refresh_from_db()
    assert (old.state, old.held_at) == (PushCertificateState.REPLACED, None)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 3}


def test_a_key_that_does_not_open_holds_the_topic(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    settings: Settings,
) -> None:
    settings.BRAMLEY_ENCRYPTION_KEYS = "A" * 43 + "="
    request(make_enrollments(2), now)
    dispatch.dispatch_due(now)
    certificate.refresh_from_db()
    assert "encryption keys" in certificate.held_reason
    assert push_door.accepted == 0


# --- APNs is out of order ---


@pytest.mark.parametrize(
    "behaviour", [Reply(503), refusal(500, "InternalServerError"), Drop(), Reset(), Reply(502, b"<html>")]
)
def test_an_outage_rests_the_topic_and_blames_no_row(
    behaviour: Reply | Drop | Reset,
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
) -> None:
    enrollments = make_enrollments(50)
    request(enrollments, now)
    push_door.default = behaviour
    assert dispatch.dispatch_due(now).outcomes == {"outage": 50}
    certificate.refresh_from_db()
    assert certificate.failures == 1
    assert certificate.paused_until == now + backoff.PAUSE_FIRST
    assert certificate.trouble
    assert certificate.held_at is None
    assert set(PushRequest.objects.values_list("state", "attempts")) == {("DUE", 0)}
    assert dispatch.dispatch_due(now).claimed == 0

    before = len(push_door.pushes)
    again = certificate.paused_until
    assert dispatch.dispatch_due(again).claimed == dispatch.PROBE, "a few rows try whether it is back"
    assert len(push_door.pushes) - before <= dispatch.PROBE * client.ATTEMPTS
    certificate.refresh_from_db()
    assert certificate.failures == 2

    push_door.default = Reply()
    assert certificate.paused_until is not None
    back = certificate.paused_until
    assert dispatch.dispatch_due(back).outcomes == {"accepted": dispatch.PROBE}
    assert dispatch.dispatch_due(back).outcomes == {"accepted": 50 - dispatch.PROBE}
    certificate.refresh_from_db()
    assert [certificate.failures, certificate.paused_until, certificate.trouble] == [0, None, ""]


def test_after_ten_minutes_of_503_the_queue_drains_within_two_minutes(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    """The clock is ours: sweeps every five seconds."""
    request(make_enrollments(200), now)
    push_door.default = Reply(503)
    back = now + timedelta(minutes=10)
    at = now
    while at < back:
        while dispatch.dispatch_due(at).claimed:
            pass
        at += 5 * SECOND
    tries = len(push_door.pushes)
    push_door.default = Reply()
    while PushRequest.objects.filter(attempts=0).exists():
        assert at <= back + timedelta(minutes=2)
        while dispatch.dispatch_due(at).claimed:
            pass
        at += 5 * SECOND
    assert tries < 200 + 20 * dispatch.PROBE, "APNs was not hammered"
    assert len(push_door.pushes) == tries + 200


def test_a_refused_connection_is_an_outage(
    certificate: PushCertificate, make_enrollments: MakeEnrollments, now: datetime, settings: Settings
) -> None:
    with ApnsStandIn() as gone:
        settings.BRAMLEY_APNS_URL = gone.url
    (enrollment,) = make_enrollments()
    request([enrollment], now)
    assert dispatch.dispatch_due(now).outcomes == {"outage": 1}
    certificate.refresh_from_db()
    assert "refused" in certificate.trouble
    row = row_of(enrollment)
    assert (row.state, row.attempts, row.last_sent_at) == (PushState.DUE, 0, None)


def test_one_failure_among_many_is_that_row_s_own(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    odd, *others = make_enrollments(5)
    push_door.script(token_of(odd), Reply(503))
    request([odd, *others], now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 4, "outage": 1}
    certificate.refresh_from_db()
    assert certificate.failures == 0
    assert row_of(odd).due_at == now + backoff.FAILURE_FIRST


def test_a_topic_in_trouble_does_not_stop_another(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    import_for(push_door, OTHER_TOPIC, now, confirm_topic_change=True)
    push_door.default = lambda seen: Reply(503) if seen.topic == TOPIC else Reply()
    request([*make_enrollments(30), *make_enrollments(30, topic=OTHER_TOPIC)], now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 30, "outage": 30}
    request(make_enrollments(5, topic=OTHER_TOPIC), now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 5}


# --- rows that are not to be pushed ---


@pytest.mark.parametrize(
    "change",
    [
        {"state": EnrollmentState.CHECKED_OUT},
        {"state": EnrollmentState.QUARANTINED},
        {"push_token": None},
        {"token_dead_at": datetime(2026, 1, 1, tzinfo=UTC)},
    ],
    ids=["checked out", "quarantined", "no token", "dead token"],
)
def test_a_device_that_left_meanwhile_is_not_pushed(
    change: dict[str, Any],
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
) -> None:
    gone, well = make_enrollments(2)
    request([gone, well], now)
    Enrollment.objects.filter(pk=gone.pk).update(**change)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 1, "not enrolled": 1}
    assert [seen.token for seen in push_door.pushes] == [token_of(well)]
    assert row_of(gone).state == PushState.IDLE


# --- workers ---


def test_a_worker_that_dies_between_claim_and_send_loses_nothing(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    enrollments = make_enrollments(10)
    request(enrollments, now)
    assert len(outbox.claim(now, 100).rows) == 10  # and then the process is gone
    assert dispatch.dispatch_due(now + outbox.LEASE - SECOND).claimed == 0
    assert dispatch.dispatch_due(now + outbox.LEASE).outcomes == {"accepted": 10}
    assert len(push_door.pushes) == 10


def test_a_worker_that_dies_between_send_and_settle_sends_again(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (enrollment,) = make_enrollments()
    request([enrollment], now)

    class Killed(BaseException):
        pass

    def killed(*_arguments: Any, **_options: Any) -> int:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(outbox, "settle", killed)
        with pytest.raises(Killed):
            dispatch.dispatch_due(now)
    assert dispatch.dispatch_due(now + outbox.LEASE).outcomes == {"accepted": 1}
    assert len(push_door.pushes_to(token_of(enrollment))) == 2


@pytest.mark.django_db(transaction=True)
def test_racing_workers_push_each_device_once(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    enrollments = make_enrollments(200)
    request(enrollments, now)
    start = threading.Barrier(4)

    @own_connection
    def work() -> None:
        start.wait(10)
        while dispatch.dispatch_due(now, 15).claimed or outbox.anything_due(now):
            pass

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _worker in range(4)]:
            done.result(60)
    assert sorted(seen.token for seen in push_door.pushes) == sorted(token_of(e) for e in enrollments)
    assert set(PushRequest.objects.values_list("state", "attempts")) == {("DUE", 1)}


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize("task", [tasks.dispatch, tasks.sweep_due_pushes])
def test_the_tasks_send_until_nothing_is_due(
    task: Callable[[], None],
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BATCH", 10)
    request(make_enrollments(35), now)
    task()
    assert len(push_door.pushes) == 35
    assert not outbox.anything_due(now + SECOND)


def test_a_task_leaves_the_rest_to_the_next_one_when_its_time_is_over(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BATCH", 5)
    push_door.default = Reply(delay=0.3)
    request(make_enrollments(50), now)
    dispatch.run(budget=0.1)
    assert 0 < len(push_door.pushes) < 50
    assert outbox.anything_due(now)


def test_the_tasks_have_the_names_by_which_beat_knows_them() -> None:
    from mdm_project.celery import app

    assert {tasks.dispatch.name, tasks.sweep_due_pushes.name} <= set(app.tasks)
    assert settings.CELERY_TASK_ACKS_LATE


def test_a_second_runner_of_a_process_leaves_word_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    drained: list[float] = []
    entered, leave = threading.Event(), threading.Event()

    def slow(_until: float) -> None:
        drained.append(time.monotonic())
        if len(drained) == 1:
            entered.set()
            leave.wait(10)

    monkeypatch.setattr(dispatch, "_drain", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(dispatch.run)
        entered.wait(10)
        dispatch.run()
        assert len(drained) == 1
        leave.set()
        first.result(10)
    assert len(drained) == 2, "what came while it was busy is not left to the sweep"


def test_a_run_that_is_woken_all_the_time_ends_and_leaves_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the worker could not end."""
    rings: list[int] = []
    monkeypatch.setattr(waking, "ring", lambda: rings.append(1))
    monkeypatch.setattr(dispatch, "_drain", lambda _until: dispatch._Process.wanted.set())
    monkeypatch.setattr(dispatch._Process, "wanted", threading.Event())
    dispatch.run(budget=0.0)
    assert rings == [1]


@pytest.mark.usefixtures("certificate", "push_door")
@pytest.mark.parametrize(("due", "woken"), [(9, 0), (10, 1), (35, 1)])
def test_more_than_a_batch_wakes_another_worker_once(
    make_enrollments: MakeEnrollments, now: datetime, monkeypatch: pytest.MonkeyPatch, due: int, woken: int
) -> None:
    rings: list[int] = []
    monkeypatch.setattr(waking, "ring", lambda: rings.append(1))
    monkeypatch.setattr(dispatch, "BATCH", 10)
    request(make_enrollments(due), now)
    rings.clear()
    dispatch.run()
    assert len(rings) == woken
    assert not outbox.anything_due(now)


def test_what_a_run_has_no_time_for_is_left_to_another_worker(
    make_enrollments: MakeEnrollments, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings: list[int] = []
    monkeypatch.setattr(waking, "ring", lambda: rings.append(1))
    monkeypatch.setattr(dispatch, "_drain", lambda _until: None)
    dispatch.run(budget=0.0)
    assert rings == []
    request(make_enrollments(1), now)
    dispatch.run(budget=0.0)
    assert rings == [1]


@pytest.mark.django_db(transaction=True)
def test_what_becomes_due_is_sent_while_another_push_waits_for_its_answer(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "GATHER", 0.01)
    first, second = make_enrollments(2)
    push_door.script(token_of(first), Reply(delay=3.0))
    request([first], now)

    @own_connection
    def work() -> None:
        dispatch.run()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(work)
        push_door.wait_for_pushes(1, 30)
        request([second], now)
        dispatch.run()  # leaves word and goes
        push_door.wait_for_pushes(2, 30)
        assert not running.done(), "the first one waits still"
        running.result(30)
    assert {row_of(one).last_result for one in (first, second)} == {"200"}


def test_a_forked_worker_opens_connections_of_its_own(
    certificate: PushCertificate, push_door: ApnsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = connections.of_this_process()
    assert connections.of_this_process() is parent
    monkeypatch.setattr(connections._Process, "pid", -1)
    child = connections.of_this_process()
    assert child is not parent
    parent.close()


def test_a_new_certificate_closes_the_old_connection(
    certificate: PushCertificate, push_door: ApnsStandIn, make_enrollments: MakeEnrollments, now: datetime
) -> None:
    request(make_enrollments(1), now)
    dispatch.dispatch_due(now)
    assert push_door.open_connections == 1
    import_for(push_door, TOPIC, now)
    request(make_enrollments(1), now)
    dispatch.dispatch_due(now)
    assert push_door.accepted == 2
    until = time.monotonic() + 5
    while push_door.open_connections > 1 and time.monotonic() < until:
        time.sleep(0.02)
    assert push_door.open_connections == 1
