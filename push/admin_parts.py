"""What the pages of this app share: who may, who acts, what is uploaded, and coloured words."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext

from push.certificates import EXPIRY_ALARMS


def may(request: HttpRequest, what: str, model: str = "pushcertificate") -> bool:
    """Whether this person may ``view``, ``add`` or ``change``."""
    return request.user.has_perm(f"push.{what}_{model}")


def verify_may(request: HttpRequest, what: str, model: str = "pushcertificate") -> None:
    """Raises ``PermissionDenied``."""
    if not may(request, what, model):
        raise PermissionDenied


def content(file: Any, limit: int) -> bytes:
    """An uploaded file, but no more of it than it takes to see that it is too large."""
    return bytes(file.read(limit + 1))


def left_in_words(left: timedelta) -> str:
    """``29 days left`` or ``expired``."""
    if left <= timedelta(0):
        return gettext("expired")
    return ngettext("%d day left", "%d days left", left.days) % left.days


def urgency(left: timedelta) -> str:
    """The tone of console/bramley.css that fits the time that is left."""
    far, near, nearer, _last = EXPIRY_ALARMS
    if left <= nearer:
        return "bad"
    if left <= near:
        return "wait"
    return "info" if left <= far else "good"


def badge(tone: str, text: str, title: str, *, shown: bool = False) -> SafeString:
    """A coloured word; ``title`` is told when the pointer rests on it, and beside it if ``shown``."""
    beside = format_html(' <span class="quiet">{}</span>', title) if shown else ""
    return format_html('<span class="badge tone-{}" title="{}">{}</span>{}', tone, title, text, beside)


def moment(value: datetime | None) -> str:
    """In the viewer's time zone; a dash for nothing."""
    return date_format(timezone.localtime(value), "j M Y, H:i T") if value else "-"
