"""Work of the device endpoint that runs beside requests."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from mdm import questions


@shared_task
def refresh_inventory() -> int:
    """Ask the devices whose inventory is a day old. Returns how many were asked."""
    now = timezone.now()
    return questions.ask_inventory(questions.devices_to_ask(now), now)


@shared_task
def request_inventory(enrollment_id: int) -> int:
    """Ask one device now."""
    return questions.ask_inventory([enrollment_id], timezone.now())
