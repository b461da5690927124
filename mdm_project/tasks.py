"""What beat calls for the installation as a whole."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from mdm_project import retention


@shared_task(name="mdm_project.tasks.remove_what_is_old")
def remove_what_is_old() -> int:
    """Remove what has been kept long enough. Twice at once does no harm. Returns how many rows went."""
    return retention.sweep_all(timezone.now())
