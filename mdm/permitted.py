"""What a device with an expired certificate may do when an administrator lets it in (threats D2).

It fetches the one command that renews its identity, and answers it. Nothing else: no check-in, no other
command, no user of the device. For all of that it stays refused as expired.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from commands import queue
from commands.core.report import ReportError, Status, decode_report
from devices import registry
from devices.core.identity import IdentityError, resolve
from devices.models import EnrollmentState
from mdm import results
from mdm.answers import Rejected, Reply
from mdm.authentication import Expired, Presented
from mdm.channels import device_enrollment
from mdm.fillers import FILLERS
from push import outbox
from renewal import permits
from renewal.models import OPEN_RENEWALS


def connect(expired: Expired, message: Mapping[str, Any], body: bytes, now: datetime) -> Reply:
    """Answer an Idle, or the report on the renewal. Raises :class:`Rejected`: ``expired`` in most cases.

    1. There is a permit for this very certificate, which is expired and nothing worse.
    2. The message is a report of the device's own channel, and names that device.
    3. It is Idle, or about the command of the renewal that the permit is for.
    """
    identity = expired.identity
    if permits.find(identity, now) is None or "MessageType" in message:
        raise expired
    try:
        report, channel = decode_report(message), resolve(message)
    except (ReportError, IdentityError) as error:
        raise Rejected("bad report", detail=str(error)) from error
    owner = device_enrollment(Presented(identity.certificate, identity), channel)
    if channel.is_user:
        raise expired
    with transaction.atomic():
        enrollment = registry.lock(owner)
        permit = permits.find(identity, now, lock=True)
        if permit is None or permit.renewal.command is None or enrollment.state != EnrollmentState.ENROLLED:
            raise expired
        only = permit.renewal.command.uuid
        if report.status is Status.IDLE:
            if permit.renewal.state not in OPEN_RENEWALS:
                raise expired
        elif report.command_uuid != only:
            raise expired
        recorded = queue.record_report(enrollment, report, now, body=body)
        if recorded.changed and recorded.delivery is not None:
            results.apply(enrollment, recorded.delivery, report, now)
        handed = queue.next_command(
            enrollment, after_not_now=report.status is not Status.IDLE, now=now, fillers=FILLERS, only=only
        )
        outbox.connected(enrollment.pk, more=handed is not None, now=now)
    registry.seen(owner.pk, owner.last_seen_at, now)
    return Reply(body=handed.body) if handed is not None else Reply()
