"""Putting a command into the queues of one device or of a hundred thousand."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from django.db import connection, transaction
from django.db.models import Count

from audit.models import AuditEvent
from audit.recording import Actor, event_of
from commands.core import catalogue, plist
from commands.models import OUTSTANDING, Command, CommandDelivery, CommandSource, DeliveryState
from database import rows
from database.among import among, among_sql
from devices.models import Channel, Device, Enrollment, EnrollmentState, EscrowedSecret, SecretKind
from push import outbox
from vault.sealed import seal

MAX_PAYLOAD = 4 * 1024 * 1024
MAX_OUTSTANDING = 1000
"""Commands that may wait for one enrollment (threats J5)."""
BATCH = 5000
"""Enrollments in one statement."""

UNKNOWN_TARGET = "unknown target"
NOT_ENROLLED = "not enrolled"
QUEUE_FULL = "queue full"
ALREADY_QUEUED = "already queued"
NO_UNLOCK_TOKEN = "no unlock token"  # noqa: S105 - a reason
NOT_ON_USER_CHANNEL = "not for the user channel"
NOT_ON_DEVICE_CHANNEL = "only for the user channel"

REQUEST_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,79}")


class InvalidCommand(Exception):
    """The command cannot be queued for anybody. The text says why, in words for an administrator."""


@dataclass(frozen=True)
class Skipped:
    """A target that the command was not queued for: its serial number or UDID, or the id asked for."""

    target: str
    reason: str
    device_id: int | None = None


@dataclass(frozen=True)
class Enqueued:
    """What came of it. ``warnings`` are for the administrator and stop nothing."""

    command: Command
    queued: int
    skipped: list[Skipped] = field(default_factory=list)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audience:
    """Who would get a command, and who would not."""

    enrollment_ids: list[int]
    skipped: list[Skipped]


def enqueue(
    request_type: str,
    payload: Mapping[str, Any] | None,
    enrollment_ids: Iterable[int],
    *,
    source: CommandSource | str,
    actor: Actor,
    now: datetime,
    not_before: datetime | None = None,
    expires_at: datetime | None = None,
    unless_queued: bool = False,
    command_uuid: uuid.UUID | None = None,
    filled_by: str = "",
) -> Enqueued:
    """Queue one command for these enrollments, and make a push due for each.

    ``payload`` holds the keys of the Command dictionary beside RequestType; what the catalogue knows a
    default for may be left out. ``not_before``: handed out no sooner. ``expires_at``: handed out no later.
    ``unless_queued`` skips enrollments that wait for a command of the same type already. ``command_uuid``:
    chosen by the caller, so that the same request twice is one command (IntegrityError the second time).
    ``filled_by``: who completes the payload for each device when it fetches the command; a name among the
    fillers that are given to :func:`commands.queue.next_command`.

    One transaction; statements grow with the batches of :data:`BATCH`, not with the targets. Targets that
    cannot get it are skipped, each with its reason. Raises :class:`InvalidCommand`.
    """
    body = encode_command(request_type, payload, complete=not filled_by)
    _verify_times(now, not_before, expires_at)
    with transaction.atomic():
        audience = audience_of(request_type, enrollment_ids, unless_queued=unless_queued)
        command = rows.insert(
            new_command(
                command_uuid or uuid.uuid4(),
                request_type,
                body,
                source=CommandSource(source),
                created_by=actor.name[:200],
                created_at=now,
                not_before=not_before,
                expires_at=expires_at,
                filled_by=filled_by,
                targets=len(audience.enrollment_ids),
            )
        )
        queued = _insert_deliveries(command, audience.enrollment_ids)
        if queued:
            outbox.request_push(audience.enrollment_ids, now=now, due_at=not_before)
        rows.insert(enqueued_event(command, actor, queued=queued, skipped=len(audience.skipped)))
    return Enqueued(command, queued, audience.skipped, warnings_about(request_type))


def enqueue_for_devices(
    request_type: str,
    payload: Mapping[str, Any] | None,
    device_ids: Iterable[int],
    *,
    source: CommandSource | str,
    actor: Actor,
    now: datetime,
    not_before: datetime | None = None,
    expires_at: datetime | None = None,
    unless_queued: bool = False,
    command_uuid: uuid.UUID | None = None,
) -> Enqueued:
    """The same for the device channels of these devices (primary keys). Raises :class:`InvalidCommand`."""
    enrollment_ids, skipped = enrollments_of(device_ids)
    result = enqueue(
        request_type,
        payload,
        enrollment_ids,
        source=source,
        actor=actor,
        now=now,
        not_before=not_before,
        expires_at=expires_at,
        unless_queued=unless_queued,
        command_uuid=command_uuid,
    )
    result.skipped[:0] = skipped
    return result


def enrollments_of(device_ids: Iterable[int]) -> tuple[list[int], list[Skipped]]:
    """The enrolled device channels of these devices, and the devices that have none."""
    found: list[int] = []
    skipped: list[Skipped] = []
    for batch in _batches(device_ids):
        rows = dict(
            Enrollment.objects.filter(
                device_id__in=batch, channel=Channel.DEVICE, state=EnrollmentState.ENROLLED
            ).values_list("device_id", "pk")
        )
        found += rows.values()
        skipped += _skipped_devices([pk for pk in batch if pk not in rows])
    return found, skipped


def audience_of(request_type: str, enrollment_ids: Iterable[int], *, unless_queued: bool = False) -> Audience:
    """Sort enrollments into those that can get such a command now and those that cannot. Changes nothing."""
    fit: list[int] = []
    skipped: list[Skipped] = []
    for batch in _batches(enrollment_ids):
        reasons = _reasons_against(request_type, batch, unless_queued=unless_queued)
        fit += [pk for pk in batch if pk not in reasons]
        skipped += _skipped_enrollments(reasons)
    return Audience(fit, skipped)


def encode_command(request_type: str, payload: Mapping[str, Any] | None, *, complete: bool = True) -> bytes:
    """The Command dictionary as a property list: RequestType, what is given, what has a default.

    ``complete``: nothing that the command needs may be missing. Raises :class:`InvalidCommand`.
    """
    if not REQUEST_TYPE.fullmatch(request_type):
        raise InvalidCommand("the name of a command is letters, digits, dots and hyphens, 80 at most")
    given = dict(payload or {})
    if given.pop("RequestType", request_type) != request_type:
        raise InvalidCommand("the payload is for another command (RequestType)")
    if "CommandUUID" in given or "Command" in given:
        raise InvalidCommand("the payload is the content of Command, without its envelope")
    if complete and (missing := catalogue.missing_keys(request_type, given)):
        raise InvalidCommand(f"{request_type} needs {', '.join(missing)}")
    known = catalogue.REQUEST_TYPES.get(request_type)
    try:
        body = plist.write({"RequestType": request_type, **(known.defaults if known else {}), **given})
    except plist.PlistError as problem:
        raise InvalidCommand(f"the payload cannot be a property list: {problem}") from None
    if len(body) > MAX_PAYLOAD:
        raise InvalidCommand(f"the payload is larger than {MAX_PAYLOAD // 1024 // 1024} MiB")
    return body


def decode_command(body: bytes) -> dict[str, Any]:
    """The keys of what :func:`encode_command` made, without RequestType."""
    content = plist.read(body, max_size=2 * MAX_PAYLOAD)
    content.pop("RequestType", None)
    return content


def warnings_about(request_type: str) -> tuple[str, ...]:
    """What an administrator may want to know before such a command goes out."""
    if request_type not in catalogue.REQUEST_TYPES:
        return (f"{request_type} is not a command that is known here; devices may answer that it is invalid",)
    return ()


def payload_context(command_uuid: uuid.UUID) -> str:
    """What the payload of a command is sealed for."""
    return f"commands.command.payload:{command_uuid}"


def _verify_times(now: datetime, not_before: datetime | None, expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at <= now:
        raise InvalidCommand("the command would expire before it is queued")
    if expires_at is not None and not_before is not None and expires_at <= not_before:
        raise InvalidCommand("the command would expire before it may be handed out")


def enqueued_event(command: Command, actor: Actor, *, queued: int, skipped: int) -> AuditEvent:
    """What the record says of a command that was queued; not yet written."""
    details = enqueued_details(
        command.request_type,
        command.uuid,
        queued=queued,
        skipped=skipped,
        not_before=command.not_before,
        expires_at=command.expires_at,
    )
    return event_of("command.enqueued", actor=actor, target=command, at=command.created_at, details=details)


def enqueued_details(
    request_type: str,
    command_uuid: uuid.UUID,
    *,
    queued: int,
    skipped: int,
    not_before: datetime | None,
    expires_at: datetime | None,
) -> dict[str, Any]:
    """The details of that."""
    return {
        "request_type": request_type,
        "command_uuid": str(command_uuid),
        "queued": queued,
        "skipped": skipped,
        "not_before": not_before.isoformat() if not_before else None,
        "expires_at": expires_at.isoformat() if expires_at else None,
    }


def new_command(command_uuid: uuid.UUID, request_type: str, body: bytes, **fields: Any) -> Command:
    """A command with the content of :func:`encode_command`, sealed; not yet written."""
    return Command(
        uuid=command_uuid,
        request_type=request_type,
        payload_sealed=seal(body, context=payload_context(command_uuid)),
        at_most_once=catalogue.at_most_once(request_type),
        **fields,
    )


def _insert_deliveries(command: Command, enrollment_ids: Sequence[int]) -> int:
    """INSERT … SELECT: the epoch is that of the moment, and who is no longer enrolled is left out."""
    delivery, enrollment = CommandDelivery._meta.db_table, Enrollment._meta.db_table
    sql = f"""
        INSERT INTO {delivery}
            (command_id, enrollment_id, epoch, state, reason, sent_count, not_now_count)
        SELECT %s, id, epoch, %s, '', 0, 0 FROM {enrollment}
         WHERE id IN ({among_sql()}) AND state = %s ORDER BY id
    """  # noqa: S608 - only names of our own tables are put together here
    inserted = 0
    with connection.cursor() as cursor:
        for batch in _batches(enrollment_ids):
            cursor.execute(
                sql,
                [command.pk, DeliveryState.QUEUED.value, json.dumps(batch), EnrollmentState.ENROLLED.value],
            )
            inserted += cursor.rowcount
    if inserted != command.targets:
        command.targets = inserted
        command.save(update_fields=["targets"])
    return inserted


def _reasons_against(request_type: str, batch: list[int], *, unless_queued: bool) -> dict[int, str]:
    """Enrollment ids of the batch that cannot get the command, each with the reason."""
    known = catalogue.REQUEST_TYPES.get(request_type)
    reasons: dict[int, str] = {}
    for pk, state, channel in _unfit(batch, _other_channels(known)):
        if state is None:
            reasons[pk] = UNKNOWN_TARGET
        elif state != EnrollmentState.ENROLLED:
            reasons[pk] = NOT_ENROLLED
        else:
            reasons[pk] = NOT_ON_USER_CHANNEL if channel == Channel.USER else NOT_ON_DEVICE_CHANNEL
    fit = [pk for pk in batch if pk not in reasons] if reasons else batch
    reasons |= dict.fromkeys(_full_queues(fit), QUEUE_FULL)
    if unless_queued:
        reasons |= dict.fromkeys(_queued_already(request_type, fit), ALREADY_QUEUED)
    if known and "UnlockToken" in known.filled:
        reasons |= dict.fromkeys(_without_unlock_token(fit), NO_UNLOCK_TOKEN)
    return reasons


def _other_channels(known: catalogue.RequestType | None) -> list[str]:
    """The channels that such a command is not for."""
    if known is None:
        return []
    fit = {Channel.USER: known.user_channel, Channel.DEVICE: known.device_channel}
    return [channel.value for channel, is_fit in fit.items() if not is_fit]


def _unfit(batch: Sequence[int], channels: Sequence[str]) -> list[tuple[int, str | None, str | None]]:
    """Id, state and channel of those that are unknown, not enrolled, or on one of these channels.

    Only the exceptions come back: reading a hundred thousand that are none takes longer than finding them.
    """
    unwanted = f"OR e.channel IN ({', '.join(['%s'] * len(channels))})" if channels else ""
    sql = f"""
        WITH wanted(id) AS ({among_sql()})
        SELECT wanted.id, e.state, e.channel
          FROM wanted LEFT JOIN {Enrollment._meta.db_table} e ON e.id = wanted.id
         WHERE e.id IS NULL OR e.state <> %s {unwanted}
    """  # noqa: S608 - only names of our own tables are put together here
    with connection.cursor() as cursor:
        cursor.execute(sql, [json.dumps(list(batch)), EnrollmentState.ENROLLED.value, *channels])
        found: list[tuple[int, str | None, str | None]] = cursor.fetchall()
        return found


def _full_queues(enrollment_ids: Sequence[int]) -> list[int]:
    """Of these enrollments, in rising order, those for which as many commands wait as may."""
    waiting = CommandDelivery.objects.filter(state__in=OUTSTANDING)
    if enrollment_ids and enrollment_ids[-1] - enrollment_ids[0] < 2 * len(enrollment_ids):
        # Nearly all from the first to the last: one walk along the index instead of a search for each.
        first, last = enrollment_ids[0], enrollment_ids[-1]
        waiting = waiting.filter(enrollment_id__gte=first, enrollment_id__lte=last)
    else:
        waiting = waiting.filter(enrollment_id__in=among(enrollment_ids))
    full = (
        waiting.order_by()
        .values("enrollment_id")
        .annotate(outstanding=Count("pk"))
        .filter(outstanding__gte=MAX_OUTSTANDING)
        .values_list("enrollment_id", flat=True)
    )
    return sorted(set(full) & set(enrollment_ids)) if full else []


def _queued_already(request_type: str, enrollment_ids: Sequence[int]) -> list[int]:
    return list(
        CommandDelivery.objects.filter(
            enrollment_id__in=among(enrollment_ids),
            state__in=OUTSTANDING,
            command__request_type=request_type,
        )
        .order_by()
        .values_list("enrollment_id", flat=True)
        .distinct()
    )


def _without_unlock_token(enrollment_ids: Sequence[int]) -> set[int]:
    held = EscrowedSecret.objects.filter(
        enrollment_id__in=among(enrollment_ids), kind=SecretKind.UNLOCK_TOKEN, withdrawn_at=None
    )
    return set(enrollment_ids) - set(held.values_list("enrollment_id", flat=True))


def _skipped_enrollments(reasons: Mapping[int, str]) -> list[Skipped]:
    if not reasons:
        return []
    rows = {
        pk: ((f"{user} on " if user else "") + (serial or udid), device_id)
        for pk, user, serial, udid, device_id in Enrollment.objects.filter(pk__in=reasons).values_list(
            "pk", "user_short_name", "device__serial_number", "device__udid", "device_id"
        )
    }
    return [
        Skipped(rows.get(pk, (str(pk),))[0], reason, rows.get(pk, ("", None))[1])
        for pk, reason in reasons.items()
    ]


def _skipped_devices(device_ids: Sequence[int]) -> list[Skipped]:
    if not device_ids:
        return []
    names = {
        pk: serial or udid
        for pk, serial, udid in Device.objects.filter(pk__in=device_ids).values_list(
            "pk", "serial_number", "udid"
        )
    }
    return [
        Skipped(names[pk], NOT_ENROLLED, pk) if pk in names else Skipped(str(pk), UNKNOWN_TARGET)
        for pk in device_ids
    ]


def _batches(ids: Iterable[int]) -> Iterator[list[int]]:
    """Lists of at most :data:`BATCH`, each id once, in rising order: locks are taken in that order."""
    remaining = iter(sorted(set(ids)))
    while batch := list(islice(remaining, BATCH)):
        yield batch
