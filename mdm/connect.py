"""Connect: the device reports on a command, or is idle, and takes the next one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from commands import queue
from commands.core.report import Report, ReportError, Status, decode_report
from devices import registry
from devices.core.identity import IdentityError, resolve
from devices.models import Enrollment, EnrollmentState
from mdm import results
from mdm.answers import Rejected, Reply
from mdm.authentication import Presented
from mdm.channels import addressed, adopt_renewed, device_enrollment, verify_open
from mdm.fillers import FILLERS
from push import outbox
from push.models import PushState

MAX_CONNECT = 10 * 1024 * 1024
"""Bytes of a report."""


def connect(presented: Presented, message: Mapping[str, Any], body: bytes, now: datetime) -> Reply:
    """Answer one report with the next command, or with nothing. Raises :class:`Rejected`.

    A device that is idle and has nothing waiting costs one read here (and one for its identity before), and
    at most one write of the time of contact a minute. All else happens under a lock of its enrollment.
    """
    try:
        report, channel = decode_report(message), resolve(message)
    except (ReportError, IdentityError) as error:
        raise Rejected("bad report", detail=str(error)) from error
    owner = device_enrollment(presented, channel)
    verify_open(owner)
    if owner.state == EnrollmentState.QUARANTINED and presented.identity is not None:
        registry.seen(owner.pk, owner.last_seen_at, now)
        return Reply()
    if presented.identity is not None and _nothing_to_do(presented, owner, channel.user_id, report, now):
        registry.seen(owner.pk, owner.last_seen_at, now)
        return Reply()
    with transaction.atomic(savepoint=presented.identity is not None):
        owner = adopt_renewed(presented, owner, now)
        enrollment = addressed(owner, channel)
        if enrollment is None:
            return Reply()
        reply = _exchange(registry.lock(enrollment), report, body, now)
    if enrollment.pk != owner.pk:
        registry.seen(enrollment.pk, enrollment.last_seen_at, now)
    registry.seen(owner.pk, owner.last_seen_at, now)
    return reply


def _nothing_to_do(
    presented: Presented, owner: Enrollment, user_id: str, report: Report, now: datetime
) -> bool:
    """The device channel is idle, no push is under way for it and nothing is queued."""
    if user_id or report.status is not Status.IDLE or presented.push_state not in ("", PushState.IDLE):
        return False
    return not queue.has_outstanding(owner, now=now)


def _exchange(enrollment: Enrollment, report: Report, body: bytes, now: datetime) -> Reply:
    """Record the report and choose the next command, on the locked row."""
    verify_open(enrollment)
    if enrollment.state == EnrollmentState.QUARANTINED:
        return Reply()
    recorded = queue.record_report(enrollment, report, now, body=body)
    if recorded.changed and recorded.delivery is not None:
        results.apply(enrollment, recorded.delivery, report, now)
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
