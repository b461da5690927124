"""Changing the key that seals: to what it has been applied, and sealing that anew.

What is sealed is found by its name: a ``BinaryField`` called ``<something>_sealed`` of a model that has a
``uuid``. It is sealed for ``<app>.<model>.<something>:<uuid>``.

Nothing of a rotation is kept anywhere but in the keys' file and in the sealed values, which begin with the id
of their key. It can be interrupted at any point and run again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from django.apps import apps
from django.db import models, transaction
from django.db.models.functions import Substr

from vault.core.keys import Keys
from vault.core.sealing import KEY_ID_SIZE, KEY_SIZE, NONCE_SIZE, VERSION, KeyRing, SealError, key_id

BATCH = 500
SUFFIX = "_sealed"


@dataclass(frozen=True)
class SealedField:
    """One field that holds sealed values."""

    model: type[models.Model]
    column: str

    @property
    def label(self) -> str:
        """``pki.issuerkey.private_key``."""
        return f"{self.model._meta.label_lower}.{self.column.removesuffix(SUFFIX)}"

    def context(self, row: UUID) -> str:
        """What a value in the row with this ``uuid`` is sealed for."""
        return f"{self.label}:{row}"


@dataclass
class Resealed:
    """What one pass over a field did. ``unreadable``: rows whose value opens with no key."""

    done: int = 0
    unreadable: list[str] = field(default_factory=list)


def sealed_fields() -> list[SealedField]:
    """Every field of every installed model that holds sealed values."""
    return [
        SealedField(model, column.name)
        for model in apps.get_models()
        for column in model._meta.concrete_fields
        if isinstance(column, models.BinaryField) and column.name.endswith(SUFFIX)
    ]


def count_by_key(fields: Iterable[SealedField]) -> dict[bytes, int]:
    """How many values are sealed with each key, by key id. Reads every row's beginning, in the database."""
    counts: dict[bytes, int] = {}
    for sealed in fields:
        rows = _sealed_rows(sealed).values_list("head").annotate(count=models.Count("pk")).order_by()
        for head, count in rows:
            name = bytes(head)[len(VERSION) :]
            counts[name] = counts.get(name, 0) + count
    return counts


def reseal(
    sealed: SealedField, ring: KeyRing, progress: Callable[[int], None] = lambda done: None
) -> Resealed:
    """Seal every value of a field with the first key of ``ring``, in batches; each its own transaction.

    A value that somebody replaces meanwhile is left to them. ``progress`` gets the number done so far. Raises
    nothing about a value that does not open: it is listed, and left as it is.
    """
    result = Resealed()
    head = VERSION + key_id(ring.keys[0])
    last: Any = None
    while True:
        rows = _sealed_rows(sealed).exclude(head=head).order_by("pk")
        if last is not None:
            rows = rows.filter(pk__gt=last)
        batch = list(rows.values_list("pk", "uuid", sealed.column)[:BATCH])
        if not batch:
            return result
        last = batch[-1][0]
        with transaction.atomic():
            for pk, row, value in batch:
                anew = _sealed_anew(ring, bytes(value), sealed.context(row))
                if anew is None:
                    result.unreadable.append(f"{sealed.label} {pk}")
                    continue
                unchanged = sealed.model._base_manager.filter(pk=pk, **{sealed.column: value})
                result.done += unchanged.update(**{sealed.column: anew})
        progress(result.done)


def _sealed_anew(ring: KeyRing, value: bytes, context: str) -> bytes | None:
    try:
        plaintext = ring.unseal(value, context=context)
    except SealError:
        return None
    return ring.seal(plaintext, context=context, nonce=secrets.token_bytes(NONCE_SIZE))


def _sealed_rows(sealed: SealedField) -> models.QuerySet[Any]:
    """Rows with a value, and its beginning as ``head``: version and key id."""
    head = Substr(sealed.column, 1, len(VERSION) + KEY_ID_SIZE, output_field=models.BinaryField())
    present: models.QuerySet[Any] = sealed.model._base_manager.exclude(**{sealed.column: None})
    rows: models.QuerySet[Any] = present.annotate(head=head)
    return rows


# --- The keys --------------------------------------------------------------------------------------------


def new_key() -> bytes:
    """A key of 32 random bytes."""
    return secrets.token_bytes(KEY_SIZE)


def write_keys(path: Path, keys: Keys) -> None:
    """Put ``keys`` into the file at once, or not at all; owner and mode stay. Raises ``OSError``."""
    _write(path, "".join(f"{entry}\n" for entry in keys.entries()), like=path)


def keep_retired(path: Path, keys: Keys) -> Path | None:
    """Write the keys that only open beside the file, to be taken away; returns where, None where none is.

    What was backed up before is sealed with them.
    """
    if not keys.old:
        return None
    beside = path.with_name(f"{path.name}.retired")
    before = beside.read_text() if beside.exists() else ""
    wanted = [entry for entry in Keys(keys.old).entries() if entry not in before.split()]
    _write(beside, before + "".join(f"{entry}\n" for entry in wanted), like=path)
    return beside


def _write(path: Path, text: str, *, like: Path) -> None:
    state = like.stat()
    aside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            # Run as root for a service that is another user, who must be able to read it.
            if (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, state.st_uid, state.st_gid)
            os.fchmod(descriptor, state.st_mode & 0o777)
            os.fsync(descriptor)
        aside.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
