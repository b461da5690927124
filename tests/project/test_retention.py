"""What is old and over goes; what is needed, or not old enough, stays to the last column."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.utils import timezone
from pytest_django import Settings

from audit import retention as sweeping
from audit.models import AuditEvent, Refusal
from commands.models import Command, CommandDelivery, CommandResult, DeliveryState
from devices.models import Channel, CheckinReceipt, Enrollment, EnrollmentState
from enrollment.models import EnrollmentSession, SessionState
from mdm_project import environment, retention, tasks
from mdm_project.celery import SWEEPS
from pki.models import Certificate, CertificateStatus, Issuer
from push.models import PushRequest, PushState
from renewal.models import IdentityRenewal
from scep.models import Challenge, Transaction, TransactionStatus
from tests.support.rows import make_row

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(microsecond=0)
OLD = NOW - timedelta(days=400)
YOUNG = NOW - timedelta(hours=1)

WATCHED: tuple[type[models.Model], ...] = (
    *(Session, Refusal, Transaction, Challenge, EnrollmentSession, Command, CommandDelivery, CommandResult),
    *(CheckinReceipt, PushRequest, Enrollment, Certificate, Issuer, IdentityRenewal),
)


def everything() -> dict[str, list[dict[str, Any]]]:
    return {model.__name__: list(model._base_manager.order_by("pk").values()) for model in WATCHED}


def swept() -> dict[str, int]:
    """One round; what the record says of it."""
    last = AuditEvent.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    retention.sweep_all(NOW)
    events = AuditEvent.objects.filter(pk__gt=last, action="retention.swept", actor="server")
    return {event.details["kind"]: event.details["removed"] for event in events}


def verify_kept() -> None:
    before = everything()
    assert swept() == {}
    assert everything() == before


def enrollment_of(state: EnrollmentState, **given: Any) -> Enrollment:
    row: Enrollment = make_row(Enrollment, state=state, channel=Channel.DEVICE, **given)
    return row


def delivery_of(state: DeliveryState, completed_at: datetime | None, **given: Any) -> CommandDelivery:
    command = given.pop("command", None) or make_row(Command, created_at=OLD)
    row: CommandDelivery = make_row(
        CommandDelivery, command=command, state=state, completed_at=completed_at, **given
    )
    return row


# --- what goes ---


def test_sign_ins_that_are_over() -> None:
    make_row(Session, session_key="old", expire_date=OLD)
    kept = make_row(Session, session_key="open", expire_date=NOW + timedelta(days=1))
    just_over = make_row(Session, session_key="over", expire_date=YOUNG)
    assert swept() == {"ended sign-ins": 1}
    assert set(Session.objects.all()) == {kept, just_over}


def test_old_refusals() -> None:
    make_row(Refusal, last_at=OLD)
    kept = make_row(Refusal, last_at=YOUNG)
    assert swept() == {"refused requests": 1}
    assert list(Refusal.objects.all()) == [kept]


def test_scep_refusals_then_the_challenges_that_hung_on_them() -> None:
    challenge = make_row(Challenge, expires_at=OLD)
    refused = {"status": TransactionStatus.FAILURE, "certificate": None}
    make_row(Transaction, **refused, created_at=OLD, challenge=challenge)
    kept = make_row(Transaction, **refused, created_at=YOUNG)
    assert swept() == {"refused SCEP requests": 1, "challenges": 1}
    assert list(Transaction.objects.all()) == [kept]
    assert not Challenge.objects.exists()


def test_granted_scep_requests_go_with_their_certificate_s_end() -> None:
    expired = make_row(Certificate, not_after=OLD)
    make_row(Transaction, status=TransactionStatus.SUCCESS, created_at=OLD, certificate=expired)
    assert swept() == {"granted SCEP requests": 1}
    assert Certificate.objects.filter(pk=expired.pk).exists(), "the certificate stays in the records"


@pytest.mark.parametrize("state", [SessionState.FAILED, SessionState.EXPIRED])
def test_attempts_to_enrol_that_came_to_nothing(state: SessionState) -> None:
    session = make_row(EnrollmentSession, state=state, created_at=OLD, expires_at=OLD)
    EnrollmentSession.objects.filter(pk=session.pk).update(updated_at=OLD)
    make_row(Certificate, binding=session.uuid, not_after=OLD)
    revoked = {"status": CertificateStatus.REVOKED, "not_after": NOW + timedelta(days=300)}
    make_row(Certificate, binding=session.uuid, **revoked)
    enrollment_of(EnrollmentState.REPLACED, binding=session.uuid, ended_at=YOUNG)
    assert swept() == {"enrolment sessions": 1}


DONE = (
    *(DeliveryState.ACKNOWLEDGED, DeliveryState.ERROR, DeliveryState.FORMAT_ERROR),
    *(DeliveryState.EXPIRED, DeliveryState.CANCELLED),
)


@pytest.mark.parametrize("state", DONE)
def test_finished_commands_and_their_results(state: DeliveryState) -> None:
    delivery = delivery_of(state, OLD)
    make_row(CommandResult, delivery=delivery)
    assert swept() == {"finished commands of devices": 1, "commands": 1}
    assert not CommandResult.objects.exists()
    assert Enrollment.objects.filter(pk=delivery.enrollment_id).exists()


def test_a_command_stays_as_long_as_one_device_has_it_to_do() -> None:
    done = delivery_of(DeliveryState.ACKNOWLEDGED, OLD)
    waiting = delivery_of(DeliveryState.QUEUED, None, command=done.command)
    recent = delivery_of(DeliveryState.ACKNOWLEDGED, YOUNG, command=done.command)
    assert swept() == {"finished commands of devices": 1}
    assert set(CommandDelivery.objects.all()) == {waiting, recent}
    assert list(Command.objects.all()) == [done.command]


@pytest.mark.parametrize(
    "state",
    [
        EnrollmentState.CHECKED_OUT,
        EnrollmentState.REPLACED,
        EnrollmentState.REFUSED,
        EnrollmentState.TURNED_AWAY,
    ],
)
def test_what_is_kept_of_ended_enrollments(state: EnrollmentState) -> None:
    ended = enrollment_of(state, ended_at=OLD)
    make_row(CheckinReceipt, enrollment=ended, received_at=OLD)
    make_row(PushRequest, enrollment=ended, state=PushState.IDLE)
    assert swept() == {"check-in receipts": 1, "pushes": 1}
    assert Enrollment.objects.filter(pk=ended.pk).exists()


def test_the_record_goes_only_where_an_administrator_says_so(settings: Settings) -> None:
    old = make_row(AuditEvent, at=OLD)
    young = make_row(AuditEvent, at=YOUNG)
    assert swept() == {}
    assert AuditEvent.objects.count() == 2
    settings.BRAMLEY_KEEP = {**settings.BRAMLEY_KEEP, "BRAMLEY_KEEP_AUDIT": 365}
    assert swept() == {"audit events": 1}
    assert not AuditEvent.objects.filter(pk=old.pk).exists()
    assert AuditEvent.objects.filter(pk=young.pk).exists()
    event = AuditEvent.objects.get(action="retention.swept")
    assert event.details["older_than"] == (NOW - timedelta(days=365)).isoformat()


# --- what stays ---


@pytest.mark.parametrize("status", [TransactionStatus.PENDING, TransactionStatus.SUCCESS])
def test_scep_requests_that_are_open_or_have_a_living_certificate(status: TransactionStatus) -> None:
    living = make_row(Certificate, not_after=NOW + timedelta(days=1))
    challenge = make_row(Challenge, expires_at=OLD, consumed_at=OLD)
    make_row(Transaction, status=status, created_at=OLD, certificate=living, challenge=challenge)
    verify_kept()


def test_challenges_that_can_be_used_or_were_used_just_now() -> None:
    make_row(Challenge, expires_at=NOW + timedelta(hours=1))
    make_row(Challenge, expires_at=YOUNG)
    verify_kept()


@pytest.mark.parametrize("state", [s for s in SessionState if s not in ("FAILED", "EXPIRED")])
def test_sessions_that_are_open_or_complete(state: SessionState) -> None:
    session = make_row(EnrollmentSession, state=state, created_at=OLD, expires_at=OLD)
    EnrollmentSession.objects.filter(pk=session.pk).update(updated_at=OLD)
    verify_kept()


def test_a_session_that_says_no_to_a_living_certificate() -> None:
    session = make_row(EnrollmentSession, state=SessionState.EXPIRED, created_at=OLD, expires_at=OLD)
    EnrollmentSession.objects.filter(pk=session.pk).update(updated_at=OLD)
    make_row(Certificate, binding=session.uuid, not_after=NOW + timedelta(days=1))
    make_row(Certificate, binding=uuid.uuid4(), not_after=OLD)
    verify_kept()


@pytest.mark.parametrize("state", [EnrollmentState.ENROLLED, EnrollmentState.QUARANTINED])
def test_a_session_by_which_a_device_under_management_came(state: EnrollmentState) -> None:
    """Admitted after the session's time was over, and renewed since: all else speaks for removing it."""
    session = make_row(EnrollmentSession, state=SessionState.EXPIRED, created_at=OLD, expires_at=OLD)
    EnrollmentSession.objects.filter(pk=session.pk).update(updated_at=OLD)
    replaced = {"status": CertificateStatus.SUPERSEDED, "not_after": NOW + timedelta(days=300)}
    make_row(Certificate, binding=session.uuid, **replaced)
    enrollment_of(state, binding=session.uuid)
    verify_kept()


@pytest.mark.parametrize("state", [s for s in DeliveryState if s not in DONE])
def test_commands_that_wait_for_a_device_or_an_administrator(state: DeliveryState) -> None:
    delivery_of(state, None)
    verify_kept()


def test_commands_that_another_part_of_the_server_needs() -> None:
    delivery = delivery_of(DeliveryState.ACKNOWLEDGED, OLD)
    make_row(IdentityRenewal, command=delivery.command)
    verify_kept()


@pytest.mark.parametrize(
    "state",
    [
        EnrollmentState.AUTHENTICATED,
        EnrollmentState.ENROLLED,
        EnrollmentState.QUARANTINED,
        EnrollmentState.TURN_AWAY,
    ],
)
def test_receipts_and_pushes_of_living_enrollments(state: EnrollmentState) -> None:
    living = enrollment_of(state)
    make_row(CheckinReceipt, enrollment=living, received_at=OLD)
    make_row(PushRequest, enrollment=living, state=PushState.IDLE)
    verify_kept()


def test_zero_keeps_for_ever(settings: Settings) -> None:
    settings.BRAMLEY_KEEP = dict.fromkeys(settings.BRAMLEY_KEEP, 0)
    make_row(Refusal, last_at=OLD)
    delivery_of(DeliveryState.ACKNOWLEDGED, OLD)
    make_row(Session, session_key="old", expire_date=OLD)
    verify_kept()


# --- how ---


def test_rows_go_in_batches_and_what_is_left_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "BATCH", 3)
    for _row in range(7):
        make_row(Refusal, last_at=OLD)
    monkeypatch.setattr(retention, "TIME_FOR_ALL", -1.0)
    verify_kept()
    monkeypatch.setattr(retention, "TIME_FOR_ALL", 600.0)
    assert swept() == {"refused requests": 7}
    verify_kept()


def test_beat_calls_it() -> None:
    make_row(Refusal, last_at=OLD)
    assert tasks.remove_what_is_old.name in {task for task, _seconds in SWEEPS.values()}
    assert tasks.remove_what_is_old() == 1


def test_everything_that_is_kept_for_a_time_has_a_setting() -> None:
    assert set(retention.REMOVERS) == set(environment.KEPT_DAYS) == set(django_settings.BRAMLEY_KEEP)


@pytest.mark.parametrize("text", ["-1", "a year", "99999"])
def test_a_setting_is_a_number_of_days(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAMLEY_KEEP_COMMANDS", "30")
    assert environment.kept_days()["BRAMLEY_KEEP_COMMANDS"] == 30
    monkeypatch.setenv("BRAMLEY_KEEP_COMMANDS", text)
    with pytest.raises(ImproperlyConfigured, match="BRAMLEY_KEEP_COMMANDS"):
        environment.kept_days()
