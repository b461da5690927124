"""What is no longer needed goes, so that tables stay small: the common part, and the record itself.

Each app says for itself what of it may go (its ``retention`` module). Rows go in batches with a transaction
each, until a time is over: nobody waits for a sweep, and two at once do no harm. What went is on record, with
counts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import connection, models, transaction
from django.db.models import Exists, ManyToOneRel, OuterRef, QuerySet

from audit.models import AuditEvent, Refusal
from audit.recording import SERVER, record

BATCH = 1000
"""Rows in one transaction."""


@dataclass(frozen=True)
class Sweep:
    """One sweep: what is older than ``before`` may go; ``until`` (monotonic) is when it ends in any case."""

    now: datetime
    before: datetime
    until: float

    @property
    def is_over(self) -> bool:
        """Whether its time is used up."""
        return time.monotonic() >= self.until


def remove(kind: str, rows: QuerySet[Any], sweep: Sweep) -> int:
    """Delete these rows and record how many went, which is returned. ``kind`` names them in the record."""
    return note(kind, delete(rows, sweep), sweep)


def delete(rows: QuerySet[Any], sweep: Sweep) -> int:
    """Delete these rows and what belongs to them. Returns how many went."""
    removed = 0
    locking = connection.features.has_select_for_update_skip_locked
    batch = rows.order_by().values_list("pk", flat=True)
    batch = batch.select_for_update(skip_locked=True, of=("self",)) if locking else batch
    while not sweep.is_over:
        with transaction.atomic():
            ids = list(batch[:BATCH])
            rows.model._base_manager.filter(pk__in=ids).delete()
        removed += len(ids)
        if len(ids) < BATCH:
            break
    return removed


def note(kind: str, removed: int, sweep: Sweep) -> int:
    """Record that so many rows went, if any did."""
    if removed:
        details = {"kind": kind, "removed": removed, "older_than": sweep.before.isoformat()}
        record("retention.swept", actor=SERVER, at=sweep.now, details=details)
    return removed


def unreferenced(rows: QuerySet[Any], *, except_by: Sequence[type[models.Model]] = ()) -> QuerySet[Any]:
    """Those to which no row of any app points, but for rows of ``except_by``, which go with them.

    So an app need not know what those above it keep.
    """
    for relation in rows.model._meta.get_fields(include_hidden=True):
        if not isinstance(relation, ManyToOneRel) or relation.related_model in except_by:
            continue
        pointing = relation.related_model._base_manager.filter(**{relation.field.name: OuterRef("pk")})
        rows = rows.exclude(Exists(pointing))
    return rows


def remove_old_events(sweep: Sweep) -> int:
    """The record of who did what. Only where an administrator said how long it is kept."""
    return remove("audit events", AuditEvent.objects.filter(at__lt=sweep.before), sweep)


def remove_old_refusals(sweep: Sweep) -> int:
    """Counted refusals of devices and strangers."""
    return remove("refused requests", Refusal.objects.filter(last_at__lt=sweep.before), sweep)
