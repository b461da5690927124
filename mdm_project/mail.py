"""E-mail to administrators: the server that takes it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


@dataclass(frozen=True)
class Server:
    """An SMTP server. ``starttls``: TLS after the greeting; ``tls``: from the start."""

    host: str = "localhost"
    port: int = 25
    user: str = ""
    password: str = field(default="", repr=False)
    starttls: bool = False
    tls: bool = False


def server() -> Server:
    """What ``BRAMLEY_SMTP_URL`` says, or the file that ``BRAMLEY_SMTP_URL_FILE`` names; else this machine's.

    ``smtp+starttls://user:password@host:587``; ``smtps://`` for TLS from the start, ``smtp://`` without TLS.
    Raises :class:`ImproperlyConfigured`; its message does not hold the password.
    """
    url = _text()
    if not url:
        return Server()
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured("BRAMLEY_SMTP_URL: the port is not a number") from None
    if parts.scheme not in PORTS or not parts.hostname:
        raise ImproperlyConfigured("BRAMLEY_SMTP_URL is like smtp+starttls://user:password@host:587")
    return Server(
        host=parts.hostname,
        port=port or PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        starttls=parts.scheme == "smtp+starttls",
        tls=parts.scheme == "smtps",
    )


def _text() -> str:
    if path := os.environ.get("BRAMLEY_SMTP_URL_FILE"):
        return Path(path).read_text().strip()
    return os.environ.get("BRAMLEY_SMTP_URL", "").strip()
