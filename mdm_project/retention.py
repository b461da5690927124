"""One round through everything that is kept for a time: how long, and who removes what.

``BRAMLEY_KEEP_…`` is a number of days; 0 keeps for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from django.conf import settings

import audit.retention
import commands.retention
import console.retention
import devices.retention
import enrollment.retention
import push.retention
import scep.retention
from audit.retention import Sweep

TIME_FOR_ALL = 600.0
"""Seconds for one round; what is left goes with the next."""


REMOVERS: Mapping[str, tuple[Callable[[Sweep], int], ...]] = {
    "BRAMLEY_KEEP_SIGN_INS": (console.retention.remove_ended_sign_ins,),
    "BRAMLEY_KEEP_REFUSALS": (audit.retention.remove_old_refusals, scep.retention.remove_old_refusals),
    "BRAMLEY_KEEP_TRANSACTIONS": (scep.retention.remove_old_transactions,),
    "BRAMLEY_KEEP_CHALLENGES": (scep.retention.remove_old_challenges,),
    "BRAMLEY_KEEP_SESSIONS": (enrollment.retention.remove_old_sessions,),
    "BRAMLEY_KEEP_COMMANDS": (commands.retention.remove_finished,),
    "BRAMLEY_KEEP_ENDED": (devices.retention.remove_old_receipts, push.retention.remove_old_rows),
    "BRAMLEY_KEEP_AUDIT": (audit.retention.remove_old_events,),
}
"""In this order: transactions before the challenges that they hold."""


def sweep_all(now: datetime) -> int:
    """Remove what has been kept long enough. Returns how many rows went."""
    until = time.monotonic() + TIME_FOR_ALL
    removed = 0
    for variable, removers in REMOVERS.items():
        if days := settings.BRAMLEY_KEEP[variable]:
            sweep = Sweep(now, now - timedelta(days=days), until)
            removed += sum(remover(sweep) for remover in removers)
    return removed
