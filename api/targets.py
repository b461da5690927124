"""Whom a command is for, as a request names them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from rest_framework import serializers

from commands.enqueueing import UNKNOWN_TARGET
from commands.queue import Skipped, enrollments_of
from devices.models import Channel, Device, DeviceGroup, Enrollment, EnrollmentState

BATCH = 1000


class Targets(serializers.Serializer[Any]):
    """Any of these, together; a device that is named twice is told once."""

    devices = serializers.ListField(
        child=serializers.IntegerField(min_value=1), required=False, help_text="Ids of devices."
    )
    serial_numbers = serializers.ListField(child=serializers.CharField(max_length=64), required=False)
    udids = serializers.ListField(child=serializers.CharField(max_length=64), required=False)
    enrollments = serializers.ListField(
        child=serializers.IntegerField(min_value=1),
        required=False,
        help_text="Ids of enrolments: also of users on a device.",
    )
    groups = serializers.ListField(
        child=serializers.CharField(max_length=100), required=False, help_text="Names of groups."
    )
    all = serializers.BooleanField(required=False, help_text="Every enrolled device.")

    def validate_groups(self, names: list[str]) -> list[str]:
        known = set(DeviceGroup.objects.filter(name__in=names).values_list("name", flat=True))
        if unknown := [name for name in names if name not in known]:
            raise serializers.ValidationError(f"No such group: {', '.join(unknown)}.")
        return names

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not any(attrs.values()):
            raise serializers.ValidationError("Name at least one target.")
        if unknown := set(self.initial_names()) - set(self.fields):
            raise serializers.ValidationError(f"No such kind of target: {', '.join(sorted(unknown))}.")
        return attrs

    def initial_names(self) -> Iterable[str]:
        """The kinds of target that the request names: a mistyped one must not be passed over."""
        given = getattr(self.root, "initial_data", {}).get(self.field_name or "", {})
        return given if isinstance(given, dict) else ()


def audience(targets: dict[str, Any]) -> tuple[list[int], list[Skipped]]:
    """The enrolments that are meant, and what was named but is not there or not enrolled."""
    if targets.get("all"):
        everybody = Enrollment.objects.filter(channel=Channel.DEVICE, state=EnrollmentState.ENROLLED)
        chosen = list(everybody.values_list("pk", flat=True))
    else:
        chosen = []
    device_ids: set[int] = set(targets.get("devices", ()))
    unknown: list[Skipped] = []
    for field, names in (
        ("serial_number", targets.get("serial_numbers", ())),
        ("udid", targets.get("udids", ())),
    ):
        found = _devices_by(field, names)
        device_ids.update(pk for ids in found.values() for pk in ids)
        unknown += [Skipped(name, UNKNOWN_TARGET) for name in dict.fromkeys(names) if name not in found]
    if groups := targets.get("groups"):
        device_ids.update(Device.objects.filter(groups__name__in=groups).values_list("pk", flat=True))
    enrolled, missing = enrollments_of(device_ids)
    return [*chosen, *enrolled, *targets.get("enrollments", ())], [*unknown, *missing]


def _devices_by(field: str, names: Iterable[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for batch in _batches(names):
        for name, pk in Device.objects.filter(**{f"{field}__in": batch}).values_list(field, "pk"):
            found.setdefault(name, []).append(pk)
    return found


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(dict.fromkeys(names))
    while batch := list(islice(remaining, BATCH)):
        yield batch
