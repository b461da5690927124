"""What the pages of SCEP share."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.recording import Actor


def actor_of(request: HttpRequest) -> Actor:
    """Who is signed in."""
    return Actor.of_user(request.user, request.META.get("REMOTE_ADDR", ""))


def link(view: str, target: Any) -> SafeString | str:
    """A link to the page of something, a dash for nothing."""
    if target is None:
        return "-"
    try:
        return format_html('<a href="{}">{}</a>', reverse(view, args=[target.pk]), target)
    except NoReverseMatch:
        return str(target)
