"""The first commands of a device: what it is asked as soon as it has enrolled."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from audit import statements as audit
from audit.recording import Actor
from commands.enqueueing import encode_command, enqueued_columns, enqueued_event, new_command
from commands.models import Command, CommandDelivery, CommandSource
from database import rows, templates
from devices.models import Enrollment
from push import outbox


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
        [_new(one, source=source, actor=actor, now=now, expires_at=expires_at) for one in request_types]
    )
    rows.insert_all(
        [CommandDelivery(command=one, enrollment=enrollment, epoch=enrollment.epoch) for one in commands]
    )
    outbox.request_push([enrollment.pk], now=now)
    rows.insert_all([enqueued_event(one, actor, queued=1, skipped=0) for one in commands])


def _new(
    request_type: str, *, source: CommandSource, actor: Actor, now: datetime, expires_at: datetime
) -> Command:
    return new_command(
        uuid.uuid4(),
        request_type,
        _content(request_type),
        source=source,
        created_by=actor.name[:200],
        created_at=now,
        expires_at=expires_at,
        targets=1,
    )


# --- as parts of a larger statement (PostgreSQL) -----------------------------------------------------------


def parts(count: int) -> str:
    """So many commands and their deliveries, for the ``id`` and ``epoch`` that ``enrolled`` gives.

    What the record says of them: :func:`events`. Parameters: :func:`parameters`.
    """
    listed = ", ".join(
        f"({number}, {', '.join(templates.places(Command, f'command_{number}', *_DIFFER).values())})"
        for number in range(count)
    )
    command = {
        **{name: f"v.{name}" for name in _DIFFER},
        **templates.places(Command, "command", *_ALIKE),
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


_DIFFER = ("uuid", "request_type", "payload_sealed", "at_most_once")
_ALIKE = ("source", "created_by", "created_at", "expires_at")


def events(count: int) -> list[audit.Event]:
    """What the record says of the commands of :func:`parts`."""
    return [
        audit.Event(f"enqueued_{number}", "c.id", f"commands c WHERE c.uuid = %(command_{number}_uuid)s")
        for number in range(count)
    ]


def parameters(
    request_types: Sequence[str], *, source: CommandSource, actor: Actor, now: datetime, expires_at: datetime
) -> dict[str, Any]:
    """The parameters of :func:`parts` and :func:`events`, for commands without a payload of their own."""
    commands = [
        _new(one, source=source, actor=actor, now=now, expires_at=expires_at) for one in request_types
    ]
    values = {f"command_{name}": getattr(commands[0], name) for name in _ALIKE}
    for number, command in enumerate(commands):
        values |= {f"command_{number}_{name}": getattr(command, name) for name in _DIFFER}
        values |= audit.parameters(
            f"enqueued_{number}", enqueued_columns(command, actor, queued=1, skipped=0)
        )
    return values


@lru_cache(maxsize=16)
def _content(request_type: str) -> bytes:
    """Such a command without a payload of its own says the same to every device. Raises InvalidCommand."""
    return encode_command(request_type, None)
