"""Queue a command, for scripted installs."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit.recording import Actor
from commands import queue
from commands.enqueueing import MAX_PAYLOAD, UNKNOWN_TARGET
from commands.models import CommandSource
from commands.payloads import decode_payload
from commands.queue import Skipped
from devices.models import Channel, Device, DeviceGroup, Enrollment, EnrollmentState

_SPAN = re.compile(r"([0-9]{1,6})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


class Command(BaseCommand):
    help = "Queues a command for devices and wakes them."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("request_type", metavar="REQUEST_TYPE", help="Apple's name, as DeviceInformation")
        targets = parser.add_argument_group("targets")
        targets.add_argument("--all", action="store_true", help="every enrolled device")
        targets.add_argument("--group", action="append", default=[], metavar="NAME", help="a device group")
        targets.add_argument("--serial", action="append", default=[], metavar="S", help="a serial number")
        targets.add_argument("--udid", action="append", default=[], metavar="U", help="a UDID")
        targets.add_argument(
            "--user-channel",
            choices=["no", "also", "only"],
            default="no",
            help="whether the users' channels of these devices get it (no)",
        )
        parser.add_argument(
            "--payload",
            metavar="FILE",
            help="the command's keys: a property list or JSON; - is standard input",
        )
        parser.add_argument("--not-before", metavar="TIME", help="hand it out no sooner: 2h, 1d or ISO 8601")
        parser.add_argument("--expires", metavar="TIME", help="hand it out no later: 30m, 7d or ISO 8601")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        enrollment_ids, unknown = find_targets(options)
        try:
            result = queue.enqueue(
                options["request_type"],
                decode_payload(read_payload(options["payload"])) if options["payload"] else None,
                enrollment_ids,
                source=CommandSource.CLI,
                actor=Actor("command line"),
                now=now,
                not_before=moment(options["not_before"], now),
                expires_at=moment(options["expires"], now),
            )
        except queue.InvalidCommand as problem:
            raise CommandError(f"Nothing was queued: {problem}.") from None
        for warning in result.warnings:
            self.stderr.write(f"Note: {warning}.")
        self.report(result, [*unknown, *result.skipped], as_json=options["json"])

    def report(self, result: queue.Enqueued, skipped: list[Skipped], *, as_json: bool) -> None:
        """What came of it, for people or for programs."""
        if as_json:
            document = {
                "command_uuid": str(result.command.uuid),
                "queued": result.queued,
                "skipped": [{"target": skip.target, "reason": skip.reason} for skip in skipped],
            }
            self.stdout.write(json.dumps(document))
            return
        self.stdout.write(
            f"{result.command.request_type} {result.command.uuid}: queued for {result.queued},"
            f" skipped {len(skipped)}."
        )
        for reason, count in Counter(skip.reason for skip in skipped).most_common():
            names = [skip.target for skip in skipped if skip.reason == reason]
            more = f" and {count - 5} more" if count > 5 else ""
            self.stdout.write(f"  {reason}: {', '.join(names[:5])}{more}")


def find_targets(options: dict[str, Any]) -> tuple[list[int], list[Skipped]]:
    """Enrollment ids of what was asked for, and what there is not. Raises CommandError where nothing was."""
    if not (options["all"] or options["group"] or options["serial"] or options["udid"]):
        raise CommandError("Say for which devices: --all, --group, --serial or --udid.")
    device_ids, skipped = named_devices(options)
    if options["all"]:
        device_ids |= set(
            Enrollment.objects.filter(channel=Channel.DEVICE, state=EnrollmentState.ENROLLED).values_list(
                "device_id", flat=True
            )
        )
    found: list[int] = []
    if options["user_channel"] != "only":
        found, not_enrolled = queue.enrollments_of(device_ids)
        skipped += not_enrolled
    if options["user_channel"] != "no":
        found += users_on(device_ids)
    return found, skipped


def named_devices(options: dict[str, Any]) -> tuple[set[int], list[Skipped]]:
    """Primary keys of the devices of these groups, serial numbers and UDIDs; names that nobody has."""
    device_ids: set[int] = set()
    for name in options["group"]:
        group = DeviceGroup.objects.filter(name=name).first()
        if group is None:
            raise CommandError(f"There is no device group “{name}”.")
        device_ids |= set(group.devices.values_list("pk", flat=True))
    skipped = []
    for column, option in (("serial_number", "serial"), ("udid", "udid")):
        wanted = {str(name).strip() for name in options[option]}
        rows = list(Device.objects.filter(**{f"{column}__in": wanted}).values_list(column, "pk"))
        device_ids |= {pk for _, pk in rows}
        skipped += [Skipped(name, UNKNOWN_TARGET) for name in sorted(wanted - {name for name, _ in rows})]
    return device_ids, skipped


def users_on(device_ids: set[int]) -> list[int]:
    """The enrolled user channels of these devices."""
    ids = sorted(device_ids)
    found: list[int] = []
    for start in range(0, len(ids), 5000):
        found += Enrollment.objects.filter(
            device_id__in=ids[start : start + 5000], channel=Channel.USER, state=EnrollmentState.ENROLLED
        ).values_list("pk", flat=True)
    return found


def read_payload(name: str) -> bytes:
    """The bytes of the file, or of standard input. Raises CommandError."""
    if name == "-":
        return sys.stdin.buffer.read(MAX_PAYLOAD + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_PAYLOAD + 1)
    except OSError as problem:
        raise CommandError(f"{name} cannot be read: {problem.strerror}.") from None


def moment(text: str | None, now: datetime) -> datetime | None:
    """``30m``, ``2h``, ``7d`` from now, or a moment in ISO 8601 (UTC where it names no zone)."""
    if text is None:
        return None
    if span := _SPAN.fullmatch(text.strip()):
        return now + timedelta(**{_UNITS[span[2]]: int(span[1])})
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        raise CommandError(f"“{text}” is not a time: write 30m, 2h, 7d or 2026-11-24T18:00Z.") from None
    return value if value.tzinfo else timezone.make_aware(value)
