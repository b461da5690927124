"""Filters of the enrolment pages."""

from __future__ import annotations

from django import template

from enrollment.texts import in_language as translated

register = template.Library()


@register.filter
def in_language(text: str) -> str:
    """What the administrator wrote; what the first start wrote, in the language of the reader."""
    return translated(text)
