"""Blocking devices: they stay out, whichever way they come. What is enrolled stays enrolled."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import transaction

from audit.recording import Actor, record
from devices.models import Device
from enrollment.core.access import MAX_IDENTIFIER, normal_identifier
from enrollment.models import BlockedDevice

SHORTEST = 4
"""Characters of an identifier."""


class BlockRefused(Exception):
    """It cannot be blocked; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def block(identifier: str, *, reason: str, actor: Actor, now: datetime) -> BlockedDevice:
    """Keep a serial number or UDID out. A second time changes nothing. Raises :class:`BlockRefused`."""
    normal = normal_identifier(identifier)
    if not SHORTEST <= len(normal) <= MAX_IDENTIFIER:
        raise BlockRefused(
            f"“{identifier.strip()[:40]}”: a serial number or UDID has "
            f"{SHORTEST} to {MAX_IDENTIFIER} characters."
        )
    with transaction.atomic():
        blocked, created = BlockedDevice.objects.get_or_create(
            normal=normal,
            defaults={
                "identifier": identifier.strip()[:MAX_IDENTIFIER],
                "reason": reason[:300],
                "created_at": now,
                "created_by": actor.name[:200],
            },
        )
        if created:
            record("device.blocked", actor=actor, target=blocked, reason=reason, at=now)
    return blocked


def block_all(identifiers: Iterable[str], *, reason: str, actor: Actor, now: datetime) -> list[BlockedDevice]:
    """Keep all of them out, or none: raises :class:`BlockRefused` for the first that will not do."""
    with transaction.atomic():
        return [block(one, reason=reason, actor=actor, now=now) for one in identifiers]


def block_device(device: Device, *, reason: str, actor: Actor, now: datetime) -> list[BlockedDevice]:
    """Keep a device out by its UDID and its serial number."""
    with transaction.atomic():
        return [block(name, reason=reason, actor=actor, now=now) for name in names_of(device)]


def names_of(device: Device) -> list[str]:
    """By what a device is blocked: serial number and UDID, where they are long enough to mean one device."""
    return [name for name in (device.serial_number, device.udid) if len(normal_identifier(name)) >= SHORTEST]


def unblock(blocked: Iterable[BlockedDevice], *, actor: Actor, now: datetime) -> int:
    """Let them in again. Returns how many there were."""
    rows = list(blocked)
    with transaction.atomic():
        for row in rows:
            record("device.unblocked", actor=actor, target=row, at=now)
            row.delete()
    return len(rows)


def blocks_of(device: Device) -> list[BlockedDevice]:
    """What keeps this device out."""
    names = [normal_identifier(name) for name in (device.serial_number, device.udid) if name]
    return list(BlockedDevice.objects.filter(normal__in=names))
