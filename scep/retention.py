"""Challenges and transactions that nobody needs any more."""

from __future__ import annotations

from django.db.models import Q

from audit.retention import Sweep, remove, unreferenced
from scep.models import Challenge, Transaction, TransactionStatus


def remove_old_challenges(sweep: Sweep) -> int:
    """Challenges whose time is over, used or not; one on which a transaction hangs stays as long as that."""
    ended = Challenge.objects.filter(expires_at__lt=sweep.before)
    ended = ended.filter(Q(consumed_at=None) | Q(consumed_at__lt=sweep.before))
    return remove("challenges", unreferenced(ended), sweep)


def remove_old_refusals(sweep: Sweep) -> int:
    """Refused requests. Those that wait for approval stay until somebody decides, or they lapse."""
    refused = Transaction.objects.filter(status=TransactionStatus.FAILURE, created_at__lt=sweep.before)
    return remove("refused SCEP requests", unreferenced(refused), sweep)


def remove_old_transactions(sweep: Sweep) -> int:
    """Granted requests whose certificate has expired: until then the same request gets the same answer."""
    granted = Transaction.objects.filter(
        status=TransactionStatus.SUCCESS, created_at__lt=sweep.before, certificate__not_after__lt=sweep.before
    )
    return remove("granted SCEP requests", unreferenced(granted), sweep)
