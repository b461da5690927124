"""How fast pushes go: each of them brings a device to the web server, with two requests or more.

Two limits, both shared by all workers through one row. ``BRAMLEY_PUSHES_PER_SECOND`` is what an administrator
allows; by default there is no such limit. And where the web server says that requests have to wait
(:func:`note_web_busy`), only a few pushes go, at :data:`WHILE_BUSY` a second, until it has caught up: so a
hundred thousand devices are woken as fast as they can be served, and never at a standstill.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from push import statements
from push.models import PushPace

WHILE_BUSY = 50
"""Pushes a second while the web server is busy."""
BUSY_FOR = timedelta(seconds=2)
"""How long one notice counts."""
BURST = timedelta(seconds=1)
"""What was not used in this time is lost."""


def allowed(now: datetime, wanted: int) -> int:
    """Take up to ``wanted`` pushes from what may go now; returns how many. One look where nothing limits."""
    rate = _rate(now)
    if rate is None:
        return wanted
    with transaction.atomic():
        pace, _made = PushPace.objects.select_for_update().get_or_create(pk=PushPace.ONLY)
        start = max(pace.spent_until or now - BURST, now - BURST)
        granted = max(0, min(wanted, int((now - start).total_seconds() * rate + 1e-6)))
        pace.spent_until = start + timedelta(seconds=granted / rate)
        pace.save(update_fields=["spent_until"])
    return granted


def _rate(now: datetime) -> int | None:
    ceiling: int | None = settings.BRAMLEY_PUSHES_PER_SECOND
    if statements.web_busy_until(now) is None:
        return ceiling
    return min(WHILE_BUSY, ceiling or WHILE_BUSY)


def note_web_busy(now: datetime) -> None:
    """Requests of devices have to wait at a web process: wake fewer of them for a while."""
    until = now + BUSY_FOR
    if not PushPace.objects.filter(pk=PushPace.ONLY).update(web_busy_until=until):
        PushPace.objects.get_or_create(pk=PushPace.ONLY, defaults={"web_busy_until": until})
