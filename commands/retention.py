"""Commands that are done, with what devices answered."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Exists, OuterRef, QuerySet

from audit.retention import Sweep, delete, note, unreferenced
from commands.models import OUTSTANDING, Command, CommandDelivery, CommandResult, DeliveryState

CHUNK = 500
"""Commands that are looked at together."""


def remove_finished(sweep: Sweep) -> int:
    """Deliveries that ended, with their results; then commands that have none left.

    What waits for a device or an administrator stays, however old. So does a command that another part of the
    server still needs (a re-key campaign, for instance), with all its deliveries. Only commands that are old
    are looked at, so that a sweep does not read the whole table.
    """
    old = Command.objects.filter(created_at__lt=sweep.before)
    old = unreferenced(old, except_by=(CommandDelivery,))
    ended = unreferenced(CommandDelivery.objects.all(), except_by=(CommandResult,))
    ended = ended.filter(completed_at__lt=sweep.before)
    ended = ended.exclude(state__in=(*OUTSTANDING, DeliveryState.UNCERTAIN))
    left = CommandDelivery.objects.filter(command=OuterRef("pk"))
    deliveries = commands = 0
    for ids in _chunks(old, sweep):
        deliveries += delete(ended.filter(command_id__in=ids), sweep)
        commands += delete(old.filter(pk__in=ids).exclude(Exists(left)), sweep)
    note("finished commands of devices", deliveries, sweep)
    return deliveries + note("commands", commands, sweep)


def _chunks(rows: QuerySet[Command], sweep: Sweep) -> Iterator[list[int]]:
    after = 0
    while not sweep.is_over:
        ids = list(rows.filter(pk__gt=after).order_by("pk").values_list("pk", flat=True)[:CHUNK])
        if not ids:
            return
        yield ids
        after = ids[-1]
