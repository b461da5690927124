"""How fast pushes go: as an administrator allows, and as the web server can take what comes back."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from push import client, dispatch, outbox, pace
from push.models import PushCertificate, PushPace, PushRequest
from tests.push.conftest import NOW, MakeEnrollments
from tests.support.apns import ApnsStandIn, Reply, Silence

pytestmark = pytest.mark.django_db

SECOND = timedelta(seconds=1)


def test_nothing_limits_by_default(settings: Settings) -> None:
    assert settings.BRAMLEY_PUSHES_PER_SECOND is None
    with CaptureQueriesContext(connection) as queries:
        assert [pace.allowed(NOW, 500) for _batch in range(3)] == [500, 500, 500]
    assert len(queries) == 3, "one look each"


def test_a_ceiling_holds_over_time_for_all_workers_together(settings: Settings) -> None:
    settings.BRAMLEY_PUSHES_PER_SECOND = 100
    assert pace.allowed(NOW, 70) == 70
    assert pace.allowed(NOW, 70) == 30, "no more than one second's worth at once"
    assert pace.allowed(NOW, 70) == 0
    assert pace.allowed(NOW + SECOND / 2, 70) == 50
    assert pace.allowed(NOW + SECOND / 2, 70) == 0
    assert pace.allowed(NOW + 60 * SECOND, 1000) == 100, "what was not used is not saved up"
    total = sum(pace.allowed(NOW + 100 * SECOND + n * SECOND / 10, 1000) for n in range(101))
    assert total == 100 + 10 * 100


def test_a_clock_that_goes_back_allows_nothing_more(settings: Settings) -> None:
    settings.BRAMLEY_PUSHES_PER_SECOND = 100
    assert pace.allowed(NOW, 100) == 100
    assert pace.allowed(NOW - SECOND, 100) == 0


def test_a_busy_web_server_slows_pushes_down_and_never_stops_them() -> None:
    pace.note_web_busy(NOW)
    assert pace.allowed(NOW, 500) == pace.WHILE_BUSY
    assert pace.allowed(NOW, 500) == 0
    pace.note_web_busy(NOW + SECOND)
    assert pace.allowed(NOW + SECOND, 500) == pace.WHILE_BUSY
    assert pace.allowed(NOW + SECOND + pace.BUSY_FOR, 500) == 500, "it has caught up"
    assert PushPace.objects.count() == 1


@pytest.mark.parametrize(("ceiling", "granted"), [(10, 10), (1000, pace.WHILE_BUSY)])
def test_a_busy_web_server_never_raises_the_ceiling(settings: Settings, ceiling: int, granted: int) -> None:
    settings.BRAMLEY_PUSHES_PER_SECOND = ceiling
    pace.note_web_busy(NOW)
    assert pace.allowed(NOW, 500) == granted


def test_what_the_pace_does_not_allow_stays_due(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    settings: Settings,
) -> None:
    settings.BRAMLEY_PUSHES_PER_SECOND = 20
    outbox.request_push([e.pk for e in make_enrollments(30)], now=now)
    assert dispatch.dispatch_due(now).outcomes == {"accepted": 20}
    before = list(PushRequest.objects.order_by("pk").values())
    assert dispatch.dispatch_due(now).claimed == 0
    assert list(PushRequest.objects.order_by("pk").values()) == before, "nothing changed"
    assert len(push_door.pushes) == 20
    assert dispatch.dispatch_due(now + SECOND).outcomes == {"accepted": 10}
    assert len({seen.token for seen in push_door.pushes}) == 30


def test_a_run_goes_on_when_the_pace_allows_more(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    settings: Settings,
) -> None:
    settings.BRAMLEY_PUSHES_PER_SECOND = 200
    outbox.request_push([e.pk for e in make_enrollments(300)], now=now)
    dispatch.run()
    assert len({seen.token for seen in push_door.pushes}) == 300 == len(push_door.pushes)


def test_a_run_sends_each_push_once_over_a_few_connections(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BATCH", 40)
    push_door.default = Reply(delay=0.02)
    outbox.request_push([e.pk for e in make_enrollments(500)], now=now)
    dispatch.run()
    assert len({seen.token for seen in push_door.pushes}) == 500 == len(push_door.pushes)
    assert push_door.accepted <= 2
    assert set(PushRequest.objects.values_list("attempts", "last_result", "lease_owner")) == {
        (1, "200", None)
    }


def test_an_answer_that_never_comes_does_not_hold_up_the_batches_behind_it(
    certificate: PushCertificate,
    push_door: ApnsStandIn,
    make_enrollments: MakeEnrollments,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "BATCH", 10)
    monkeypatch.setattr(client, "REPLY_TIME_OUT", 1.5)
    enrollments = make_enrollments(100)
    silent = bytes(enrollments[0].push_token or b"")
    push_door.script(silent, Silence())
    outbox.request_push([e.pk for e in enrollments], now=now)
    settled: list[int] = []
    finish = dispatch.Batch.finish

    def noted(batch: dispatch.Batch) -> dispatch.Dispatched:
        done = finish(batch)
        settled.append(done.outcomes["outage"] + done.outcomes["retry"])
        return done

    monkeypatch.setattr(dispatch.Batch, "finish", noted)
    dispatch.run()
    assert len(settled) == 10
    assert settled[-1] > 0, "the batch with the silent one came last"
    assert sum(settled) == 1
    assert len({seen.token for seen in push_door.pushes}) == 100
