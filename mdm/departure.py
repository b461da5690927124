"""An administrator ends the management of devices, and the device is told.

Two ways. *Removing the profile* is a command: the device takes the management profile off when it next
connects, and says so (CheckOut). *Turning away* needs no command that the device would carry out: the
enrollment ends at once, and the next request that is proven to come from the device is answered so that it
leaves by itself. Only that answer, to that request, is ever a 401, or a 403 that means the same (F12 of the
threat model).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils.translation import gettext as _

from audit.recording import Actor
from commands import queue
from commands.models import CommandSource
from devices import registry
from devices.models import Channel, Device, Enrollment, EnrollmentState, Identity, IdentityState
from enrollment.core.payloads import IDENTIFIER
from enrollment.models import EnrollmentSession
from mdm.checkin import drop_work
from mdm.core.farewell import Farewell, farewell
from pki.models import CertificateStatus
from push import outbox

_MANAGEMENT = re.compile(rf"{re.escape(IDENTIFIER)}\.[0-9a-f-]{{36}}", re.IGNORECASE)
TURNED = (EnrollmentState.TURN_AWAY, EnrollmentState.TURNED_AWAY)


@dataclass(frozen=True)
class Departure:
    """How many devices are on their way out, and which are not, each with the reason."""

    leaving: int
    left_out: list[tuple[Device, str]]


@dataclass(frozen=True)
class Preview:
    """Of some devices: which are managed and would leave, and which are left out, each with the reason."""

    leaving: list[Device]
    left_out: list[tuple[Device, str]]


def preview(device_ids: Iterable[int]) -> Preview:
    """Who would leave if these devices were turned away."""
    left_out: list[tuple[Device, str]] = []
    found = _current(device_ids, [*registry.OPEN_STATES, *TURNED], left_out)
    return Preview([enrollment.device for enrollment in found], left_out)


def remove_profiles(device_ids: Iterable[int], *, actor: Actor, now: datetime) -> Departure:
    """Queue RemoveProfile of the management profile for each of these devices that is enrolled.

    The profile is known by the enrollment session. Raises :class:`commands.queue.InvalidCommand`.
    """
    by_identifier: dict[str, list[int]] = defaultdict(list)
    left_out: list[tuple[Device, str]] = []
    found = _current(device_ids, [EnrollmentState.ENROLLED], left_out)
    identifiers = _profiles_of(found)
    for enrollment in found:
        identifier = identifiers.get(enrollment.binding) if enrollment.binding else None
        if identifier is None:
            left_out.append((enrollment.device, _("enrolled by a profile that is not known here")))
        else:
            by_identifier[identifier].append(enrollment.pk)
    leaving = 0
    with transaction.atomic():
        for identifier, enrollments in by_identifier.items():
            enqueued = queue.enqueue(
                "RemoveProfile",
                {"Identifier": identifier},
                enrollments,
                source=CommandSource.ADMIN,
                actor=actor,
                now=now,
                unless_queued=False,
            )
            leaving += enqueued.queued
    return Departure(leaving, left_out)


def turn_away(device_ids: Iterable[int], *, actor: Actor, now: datetime, reason: str = "") -> Departure:
    """End the enrollment of each of these devices; it is turned away at its next contact, and woken for it.

    Again for a device that was turned away and still calls: the answer may have got lost.
    """
    left_out: list[tuple[Device, str]] = []
    states = [*registry.OPEN_STATES, *TURNED]
    found = _current(device_ids, states, left_out)
    with transaction.atomic():
        for enrollment in found:
            ended = registry.turn_away(enrollment, actor=actor, now=now, reason=reason)
            drop_work(ended, "the device is turned away", now)
        outbox.request_push([enrollment.pk for enrollment in found], now=now)
    return Departure(len(found), left_out)


def last_word(identity: Identity | None, now: datetime) -> Farewell | None:
    """The answer for a device that is to be turned away, once; None for every other.

    ``identity`` is proven by the request. Its certificate may have expired; one that was revoked or replaced
    proves nothing any more. Whatever the device says is not looked at.
    """
    if identity is None or identity.enrollment.state != EnrollmentState.TURN_AWAY:
        return None
    enrollment = identity.enrollment
    if identity.state != IdentityState.ACTIVE or identity.certificate.status != CertificateStatus.ISSUED:
        return None
    device = Device.objects.get(pk=enrollment.device_id)
    answer = farewell(device.platform, device.os_version)
    if not registry.turned_away(enrollment, now=now, status=answer.status):
        return None  # another request was answered so already
    outbox.connected(enrollment.pk, more=False, now=now)
    return answer


def _current(
    device_ids: Iterable[int], states: list[EnrollmentState], left_out: list[tuple[Device, str]]
) -> list[Enrollment]:
    """One device enrollment in one of ``states`` for each device: the live one before all others."""
    ids = sorted(set(device_ids))
    later = Enrollment.objects.filter(
        device=OuterRef("device"), channel=Channel.DEVICE, pk__gt=OuterRef("pk")
    )
    rows = (
        Enrollment.objects.select_related("device")
        .filter(device__in=ids, channel=Channel.DEVICE, state__in=states)
        # What was turned away, and has enrolled anew since, is over.
        .exclude(Q(state__in=TURNED) & Exists(later))
        .exclude(state=EnrollmentState.QUARANTINED)
        .order_by("pk")
    )
    found = {row.device_id: row for row in rows}
    for device in Device.objects.filter(pk__in=ids).exclude(pk__in=found):
        left_out.append((device, _("not enrolled")))
    return list(found.values())


def removed(enrollment: Enrollment, identifier: object, now: datetime) -> bool:
    """The device acknowledged RemoveProfile. If it was the management profile, the enrollment ends.

    The device may say CheckOut besides, before or after, or never: it does so only where the profile asks
    for it, and tries once.
    """
    known = profile_of(enrollment)
    ours = identifier == known if known else bool(_MANAGEMENT.fullmatch(str(identifier)))
    if not ours or enrollment.state not in registry.OPEN_STATES:
        return False
    ended = registry.check_out(enrollment, now, reason="the device removed the management profile")
    drop_work(ended, "the device removed the management profile", now)
    return True


def profile_of(enrollment: Enrollment) -> str | None:
    """PayloadIdentifier of the profile that enrolled it; None where that is not known any more."""
    return _profiles_of([enrollment]).get(enrollment.binding) if enrollment.binding else None


def _profiles_of(enrollments: Iterable[Enrollment]) -> dict[UUID, str]:
    """The PayloadIdentifiers by binding, in one query."""
    bindings = [enrollment.binding for enrollment in enrollments if enrollment.binding is not None]
    sessions = EnrollmentSession.objects.filter(uuid__in=bindings).values_list(
        "uuid", "profile__payload_uuid"
    )
    return {binding: f"{IDENTIFIER}.{profile}" for binding, profile in sessions}
