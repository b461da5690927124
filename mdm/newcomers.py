"""A device enrols, on PostgreSQL: Authenticate and the first TokenUpdate in one statement each.

What decides is read before (by which certificate, of which session), or compared in the statement itself
(whether the device is known, blocked, or was quicker). Of an enrollment that has just begun in this process
nothing is read: what may have changed since is compared. The statement writes everything, or nothing:
whatever is unusual changes nothing here and goes the long way of :mod:`mdm.checkin`, where it is accepted or
refused.
Two that meet in one row end as an ``IntegrityError`` of the later one, which then goes that way too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from audit import statements as audit
from audit.models import Outcome
from audit.recording import SERVER, Actor, columns_of
from commands import first_commands
from commands.core import plist
from commands.models import CommandSource
from database import instances, prepared, templates
from devices import registry
from devices import statements as devices
from devices.models import Channel, Device, Enrollment, EnrollmentState
from enrollment import access, completion
from enrollment.models import EnrollmentSession
from mdm.answers import Rejected, Reply
from mdm.authentication import Presented
from mdm.channels import names
from mdm.core import checkin as messages
from mdm.latest import Latest
from mdm.questions import QUESTIONS, STALE
from mdm.statements import CERTIFICATE_COLUMNS, CERTIFICATE_ORIGIN, read_certificate, still_speaks_sql
from pki import trust
from pki.models import Certificate, CertificateStatus, Issuer, IssuerKey, Purpose
from push import outbox
from push.models import PushCertificate, PushRequest, PushState

_CERTIFICATE, _KEY, _ISSUER = Certificate._meta.db_table, IssuerKey._meta.db_table, Issuer._meta.db_table
_PUSH, _PUSH_CERTIFICATE = PushRequest._meta.db_table, PushCertificate._meta.db_table
_FIND = f"""
    SELECT {CERTIFICATE_COLUMNS}, {completion.SESSION_COLUMNS}
      {CERTIFICATE_ORIGIN} {completion.OF_BINDING} WHERE f.sha256 = %s
"""
_WIDTH = 14
"""Columns of the certificate."""
_QUESTIONS = first_commands.Parts(QUESTIONS, CommandSource.SERVER, SERVER)
_NOBODY = Enrollment(device=Device())
"""Stands for the enrollment where a statement is put together."""
_STILL_SPEAKS = still_speaks_sql("%(sha256)s")


@dataclass(frozen=True, slots=True)
class _Begun:
    """An enrollment that began in this process. ``not_after``: of its certificate, which was trusted then."""

    enrollment: Enrollment
    not_after: datetime


REMEMBERED = 256
"""Enrollments. Few wait for their TokenUpdate while so many others begin."""
_begun: Latest[str, _Begun] = Latest()


def at_once(der: bytes, body: bytes, now: datetime) -> Reply | None:
    """Answer the Authenticate of a device never seen, or the TokenUpdate that follows it here.

    ``der``: the certificate that the device proved to have. What it is pinned to is not looked up: the
    statement asks that. None, with nothing changed, for all other messages and whatever is unusual: go the
    usual way. Raises :class:`Rejected` for a certificate that nobody here knows.
    """
    if not prepared.on_postgresql() or len(body) > messages.MAX_CHECKIN:
        return None
    if b"Authenticate" in body:
        return _first_contact(der, body, now)
    sha256 = hashlib.sha256(der).hexdigest()
    begun = _begun.take(sha256)
    if begun is None or now > begun.not_after:
        return None
    message = _decode(body)
    if not isinstance(message, messages.TokenUpdate) or not names(begun.enrollment, message.channel):
        return None
    digest = hashlib.sha256(body).digest()
    reply = _complete(begun.enrollment, message, digest, now, still_speaks=sha256)
    if reply is not None:
        registry.seen(begun.enrollment.pk, begun.enrollment.last_seen_at, now)
    return reply


def _decode(body: bytes) -> messages.Message | None:
    """None for what is not a check-in: the usual way refuses it."""
    try:
        return messages.decode_checkin(plist.read(body, max_size=messages.MAX_CHECKIN))
    except (plist.PlistError, messages.CheckinError):
        return None


# --- Authenticate ----------------------------------------------------------------------------------------


def _first_contact(der: bytes, body: bytes, now: datetime) -> Reply | None:
    """The certificate is judged before the message is read. Raises :class:`Rejected`."""
    judged = _judge(der, now)
    if judged is None:
        return None
    certificate, session = judged
    said = _decode(body)
    if not isinstance(said, messages.Authenticate) or certificate.renewed_from_id is not None:
        return None
    try:
        expected = completion.expected_by(session, said.channel.udid, said.serial_number)
    except completion.SessionRefused:
        return None
    if expected.may_replace or (session is not None and session.profile.only_listed):
        return None
    return _begin(certificate, session, said, hashlib.sha256(body).digest(), now)


def _judge(der: bytes, now: datetime) -> tuple[Certificate, EnrollmentSession | None] | None:
    """The record of a certificate that is good now, and its session. None where the usual way has to tell.

    That of another CA is not looked up and not yet written: the statement does not write it twice.
    """
    try:
        return trust.examine(der, purpose=Purpose.MDM_IDENTITY, now=now), None
    except trust.Untrusted as error:
        unknown = error
    fingerprint = hashlib.sha256(der).hexdigest()
    row = prepared.row(_FIND, [fingerprint])
    if row is None:
        raise Rejected(f"certificate {unknown.reason}", detail=f"SHA-256 {fingerprint}") from unknown
    certificate = read_certificate(row[:_WIDTH], fingerprint)
    try:
        trust.verify_record(certificate, purpose=Purpose.MDM_IDENTITY, now=now)
    except trust.Untrusted:
        return None
    return certificate, completion.read_session(row[_WIDTH:]) if row[_WIDTH] is not None else None


def _begin(
    certificate: Certificate,
    session: EnrollmentSession | None,
    message: messages.Authenticate,
    digest: bytes,
    now: datetime,
) -> Reply | None:
    said = said_by(message)
    udid, serial_number = said.udid, said.serial_number
    names = access.names_of(udid, serial_number)
    facts = {"udid": udid, "user_enrollment": said.user_enrollment, **registry.facts(said)}
    is_fresh = certificate.pk is None
    values = {
        "now": prepared.instant(now),
        **devices.arrival_parameters(facts, digest),
        "topic": said.topic,
        "sha256": certificate.sha256,
        "names_0": names[0],
        "names_1": names[1],
        "issuer_key": certificate.issuer_key_id,
        "key_state": certificate.issuer_key.state,
        "issuer_state": certificate.issuer_key.issuer.state,
        **(_recorded(certificate) if is_fresh else {"certificate": certificate.pk}),
        "binding": certificate.binding,
        "session_state": session.state if session is not None else None,
        "session_udid": udid[:64],
        "session_serial_number": serial_number[:64],
        "told_at": timezone.now(),
        "told_actor": _actor(udid, serial_number),
        "told_target_label": said.name or serial_number or udid,
        "told_details": json.dumps({"udid": udid, "certificate": certificate.serial_number}),
    }
    row = _run(_authenticate(bound=certificate.binding is not None, fresh=is_fresh), values)
    if row is None:
        return None
    _remember(row[0], certificate, said, now)
    return Reply()


def _remember(
    enrollment_id: int, certificate: Certificate, said: registry.Authenticate, now: datetime
) -> None:
    """The enrollment, as it was written just now."""
    columns = {"id": None, "udid": said.udid, "user_enrollment": said.user_enrollment}
    device = instances.loaded(Device, {**columns, "name": said.name, "serial_number": said.serial_number})
    enrollment = instances.loaded(
        Enrollment,
        {
            "id": enrollment_id,
            "channel": Channel.DEVICE,
            "user_id": "",
            "state": EnrollmentState.AUTHENTICATED,
            "epoch": 1,
            "binding": certificate.binding,
            "last_seen_at": now,
        },
        {"device": device},
    )
    _begun.put(certificate.sha256, _Begun(enrollment, certificate.not_after), at_most=REMEMBERED)


def _recorded(certificate: Certificate) -> dict[str, Any]:
    """What is written of a certificate of another CA."""
    return {f"certificate_{name}": getattr(certificate, name) for name in trust.RECORDED}


@cache
def _authenticate(*, bound: bool, fresh: bool) -> templates.Statement:
    """``bound``: the certificate was issued for a session. ``fresh``: another CA's, and not on record."""
    source = "recorded" if fresh else "fit"
    conditions = [access.NOT_BLOCKED, devices.UNKNOWN_DEVICE]
    if bound:
        conditions += [devices.NOTHING_BOUND, completion.AS_READ]
    event = _event("enrollment.authenticated", "pinned", "pinned.enrollment_id")
    parts = [
        _fit_to_be_recorded(conditions) if fresh else _fit(conditions),
        devices.arrival(source, bound=bound, recorded=not fresh),
        f"told AS ({audit.insertion(event)})",
    ]
    if bound:
        parts.append(f"taken AS ({completion.authenticated_sql('pinned')})")
    return templates.Statement(f"WITH {', '.join(parts)} SELECT enrollment_id FROM pinned")  # noqa: S608


_AS_TRUSTED = """
    k.id = %(issuer_key)s AND k.state = %(key_state)s AND i.state = %(issuer_state)s
"""


def _fit(conditions: list[str]) -> str:
    """The certificate on record, where everything is as it was read.

    OFFSET has it found by its id, however few there are, as in :func:`mdm.statements.still_speaks`.
    """
    return f"""
        fit AS (
            SELECT c.id FROM (SELECT * FROM {_CERTIFICATE} WHERE id = %(certificate)s OFFSET 0) c
              JOIN {_KEY} k ON k.id = c.issuer_key_id JOIN {_ISSUER} i ON i.id = k.issuer_id
             WHERE c.status = '{CertificateStatus.ISSUED}' AND {_AS_TRUSTED}
               AND {" AND ".join([devices.not_pinned("c.id"), *conditions])})
    """  # noqa: S608


def _fit_to_be_recorded(conditions: list[str]) -> str:
    """The certificate of another CA, put on record."""
    columns = {
        **templates.places(Certificate, "certificate", *trust.RECORDED),
        "issuer_key_id": "fit.issuer_key_id",
        "sha256": "%(sha256)s::varchar",
        "first_used_at": "%(now)s::timestamptz",
        "created_at": "%(now)s::timestamptz",
    }
    return f"""
        fit AS (
            SELECT k.id AS issuer_key_id FROM {_KEY} k JOIN {_ISSUER} i ON i.id = k.issuer_id
             WHERE {_AS_TRUSTED} AND NOT EXISTS (SELECT FROM {_CERTIFICATE} WHERE sha256 = %(sha256)s)
               AND {" AND ".join(conditions)}),
        recorded AS ({templates.insertion(Certificate, columns)} FROM fit RETURNING id)
    """  # noqa: S608


# --- the first TokenUpdate -------------------------------------------------------------------------------


def first_token_update(
    presented: Presented, message: messages.TokenUpdate, digest: bytes, now: datetime
) -> Reply | None:
    """Complete the enrolment of a device that has authenticated, and ask it the first questions.

    The caller has verified that the message is of the presented device. None, with nothing changed, for
    whatever is unusual.
    """
    if not prepared.on_postgresql() or presented.enrollment is None or presented.push_state:
        return None
    return _complete(presented.enrollment, message, digest, now)


def _complete(
    enrollment: Enrollment,
    message: messages.TokenUpdate,
    digest: bytes,
    now: datetime,
    *,
    still_speaks: str = "",
) -> Reply | None:
    """``still_speaks``: the certificate whose record was not read for this message; empty where it was."""
    if enrollment.state != EnrollmentState.AUTHENTICATED:
        return None
    if message.channel.is_user or message.unlock_token:
        return None
    device = enrollment.device
    values = {
        "now": prepared.instant(now),
        "enrollment": enrollment.pk,
        "state": enrollment.state,
        "epoch": enrollment.epoch,
        "binding": enrollment.binding,
        "topic": message.topic,
        "push_token": message.push_token,
        "push_magic": message.push_magic,
        "awaiting": message.awaiting_configuration,
        "digest": digest,
        "told_at": timezone.now(),
        "told_actor": _actor(device.udid, device.serial_number),
        "told_target_label": str(enrollment)[:200],
        "told_details": json.dumps({"udid": device.udid}),
        "asleep_at": timezone.now(),
        "asleep_target_label": str(enrollment)[:200],
        "asleep_details": json.dumps({"topic": message.topic}),
        **_QUESTIONS.parameters(now, now + STALE),
        "sha256": still_speaks,
    }
    statement = _enrol(bound=enrollment.binding is not None, known=not still_speaks)
    if _run(statement, values) is None:
        return None
    transaction.on_commit(outbox.wake, robust=True)
    return Reply()


@cache
def _enrol(*, bound: bool, known: bool) -> templates.Statement:
    """``bound``: the enrollment came from a session. ``known``: the certificate's record was verified."""
    conditions = [
        *([] if known else [_STILL_SPEAKS]),
        f"NOT EXISTS (SELECT FROM {_PUSH} WHERE enrollment_id = %(enrollment)s)",
        *([access.NO_GROUPS_TO_JOIN] if bound else []),
    ]
    push = {
        "enrollment_id": "enrolled.id",
        "state": f"'{PushState.DUE}'",
        "due_at": "%(now)s::timestamptz",
        "requested_at": "%(now)s::timestamptz",
    }
    unless_it_can_be_woken = f"""
        enrolled WHERE NOT EXISTS (
            SELECT FROM {_PUSH_CERTIFICATE} WHERE topic = %(topic)s AND state = 'ACTIVE')
    """
    events = [
        _event("enrollment.enrolled", "enrolled", "enrolled.id"),
        audit.Event(
            *("asleep", "enrolled.id", unless_it_can_be_woken, cannot_be_woken(_NOBODY, "")),
            differ=("at", "target_label", "details"),
        ),
        *_QUESTIONS.events(),
    ]
    parts = [
        devices.enrolment(conditions),
        *([f"completed AS ({completion.completed_sql('enrolled')})"] if bound else []),
        _QUESTIONS.sql(),
        f"pushed AS ({templates.insertion(PushRequest, push)} FROM enrolled)",
        f"told AS ({audit.insertion(*events)})",
    ]
    return templates.Statement(f"WITH {', '.join(parts)} SELECT id FROM enrolled")  # noqa: S608


# --- both ------------------------------------------------------------------------------------------------


def said_by(message: messages.Authenticate) -> registry.Authenticate:
    """What the registry takes of an Authenticate."""
    return registry.Authenticate(
        udid=message.channel.udid,
        user_enrollment=message.channel.user_enrollment,
        serial_number=message.serial_number,
        name=message.name,
        product_name=message.product_name,
        model_name=message.model_name,
        os_version=message.os_version,
        build_version=message.build_version,
        imei=message.imei,
        meid=message.meid,
        topic=message.topic,
    )


def cannot_be_woken(enrollment: Enrollment, topic: str) -> dict[str, Any]:
    """What the record says where no push certificate in use has the topic; by column."""
    return columns_of(
        "enrollment.cannot_be_woken",
        actor=SERVER,
        target=enrollment,
        outcome=Outcome.FAILED,
        reason="no active push certificate has the topic that the device subscribed to",
        details={"topic": topic},
    )


def _actor(udid: str, serial_number: str) -> str:
    return f"device {serial_number or udid}"


def _event(action: str, origin: str, enrollment: str) -> audit.Event:
    """The event ``told``: a device did it, as :mod:`devices.registry` records it."""
    same = columns_of(action, actor=Actor(name=""), target=_NOBODY)
    return audit.Event("told", enrollment, origin, same, ("at", "actor", "target_label", "details"))


def _run(statement: templates.Statement, values: Mapping[str, Any]) -> prepared.Row | None:
    """None if it wrote nothing, also where another was quicker: what came of that, the long way sees."""
    try:
        with templates.alone():
            return statement.row(values)
    except IntegrityError:
        return None
