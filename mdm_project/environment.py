"""What the environment says, and the secrets made at the first start."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
NEVER_BY_ITSELF = 1_000_000_000
"""Times that a statement runs before psycopg prepares it without being told to."""
WAIT_FOR_CONNECTION = 3
"""Seconds that a request waits for a connection to PostgreSQL before it is told to come again."""


def home() -> Path:
    """The folder that holds all state: ``BRAMLEY_HOME``, by default ``var`` beside manage.py."""
    return Path(os.environ.get("BRAMLEY_HOME") or BASE_DIR / "var").resolve()


def secret(name: str, file_name: str, make: str) -> str:
    """A secret from the variable ``name``, from the file that ``name_FILE`` names, or made once.

    A made secret is kept in ``BRAMLEY_HOME/<file_name>`` with mode 0600. ``make``: ``key`` gives base64 of 32
    random bytes, ``text`` 64 URL-safe characters.
    """
    place = secret_place(name, file_name, make)
    return place if isinstance(place, str) else place.read_text().strip()


def secret_place(name: str, file_name: str, make: str) -> str | Path:
    """Where that secret is: the text of the variable itself, or the path of the file that holds it."""
    if value := os.environ.get(name):
        return value.strip()
    if path := os.environ.get(f"{name}_FILE"):
        return Path(path)
    kept = home() / file_name
    if not kept.exists():
        made = (
            base64.b64encode(secrets.token_bytes(32)).decode() if make == "key" else secrets.token_urlsafe(48)
        )
        private_folder(kept.parent)
        _write_once(kept, made)
    return kept


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
    # The name must survive a power cut as surely as the rows that are sealed with the key.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def database(url: str | None) -> dict[str, Any]:
    """Django's settings for ``DATABASE_URL``; SQLite in ``BRAMLEY_HOME`` where there is none."""
    if not url:
        return _sqlite(str(home() / "bramley.sqlite3"))
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        # sqlite:///relative and sqlite:////absolute
        return _sqlite(unquote(parts.path.removeprefix("/")))
    if parts.scheme in {"postgres", "postgresql"}:
        options = dict(parse_qsl(parts.query))
        # Only what asks for it is prepared (database.prepared). PgBouncer before 1.21 cannot hold it.
        threshold = None if options.pop("prepared", "yes") == "no" else NEVER_BY_ITSELF
        largest = options.pop("connections", "10")
        if not largest.isdecimal() or int(largest) < 1:
            raise ImproperlyConfigured(f"connections in DATABASE_URL is at least 1, not {largest!r}")
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 0,
            # Asking a connection whether it lives costs a fifth of an idle connect. After a restart of the
            # database each one fails one request instead (503, the device comes again), and is replaced.
            "CONN_HEALTH_CHECKS": False,
            # A pooler that lends a connection for one transaction loses cursors that live longer.
            "DISABLE_SERVER_SIDE_CURSORS": options.pop("cursors", "yes") == "no",
            "OPTIONS": {
                "connect_timeout": 3,
                "prepare_threshold": threshold,
                **options,
                "pool": {
                    "min_size": 1,
                    "max_size": int(largest),
                    "timeout": WAIT_FOR_CONNECTION,
                    # The pool tries again after 1, 2, 4, … seconds: after an outage of a minute it would be
                    # blind for another one. It gives up instead, and the next request makes it try at once.
                    "reconnect_timeout": WAIT_FOR_CONNECTION,
                },
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
                "PRAGMA cache_size=-4000;PRAGMA mmap_size=134217728;"
            ),
        },
    }


@dataclass(frozen=True)
class Address:
    """Where the web server listens."""

    host: str
    port: int

    @property
    def name(self) -> str:
        """As in ``BRAMLEY_BIND``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable_host(self) -> str:
        """The host as this machine reaches it: a wildcard becomes the loopback address."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104

    def url(self, scheme: str = "http") -> str:
        """The base address for this machine itself, without a slash at its end."""
        host = f"[{self.reachable_host}]" if ":" in self.reachable_host else self.reachable_host
        return f"{scheme}://{host}:{self.port}"


def address(text: str) -> Address:
    """``127.0.0.1:8000`` or ``[::1]:8000``. Raises :class:`ImproperlyConfigured`."""
    host, separator, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not separator or not bare or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ImproperlyConfigured(f"BRAMLEY_BIND is an address and a port like 127.0.0.1:8000, not {text!r}")
    return Address(bare, int(port))


@dataclass(frozen=True)
class Serving:
    """How ``manage.py start`` serves: ``tls`` of our own, and a port of their own for the MDM addresses."""

    tls: bool = False
    mdm_port: int | None = None


def serving() -> Serving:
    """What ``BRAMLEY_TLS`` and ``BRAMLEY_MDM_PORT`` say; where they are absent, how it was last started.

    So other commands speak of the addresses at which the server answers, also where ``--tls`` was an option
    of the start and not a variable for all. Raises :class:`ImproperlyConfigured`.
    """
    last = _last_serving()
    if not switch("BRAMLEY_TLS", last.tls):
        return Serving()
    text = os.environ.get("BRAMLEY_MDM_PORT")
    return Serving(True, last.mdm_port if text is None else port_number("BRAMLEY_MDM_PORT", text))


def remember_serving(now: Serving) -> None:
    """For :func:`serving` in other commands."""
    path = private_folder(home()) / "serving.json"
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps({"tls": now.tls, "mdm_port": now.mdm_port}))
    aside.replace(path)


def _last_serving() -> Serving:
    try:
        kept = json.loads((home() / "serving.json").read_text())
        return Serving(tls=kept["tls"] is True, mdm_port=kept["mdm_port"])
    except (OSError, ValueError, TypeError, KeyError):
        return Serving()


def at_port(url: str, port: int) -> str:
    """The same base address at another port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path}"


def port_number(name: str, text: str) -> int | None:
    """A variable that holds a port, or is empty. Raises :class:`ImproperlyConfigured`."""
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise ImproperlyConfigured(f"{name} is a port like 8443, not {text!r}")
    return int(text)


def switch(name: str, default: bool = False) -> bool:
    """A variable that says yes or no. Raises :class:`ImproperlyConfigured`."""
    text = os.environ.get(name, "").strip().lower()
    if text in {"1", "true", "yes", "on"}:
        return True
    if text in {"0", "false", "no", "off"}:
        return False
    if text:
        raise ImproperlyConfigured(f"{name} is 1 or 0, not {text!r}")
    return default


def count(name: str, default: int) -> int:
    """A variable that holds a number of at least 1. Raises :class:`ImproperlyConfigured`."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ImproperlyConfigured(f"{name} is a number of at least 1, not {text!r}")
    return int(text)


def count_or_none(name: str) -> int | None:
    """The same, or ``None`` where the variable is absent or empty. Raises :class:`ImproperlyConfigured`."""
    return count(name, 1) if os.environ.get(name) else None


KEPT_DAYS = {
    "BRAMLEY_KEEP_SIGN_INS": 1,
    "BRAMLEY_KEEP_REFUSALS": 90,
    "BRAMLEY_KEEP_TRANSACTIONS": 90,
    "BRAMLEY_KEEP_CHALLENGES": 30,
    "BRAMLEY_KEEP_SESSIONS": 90,
    "BRAMLEY_KEEP_COMMANDS": 365,
    "BRAMLEY_KEEP_ENDED": 90,
    "BRAMLEY_KEEP_AUDIT": 0,
}
"""Days for which something is kept after it is over, where nothing else is said; 0: for ever."""


def kept_days() -> dict[str, int]:
    """What the variables of :data:`KEPT_DAYS` say. Raises :class:`ImproperlyConfigured`."""
    return {name: _days(name, default) for name, default in KEPT_DAYS.items()}


def _days(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) > 36_500:
        raise ImproperlyConfigured(f"{name} is a number of days, or 0 to keep for ever, not {text!r}")
    return int(text)


def private_folder(path: Path) -> Path:
    """Make a folder that only this user opens (mode 0700), with those above it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def words(name: str) -> list[str]:
    """A variable that holds a list, separated by commas or spaces."""
    return os.environ.get(name, "").replace(",", " ").split()


def networks(name: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """A variable that holds addresses and networks. Raises :class:`ImproperlyConfigured`."""
    try:
        return tuple(ipaddress.ip_network(word, strict=False) for word in words(name))
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is a list of addresses and networks: {error}") from None
