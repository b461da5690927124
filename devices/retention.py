"""What is kept of check-ins of enrollments that ended."""

from __future__ import annotations

from audit.retention import Sweep, remove
from devices.models import Channel, CheckinReceipt, EnrollmentState

_ENDED = (
    EnrollmentState.CHECKED_OUT,
    EnrollmentState.REPLACED,
    EnrollmentState.REFUSED,
    EnrollmentState.TURNED_AWAY,
)


def remove_old_receipts(sweep: Sweep) -> int:
    """Receipts of enrollments that ended: their certificate opens nothing, whatever is sent again.

    Those of living enrollments stay, of earlier lives too: an old message that comes again is known by them.
    """
    receipts = CheckinReceipt.objects.filter(
        enrollment__channel=Channel.DEVICE,
        enrollment__state__in=_ENDED,
        enrollment__ended_at__lt=sweep.before,
        received_at__lt=sweep.before,
    )
    return remove("check-in receipts", receipts, sweep)
