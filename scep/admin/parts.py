"""What the pages of SCEP share."""

from __future__ import annotations

from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString


def link(view: str, target: Any) -> SafeString | str:
    """A link to the page of something, a dash for nothing."""
    if target is None:
        return "-"
    try:
        return format_html('<a href="{}">{}</a>', reverse(view, args=[target.pk]), target)
    except NoReverseMatch:
        return str(target)
