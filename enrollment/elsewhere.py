"""Waiting for others in the middle of a request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection
from django.http import HttpRequest


@contextmanager
def elsewhere(request: HttpRequest) -> Iterator[None]:
    """While somebody else is asked: neither a database connection nor this process's turn is held up.

    The turn is that of :class:`mdm_project.threshold.Threshold`; tests have none.
    """
    if not connection.in_atomic_block:
        connection.close()
    turns = request.META.get("bramley.turns")
    if turns is None:
        yield
        return
    turns.release()
    try:
        yield
    finally:
        turns.acquire()
