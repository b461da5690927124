"""Certificates on the old key over time, as SVG: drawn on the server, without script or inline style."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

WIDTH, HEIGHT = 1000, 200
MOST_ROWS = 40
"""Of the table that says the same in numbers."""


@dataclass(frozen=True)
class Point:
    """The figures of one moment."""

    at: datetime
    on_old: int
    failed: int


def draw(points: Sequence[Point], *, activated_at: datetime | None = None) -> SafeString:
    """``points`` in the order of time, at least one. ``activated_at``: a line where the new key took over.

    The shapes stretch to the width of the page; words stand around them, so that they stay readable on a
    telephone.
    """
    first, last = points[0].at, points[-1].at
    largest = max((max(point.on_old, point.failed) for point in points), default=0)

    def across(at: datetime) -> int:
        span = (last - first).total_seconds()
        return round(WIDTH * (at - first).total_seconds() / span) if span > 0 else 0

    def up(count: int) -> int:
        return HEIGHT - round((HEIGHT - 10) * count / largest) if largest else HEIGHT

    line: SafeString | str = ""
    if activated_at is not None and first < activated_at < last:
        line = format_html(
            '<rect class="tone-good" x="{}" y="0" width="3" height="{}"><title>{}</title></rect>',
            across(activated_at),
            HEIGHT,
            _("The new key took over: %(moment)s") % {"moment": _moment(activated_at)},
        )
    return format_html(
        '<figure class="curve progress"><p class="curve-scale">{}</p>'
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="bar-ground" x="0" y="{}" width="{}" height="2"/>'
        '<polygon class="tone-info" points="{}"/><polygon class="tone-bad" points="{}"/>{}</svg>'
        '<p class="curve-times"><span>{}</span><span>{}</span></p>{}{}</figure>',
        largest,
        WIDTH,
        HEIGHT,
        _("Devices on an older key, over time"),
        HEIGHT - 2,
        WIDTH,
        _area([(across(point.at), up(point.on_old)) for point in points]),
        _area([(across(point.at), up(point.failed)) for point in points]) if _any_failed(points) else "",
        line,
        _moment(first),
        _moment(last),
        _legend(points, bool(line)),
        _table(points),
    )


def _area(corners: list[tuple[int, int]]) -> str:
    """From the ground along the corners and back to it. A single moment is drawn as wide as the page."""
    if len({x for x, _y in corners}) == 1:
        corners = [(0, corners[-1][1]), (WIDTH, corners[-1][1])]
    closed = [(corners[0][0], HEIGHT), *corners, (corners[-1][0], HEIGHT)]
    return " ".join(f"{x},{y}" for x, y in closed)


def _any_failed(points: Sequence[Point]) -> bool:
    return any(point.failed for point in points)


def _legend(points: Sequence[Point], has_line: bool) -> SafeString:
    def entries() -> Iterator[tuple[str, str]]:
        yield "info", _("devices on an older key")
        if _any_failed(points):
            yield "bad", _("devices whose renewal failed")
        if has_line:
            yield "good", _("the new key took over")

    return format_html(
        '<ul class="legend">{}</ul>',
        format_html_join(
            "",
            '<li><svg class="dot" viewBox="0 0 10 10" aria-hidden="true">'
            '<circle class="tone-{}" cx="5" cy="5" r="5"/></svg>{}</li>',
            entries(),
        ),
    )


def _table(points: Sequence[Point]) -> SafeString:
    """For who cannot see the shapes."""
    every = max(1, -(-len(points) // MOST_ROWS))
    shown = [*points[:-1:every], points[-1]]
    return format_html(
        '<div class="visually-hidden"><table><tr><th>{}</th><th>{}</th><th>{}</th></tr>{}</table></div>',
        _("at"),
        _("devices on an older key"),
        _("failed"),
        format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
            ((_moment(point.at), point.on_old, point.failed) for point in shown),
        ),
    )


def _moment(at: datetime) -> str:
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M}"
