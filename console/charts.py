"""Small charts as SVG, drawn on the server: no script, nothing that a strict content policy forbids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from console import words

WIDTH = 1000
TONES = frozenset({"good", "info", "wait", "bad", "off"})


@dataclass(frozen=True)
class Part:
    """One bar, or one piece of a bar. ``tone`` as in :mod:`console.states`; ``url`` a list to open."""

    label: str | Promise
    count: int
    tone: str = "good"
    url: str = ""

    @property
    def css(self) -> str:
        return self.tone if self.tone in TONES else "off"


def bar(count: int, largest: int, tone: str) -> SafeString:
    """One horizontal bar, as long as ``count`` is of ``largest``."""
    width = round(WIDTH * count / largest) if largest else 0
    return format_html(
        '<svg class="bar" viewBox="0 0 {} 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="bar-ground" width="{}" height="10"/>'
        '<rect class="tone-{}" width="{}" height="10"/></svg>',
        WIDTH,
        WIDTH,
        tone if tone in TONES else "off",
        max(width, 6) if count else 0,
    )


def bars(parts: Sequence[Part]) -> SafeString:
    """One labelled bar for each part, all to the scale of the largest."""
    largest = max((part.count for part in parts), default=0)
    rows = format_html_join(
        "",
        '<tr><th scope="row">{}</th><td class="chart-bar">{}</td><td class="chart-count">{}</td></tr>',
        ((_linked(part), bar(part.count, largest, part.css), words.thousands(part.count)) for part in parts),
    )
    return format_html('<table class="chart">{}</table>', rows)


def progress(parts: Sequence[Part]) -> SafeString:
    """One bar cut into the parts' shares, with a legend: how far a command got."""
    total = sum(part.count for part in parts)
    pieces: list[SafeString] = []
    start = 0
    seen = 0
    for part in parts:
        seen += part.count
        end = round(WIDTH * seen / total) if total else 0
        if end > start:
            pieces.append(
                format_html(
                    '<rect class="tone-{}" x="{}" width="{}" height="10"><title>{}: {}</title></rect>',
                    part.css,
                    start,
                    end - start,
                    part.label,
                    part.count,
                )
            )
        start = end
    legend = format_html_join(
        "",
        '<li><svg class="dot" viewBox="0 0 10 10" aria-hidden="true"><circle class="tone-{}" cx="5" cy="5"'
        ' r="5"/></svg>{} <b>{}</b></li>',
        ((part.css, _linked(part), words.thousands(part.count)) for part in parts if part.count),
    )
    return format_html(
        '<div class="progress"><svg class="bar" viewBox="0 0 {} 10" preserveAspectRatio="none" role="img">'
        '<rect class="bar-ground" width="{}" height="10"/>{}</svg><ul class="legend">{}</ul></div>',
        WIDTH,
        WIDTH,
        format_html_join("", "{}", ((piece,) for piece in pieces)),
        legend,
    )


def _linked(part: Part) -> str | SafeString:
    if part.url:
        return format_html('<a href="{}">{}</a>', part.url, part.label)
    return str(part.label)
