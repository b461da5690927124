"""Connect: the device reports on a command, or is idle, and takes the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from django.db import transaction

from commands import queue
from commands.core import plist
from commands.core.report import Report, ReportError, Status, decode_report
from commands.statements import Candidate, Condition, Part
from database import prepared
from devices import registry
from devices.core.identity import ChannelIdentity, IdentityError, resolve
from devices.models import Enrollment, EnrollmentState
from mdm import awaited, results
from mdm.answers import Rejected, Reply
from mdm.authentication import Presented
from mdm.channels import addressed, adopt_renewed, device_enrollment, names, verify_open
from mdm.fillers import FILLERS
from mdm.statements import read_answering, still_speaks, who_answers
from push import outbox
from push.models import PushState

MAX_CONNECT = 10 * 1024 * 1024
"""Bytes of a report."""


def connect(presented: Presented, message: Mapping[str, Any], body: bytes, now: datetime) -> Reply:
    """Answer one report with the next command, or with nothing. Raises :class:`Rejected`.

    What a device channel mostly says goes the short way: Idle with nothing waiting costs nothing after its
    identity was read; Idle that gets a command, and an answer to one, one statement more (on PostgreSQL). The
    time of contact is written once a minute. All else happens step by step under a lock of the enrollment.
    """
    try:
        report, channel = decode_report(message), resolve(message)
    except (ReportError, IdentityError) as error:
        raise Rejected("bad report", detail=str(error)) from error
    owner = device_enrollment(presented, channel)
    verify_open(owner)
    if presented.identity is not None:
        if owner.state == EnrollmentState.QUARANTINED:
            registry.seen(owner.pk, owner.last_seen_at, now)
            return Reply()
        awaited.note(presented.identity.sha256)
    quick = None if channel.is_user else _short_way(presented, owner, report, body, now)
    if quick is not None:
        _seen(owner, now)
        return quick
    with transaction.atomic(savepoint=presented.identity is not None):
        owner = adopt_renewed(presented, owner, now)
        enrollment = addressed(owner, channel)
        if enrollment is None:
            return Reply()
        reply = _exchange(registry.lock_standing(enrollment), report, body, now)
    if enrollment.pk != owner.pk:
        registry.seen(enrollment.pk, enrollment.last_seen_at, now)
    registry.seen(owner.pk, owner.last_seen_at, now)
    return reply


def answer_awaited(der: bytes, body: bytes, now: datetime) -> Reply | None:
    """The answer to a command, taken in one statement: who gives it is not looked up first. PostgreSQL only.

    ``der``: the certificate that made the signature over ``body``. All that is asked of it is asked by the
    statement. None for everything else, whatever may be wrong with it, and then nothing is changed: go the
    usual way. There the certificate is looked up before anything of its next message is read.
    """
    if b"CommandUUID" not in body or not prepared.on_postgresql():
        return None
    sha256 = hashlib.sha256(der).hexdigest()
    known = awaited.take(sha256)
    if known is None and not awaited.is_known(sha256):
        return None
    reply = _hurried(sha256, known, body, now)
    if reply is None:
        awaited.disown(sha256)
    return reply


def _hurried(sha256: str, known: awaited.Awaited | None, body: bytes, now: datetime) -> Reply | None:
    try:
        message = plist.read(body, max_size=MAX_CONNECT)
        report, channel = decode_report(message), resolve(message)
    except (plist.PlistError, ReportError, IdentityError):
        return None
    if "MessageType" in message or channel.is_user:
        return None
    if known is not None:
        if now > known.not_after or not names(known.owner, channel):
            return None
        owner, not_after = known.owner, known.not_after
        taken = _take_first(owner, known.first, report, body, now, if_still=still_speaks(sha256))
        found = (taken, owner, not_after) if taken is not None else None
    else:
        found = _answer_of(who_answers(sha256, channel, now), channel, report, body, now)
    if found is None:
        return None
    taken, owner, not_after = found
    reply = _go_on(taken, report, now, owner=owner, sha256=sha256, not_after=not_after)
    _seen(owner, now)
    return reply


def _answer_of(
    who: Part, channel: ChannelIdentity, report: Report, body: bytes, now: datetime
) -> tuple[queue.Taken, Enrollment, datetime] | None:
    """To a command that another process has handed out."""
    if results.says_something(report):
        return None
    found = queue.take_answer_of(who, report, now, body=body, careful=results.CAREFUL)
    return (found[0], *read_answering(found[1], channel)) if found is not None else None


def _seen(owner: Enrollment, now: datetime) -> None:
    if registry.seen(owner.pk, owner.last_seen_at, now):
        owner.last_seen_at = now


def _short_way(
    presented: Presented, owner: Enrollment, report: Report, body: bytes, now: datetime
) -> Reply | None:
    """What nearly every connect of a device channel is about; None for all else, and nothing is changed."""
    if presented.identity is None:
        return None
    if report.status is not Status.IDLE:
        taken = _take_answer(owner, presented.first, report, body, now)
    elif presented.first is not None:
        handed = queue.hand_out(owner, presented.first, now)
        taken = queue.Taken(handed) if handed is not None else None
    else:
        return Reply() if presented.push_state in ("", PushState.IDLE) else None
    if taken is None:
        return None
    sha256, not_after = presented.identity.sha256, presented.certificate.not_after
    return _go_on(taken, report, now, owner=owner, sha256=sha256, not_after=not_after)


def _take_answer(
    owner: Enrollment, first: Candidate | None, report: Report, body: bytes, now: datetime
) -> queue.Taken | None:
    if first is not None and first.command_uuid == report.command_uuid:
        return _take_first(owner, first, report, body, now)
    return _take_other(owner, report, body, now)


def _go_on(
    taken: queue.Taken, report: Report, now: datetime, *, owner: Enrollment, sha256: str, not_after: datetime
) -> Reply:
    """What went out by the short way, and is awaited now; or nothing, or what a closer look finds."""
    if taken.look_again:
        with transaction.atomic():
            return _hand_out(registry.lock_standing(owner), report, now)
    if (handed := taken.handed) is None:
        return Reply()
    if prepared.on_postgresql():
        awaited.remember(sha256, awaited.Awaited(owner, not_after, queue.with_device(handed)))
    return Reply(body=handed.body)


# What the server makes of an answer is kept together with it.


def _take_first(
    owner: Enrollment,
    first: Candidate,
    report: Report,
    body: bytes,
    now: datetime,
    *,
    if_still: Condition | None = None,
) -> queue.Taken | None:
    careful = results.CAREFUL
    if prepared.on_postgresql():
        also = results.part_of(first.request_type, report, owner.device_id)
        return queue.take_first_answer(
            owner, report, first, now, body=body, careful=careful, also=also, if_still=if_still
        )
    with transaction.atomic() if results.says_something(report) else nullcontext():
        taken = queue.take_first_answer(owner, report, first, now, body=body, careful=careful)
        if taken is not None:
            results.take_over(owner, first.request_type, report, now)
    return taken


def _take_other(owner: Enrollment, report: Report, body: bytes, now: datetime) -> queue.Taken | None:
    with transaction.atomic() if results.says_something(report) else nullcontext():
        taken = queue.take_answer(owner, report, now, body=body, careful=results.CAREFUL)
        if taken is not None and taken.delivery is not None:
            results.apply(owner, taken.delivery, report, now)
    return taken


def _exchange(enrollment: Enrollment, report: Report, body: bytes, now: datetime) -> Reply:
    """Record the report and choose the next command, on the locked row."""
    verify_open(enrollment)
    if enrollment.state == EnrollmentState.QUARANTINED:
        return Reply()
    recorded = queue.record_report(enrollment, report, now, body=body)
    if recorded.changed and recorded.delivery is not None:
        results.apply(enrollment, recorded.delivery, report, now)
    return _hand_out(enrollment, report, now)


def _hand_out(enrollment: Enrollment, report: Report, now: datetime) -> Reply:
    """Choose the next command, on the locked row."""
    # Before the queue is read: a command that arrives now is either seen, or makes a push due afterwards.
    outbox.connected(enrollment.pk, more=False, now=now)
    # Until the device connects anew it is not given again what it said NotNow to (apple-mdm 2.4).
    handed = queue.next_command(
        enrollment, after_not_now=report.status is not Status.IDLE, now=now, fillers=FILLERS
    )
    if handed is None and not queue.has_outstanding(enrollment, now=now):
        return Reply()
    outbox.connected(enrollment.pk, more=True, now=now)
    return Reply(body=handed.body) if handed is not None else Reply()
