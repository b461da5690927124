"""Sweeps over enrolment sessions."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from enrollment import completion


@shared_task(name="enrollment.tasks.expire_sessions")
def expire_sessions() -> int:
    """End the sessions whose time is over."""
    return completion.expire(timezone.now())
