"""Times and numbers in words."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

MINUTE, HOUR, DAY, MONTH, YEAR = 60, 3600, 86400, 30 * 86400, 365 * 86400


def moment(value: datetime) -> str:
    """The moment itself, in the active time zone: ``24 Nov 2026, 05:40 UTC``."""
    local = timezone.localtime(value)
    return f"{date_format(local, 'j M Y, H:i')} {local.tzname() or ''}".strip()


def relative(value: datetime, now: datetime) -> str:
    """How long ago, or in how much time: ``5 minutes ago``, ``in 29 days``, ``just now``."""
    distance = (value - now).total_seconds()
    if abs(distance) < MINUTE:
        return _("just now") if distance <= 0 else _("in less than a minute")
    span = duration(timedelta(seconds=abs(distance)))
    return _("%(span)s ago") % {"span": span} if distance < 0 else _("in %(span)s") % {"span": span}


def duration(span: timedelta) -> str:
    """One number and its unit, rounded down: ``47 minutes``, ``3 hours``, ``29 days``, ``2 years``."""
    seconds = int(span.total_seconds())
    if seconds < HOUR:
        count = seconds // MINUTE
        return ngettext("%(count)d minute", "%(count)d minutes", count) % {"count": count}
    if seconds < DAY:
        count = seconds // HOUR
        return ngettext("%(count)d hour", "%(count)d hours", count) % {"count": count}
    if seconds < 3 * MONTH:
        count = seconds // DAY
        return ngettext("%(count)d day", "%(count)d days", count) % {"count": count}
    if seconds < 2 * YEAR:
        count = seconds // MONTH
        return ngettext("%(count)d month", "%(count)d months", count) % {"count": count}
    count = seconds // YEAR
    return ngettext("%(count)d year", "%(count)d years", count) % {"count": count}


def thousands(count: int) -> str:
    """``12 345``, with narrow spaces that don't break."""
    return f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
