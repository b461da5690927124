"""What the environment says, and the secrets made at the first start."""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def home() -> Path:
    """The folder that holds all state: ``BRAMLEY_HOME``, by default ``var`` beside manage.py."""
    return Path(os.environ.get("BRAMLEY_HOME") or BASE_DIR / "var").resolve()


def secret(name: str, file_name: str, make: str) -> str:
    """A secret from the variable ``name``, from the file that ``name_FILE`` names, or made once.

    A made secret is kept in ``BRAMLEY_HOME/<file_name>`` with mode 0600. ``make``: ``key`` gives base64 of 32
    random bytes, ``text`` 64 URL-safe characters.
    """
    if value := os.environ.get(name):
        return value.strip()
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path).read_text().strip()
    kept = home() / file_name
    if not kept.exists():
        made = (
            base64.b64encode(secrets.token_bytes(32)).decode() if make == "key" else secrets.token_urlsafe(48)
        )
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_once(kept, made)
    return kept.read_text().strip()


def _write_once(path: Path, text: str) -> None:
    """Two processes that start together agree on one value: write aside, link into place, first one wins."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):
        os.link(aside, path)
    aside.unlink()


def database(url: str | None) -> dict[str, Any]:
    """Django's settings for ``DATABASE_URL``; SQLite in ``BRAMLEY_HOME`` where there is none."""
    if not url:
        return _sqlite(str(home() / "bramley.sqlite3"))
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _sqlite(
            unquote(parts.path.removeprefix("/") if parts.path.startswith("//") is False else parts.path[1:])
        )
    if parts.scheme in {"postgres", "postgresql"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 0,
            "OPTIONS": {
                **dict(parse_qsl(parts.query)),
                "pool": {"min_size": 1, "max_size": 10, "timeout": 10},
            },
        }
    raise ImproperlyConfigured("DATABASE_URL starts with sqlite:/// or postgres://")


def _sqlite(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name,
        "CONN_MAX_AGE": None,
        "OPTIONS": {
            # One writer at a time, taken at BEGIN: a transaction never finds at its end that it cannot write.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # FULL: an issued certificate must survive a power cut.
            "init_command": (
                "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;PRAGMA journal_size_limit=67108864;"
                "PRAGMA cache_size=-20000;PRAGMA mmap_size=134217728;"
            ),
        },
    }


def words(name: str) -> list[str]:
    """A variable that holds a list, separated by commas or spaces."""
    return os.environ.get(name, "").replace(",", " ").split()
