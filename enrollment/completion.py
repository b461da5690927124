"""From the certificate to the enrolled device: what the device endpoint asks and tells about sessions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from audit import recording
from audit.recording import Actor
from enrollment.core.session import Event, SessionRefused, State, states_before, verify_device
from enrollment.models import EnrollmentSession, SessionState
from pki.models import Certificate
from scep import challenges
from scep.models import Challenge, Transaction, TransactionStatus

__all__ = ["Expectation", "SessionRefused", "authenticated", "completed", "expectations", "expire", "stop"]

# A device asks for its certificate at the end of the session's time: it still has to check in.
TIME_TO_CHECK_IN = timedelta(hours=1)


@dataclass(frozen=True)
class Expectation:
    """What the session says about the device that presents its certificate.

    ``session`` is None for a certificate that no session asked for (made with ``scep_challenge``, or issued
    by a foreign CA). ``may_replace``: an administrator made the session for exactly this device.
    """

    session: EnrollmentSession | None
    may_replace: bool


def expectations(binding: UUID | None, udid: str, serial_number: str) -> Expectation:
    """May the device with this UDID and serial number use the session that its certificate is bound to?

    Raises :class:`SessionRefused`. A session whose row is gone (its profile was deleted) grants nothing.
    """
    session = (
        EnrollmentSession.objects.filter(uuid=binding).select_related("profile").first() if binding else None
    )
    if session is None:
        return Expectation(None, may_replace=False)
    verify_device(
        state=session.state,
        reason=session.reason,
        expected_udid=session.expected_udid,
        expected_serial_number=session.expected_serial_number,
        used_by_udid=session.udid,
        udid=udid,
        serial_number=serial_number,
    )
    names_a_device = bool(session.expected_udid or session.expected_serial_number)
    return Expectation(session, may_replace=session.pre_approved and names_a_device)


def authenticated(binding: UUID | None, udid: str, serial_number: str, now: datetime) -> None:
    """The device said Authenticate and was accepted or quarantined. Call it in that transaction."""
    before = states_before(Event.AUTHENTICATED, State.AUTHENTICATED)
    _sessions(binding, before).update(
        state=SessionState.AUTHENTICATED,
        udid=udid[:64],
        serial_number=serial_number[:64],
        updated_at=now,
    )


def completed(binding: UUID | None, now: datetime) -> None:
    """The device is enrolled: its first TokenUpdate. Again, or without a session, changes nothing."""
    before = [state for state in states_before(Event.TOKEN_UPDATED) if state is not State.COMPLETED]
    _sessions(binding, before).update(state=SessionState.COMPLETED, updated_at=now)


def stop(session: EnrollmentSession, *, actor: Actor, now: datetime) -> bool:
    """An administrator ends an attempt: neither its challenge nor its certificate gets a device in.

    False where it has already ended.
    """
    reason = f"stopped by {actor.name}"[:300]
    with transaction.atomic():
        stopped = _sessions(session.uuid, states_before(Event.STOPPED)).update(
            state=SessionState.FAILED, reason=reason, updated_at=now
        )
        if stopped:
            recording.record("enrollment_session.stopped", actor=actor, target=session, at=now)
            for challenge in Challenge.objects.filter(binding=session.uuid):
                challenges.withdraw(challenge, actor=actor, now=now)
    return bool(stopped)


def expire(now: datetime) -> int:
    """Note which sessions have their certificate, and end those whose time is over, with where they stopped.

    Answers how many ended. Twice at once does no harm.
    """
    issued = Certificate.objects.filter(binding=OuterRef("uuid"))
    EnrollmentSession.objects.filter(state=SessionState.OFFERED).filter(Exists(issued)).update(
        state=SessionState.CERTIFIED, updated_at=now
    )
    refused = Transaction.objects.filter(
        challenge__binding=OuterRef("uuid"), status=TransactionStatus.FAILURE
    )
    waiting = EnrollmentSession.objects.filter(state=SessionState.OFFERED, expires_at__lt=now)
    ended = waiting.filter(Exists(refused)).update(
        state=SessionState.EXPIRED, reason="the request for a certificate was refused", updated_at=now
    )
    ended += waiting.update(
        state=SessionState.EXPIRED,
        reason="the profile was downloaded, but no certificate was asked for",
        updated_at=now,
    )
    return ended + EnrollmentSession.objects.filter(
        state=SessionState.CERTIFIED, expires_at__lt=now - TIME_TO_CHECK_IN
    ).update(
        state=SessionState.EXPIRED,
        reason="the certificate was issued, but the device never checked in",
        updated_at=now,
    )


def _sessions(binding: UUID | None, states: Iterable[State]) -> QuerySet[EnrollmentSession]:
    """The session, if it is in one of ``states``: updates of it are compare-and-set."""
    if binding is None:
        return EnrollmentSession.objects.none()
    return EnrollmentSession.objects.filter(uuid=binding, state__in=[state.value for state in states])
