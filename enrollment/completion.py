"""From the certificate to the enrolled device: what the device endpoint asks and tells about sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from audit import recording
from audit.recording import Actor
from database import prepared
from enrollment import access
from enrollment.core.session import Event, Flow, SessionRefused, State, states_before, verify_device
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from pki.models import Certificate, Purpose
from scep import challenges
from scep.models import Challenge, Transaction, TransactionStatus

__all__ = [
    "Expectation",
    "SessionRefused",
    "authenticated",
    "authenticated_sql",
    "completed",
    "completed_sql",
    "expectations",
    "expected_by",
    "expire",
    "read_session",
    "stop",
]

# A device asks for its certificate at the end of the session's time: it still has to check in.
TIME_TO_CHECK_IN = timedelta(hours=1)


def _in_states_before(event: Event, after: State, *, but: State | None = None) -> str:
    """The condition under which the event may happen to a session."""
    ways = []
    for flow in Flow:
        states = ", ".join(f"'{state}'" for state in states_before(flow, event, after) if state is not but)
        ways.append(f"(flow = '{flow}' AND state IN ({states}))")
    return " OR ".join(ways)


# For every enrolment: put together once.
_TABLE, _PROFILE = EnrollmentSession._meta.db_table, EnrollmentProfile._meta.db_table
_MAY_AUTHENTICATE = _in_states_before(Event.AUTHENTICATED, State.AUTHENTICATED)
_MAY_COMPLETE = _in_states_before(Event.TOKEN_UPDATED, State.COMPLETED, but=State.COMPLETED)

SESSION_COLUMNS = """
    s.id, s.flow, s.state, s.reason, s.expected_udid, s.expected_serial_number,
    s.pre_approved, s.udid, s.serial_number, p.id, p.only_listed
"""
"""What :func:`read_session` reads, of a session ``s`` and its profile ``p``."""
_FIND = f"""
    SELECT {SESSION_COLUMNS} FROM {_TABLE} s JOIN {_PROFILE} p ON p.id = s.profile_id WHERE s.uuid = %s
"""  # noqa: S608 - here and below only names and states of our own are put together
_AUTHENTICATED = f"""
    UPDATE {_TABLE} SET state = 'AUTHENTICATED', udid = %s, serial_number = %s, answer_sealed = NULL,
           updated_at = %s
     WHERE uuid = %s AND ({_MAY_AUTHENTICATE})
"""  # noqa: S608
_COMPLETED = f"""
    UPDATE {_TABLE} SET state = 'COMPLETED', updated_at = %s WHERE uuid = %s AND ({_MAY_COMPLETE})
"""  # noqa: S608

# For larger statements, with named parameters.
OF_BINDING = f"""
    LEFT JOIN {_TABLE} s ON s.uuid = f.binding LEFT JOIN {_PROFILE} p ON p.id = s.profile_id
"""
"""The session and its profile, for which a certificate ``f`` was issued."""
AS_READ = f"""
    (SELECT state FROM {_TABLE} WHERE uuid = %(binding)s) IS NOT DISTINCT FROM %(session_state)s::varchar
"""  # noqa: S608
"""The session has the state that it was read with; None where there was none."""


def authenticated_sql(origin: str) -> str:
    """What :func:`authenticated` does, where ``origin`` gives a row."""
    return f"""
        UPDATE {_TABLE} SET state = 'AUTHENTICATED', udid = %(session_udid)s,
               serial_number = %(session_serial_number)s, answer_sealed = NULL,
               updated_at = %(now)s::timestamptz
          FROM {origin} WHERE uuid = %(binding)s AND ({_MAY_AUTHENTICATE})
    """  # noqa: S608


def completed_sql(origin: str) -> str:
    """What :func:`completed` does, where ``origin`` gives a row."""
    return f"""
        UPDATE {_TABLE} SET state = 'COMPLETED', updated_at = %(now)s::timestamptz
          FROM {origin} WHERE uuid = %(binding)s AND ({_MAY_COMPLETE})
    """  # noqa: S608


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

    Raises :class:`SessionRefused`, or :class:`DeviceRefused` for one that is blocked or not listed. A session
    whose row is gone (its profile was deleted) grants nothing.
    """
    session = _session(binding) if binding else None
    access.verify_device(session.profile if session else None, udid=udid, serial_number=serial_number)
    return expected_by(session, udid, serial_number)


def expected_by(session: EnrollmentSession | None, udid: str, serial_number: str) -> Expectation:
    """What the session says of this device, by itself. Raises :class:`SessionRefused`."""
    if session is None:
        return Expectation(None, may_replace=False)
    verify_device(
        flow=session.flow,
        state=session.state,
        reason=session.reason,
        expected_udid=session.expected_udid,
        expected_serial_number=session.expected_serial_number,
        used_by_udid=session.udid,
        used_by_serial_number=session.serial_number,
        udid=udid,
        serial_number=serial_number,
    )
    names_a_device = bool(session.expected_udid or session.expected_serial_number)
    return Expectation(session, may_replace=session.pre_approved and names_a_device)


def _session(binding: UUID) -> EnrollmentSession | None:
    """The session, with what is asked of it here and of its profile."""
    row = prepared.row(_FIND, [prepared.key(binding)])
    return None if row is None else read_session(row)


def read_session(row: Sequence[Any]) -> EnrollmentSession:
    """From the values of :data:`SESSION_COLUMNS`."""
    # from_db takes the values in the order of the model's fields.
    session = EnrollmentSession.from_db(
        DEFAULT_DB_ALIAS,
        [
            *("id", "flow", "state", "reason", "expected_udid", "expected_serial_number"),
            *("pre_approved", "udid", "serial_number"),
        ],
        [*row[:6], bool(row[6]), *row[7:9]],
    )
    session.profile = EnrollmentProfile.from_db(
        DEFAULT_DB_ALIAS, ["id", "only_listed"], [row[9], bool(row[10])]
    )
    return session


def authenticated(binding: UUID | None, udid: str, serial_number: str, now: datetime) -> None:
    """The device said Authenticate and was accepted or quarantined. Call it in that transaction."""
    if binding is not None:
        said = [udid[:64], serial_number[:64], prepared.instant(now), prepared.key(binding)]
        prepared.changes(_AUTHENTICATED, said)


def completed(binding: UUID | None, now: datetime) -> bool:
    """The device is enrolled: its first TokenUpdate. Again, or without a session, changes nothing.

    True where the session is complete only now.
    """
    if binding is None:
        return False
    return bool(prepared.changes(_COMPLETED, [prepared.instant(now), prepared.key(binding)]))


def stop(session: EnrollmentSession, *, actor: Actor, now: datetime) -> bool:
    """An administrator ends an attempt: neither its challenge nor its certificate gets a device in.

    False where it has already ended.
    """
    reason = f"stopped by {actor.name}"[:300]
    with transaction.atomic():
        stopped = _allowed(session.uuid, Event.STOPPED).update(
            state=SessionState.FAILED, reason=reason, answer_sealed=None, updated_at=now
        )
        if stopped:
            recording.record("enrollment_session.stopped", actor=actor, target=session, at=now)
            for challenge in Challenge.objects.filter(binding=session.uuid):
                challenges.withdraw(challenge, actor=actor, now=now)
    return bool(stopped)


@dataclass(frozen=True)
class _Wait:
    """A state in which a session waits for the device, and what is said of it when its time is over.

    ``issued``: the state that it has with a certificate for ``purpose``.
    """

    state: SessionState
    flow: Flow | None
    reason: str
    purpose: Purpose | None = None
    issued: SessionState | None = None
    grace: timedelta = timedelta(0)


_REFUSED = "the request for a certificate was refused"
_WAITS = (
    _Wait(
        SessionState.OFFERED,
        Flow.DIRECT,
        "the profile was downloaded, but no certificate was asked for",
        Purpose.MDM_IDENTITY,
        SessionState.CERTIFIED,
    ),
    _Wait(SessionState.OFFERED, Flow.OTA, "the profile was downloaded, but no device made itself known"),
    _Wait(
        SessionState.IDENTIFIED,
        Flow.OTA,
        "the device made itself known, but did not ask for its certificate",
        Purpose.OTA_IDENTITY,
        SessionState.OTA_CERTIFIED,
    ),
    _Wait(
        SessionState.OTA_CERTIFIED,
        Flow.OTA,
        "the certificate for the enrolment was issued, but the device did not fetch the management profile",
    ),
    _Wait(
        SessionState.DELIVERED,
        Flow.OTA,
        "the management profile was delivered, but no certificate was asked for",
        Purpose.MDM_IDENTITY,
        SessionState.CERTIFIED,
    ),
    _Wait(
        SessionState.CERTIFIED,
        None,
        "the certificate was issued, but the device never checked in",
        grace=TIME_TO_CHECK_IN,
    ),
)


def expire(now: datetime) -> int:
    """Note which sessions have their certificate, and end those whose time is over, with where they stopped.

    Answers how many ended. Twice at once does no harm.
    """
    for wait in _WAITS:
        if wait.issued is not None:
            issued = Certificate.objects.filter(binding=OuterRef("uuid"), purpose=wait.purpose)
            _waiting(wait).filter(Exists(issued)).update(state=wait.issued, updated_at=now)
    return sum(_end(wait, now) for wait in _WAITS)


def _end(wait: _Wait, now: datetime) -> int:
    late = _waiting(wait).filter(expires_at__lt=now - wait.grace)
    ended = 0
    if wait.purpose is not None:
        refused = Transaction.objects.filter(
            challenge__binding=OuterRef("uuid"),
            challenge__purpose=wait.purpose,
            status=TransactionStatus.FAILURE,
        )
        ended += _expired(late.filter(Exists(refused)), _REFUSED, now)
    return ended + _expired(late, wait.reason, now)


def _waiting(wait: _Wait) -> QuerySet[EnrollmentSession]:
    sessions = EnrollmentSession.objects.filter(state=wait.state)
    return sessions if wait.flow is None else sessions.filter(flow=wait.flow)


def _expired(sessions: QuerySet[EnrollmentSession], reason: str, now: datetime) -> int:
    return sessions.update(state=SessionState.EXPIRED, reason=reason, answer_sealed=None, updated_at=now)


def _allowed(binding: UUID | None, event: Event, after: State | None = None) -> QuerySet[EnrollmentSession]:
    """The session, if the event may happen to it now: updates of it are compare-and-set."""
    if binding is None:
        return EnrollmentSession.objects.none()
    open_to_it = Q()
    for flow in Flow:
        open_to_it |= Q(
            flow=flow.value, state__in=[state.value for state in states_before(flow, event, after)]
        )
    return EnrollmentSession.objects.filter(open_to_it, uuid=binding)
