"""An administrator decides about a device that enrolled as one that is enrolled already."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from audit.recording import Actor
from devices import registry
from devices.models import Enrollment, EnrollmentState
from mdm.checkin import drop_work, welcome


@transaction.atomic
def admit(enrollment: Enrollment, *, actor: Actor, now: datetime) -> registry.Outcome:
    """It is the device: it replaces the live enrollment, whose commands are cancelled.

    Raises :class:`devices.registry.Refused` when the enrollment is not held.
    """
    outcome = registry.admit(enrollment, actor, now)
    drop_work(outcome.dropped, "replaced by another enrollment of the device", now)
    if outcome.enrollment.state == EnrollmentState.ENROLLED:
        welcome(outcome.enrollment, now)
    return outcome


@transaction.atomic
def refuse(enrollment: Enrollment, *, actor: Actor, now: datetime, reason: str = "") -> Enrollment:
    """It is not: its certificate is refused from now on.

    Raises :class:`devices.registry.Refused` when the enrollment is not held.
    """
    return registry.refuse(enrollment, actor, now, reason=reason)
