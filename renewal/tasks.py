"""Sweeps: renewals that ended elsewhere, identities that end soon, campaigns. Twice at once does no harm."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from renewal import due, progress, waves


@shared_task(name="renewal.tasks.settle_renewals")
def settle_renewals() -> int:
    """Bring open renewals in line with what happened elsewhere. Returns how many ended."""
    return progress.settle(timezone.now())


@shared_task(name="renewal.tasks.renew_due")
def renew_due() -> int:
    """Renew identities that end soon. Returns how many renewals were planned."""
    return due.renew_due(timezone.now())


@shared_task(name="renewal.tasks.advance_campaigns")
def advance_campaigns() -> int:
    """One tick of every re-key campaign. Returns how many devices were asked."""
    return waves.advance_all(timezone.now())
