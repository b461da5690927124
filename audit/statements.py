"""Events as a part of a larger statement, which does and records in one (PostgreSQL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit.models import AuditEvent
from database import templates

_SAID = (
    *("at", "actor", "user_id", "action", "outcome", "target_kind"),
    *("target_label", "reason", "remote_addr", "details"),
)


@dataclass(frozen=True)
class Event:
    """One event of a statement, or one for each row of its ``origin``.

    ``prefix``: of its parameters, which are for the columns that differ each time (``<prefix>_details``,
    JSON as text). ``same``: the other columns, as :func:`audit.recording.columns_of` gives them.
    ``target_id``: SQL for the id of what it is about, of a row of ``origin``: what stands after FROM.
    """

    prefix: str
    target_id: str
    origin: str
    same: Mapping[str, Any]
    differ: tuple[str, ...] = ("at", "details")


def insertion(*events: Event) -> str:
    """Append these events, in this order."""
    parts = [_selection(event, number) for number, event in enumerate(events)]
    columns = {name: f"e.{name}" for name in (*_SAID, "target_id")}
    return (
        f"{templates.insertion(AuditEvent, columns)} "
        f"FROM ({' UNION ALL '.join(parts)}) e ORDER BY e.place, e.about"
    )


def _selection(event: Event, number: int) -> str:
    values = templates.places(AuditEvent, event.prefix, *event.differ)
    for name in set(_SAID) - set(values):
        values[name] = templates.literal(templates.field_of(AuditEvent, name), event.same[name])
    said = ", ".join(f"{values[name]} AS {name}" for name in _SAID)
    return (
        f"SELECT {number} AS place, {event.target_id} AS about, {said}, "  # noqa: S608
        f"{event.target_id}::text AS target_id FROM {event.origin}"
    )
