"""Sweeps over what SCEP keeps."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from scep import approvals, recipients


@shared_task(name="scep.tasks.lapse_requests")
def lapse_requests() -> int:
    """End the requests about which nobody decided in time."""
    return approvals.lapse_all(timezone.now())


@shared_task(name="scep.tasks.renew_ra_certificates")
def renew_ra_certificates() -> int:
    """Renew the certificates that SCEP services decrypt and sign with."""
    return recipients.renew_ra_certificates(timezone.now())
