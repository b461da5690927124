"""What the first start makes: the tables, an issuer, an enrolment profile, an administrator.

Every step asks first whether it was done. Two machines that start together on one database take turns.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from audit.recording import SERVER, record
from enrollment.setup import ensure_default_profile
from pki.issuers import create_issuer
from pki.models import Issuer

ISSUER_SLUG = "bramley"
ISSUER_NAME = "Bramley Device CA"
ADMINISTRATOR = "admin"
_TURN = 0x6272616D6C6579  # "bramley", the key of PostgreSQL's advisory lock
WAIT = 0.2
"""Seconds until the turn is asked for again."""


@dataclass(frozen=True)
class Credentials:
    """Name and password of the first administrator, to be shown once."""

    name: str
    password: str = field(repr=False)


def set_up() -> None:
    """Bring the database to this version and make what devices need to enrol. Does nothing twice."""
    with _our_turn():
        call_command("migrate", interactive=False, verbosity=0)
        with transaction.atomic():
            ensure_default_profile(ensure_issuer())


def ensure_issuer() -> Issuer:
    """The issuer ``bramley``, made where there is no issuer of that name."""
    existing = Issuer.objects.filter(slug=ISSUER_SLUG).first()
    return existing or create_issuer(ISSUER_SLUG, ISSUER_NAME, actor=SERVER)


def ensure_administrator() -> Credentials | None:
    """Make the first administrator where there is no user at all; returns what to show, or ``None``."""
    users = get_user_model()._default_manager
    with _our_turn(), transaction.atomic():
        if users.exists():
            return None
        credentials = Credentials(ADMINISTRATOR, secrets.token_urlsafe(15))
        user = get_user_model()(username=credentials.name, is_staff=True, is_superuser=True)
        user.set_password(credentials.password)
        user.save()
        record("administrator.created", actor=SERVER, target=user)
    return credentials


def _has_turn(holder: BaseDatabaseWrapper) -> bool:
    with holder.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", [_TURN])
        return bool(cursor.fetchone()[0])


@contextlib.contextmanager
def _our_turn() -> Iterator[None]:
    """One set-up at a time for one database: an advisory lock, or a lock file beside the SQLite file."""
    if connection.vendor == "postgresql":
        # As long as a transaction on a connection of its own lasts: a pooler that lends connections for one
        # transaction would lose a lock of the session, or keep it for ever.
        holder = connection.copy()
        try:
            holder.set_autocommit(False)
            # Asked again and again, each time in a new transaction: one that waited inside a statement would
            # be waited for by CREATE and DROP INDEX CONCURRENTLY of whoever has the turn, for ever.
            while not _has_turn(holder):
                holder.rollback()
                time.sleep(WAIT)
            yield
            holder.rollback()
        finally:
            holder.close()
        return
    path = Path(f"{connection.settings_dict['NAME']}.set-up")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
