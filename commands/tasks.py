"""The sweep over the queue."""

from __future__ import annotations

import logging

from celery import shared_task
from django.utils import timezone

from commands import queue

logger = logging.getLogger(__name__)


@shared_task(name="commands.tasks.expire_commands")
def expire_commands() -> None:
    """End what no device came for, raise doubts about what none answered, push for what has become due."""
    now = timezone.now()
    swept = queue.expire(now)
    pushed = queue.push_what_became_due(now)
    if swept != queue.Swept() or pushed:
        logger.info(
            "commands: %d expired, %d cancelled, %d uncertain, %d pushes became due",
            swept.expired,
            swept.cancelled,
            swept.uncertain,
            pushed,
        )
