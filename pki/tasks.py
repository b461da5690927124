"""What beat calls for: thin, twice does no harm."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from pki import ocsp, retirement, revocation, rollover


@shared_task
def publish_crls() -> int:
    """Replace CRLs that are missing or a day old. Returns how many."""
    return revocation.publish_due_crls(timezone.now())


@shared_task
def renew_ocsp_responders() -> int:
    """Give every key generation a responder that lasts. Returns how many were made."""
    return ocsp.renew_responders(timezone.now())


@shared_task
def activate_due_keys() -> int:
    """Let the next keys take over whose time has come. Returns how many."""
    return rollover.activate_due_keys(timezone.now())


@shared_task
def settle_revoked_issuers() -> int:
    """Revoke what was issued in the moment in which its issuer was revoked. Returns how many."""
    return retirement.settle_revoked_issuers(timezone.now())
