"""From the download to the enrolled device, and what stands in between."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from audit.models import AuditEvent
from audit.recording import Actor
from enrollment import completion
from enrollment.completion import Expectation, SessionRefused, expectations
from enrollment.direct import offer
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from enrollment.tasks import expire_sessions
from scep import services
from scep.models import Challenge, Transaction, TransactionStatus
from tests.support.devices import device_key, issue_certificate
from tests.support.snapshot import no_change

NOW = datetime(2030, 1, 1, tzinfo=UTC)
UDID, SERIAL = "00008030-000000000000000A", "F00000000A"
pytestmark = pytest.mark.django_db


@pytest.fixture
def session(profile: EnrollmentProfile) -> EnrollmentSession:
    return make_session(profile)


def make_session(profile: EnrollmentProfile, **values: Any) -> EnrollmentSession:
    return EnrollmentSession.objects.create(
        **{"profile": profile, "created_at": NOW, "expires_at": NOW + timedelta(hours=1), **values}
    )


def test_a_device_goes_through(session: EnrollmentSession) -> None:
    assert expectations(session.uuid, UDID, SERIAL) == Expectation(session, may_replace=False)
    completion.authenticated(session.uuid, UDID, SERIAL, NOW)
    session.refresh_from_db()
    assert (session.state, session.udid, session.serial_number) == ("AUTHENTICATED", UDID, SERIAL)
    completion.completed(session.uuid, NOW)
    session.refresh_from_db()
    assert session.state == SessionState.COMPLETED


def test_the_same_again_changes_nothing(session: EnrollmentSession) -> None:
    completion.authenticated(session.uuid, UDID, SERIAL, NOW)
    completion.completed(session.uuid, NOW)
    with no_change():
        assert expectations(session.uuid, UDID.lower(), SERIAL).session == session
        completion.authenticated(session.uuid, UDID, SERIAL, NOW + timedelta(days=1))
        completion.completed(session.uuid, NOW + timedelta(days=1))


def test_no_token_update_completes_what_never_authenticated(session: EnrollmentSession) -> None:
    with no_change():
        completion.completed(session.uuid, NOW)


def test_another_device_cannot_use_a_used_session(session: EnrollmentSession) -> None:
    completion.authenticated(session.uuid, UDID, SERIAL, NOW)
    with no_change(), pytest.raises(SessionRefused, match="used by another device"):
        expectations(session.uuid, "00008030-000000000000000B", "F00000000B")


@pytest.mark.parametrize(("udid", "serial"), [(UDID, "F00000000B"), ("x", "")])
def test_a_session_for_one_device_is_for_no_other(profile: EnrollmentProfile, udid: str, serial: str) -> None:
    session = make_session(profile, expected_serial_number=SERIAL, pre_approved=True)
    assert expectations(session.uuid, UDID, SERIAL.lower()) == Expectation(session, may_replace=True)
    with no_change(), pytest.raises(SessionRefused, match="another device"):
        expectations(session.uuid, udid, serial)


def test_approval_of_nobody_in_particular_replaces_nobody(profile: EnrollmentProfile) -> None:
    session = make_session(profile, pre_approved=True)
    assert expectations(session.uuid, UDID, SERIAL).may_replace is False


@pytest.mark.parametrize("binding", [None, uuid.UUID(int=7)])
def test_a_certificate_without_a_session_grants_nothing(profile: EnrollmentProfile, binding: Any) -> None:
    with no_change():
        assert expectations(binding, UDID, SERIAL) == Expectation(None, may_replace=False)
        completion.authenticated(binding, UDID, SERIAL, NOW)
        completion.completed(binding, NOW)


def test_a_stopped_session_lets_nobody_in(session: EnrollmentSession) -> None:
    assert completion.stop(session, actor=Actor("anna"), now=NOW)
    with pytest.raises(SessionRefused, match="failed: stopped by anna"):
        expectations(session.uuid, UDID, SERIAL)
    assert AuditEvent.objects.get(action="enrollment_session.stopped").actor == "anna"
    with no_change():
        assert not completion.stop(session, actor=Actor("anna"), now=NOW)
        completion.authenticated(session.uuid, UDID, SERIAL, NOW)


def test_the_challenge_of_a_stopped_session_is_withdrawn(profile: EnrollmentProfile) -> None:
    offered = offer(profile, remote_addr="", user_agent="", now=NOW)
    assert completion.stop(offered.session, actor=Actor("anna"), now=NOW)
    assert Challenge.objects.get(binding=offered.session.uuid).expires_at == NOW


def test_a_completed_session_is_not_stopped(session: EnrollmentSession) -> None:
    completion.authenticated(session.uuid, UDID, SERIAL, NOW)
    completion.completed(session.uuid, NOW)
    with no_change():
        assert not completion.stop(session, actor=Actor("anna"), now=NOW)


def test_sessions_end_with_where_they_stopped(profile: EnrollmentProfile) -> None:
    idle, refused, certified, waiting = (make_session(profile) for _ in range(4))
    challenge = Challenge.objects.create(
        value_hash=b"1" * 32, issuer=profile.issuer, binding=refused.uuid, subject=[], expires_at=NOW
    )
    Transaction.objects.create(
        service=services.of_issuer(profile.issuer),
        issuer=profile.issuer,
        challenge=challenge,
        status=TransactionStatus.FAILURE,
        reason="the key is too short",
        created_at=NOW,
    )
    issue_certificate(device_key(1), issuer=profile.issuer, binding=certified.uuid)
    completion.authenticated(waiting.uuid, UDID, SERIAL, NOW)

    assert completion.expire(NOW + timedelta(minutes=59)) == 0
    certified.refresh_from_db()
    assert certified.state == SessionState.CERTIFIED

    assert completion.expire(NOW + timedelta(minutes=61)) == 2
    assert completion.expire(NOW + timedelta(minutes=121)) == 1
    with no_change():
        assert completion.expire(NOW + timedelta(days=9)) == 0
    ended = dict(EnrollmentSession.objects.filter(state="EXPIRED").values_list("pk", "reason"))
    assert ended == {
        idle.pk: "the profile was downloaded, but no certificate was asked for",
        refused.pk: "the request for a certificate was refused",
        certified.pk: "the certificate was issued, but the device never checked in",
    }
    with pytest.raises(SessionRefused, match="expired"):
        expectations(certified.uuid, UDID, SERIAL)
    waiting.refresh_from_db()
    assert waiting.state == SessionState.AUTHENTICATED


def test_the_sweep_runs_as_a_task(profile: EnrollmentProfile) -> None:
    session = make_session(profile, expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    assert expire_sessions() == 1
    session.refresh_from_db()
    assert session.state == SessionState.EXPIRED
