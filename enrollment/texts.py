"""Texts of ours that people read on pages and on devices, in the language of whoever reads them.

Some are in the database, where the first start wrote them; some come from :mod:`enrollment.core.payloads`,
which knows no languages. What an administrator wrote stays as it is.
"""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext, gettext_noop

TEXTS = frozenset(
    {
        gettext_noop("Device management"),
        gettext_noop("Lets your organisation set up and protect this device."),
        gettext_noop("Certificate authority"),
        gettext_noop("Intermediate certificate authority"),
        gettext_noop("Lets the device trust this management server."),
        gettext_noop("Device identity"),
        gettext_noop("Gets a certificate that proves which device this is."),
        gettext_noop("Lets the organisation manage this device."),
    }
)


def in_language(text: str) -> str:
    """``text`` itself, unless it is one of ours: then in the active language."""
    return gettext(text) if text in TEXTS else text


def payloads_in_language(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile whose payloads are named and described in the active language."""
    content = profile.get("PayloadContent")
    if isinstance(content, list):
        profile["PayloadContent"] = [_in_language(part) for part in content]
    return profile


def _in_language(part: dict[str, Any]) -> dict[str, Any]:
    shown = {key: part[key] for key in ("PayloadDisplayName", "PayloadDescription") if key in part}
    return {**part, **{key: in_language(text) for key, text in shown.items()}}
