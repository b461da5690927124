"""Who may enrol: what a person has to show, how many, until when, and which devices.

A person passes the gate on the page (a code, or signing in) and gets a *ticket*: sealed, short-lived, for one
enrolment profile, and in the address of the download, because the part of a device that fetches profiles
carries no cookies. A ticket starts one session. Both ways in ask :func:`new_session`, which is where all
limits are checked, in the transaction that makes the session.

Which device it is shows only later: over the air in phase 2, otherwise with Authenticate. Both ask
:func:`verify_device`.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import F, Q

from audit.recording import SERVER
from database import prepared
from devices import groups
from devices.models import DeviceGroup, Enrollment
from enrollment.core.access import normal_code, normal_identifier
from enrollment.models import (
    Access,
    BlockedDevice,
    EnrollmentCode,
    EnrollmentProfile,
    EnrollmentSession,
    ListedDevice,
    PersonSource,
    SessionState,
)
from vault.sealed import SealError, keyed_hash, keyed_hashes, seal, unseal

TICKET_LIFE = timedelta(minutes=15)
MAX_TICKET = 4000
_PURPOSE = "enrollment.code"
_OVER = (SessionState.FAILED, SessionState.EXPIRED)
_HERE = (SessionState.AUTHENTICATED, SessionState.COMPLETED)
_BLOCKED = f"SELECT 1 FROM {BlockedDevice._meta.db_table} WHERE normal IN (%s, %s)"  # noqa: S608 - our own names
NOT_BLOCKED = f"""
    NOT EXISTS (SELECT FROM {BlockedDevice._meta.db_table}
                 WHERE normal IN (%(names_0)s::varchar, %(names_1)s::varchar))
"""
"""For a larger statement: neither of the names of a device, :func:`names_of`, is blocked."""
_GROUPS_TO_JOIN = f"""
    SELECT 1 FROM {EnrollmentSession._meta.db_table} s
      JOIN {EnrollmentProfile.groups.through._meta.db_table} g ON g.enrollmentprofile_id = s.profile_id
     WHERE s.uuid = """  # noqa: S608
_JOINS_GROUPS = _GROUPS_TO_JOIN + "%s"
NO_GROUPS_TO_JOIN = f"NOT EXISTS ({_GROUPS_TO_JOIN} %(binding)s)"
"""For a larger statement: a device that enrolled by the session ``binding`` is put into no group."""


class AccessRefused(Exception):
    """Somebody may not enrol. ``reason`` is a short fixed text for the administrator, ``detail`` says more.

    The person is told the same for whatever is wrong with a code or a ticket.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Closed(AccessRefused):
    """Nobody may enrol here any more: too late, or as many as may have."""


class DeviceRefused(AccessRefused):
    """This device may not enrol: blocked, or not on the list."""


@dataclass(frozen=True)
class Person:
    """Who signed in. ``identifier``: the user's id, or issuer and subject; ``groups``: their names."""

    name: str
    source: PersonSource
    identifier: str
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Admission:
    """What lets one session begin: a ticket's contents, or an administrator's act."""

    person: Person | None = None
    code_id: int | None = None
    ticket: uuid.UUID | None = None
    by_administrator: bool = False


ANYBODY = Admission()
BY_ADMINISTRATOR = Admission(by_administrator=True)


# --- The gate --------------------------------------------------------------------------------------------


def verify_open(profile: EnrollmentProfile, now: datetime) -> None:
    """It is not too late, and there is room for one more. Raises :class:`Closed`."""
    if profile.closes_at is not None and profile.closes_at <= now:
        raise Closed("enrolment has closed")
    if profile.max_enrollments is not None and taken(profile, now) >= profile.max_enrollments:
        raise Closed("as many as may have enrolled", f"at most {profile.max_enrollments}")


def taken(profile: EnrollmentProfile, now: datetime) -> int:
    """How many have enrolled here, and are about to: downloads that are still usable hold a place."""
    return (
        EnrollmentSession.objects.filter(profile=profile)
        .exclude(state__in=_OVER)
        .filter(Q(state__in=_HERE) | Q(expires_at__gt=now))
        .count()
    )


def find_code(profile: EnrollmentProfile, typed: str, now: datetime) -> EnrollmentCode:
    """The live code that somebody typed. It is used up only by a download. Raises :class:`AccessRefused`."""
    hashes = keyed_hashes(_salted(profile, normal_code(typed)), purpose=_PURPOSE)
    code = EnrollmentCode.objects.filter(value_hash__in=hashes, profile=profile).first()
    if code is None:
        raise AccessRefused("wrong code", "no such code")
    return verify_code(code, now)


def verify_code(code: EnrollmentCode, now: datetime) -> EnrollmentCode:
    """The code, if it still counts. Raises :class:`AccessRefused`."""
    if code.withdrawn_at is not None:
        raise AccessRefused("wrong code", f"{code}: withdrawn")
    if code.expires_at is not None and code.expires_at <= now:
        raise AccessRefused("wrong code", f"{code}: expired")
    if code.max_uses is not None and code.uses >= code.max_uses:
        raise AccessRefused("wrong code", f"{code}: used up")
    return code


def hash_of_code(profile: EnrollmentProfile, code: str) -> bytes:
    """What is stored of a code (in normal form)."""
    return keyed_hash(_salted(profile, code), purpose=_PURPOSE)


def _salted(profile: EnrollmentProfile, code: str) -> str:
    return f"{profile.payload_uuid}:{code}"


def verify_person(profile: EnrollmentProfile, person: Person) -> Person:
    """The person is in one of the groups that may enrol here. Raises :class:`AccessRefused`."""
    wanted = {line.strip().casefold() for line in profile.people_groups.splitlines() if line.strip()}
    if wanted and not wanted & {name.strip().casefold() for name in person.groups}:
        raise AccessRefused("person not in a group that may enrol", person.name)
    return person


# --- Tickets ---------------------------------------------------------------------------------------------


def issue_ticket(
    profile: EnrollmentProfile, *, person: Person | None = None, code: int | None = None, now: datetime
) -> str:
    """A ticket for who has passed the gate, fit for an address. ``code``: the id of the code."""
    content = {
        "ticket": uuid.uuid4().hex,
        "until": int((now + TICKET_LIFE).timestamp()),
        "code": code,
        "person": [person.name, person.source, person.identifier] if person else None,
    }
    sealed = seal(
        json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode(), context=_context(profile)
    )
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def admission(profile: EnrollmentProfile, ticket: str, now: datetime) -> Admission:
    """What a ticket admits to; nothing is needed where the profile is open. Raises :class:`AccessRefused`.

    1. It was made here, for this profile, and nothing of it was changed.
    2. Its time is not over.
    3. It was not used before. Of two at once, :func:`new_session` lets one through.
    """
    if profile.access == Access.OPEN:
        return ANYBODY
    if not ticket:
        raise AccessRefused("no ticket")
    content = _open_ticket(profile, ticket)
    if content["until"] <= now.timestamp():
        raise AccessRefused("ticket expired")
    admitted = Admission(
        person=_person(content["person"]), code_id=content["code"], ticket=uuid.UUID(hex=content["ticket"])
    )
    if EnrollmentSession.objects.filter(ticket=admitted.ticket).exists():
        raise AccessRefused("ticket used before")
    return admitted


def _open_ticket(profile: EnrollmentProfile, ticket: str) -> dict[str, Any]:
    if len(ticket) > MAX_TICKET or not ticket.isascii():
        raise AccessRefused("bad ticket", "not one of ours")
    try:
        sealed = base64.b64decode(ticket + "=" * (-len(ticket) % 4), altchars=b"-_", validate=True)
        content: dict[str, Any] = json.loads(unseal(sealed, context=_context(profile)))
    except (binascii.Error, SealError) as error:
        raise AccessRefused("bad ticket", "altered, or of another enrolment profile") from error
    return content


def _person(kept: list[str] | None) -> Person | None:
    if kept is None:
        return None
    name, source, identifier = kept
    return Person(name, PersonSource(source), identifier)


def _context(profile: EnrollmentProfile) -> str:
    # The way of access is part of it: what a code gave is worth nothing once signing in is asked for.
    return f"enrollment.ticket:{profile.payload_uuid}:{profile.access}"


# --- Sessions --------------------------------------------------------------------------------------------


def new_session(
    profile: EnrollmentProfile, admitted: Admission, *, now: datetime, **fields: Any
) -> EnrollmentSession:
    """Begin a session for who was admitted. Call it in the transaction of the offer.

    1. Without a ticket only where the profile is open, or an administrator acts.
    2. There is room: with a limit, one after the other.
    3. The code still counts, and has one use less from now on.
    4. The ticket is used up: of two at once the database lets one through.

    Raises :class:`AccessRefused`, and then leaves nothing behind.
    """
    if admitted.ticket is None and not admitted.by_administrator and profile.access != Access.OPEN:
        raise AccessRefused("no ticket")
    if profile.max_enrollments is not None:
        EnrollmentProfile.objects.select_for_update().get(pk=profile.pk)
    verify_open(profile, now)
    try:
        with transaction.atomic():
            if admitted.code_id is not None:
                _use(admitted.code_id, profile, now)
            person = admitted.person
            return EnrollmentSession.objects.create(
                profile=profile,
                created_at=now,
                ticket=admitted.ticket,
                code_id=admitted.code_id,
                person=person.name[:200] if person else "",
                person_source=person.source if person else "",
                person_id=person.identifier[:300] if person else "",
                **fields,
            )
    except IntegrityError as error:
        raise AccessRefused("ticket used before") from error


def _use(code_id: int, profile: EnrollmentProfile, now: datetime) -> None:
    code = EnrollmentCode.objects.filter(pk=code_id, profile=profile).first()
    if code is None:
        raise AccessRefused("wrong code", "deleted")
    verify_code(code, now)
    used = (
        EnrollmentCode.objects.filter(pk=code_id, withdrawn_at=None)
        .filter(Q(max_uses=None) | Q(uses__lt=F("max_uses")))
        .update(uses=F("uses") + 1)
    )
    if not used:
        raise AccessRefused("wrong code", f"{code}: used up")


# --- Devices ---------------------------------------------------------------------------------------------


def verify_device(profile: EnrollmentProfile | None, *, udid: str, serial_number: str) -> None:
    """The device is not blocked and, where only listed ones may enrol, is listed.

    ``profile`` is None for a device that comes by none of ours. Raises :class:`DeviceRefused`.
    """
    names = names_of(udid, serial_number)
    if prepared.row(_BLOCKED, names) is not None:
        blocked = BlockedDevice.objects.filter(normal__in=names)[0]
        raise DeviceRefused("device is blocked", blocked.reason or blocked.identifier)
    if profile is None or not profile.only_listed:
        return
    serial = normal_identifier(serial_number)
    if not serial or not ListedDevice.objects.filter(profile=profile, serial_number=serial).exists():
        raise DeviceRefused("device is not listed", serial_number or "it says no serial number")


def names_of(udid: str, serial_number: str) -> list[str]:
    """Two names in normal form, by which a device may be blocked; the same twice where it has only one."""
    names = [normal for normal in (normal_identifier(udid), normal_identifier(serial_number)) if normal]
    return (names * 2)[:2] or ["", ""]


def listed(profile: EnrollmentProfile) -> list[str]:
    """The serial numbers of the devices that may enrol, in normal form."""
    return list(profile.listed_devices.order_by("serial_number").values_list("serial_number", flat=True))


def join_groups(enrollment: Enrollment) -> None:
    """Put a device that has just enrolled into the groups of the enrolment profile that it came by.

    In the transaction of the enrolment.
    """
    if enrollment.binding is None:
        return
    if prepared.row(_JOINS_GROUPS, [prepared.key(enrollment.binding)]) is None:
        return
    for group in DeviceGroup.objects.filter(enrollment_profiles__sessions__uuid=enrollment.binding):
        groups.add_devices(group, [enrollment.device_id], actor=SERVER)
