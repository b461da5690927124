"""Push rows of enrollments that ended."""

from __future__ import annotations

from audit.retention import Sweep, remove
from push.models import PushRequest, PushState
from push.outbox import WAKEABLE


def remove_old_rows(sweep: Sweep) -> int:
    """Rows of enrollments that are over, with nothing to send. A living one keeps its only row for ever."""
    rows = PushRequest.objects.filter(state=PushState.IDLE, enrollment__ended_at__lt=sweep.before)
    return remove("pushes", rows.exclude(enrollment__state__in=WAKEABLE), sweep)
