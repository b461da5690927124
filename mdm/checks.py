"""System checks: settings with which devices could be impersonated."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from mdm import proxies


def check_client_certificate_header(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Whoever may set the header can be any device: only proxies that are named may."""
    found: list[CheckMessage] = []
    if settings.BRAMLEY_CLIENT_CERT_HEADER and not settings.BRAMLEY_TRUSTED_PROXIES:
        found.append(
            Error(
                "BRAMLEY_CLIENT_CERT_HEADER is set, but BRAMLEY_TRUSTED_PROXIES names no proxy.",
                hint="Name the addresses of the proxies that end TLS, or unset the header.",
                id="mdm.E001",
            )
        )
    try:
        proxies.networks(tuple(settings.BRAMLEY_TRUSTED_PROXIES))
    except ValueError as error:
        found.append(
            Error(
                f"BRAMLEY_TRUSTED_PROXIES: {error}.",
                hint="Addresses or networks like 10.0.0.0/8, separated by commas.",
                id="mdm.E002",
            )
        )
    if "_" in settings.BRAMLEY_CLIENT_CERT_HEADER:
        found.append(
            Error(
                "BRAMLEY_CLIENT_CERT_HEADER has an underscore.",
                hint="Servers cannot tell X_Name from X-Name: use a name with hyphens.",
                id="mdm.E003",
            )
        )
    return found
