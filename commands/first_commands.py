"""The first commands of a device: what it is asked as soon as it has enrolled."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from audit.recording import Actor
from commands.enqueueing import encode_command, enqueued_event, new_command
from commands.models import CommandDelivery, CommandSource
from database import rows
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
    bodies = {request_type: _content(request_type) for request_type in request_types}
    commands = rows.insert_all(
        [
            new_command(
                uuid.uuid4(),
                request_type,
                body,
                source=source,
                created_by=actor.name[:200],
                created_at=now,
                expires_at=expires_at,
                targets=1,
            )
            for request_type, body in bodies.items()
        ]
    )
    rows.insert_all(
        [CommandDelivery(command=one, enrollment=enrollment, epoch=enrollment.epoch) for one in commands]
    )
    outbox.request_push([enrollment.pk], now=now)
    rows.insert_all([enqueued_event(one, actor, queued=1, skipped=0) for one in commands])


@lru_cache(maxsize=16)
def _content(request_type: str) -> bytes:
    """Such a command without a payload of its own says the same to every device. Raises InvalidCommand."""
    return encode_command(request_type, None)
