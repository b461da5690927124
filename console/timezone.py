"""Times in the time zone of whoever looks at them.

A static script writes the browser's zone into a cookie (static/console/timezone.js); this activates it. Until
then, and for a zone that nobody knows, times are in UTC. Every shown time names its zone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest, HttpResponse
from django.utils import timezone

COOKIE = "bramley_timezone"


class ViewersTimeZone:
    """Middleware of the door for people."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        name = request.COOKIES.get(COOKIE, "")
        # The API speaks UTC to everybody.
        if name not in _known_zones() or request.path.startswith("/api/"):
            return self.get_response(request)
        with timezone.override(ZoneInfo(name)):
            return self.get_response(request)


@lru_cache(maxsize=1)
def _known_zones() -> frozenset[str]:
    return frozenset(available_timezones())
