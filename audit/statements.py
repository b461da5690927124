"""Events as a part of a larger statement, which does and records in one (PostgreSQL)."""

from __future__ import annotations

import json
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

    ``prefix``: of its parameters (:func:`parameters`). ``target_id``: SQL for the id of what it is about, of
    a row of ``origin``: what stands after FROM.
    """

    prefix: str
    target_id: str
    origin: str


def insertion(*events: Event) -> str:
    """Append these events, in this order."""
    parts = [_selection(event, number) for number, event in enumerate(events)]
    columns = {name: f"e.{name}" for name in (*_SAID, "target_id")}
    return (
        f"{templates.insertion(AuditEvent, columns)} "
        f"FROM ({' UNION ALL '.join(parts)}) e ORDER BY e.place, e.about"
    )


def parameters(prefix: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """From what :func:`audit.recording.columns_of` gives; the id is the statement's own."""
    values = {f"{prefix}_{name}": columns[name] for name in _SAID}
    values[f"{prefix}_details"] = json.dumps(columns["details"])
    return values


def _selection(event: Event, number: int) -> str:
    places = templates.places(AuditEvent, event.prefix, *_SAID)
    said = ", ".join(f"{place} AS {name}" for name, place in places.items())
    return (
        f"SELECT {number} AS place, {event.target_id} AS about, {said}, "  # noqa: S608
        f"{event.target_id}::text AS target_id FROM {event.origin}"
    )
