"""What the page "Send a command" knows between its steps: for whom, what, and what would come of it."""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from commands import enqueueing, queue
from commands.core.catalogue import REQUEST_TYPES, RequestType
from devices.models import Channel, Device, DeviceGroup, Enrollment, EnrollmentState
from vault.sealed import SealError, seal, unseal

FIRST_NAMES = 12
TYPE_ABOVE = 10
"""From this many devices on, the number is typed for any dangerous command; for erasing always."""
DRAFT_LIFE = timedelta(hours=1)

REASONS = {
    enqueueing.UNKNOWN_TARGET: gettext_lazy("no such device"),
    enqueueing.NOT_ENROLLED: gettext_lazy("not enrolled"),
    enqueueing.QUEUE_FULL: gettext_lazy("too many commands wait for it already"),
    enqueueing.ALREADY_QUEUED: gettext_lazy("the same command waits for it already"),
    enqueueing.NO_UNLOCK_TOKEN: gettext_lazy("it has not given us an unlock token"),
    enqueueing.NOT_ON_USER_CHANNEL: gettext_lazy("not a command for users"),
    enqueueing.NOT_ON_DEVICE_CHANNEL: gettext_lazy("only for users, not for devices"),
}


class NoTargets(Exception):
    """The address does not say for whom, or for somebody who does not exist (any more)."""


@dataclass(frozen=True)
class Targets:
    """For whom: devices by primary key, a group, or every enrolled device. ``kind``: devices, group, all."""

    kind: str
    ids: tuple[int, ...] = ()

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Targets:
        """From ``devices=1,2,3``, ``group=5`` or ``all=1``. Raises :class:`NoTargets`."""
        if values.get("devices"):
            return cls("devices", tuple(_key(part) for part in str(values["devices"]).split(",")))
        if values.get("group"):
            return cls("group", (_key(values["group"]),))
        if values.get("all"):
            return cls("all")
        raise NoTargets

    def parameters(self) -> dict[str, str]:
        """What :meth:`read` reads."""
        return {self.kind: ",".join(map(str, self.ids)) or "1"}

    def devices(self) -> QuerySet[Device]:
        """The devices; of a group or of all those that are enrolled."""
        if self.kind == "devices":
            return Device.objects.filter(pk__in=self.ids)
        enrolled = Enrollment.objects.filter(channel=Channel.DEVICE, state=EnrollmentState.ENROLLED)
        chosen = Device.objects.filter(pk__in=enrolled.values("device_id"))
        return chosen.filter(groups=self.ids[0]) if self.kind == "group" else chosen

    def in_batches(self) -> Iterator[QuerySet[Device]]:
        """The same in pieces that fit into one statement."""
        if self.kind != "devices":
            yield self.devices()
            return
        for start in range(0, len(self.ids), enqueueing.BATCH):
            yield Device.objects.filter(pk__in=self.ids[start : start + enqueueing.BATCH])

    def device_ids(self) -> list[int]:
        """Primary keys, also of devices that are gone where they were named."""
        return list(self.ids) if self.kind == "devices" else list(self.devices().values_list("pk", flat=True))

    def words(self) -> str:
        """For headings: "12 devices", "group Class 4b", "every enrolled device"."""
        if self.kind == "all":
            return _("every enrolled device")
        if self.kind == "group":
            group = DeviceGroup.objects.filter(pk=self.ids[0]).first()
            if group is None:
                raise NoTargets
            return _("group %(name)s") % {"name": group.name}
        count = len(set(self.ids))
        return ngettext("%(count)d device", "%(count)d devices", count) % {"count": count}


@dataclass(frozen=True)
class Skips:
    """Targets that are left out for one reason."""

    reason: str
    count: int
    examples: list[str]


@dataclass(frozen=True)
class Preview:
    """What would come of it now."""

    count: int
    names: list[str]
    skips: list[Skips]
    warnings: list[str]

    @property
    def more(self) -> int:
        """How many devices are not named."""
        return self.count - len(self.names)


def preview(request_type: str, targets: Targets) -> Preview:
    """Look at who would get the command. A fixed number of queries for each 5,000 devices."""
    enrollment_ids, skipped = queue.enrollments_of(targets.device_ids())
    audience = queue.audience_of(request_type, enrollment_ids)
    first = Enrollment.objects.filter(pk__in=audience.enrollment_ids[:FIRST_NAMES]).select_related("device")
    return Preview(
        count=len(audience.enrollment_ids),
        names=sorted(str(enrollment.device) for enrollment in first),
        skips=summarise([*skipped, *audience.skipped]),
        warnings=warnings(request_type, targets),
    )


def summarise(skipped: list[queue.Skipped]) -> list[Skips]:
    """The skipped by reason, in words, with a few examples each."""
    counts = Counter(skip.reason for skip in skipped)
    return [
        Skips(
            reason=str(REASONS.get(reason, reason)),
            count=count,
            examples=[skip.target for skip in skipped if skip.reason == reason][:5],
        )
        for reason, count in counts.most_common()
    ]


def warnings(request_type: str, targets: Targets) -> list[str]:
    """Things that stop nothing: devices that will not know the command, or are not supervised."""
    known = REQUEST_TYPES.get(request_type)
    if known is None:
        return [*queue.warnings_about(request_type)]
    strangers, unsupervised = 0, 0
    for (platform, supervised), count in _kinds(targets).items():
        if not known.knows(platform):
            strangers += count
        elif supervised is False and _needs_supervision(known, platform):
            unsupervised += count
    found = []
    if strangers:
        found.append(
            ngettext(
                "%(count)d device runs a system that does not know this command.",
                "%(count)d devices run a system that does not know this command.",
                strangers,
            )
            % {"count": strangers}
        )
    if unsupervised:
        found.append(
            ngettext(
                "%(count)d device is not supervised; it will refuse this command.",
                "%(count)d devices are not supervised; they will refuse this command.",
                unsupervised,
            )
            % {"count": unsupervised}
        )
    return found


def _kinds(targets: Targets) -> Counter[tuple[str, bool | None]]:
    """How many of the devices are of which platform, and supervised or not."""
    kinds: Counter[tuple[str, bool | None]] = Counter()
    for devices in targets.in_batches():
        rows = devices.order_by().values_list("platform", "supervised").annotate(count=Count("pk"))
        for platform, supervised, count in rows:
            kinds[platform, supervised] += count
    return kinds


def _needs_supervision(known: RequestType, platform: str) -> bool:
    support = known.platforms.get("iOS" if platform == "iPadOS" else platform)
    return support is not None and support.supervised


def must_be_typed(request_type: str, count: int) -> bool:
    """Whether the number of devices is typed before this goes out."""
    known = REQUEST_TYPES.get(request_type)
    dangerous = known is not None and known.at_most_once
    return request_type == "EraseDevice" or (dangerous and count > TYPE_ABOVE)


@dataclass(frozen=True)
class Draft:
    """A command that is filled in and waits for its confirmation. It may hold secrets.

    It travels through the browser sealed for one user; its UUID becomes the command's, so that a form that
    is sent twice is one command.
    """

    request_type: str
    payload: Mapping[str, Any] = field(repr=False)
    targets: Targets
    not_before: datetime | None
    expires_at: datetime | None
    made_at: datetime
    uuid: uuid.UUID

    def seal(self, user_id: int) -> str:
        """For a hidden field."""
        body = queue.encode_command(self.request_type, self.payload)
        content = {
            "request_type": self.request_type,
            "body": base64.b64encode(body).decode(),
            "targets": self.targets.parameters(),
            "not_before": self.not_before.isoformat() if self.not_before else None,
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
            "made_at": self.made_at.isoformat(),
            "uuid": str(self.uuid),
        }
        sealed = seal(json.dumps(content).encode(), context=_draft_context(user_id))
        return base64.b64encode(sealed).decode()

    @classmethod
    def open(cls, text: str, user_id: int, now: datetime) -> Draft | None:
        """None where it is not this user's, was tampered with, or is too old."""
        try:
            sealed = base64.b64decode(text, validate=True)
            content = json.loads(unseal(sealed, context=_draft_context(user_id)))
        except (binascii.Error, ValueError, SealError):
            return None
        made_at = datetime.fromisoformat(content["made_at"])
        if not timedelta(0) <= now - made_at <= DRAFT_LIFE:
            return None
        return cls(
            request_type=content["request_type"],
            payload=queue.decode_command(base64.b64decode(content["body"])),
            targets=Targets.read(content["targets"]),
            not_before=_moment(content["not_before"]),
            expires_at=_moment(content["expires_at"]),
            made_at=made_at,
            uuid=uuid.UUID(content["uuid"]),
        )


def _key(text: Any) -> int:
    """A primary key, as databases can hold one."""
    digits = str(text).strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise NoTargets
    return int(digits)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _draft_context(user_id: int) -> str:
    return f"commands.sending.draft:{user_id}"
