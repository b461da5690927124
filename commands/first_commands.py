"""The first commands of a device: what it is asked as soon as it has enrolled."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from audit import statements as audit
from audit.recording import Actor, columns_of
from commands.core import catalogue
from commands.enqueueing import (
    encode_command,
    enqueued_details,
    enqueued_event,
    new_command,
    payload_context,
)
from commands.models import Command, CommandDelivery, CommandSource
from database import rows, templates
from devices.models import Enrollment
from push import outbox
from vault.sealed import seal


def enqueue_for_new(
    enrollment: Enrollment,
    request_types: Sequence[str],
    *,
    source: CommandSource,
    actor: Actor,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Queue commands without a payload of their own for a device that has only just enrolled.

    In the transaction in which it became ENROLLED, so that there is nobody to leave out; otherwise as
    :func:`commands.queue.enqueue` does, one command for each type, with fewer statements. Raises
    :class:`InvalidCommand`.
    """
    commands = rows.insert_all(
        [
            new_command(
                uuid.uuid4(),
                request_type,
                _content(request_type),
                source=source,
                created_by=actor.name[:200],
                created_at=now,
                expires_at=expires_at,
                targets=1,
            )
            for request_type in request_types
        ]
    )
    rows.insert_all(
        [CommandDelivery(command=one, enrollment=enrollment, epoch=enrollment.epoch) for one in commands]
    )
    outbox.request_push([enrollment.pk], now=now)
    rows.insert_all([enqueued_event(one, actor, queued=1, skipped=0) for one in commands])


# --- as parts of a larger statement (PostgreSQL) -----------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """Commands of these types for one device that enrolls in the statement; all are of the ``actor``.

    The statement has a part ``enrolled`` with the ``id`` and ``epoch`` of the enrollment, and the parameters
    of :meth:`parameters`.
    """

    request_types: tuple[str, ...]
    source: CommandSource
    actor: Actor

    def sql(self) -> str:
        """The commands and their deliveries. Raises :class:`InvalidCommand`."""
        listed = ", ".join(
            f"({number}, {', '.join(templates.places(Command, f'command_{number}', *_DIFFER).values())})"
            for number in range(len(self.request_types))
        )
        command = {
            **{name: f"v.{name}" for name in _DIFFER},
            "request_type": self._choice("request_type", self.request_types),
            "at_most_once": self._choice("at_most_once", map(catalogue.at_most_once, self.request_types)),
            "source": templates.literal(templates.field_of(Command, "source"), self.source),
            "created_by": templates.literal(templates.field_of(Command, "created_by"), self.actor.name[:200]),
            **templates.places(Command, "command", "created_at", "expires_at"),
            "targets": "1",
        }
        delivery = {"command_id": "c.id", "enrollment_id": "enrolled.id", "epoch": "enrolled.epoch"}
        return f"""
            commands AS (
                {templates.insertion(Command, command)}
                  FROM enrolled, (VALUES {listed}) v (number, {", ".join(_DIFFER)})
                 ORDER BY v.number RETURNING id, uuid),
            delivered AS (
                {templates.insertion(CommandDelivery, delivery)} FROM commands c, enrolled ORDER BY c.id)
        """

    def events(self) -> list[audit.Event]:
        """What the record says of them."""
        return [
            audit.Event(
                f"enqueued_{number}",
                "c.id",
                f"commands c WHERE c.uuid = %(command_{number}_uuid)s",
                columns_of("command.enqueued", actor=self.actor, target=Command(request_type=request_type)),
            )
            for number, request_type in enumerate(self.request_types)
        ]

    def parameters(self, now: datetime, expires_at: datetime) -> dict[str, Any]:
        """New commands, sealed."""
        values: dict[str, Any] = {"command_created_at": now, "command_expires_at": expires_at}
        for number, request_type in enumerate(self.request_types):
            command_uuid = uuid.uuid4()
            details = enqueued_details(
                request_type, command_uuid, queued=1, skipped=0, not_before=None, expires_at=expires_at
            )
            values[f"command_{number}_uuid"] = command_uuid
            values[f"command_{number}_payload_sealed"] = seal(
                _content(request_type), context=payload_context(command_uuid)
            )
            values[f"enqueued_{number}_at"] = now
            values[f"enqueued_{number}_details"] = json.dumps(details)
        return values

    def _choice(self, column: str, values: Iterable[Any]) -> str:
        field = templates.field_of(Command, column)
        cases = " ".join(
            f"WHEN {number} THEN {templates.literal(field, value)}" for number, value in enumerate(values)
        )
        return f"CASE v.number {cases} END"


_DIFFER = ("uuid", "payload_sealed")


@lru_cache(maxsize=16)
def _content(request_type: str) -> bytes:
    """Such a command without a payload of its own says the same to every device. Raises InvalidCommand."""
    return encode_command(request_type, None)
