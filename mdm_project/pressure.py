"""Tells those who send pushes that requests have to wait here: at most once a second from each process."""

from __future__ import annotations

import logging
import threading
import time

from django.db import DatabaseError
from django.utils import timezone

from push import pace

logger = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds."""


class _Told:
    lock = threading.Lock()
    at = float("-inf")


def note() -> None:
    """Requests have to wait. One UPDATE now and then; what the database cannot take is left out."""
    with _Told.lock:
        if time.monotonic() - _Told.at < EVERY:
            return
        _Told.at = time.monotonic()
    try:
        pace.note_web_busy(timezone.now())
    except DatabaseError as error:
        logger.warning("the pace of pushes cannot be noted: %s", type(error).__name__)
