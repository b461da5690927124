"""Celery tasks. They carry nothing: what is due stands in the rows."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from push import dispatch as dispatching
from push import expiry


@shared_task(name="push.tasks.dispatch")
def dispatch() -> None:
    """Woken by a commit that made pushes due. Cheap when there are none."""
    dispatching.run()


@shared_task(name="push.tasks.sweep_due_pushes")
def sweep_due_pushes() -> None:
    """Every few seconds: what a lost message, broker or worker left behind, and what is due again."""
    dispatching.run()


@shared_task(name="push.tasks.warn_of_expiry")
def warn_of_expiry() -> None:
    """Every quarter of an hour: warnings before certificates end, each of them once."""
    expiry.warn(timezone.now())
