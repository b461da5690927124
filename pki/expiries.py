"""How many certificates an issuer has, and when those in force end: numbers, and a chart without script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from django.db.models import Count, Q
from django.db.models.functions import TruncMonth
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from pki.models import Certificate, CertificateStatus, Issuer

MONTHS = 24
SOON = timedelta(days=30)
WIDTH, HEIGHT, BASE, TOP = 960, 150, 120, 20


@dataclass(frozen=True)
class Figures:
    """Counts of issued certificates. ``expiring``: in force, and ending within :data:`SOON`."""

    issued: int
    live: int
    revoked: int
    expiring: int


@dataclass(frozen=True)
class Month:
    """One column of the chart. ``label``: the year and month, or what lies beyond the last one."""

    label: str
    count: int


def figures(issuer: Issuer, now: datetime) -> Figures:
    """What an issuer issued, in one query."""
    live = Q(status=CertificateStatus.ISSUED, not_after__gt=now)
    return Figures(
        **Certificate.objects.filter(issuer_key__issuer=issuer).aggregate(
            issued=Count("pk"),
            live=Count("pk", filter=live),
            revoked=Count("pk", filter=Q(status=CertificateStatus.REVOKED)),
            expiring=Count("pk", filter=live & Q(not_after__lte=now + SOON)),
        )
    )


def months(issuer: Issuer, now: datetime) -> list[Month]:
    """The certificates in force by the month in which they end: two years, and what is later in one."""
    rows = (
        Certificate.objects.filter(
            issuer_key__issuer=issuer, status=CertificateStatus.ISSUED, not_after__gt=now
        )
        .order_by()
        .annotate(month=TruncMonth("not_after", tzinfo=UTC))
        .values_list("month")
        .annotate(count=Count("pk"))
    )
    counted = {(month.year, month.month): count for month, count in rows}
    first = now.astimezone(UTC)
    start = first.year * 12 + first.month - 1
    spans = [divmod(start + offset, 12) for offset in range(MONTHS)]
    shown = [Month(f"{year}-{month + 1:02d}", counted.pop((year, month + 1), 0)) for year, month in spans]
    return [*shown, Month(_("later"), sum(counted.values()))]


def draw(columns: Sequence[Month]) -> SafeString:
    """Columns as SVG with their counts as titles, and as a table for who cannot see them."""
    largest = max((column.count for column in columns), default=0) or 1
    step = WIDTH / len(columns)
    bars = format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}: {}</title></rect>',
        (
            (
                "tone-wait" if place == 0 else "tone-good",
                round(place * step + 3),
                BASE - _height(column.count, largest),
                round(step - 6),
                _height(column.count, largest),
                column.label,
                column.count,
            )
            for place, column in enumerate(columns)
        ),
    )
    counts = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle" font-size="11" fill="currentColor">{}</text>',
        (
            (round((place + 0.5) * step), BASE - _height(column.count, largest) - 5, column.count)
            for place, column in enumerate(columns)
            if column.count
        ),
    )
    labels = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle" font-size="11" fill="currentColor">{}</text>',
        (
            (round((place + 0.5) * step), HEIGHT - 12, column.label)
            for place, column in enumerate(columns)
            if place % 4 == 0 or place == len(columns) - 1
        ),
    )
    table = format_html_join(
        "", "<tr><th>{}</th><td>{}</td></tr>", ((column.label, column.count) for column in columns)
    )
    return format_html(
        '<svg viewBox="0 0 {} {}" width="100%" role="img" aria-label="{}">'
        '<rect class="bar-ground" x="0" y="{}" width="{}" height="1"/>{}{}{}</svg>'
        '<table class="visually-hidden">{}</table>',
        WIDTH,
        HEIGHT,
        _("Certificates in force by the month in which they end"),
        BASE,
        WIDTH,
        bars,
        counts,
        labels,
        table,
    )


def _height(count: int, largest: int) -> int:
    """In proportion to the largest, and never invisible."""
    return max(2, round((BASE - TOP) * count / largest)) if count else 0
