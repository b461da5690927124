"""Named sets of devices."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import transaction

from audit.recording import Actor, record
from devices.models import Device, DeviceGroup


@transaction.atomic
def add_devices(group: DeviceGroup, device_ids: Iterable[int], *, actor: Actor) -> int:
    """Put devices into the group. Returns how many were not in it before."""
    wanted = set(Device.objects.filter(pk__in=set(device_ids)).values_list("pk", flat=True))
    new = wanted - set(group.devices.filter(pk__in=wanted).values_list("pk", flat=True))
    group.devices.add(*new)
    if new:
        record("device_group.devices_added", actor=actor, target=group, details={"count": len(new)})
    return len(new)


@transaction.atomic
def remove_devices(group: DeviceGroup, device_ids: Iterable[int], *, actor: Actor) -> int:
    """Take devices out of the group. Returns how many were in it."""
    gone = list(group.devices.filter(pk__in=set(device_ids)).values_list("pk", flat=True))
    group.devices.remove(*gone)
    if gone:
        record("device_group.devices_removed", actor=actor, target=group, details={"count": len(gone)})
    return len(gone)
