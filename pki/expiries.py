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


@dataclass(frozen=True)
class Past:
    """One month of what was. ``label``: the year and month."""

    label: str
    issued: int
    revoked: int


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


def history(issuer: Issuer, now: datetime) -> list[Past]:
    """What was issued and what was revoked in each of the last :data:`MONTHS` months, this one last."""
    here = now.astimezone(UTC)
    end = here.year * 12 + here.month
    spans = [divmod(end - MONTHS + offset, 12) for offset in range(MONTHS)]
    first = datetime(spans[0][0], spans[0][1] + 1, 1, tzinfo=UTC)
    issued, revoked = (_by_month(issuer, field, first) for field in ("created_at", "revoked_at"))
    return [
        Past(f"{year}-{month + 1:02d}", issued.get((year, month + 1), 0), revoked.get((year, month + 1), 0))
        for year, month in spans
    ]


def _by_month(issuer: Issuer, field: str, first: datetime) -> dict[tuple[int, int], int]:
    rows = (
        Certificate.objects.filter(issuer_key__issuer=issuer, **{f"{field}__gte": first})
        .order_by()
        .annotate(month=TruncMonth(field, tzinfo=UTC))
        .values_list("month")
        .annotate(count=Count("pk"))
    )
    return {(month.year, month.month): count for month, count in rows}


def draw(columns: Sequence[Month]) -> SafeString:
    """Columns as SVG with their counts as titles, and as a table for who cannot see them."""
    return _draw(
        _("Certificates in force by the month in which they end"),
        (_("in force"),),
        [
            (column.label, (("tone-wait" if place == 0 else "tone-good", column.count),))
            for place, column in enumerate(columns)
        ],
    )


def draw_history(columns: Sequence[Past]) -> SafeString:
    """Two columns for each month: issued, and revoked."""
    return _draw(
        _("Certificates that were issued, and that were revoked, by month"),
        (_("issued"), _("revoked")),
        [(column.label, (("tone-good", column.issued), ("tone-bad", column.revoked))) for column in columns],
    )


_Column = tuple[str, tuple[tuple[str, int], ...]]


def _draw(title: str, names: Sequence[str], columns: Sequence[_Column]) -> SafeString:
    largest = max((count for _label, parts in columns for _tone, count in parts), default=0) or 1
    step = WIDTH / len(columns)
    width = (step - 6) / len(names)
    placed = [
        (place * step + 3 + part * width, tone, f"{label}, {names[part]}: {count}", count)
        for place, (label, parts) in enumerate(columns)
        for part, (tone, count) in enumerate(parts)
    ]
    bars = format_html_join(
        "",
        '<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>',
        (
            (tone, round(x), BASE - _height(count, largest), round(width), _height(count, largest), words)
            for x, tone, words, count in placed
        ),
    )
    counts = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="middle" font-size="11" fill="currentColor">{}</text>',
        (
            (round(x + width / 2), BASE - _height(count, largest) - 5, count)
            for x, _tone, _words, count in placed
            if count
        ),
    )
    last = len(columns) - 1
    anchors = {0: (3, "start"), last: (WIDTH - 3, "end")}
    labels = format_html_join(
        "",
        '<text x="{}" y="{}" text-anchor="{}" font-size="11" fill="currentColor">{}</text>',
        (
            (x, HEIGHT - 12, anchor, columns[place][0])
            for place in sorted({*range(0, last - 2, 4), last})
            for x, anchor in [anchors.get(place, (round((place + 0.5) * step), "middle"))]
        ),
    )
    return format_html(
        '<svg viewBox="0 0 {} {}" width="100%" role="img" aria-label="{}">'
        '<rect class="bar-ground" x="0" y="{}" width="{}" height="1"/>{}{}{}</svg>'
        '<table class="visually-hidden"><tr><th></th>{}</tr>{}</table>',
        WIDTH,
        HEIGHT,
        title,
        BASE,
        WIDTH,
        bars,
        counts,
        labels,
        format_html_join("", "<th>{}</th>", ((name,) for name in names)),
        format_html_join(
            "",
            "<tr><th>{}</th>{}</tr>",
            (
                (label, format_html_join("", "<td>{}</td>", ((count,) for _tone, count in parts)))
                for label, parts in columns
            ),
        ),
    )


def _height(count: int, largest: int) -> int:
    """In proportion to the largest, and never invisible."""
    return max(2, round((BASE - TOP) * count / largest)) if count else 0
