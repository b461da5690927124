"""The life of enrollments: Authenticate, TokenUpdate, CheckOut, quarantine, admission.

The caller has verified the certificate (``pki.trust``) and that the message names the device for which it
speaks. Every function opens one transaction and locks the enrollment; a refusal raises :class:`Refused` and
leaves nothing behind. Order of locks: device enrollment, user enrollment, device.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from django.db import IntegrityError, transaction

from audit.recording import Actor, record
from database import prepared, rows
from devices import escrow, identity
from devices.core.identity import ChannelIdentity
from devices.core.platforms import platform_of
from devices.models import (
    LIVE_STATES,
    Channel,
    CheckinReceipt,
    Device,
    Enrollment,
    EnrollmentState,
    Identity,
    IdentityState,
    SecretKind,
)
from pki.models import Certificate

OPEN_STATES = (*LIVE_STATES, EnrollmentState.QUARANTINED)

_TABLE = Enrollment._meta.db_table
_STANDING = f"SELECT state, epoch FROM {_TABLE} WHERE id = %s"  # noqa: S608 - here and below names of our own
_STANDING_LOCKED = _STANDING + " FOR NO KEY UPDATE"
_LOCK_OPEN = f"""
    SELECT e.id FROM {_TABLE} e JOIN {Device._meta.db_table} d ON d.id = e.device_id
     WHERE d.udid = %s AND e.channel = 'DEVICE' AND e.state IN ('AUTHENTICATED', 'ENROLLED', 'QUARANTINED')
     ORDER BY e.id FOR NO KEY UPDATE OF e
"""  # noqa: S608
_RECEIPTS = f"""
    SELECT epoch FROM {CheckinReceipt._meta.db_table} WHERE enrollment_id = %s AND digest = %s
"""  # noqa: S608
_SEEN = f"UPDATE {_TABLE} SET last_seen_at = %s WHERE id = %s"  # noqa: S608
# A time of contact may be lost with the power: nobody waits for the disk because of it.
_SEEN_ALONE = f"""
    WITH unhurried AS (SELECT set_config('synchronous_commit', 'off', true))
    UPDATE {_TABLE} SET last_seen_at = %s FROM unhurried WHERE id = %s
"""  # noqa: S608


class Refused(Exception):
    """The registry does not do it. ``reason`` is a short fixed text for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Authenticate:
    """What an Authenticate message says; ``udid`` is the EnrollmentID where it is a user enrolment."""

    udid: str
    user_enrollment: bool = False
    serial_number: str = ""
    name: str = ""
    product_name: str = ""
    model_name: str = ""
    os_version: str = ""
    build_version: str = ""
    imei: str = ""
    meid: str = ""
    topic: str = ""


class Kind(StrEnum):
    """What an Authenticate turned out to be."""

    NEW = "NEW"
    RE_ENROLLED = "RE_ENROLLED"
    REPEATED = "REPEATED"
    QUARANTINED = "QUARANTINED"
    RENEWED = "RENEWED"


@dataclass(frozen=True)
class Outcome:
    """The enrollment, what happened, and the enrollments whose queued work is to be cancelled."""

    enrollment: Enrollment
    kind: Kind
    dropped: tuple[Enrollment, ...] = ()


@dataclass(frozen=True)
class TokenUpdated:
    """The enrollment that has the tokens; whether it is enrolled only now, or the message a repetition."""

    enrollment: Enrollment
    first: bool = False
    repeated: bool = False


def live_enrollment(device: Device) -> Enrollment | None:
    """The device channel's live enrollment, or None."""
    return Enrollment.objects.filter(device=device, channel=Channel.DEVICE, state__in=LIVE_STATES).first()


def users_of(enrollment: Enrollment) -> tuple[Enrollment, ...]:
    """The user channels of a device enrollment that have not ended."""
    return tuple(Enrollment.objects.filter(parent=enrollment, state__in=OPEN_STATES).order_by("pk"))


def lock(enrollment: Enrollment) -> Enrollment:
    """The row as it is now, locked until the transaction ends."""
    return (
        Enrollment.objects.select_for_update(of=("self",), no_key=True)
        .select_related("device")
        .get(pk=enrollment.pk)
    )


def lock_standing(enrollment: Enrollment) -> Enrollment:
    """The same row, locked until the transaction ends; its state and epoch are as they are now.

    Cheaper than :func:`lock`, which reads all of it.
    """
    found = prepared.row(_STANDING_LOCKED if prepared.on_postgresql() else _STANDING, [enrollment.pk])
    if found is None:
        raise Enrollment.DoesNotExist
    enrollment.state, enrollment.epoch = found
    return enrollment


# Authenticate


@transaction.atomic(savepoint=False)
def authenticate(
    certificate: Certificate, message: Authenticate, *, may_replace: bool, body_digest: bytes, now: datetime
) -> Outcome:
    """Begin an enrollment, or recognise one.

    ``may_replace``: the way in was approved for this very device, so that it may replace its live enrollment.
    ``body_digest`` is the SHA-256 of the message as received. Raises :class:`Refused`.
    """
    _lock_open_enrollments(message.udid)
    pinned = identity.pinned(certificate)
    owner = pinned.enrollment if pinned else identity.heir_of(certificate)
    try:
        if owner is None:
            return _first_time(certificate, message, may_replace, body_digest, now)
        _verify_same_device(owner.device, message)
        if pinned is None:
            return _renewed(owner, certificate, message, body_digest, now)
        return _again(pinned, message, body_digest, now)
    except IntegrityError as error:
        # Two Authenticates at once with one certificate or one session: the database let one of them win.
        raise Refused("certificate already enrolled another device") from error


def _lock_open_enrollments(udid: str) -> None:
    if prepared.on_postgresql():  # on SQLite the whole database is locked
        prepared.rows(_LOCK_OPEN, [udid])


def _verify_same_device(device: Device, message: Authenticate) -> None:
    if device.udid != message.udid or device.user_enrollment != message.user_enrollment:
        raise Refused("certificate belongs to another device")


def _first_time(
    certificate: Certificate, message: Authenticate, may_replace: bool, body_digest: bytes, now: datetime
) -> Outcome:
    """A certificate that enrolled nothing yet."""
    device, is_new = _device(message)
    live = None if is_new else live_enrollment(device)
    if live is not None and not may_replace and live.erase_acknowledged_at is None:
        return _quarantine(device, certificate, message, body_digest, now)
    dropped: tuple[Enrollment, ...] = ()
    if live is not None:
        reason = "erased and enrolled again" if live.erase_acknowledged_at else "enrolled again as approved"
        dropped = _end(lock(live), EnrollmentState.REPLACED, reason, now)
    enrollment = _create(device, certificate, message, EnrollmentState.AUTHENTICATED, now)
    if not is_new:
        _update_device(device, message)
    _leave_receipt(enrollment, body_digest, now)
    _record(enrollment, "enrollment.authenticated", details={"certificate": certificate.serial_number})
    return Outcome(enrollment, Kind.NEW, dropped)


def _quarantine(
    device: Device, certificate: Certificate, message: Authenticate, body_digest: bytes, now: datetime
) -> Outcome:
    """Somebody with a good certificate says to be a device that is enrolled: an administrator decides."""
    said = ", ".join(
        part for part in (message.serial_number, message.product_name, message.os_version) if part
    )
    enrollment = _create(device, certificate, message, EnrollmentState.QUARANTINED, now)
    enrollment.state_reason = f"the device is enrolled already; this request says: {said or '—'}"[:300]
    enrollment.said = facts(message)
    enrollment.save(update_fields=["state_reason", "said"])
    _leave_receipt(enrollment, body_digest, now)
    _record(enrollment, "enrollment.quarantined", details={"certificate": certificate.serial_number})
    return Outcome(enrollment, Kind.QUARANTINED)


def _renewed(
    enrollment: Enrollment,
    certificate: Certificate,
    message: Authenticate,
    body_digest: bytes,
    now: datetime,
) -> Outcome:
    """A renewed certificate of a known enrollment: everything stays, the earlier certificates go."""
    enrollment = adopt(enrollment, certificate, now)
    accept_once(enrollment, body_digest, now)
    if enrollment.state == EnrollmentState.QUARANTINED:
        return Outcome(enrollment, Kind.QUARANTINED)
    _update_device(enrollment.device, message)
    return Outcome(enrollment, Kind.RENEWED)


def _again(pinned: Identity, message: Authenticate, body_digest: bytes, now: datetime) -> Outcome:
    """A certificate that enrolled this device before: a repetition, or the device starts over."""
    if pinned.state != IdentityState.ACTIVE:
        raise Refused("certificate superseded")
    enrollment = lock(pinned.enrollment)
    if has_receipt(enrollment, body_digest, any_epoch=True):
        return Outcome(enrollment, Kind.REPEATED)
    if enrollment.state == EnrollmentState.QUARANTINED:
        return Outcome(enrollment, Kind.QUARANTINED)
    if enrollment.state == EnrollmentState.AUTHENTICATED:
        return Outcome(enrollment, Kind.REPEATED)
    if enrollment.state != EnrollmentState.ENROLLED:
        raise Refused("enrollment ended")
    dropped = (enrollment, *(_start_over(user) for user in users_of(enrollment)))
    _start_over(enrollment)
    enrollment.topic, enrollment.authenticated_at = message.topic, now
    enrollment.erase_acknowledged_at = None
    enrollment.save(update_fields=["topic", "authenticated_at", "erase_acknowledged_at"])
    escrow.withdraw_all(enrollment, now)
    _update_device(enrollment.device, message)
    _leave_receipt(enrollment, body_digest, now)
    _record(enrollment, "enrollment.authenticated_again", details={"epoch": enrollment.epoch})
    return Outcome(enrollment, Kind.RE_ENROLLED, dropped)


def _start_over(enrollment: Enrollment) -> Enrollment:
    """A new epoch: no push token until the next TokenUpdate."""
    enrollment.state = EnrollmentState.AUTHENTICATED
    enrollment.epoch += 1
    enrollment.push_token, enrollment.push_magic = None, ""
    enrollment.token_updated_at = enrollment.token_dead_at = None
    enrollment.save(
        update_fields=["state", "epoch", "push_token", "push_magic", "token_updated_at", "token_dead_at"]
    )
    return enrollment


def _device(message: Authenticate) -> tuple[Device, bool]:
    """The device row, locked; and whether it is a new one, for a UDID never seen."""
    device = Device(udid=message.udid, user_enrollment=message.user_enrollment, **facts(message))
    is_new = rows.insert_unless_there(device, unique="udid")
    if not is_new:
        device = Device.objects.select_for_update(no_key=True).get(udid=message.udid)
    _verify_same_device(device, message)
    return device, is_new


def _create(
    device: Device, certificate: Certificate, message: Authenticate, state: EnrollmentState, now: datetime
) -> Enrollment:
    enrollment = rows.insert(
        Enrollment(
            device=device,
            channel=Channel.DEVICE,
            state=state,
            binding=certificate.binding,
            topic=message.topic,
            authenticated_at=now,
            last_seen_at=now,
        )
    )
    identity.pin(enrollment, certificate, now)
    return enrollment


def _update_device(device: Device, message: Authenticate) -> None:
    """Take over what the message says; what it leaves out stays."""
    said = facts(message)
    changed = [field for field, value in said.items() if value and getattr(device, field) != value]
    for field in changed:
        setattr(device, field, said[field])
    if changed:
        device.save(update_fields=changed)


def facts(message: Authenticate) -> dict[str, str]:
    """The columns of a device that the message fills, beside who it is."""
    return {
        "serial_number": message.serial_number,
        "name": message.name,
        "product_name": message.product_name,
        "model_name": message.model_name,
        "os_version": message.os_version,
        "build_version": message.build_version,
        "imei": message.imei,
        "meid": message.meid,
        "platform": platform_of(message.product_name),
    }


def adopt(enrollment: Enrollment, certificate: Certificate, now: datetime) -> Enrollment:
    """Pin a renewed certificate at its first use and refuse the earlier ones (threats A10).

    Returns the locked enrollment. Raises :class:`Refused` when it has ended or a later certificate is in use.
    """
    with transaction.atomic(savepoint=False):
        enrollment = lock(enrollment)
        if enrollment.state not in OPEN_STATES:
            raise Refused("enrollment ended")
        if identity.is_outdated(enrollment, certificate):
            raise Refused("certificate superseded")
        if not Identity.objects.filter(certificate=certificate, enrollment=enrollment).exists():
            identity.pin(enrollment, certificate, now)
            identity.supersede_others(enrollment, certificate, now)
            _record(
                enrollment, "enrollment.identity_renewed", details={"certificate": certificate.serial_number}
            )
        return enrollment


# TokenUpdate


@transaction.atomic(savepoint=False)
def token_update(
    enrollment: Enrollment,
    *,
    topic: str,
    push_token: bytes,
    push_magic: str,
    awaiting_configuration: bool | None,
    unlock_token: bytes | None,
    body_digest: bytes,
    now: datetime,
) -> TokenUpdated:
    """Store the push fields of one message on the device channel; the first one completes the enrolment.

    An absent ``unlock_token`` or ``awaiting_configuration`` keeps what is stored. Raises :class:`Refused`.
    """
    enrollment = lock_standing(enrollment)
    if has_receipt(enrollment, body_digest):
        return TokenUpdated(enrollment, repeated=True)
    if enrollment.state not in OPEN_STATES:
        raise Refused("enrollment ended")
    first = _take_tokens(enrollment, topic, push_token, push_magic, now)
    if awaiting_configuration is not None:
        enrollment.awaiting_configuration = awaiting_configuration
        rows.update(enrollment, "awaiting_configuration")
    if unlock_token:
        escrow.deposit(enrollment, SecretKind.UNLOCK_TOKEN, unlock_token, now)
    _leave_receipt(enrollment, body_digest, now)
    if first:
        _record(enrollment, "enrollment.enrolled")
    return TokenUpdated(enrollment, first=first)


@transaction.atomic(savepoint=False)
def user_token_update(
    enrollment: Enrollment,
    user: ChannelIdentity,
    *,
    topic: str,
    push_token: bytes,
    push_magic: str,
    not_on_console: bool | None,
    body_digest: bytes,
    now: datetime,
) -> TokenUpdated:
    """Store the push fields of a user of the device, in a row of their own: never in the device's.

    ``enrollment`` is the device's. While that is held in quarantine, so is the user. Raises :class:`Refused`.
    """
    device_enrollment = lock(enrollment)
    if device_enrollment.state not in (EnrollmentState.ENROLLED, EnrollmentState.QUARANTINED):
        raise Refused("user before device")
    child = _user_enrollment(device_enrollment, user, now)
    if has_receipt(child, body_digest, any_epoch=child.state not in OPEN_STATES):
        return TokenUpdated(child, repeated=True)
    if child.state not in OPEN_STATES:  # the user was removed and is back
        child.state, child.ended_at, child.state_reason = _waiting(device_enrollment), None, ""
        child.epoch += 1
        child.save(update_fields=["state", "ended_at", "state_reason", "epoch"])
    child.user_short_name = user.user_short_name or child.user_short_name
    child.user_long_name = user.user_long_name or child.user_long_name
    if not_on_console is not None:
        child.not_on_console = not_on_console
    child.save(update_fields=["user_short_name", "user_long_name", "not_on_console"])
    first = _take_tokens(child, topic, push_token, push_magic, now)
    _leave_receipt(child, body_digest, now)
    if first:
        _record(child, "enrollment.user_enrolled")
    return TokenUpdated(child, first=first)


def _user_enrollment(parent: Enrollment, user: ChannelIdentity, now: datetime) -> Enrollment:
    child, _created = Enrollment.objects.select_for_update(of=("self",), no_key=True).get_or_create(
        parent=parent,
        user_id=user.user_id,
        channel=Channel.USER,
        defaults={
            "device": parent.device,
            "state": _waiting(parent),
            "authenticated_at": now,
            "last_seen_at": now,
        },
    )
    return child


def _waiting(parent: Enrollment) -> EnrollmentState:
    held = parent.state == EnrollmentState.QUARANTINED
    return EnrollmentState.QUARANTINED if held else EnrollmentState.AUTHENTICATED


def _take_tokens(
    enrollment: Enrollment, topic: str, push_token: bytes, push_magic: str, now: datetime
) -> bool:
    """Topic, token and magic of one message. True when the enrollment is complete only now."""
    first = enrollment.state == EnrollmentState.AUTHENTICATED
    enrollment.topic, enrollment.push_token, enrollment.push_magic = topic, push_token, push_magic
    enrollment.token_updated_at, enrollment.token_dead_at = now, None
    changed = ["topic", "push_token", "push_magic", "token_updated_at", "token_dead_at"]
    if first:
        enrollment.state = EnrollmentState.ENROLLED
        enrollment.enrolled_at = now
        changed += ["state", "enrolled_at"]
    rows.update(enrollment, *changed)
    return first


# The end


@transaction.atomic(savepoint=False)
def check_out(
    enrollment: Enrollment, now: datetime, *, user_id: str = "", reason: str = ""
) -> tuple[Enrollment, ...]:
    """The management profile is gone. Returns the enrollments whose queued work is to be cancelled.

    With ``user_id`` only that user's channel ends. A second CheckOut changes nothing. ``reason``: how it is
    known, where the device did not say CheckOut.
    """
    locked = lock(enrollment)
    if user_id:
        child = Enrollment.objects.filter(parent=locked, user_id=user_id, state__in=OPEN_STATES).first()
        return _end(lock(child), EnrollmentState.CHECKED_OUT, "", now) if child else ()
    if locked.state == EnrollmentState.CHECKED_OUT:
        return ()
    if locked.state not in OPEN_STATES:
        raise Refused("enrollment ended")
    ended = _end(locked, EnrollmentState.CHECKED_OUT, reason, now)
    _record(locked, "enrollment.checked_out", reason=reason)
    return ended


def _end(
    enrollment: Enrollment, state: EnrollmentState, reason: str, now: datetime
) -> tuple[Enrollment, ...]:
    """End an enrollment with its users: no push token, and a replaced one's certificates are refused."""
    ended = (enrollment, *users_of(enrollment))
    for one in ended:
        one.state, one.state_reason, one.ended_at = state, reason[:300], now
        if state != EnrollmentState.TURN_AWAY or one is not enrollment:  # that one is woken once more
            one.push_token, one.push_magic = None, ""
        one.save(update_fields=["state", "state_reason", "ended_at", "push_token", "push_magic"])
    if state in (EnrollmentState.REPLACED, EnrollmentState.REFUSED):
        Identity.objects.filter(enrollment=enrollment, state=IdentityState.ACTIVE).update(
            state=IdentityState.SUPERSEDED, superseded_at=now
        )
    if state == EnrollmentState.REPLACED:
        _record(enrollment, "enrollment.replaced", reason=reason)
    return ended


@transaction.atomic(savepoint=False)
def turn_away(
    enrollment: Enrollment, *, actor: Actor, now: datetime, reason: str = ""
) -> tuple[Enrollment, ...]:
    """An administrator ends an enrollment: its device is turned away at its next contact, once.

    Its certificates stay pinned, for they prove which device it is that asks. Returns the enrollments whose
    queued work is to be cancelled. Raises :class:`Refused` for what has ended otherwise.
    """
    locked = lock(enrollment)
    if locked.channel != Channel.DEVICE or locked.state not in (
        *OPEN_STATES,
        EnrollmentState.TURN_AWAY,
        EnrollmentState.TURNED_AWAY,
    ):
        raise Refused("enrollment ended")
    said = f"{reason} ({actor.name})" if reason else f"unenrolled by {actor.name}"
    ended = _end(locked, EnrollmentState.TURN_AWAY, said, now)
    record("enrollment.unenrolled", actor=actor, target=locked, reason=reason, at=now)
    return ended


def turned_away(enrollment: Enrollment, *, now: datetime, status: int) -> bool:
    """The device was told, with an answer of this status. False where another request was told before."""
    with transaction.atomic():
        told = Enrollment.objects.filter(pk=enrollment.pk, state=EnrollmentState.TURN_AWAY).update(
            state=EnrollmentState.TURNED_AWAY, push_token=None, push_magic="", last_seen_at=now
        )
        if told:
            _record(enrollment, "enrollment.turned_away", details={"status": status})
    return bool(told)


# Quarantine


@transaction.atomic(savepoint=False)
def admit(enrollment: Enrollment, actor: Actor, now: datetime) -> Outcome:
    """An administrator says that the held enrollment is the device. It replaces the live one.

    Raises :class:`Refused` when it is not held.
    """
    _lock_open_enrollments(enrollment.device.udid)
    held = lock(enrollment)
    if held.state != EnrollmentState.QUARANTINED or held.channel != Channel.DEVICE:
        raise Refused("enrollment is not held")
    live = live_enrollment(held.device)
    dropped = _end(live, EnrollmentState.REPLACED, f"replaced by {actor.name}", now) if live else ()
    for one in (held, *users_of(held)):
        one.state = EnrollmentState.ENROLLED if one.push_token else EnrollmentState.AUTHENTICATED
        one.enrolled_at, one.state_reason = (now if one.push_token else None), ""
        one.save(update_fields=["state", "enrolled_at", "state_reason"])
    record("enrollment.admitted", actor=actor, target=held)
    return Outcome(lock(held), Kind.NEW, dropped)


@transaction.atomic(savepoint=False)
def refuse(enrollment: Enrollment, actor: Actor, now: datetime, *, reason: str = "") -> Enrollment:
    """An administrator says that the held enrollment is not the device: it is refused from now on.

    Raises :class:`Refused` when it is not held.
    """
    held = lock(enrollment)
    if held.state != EnrollmentState.QUARANTINED or held.channel != Channel.DEVICE:
        raise Refused("enrollment is not held")
    _end(held, EnrollmentState.REFUSED, reason or f"refused by {actor.name}", now)
    record("enrollment.refused", actor=actor, target=held, reason=reason)
    return held


# Receipts


def has_receipt(enrollment: Enrollment, digest: bytes, *, any_epoch: bool = False) -> bool:
    """Whether these bytes were accepted before, in the present epoch or ever."""
    epochs = [row[0] for row in prepared.rows(_RECEIPTS, [enrollment.pk, digest])]
    return bool(epochs) if any_epoch else enrollment.epoch in epochs


def accept_once(enrollment: Enrollment, digest: bytes, now: datetime) -> bool:
    """Leave a receipt for these bytes. False if they were accepted before, in the present epoch."""
    if has_receipt(enrollment, digest):
        return False
    _leave_receipt(enrollment, digest, now)
    return True


def _leave_receipt(enrollment: Enrollment, digest: bytes, now: datetime) -> None:
    """The caller has looked, under the lock of the enrollment, that there is none."""
    rows.insert(CheckinReceipt(enrollment=enrollment, digest=digest, epoch=enrollment.epoch, received_at=now))


def _record(
    enrollment: Enrollment, action: str, *, reason: str = "", details: dict[str, object] | None = None
) -> None:
    device = enrollment.device
    record(
        action,
        actor=Actor(name=f"device {device.serial_number or device.udid}"),
        target=enrollment,
        reason=reason,
        details={"udid": device.udid, **(details or {})},
    )


# Contact


def seen(
    enrollment_id: int, last_seen_at: datetime | None, now: datetime, *, every_seconds: int = 60
) -> bool:
    """Note that the enrollment was in touch, at most once in ``every_seconds``. True if it wrote."""
    if last_seen_at is not None and (now - last_seen_at).total_seconds() < every_seconds:
        return False
    # Not inside a larger transaction: that one has to reach the disk.
    alone = prepared.on_postgresql() and not transaction.get_connection().in_atomic_block
    return bool(prepared.changes(_SEEN_ALONE if alone else _SEEN, [prepared.instant(now), enrollment_id]))


def erased(enrollment: Enrollment, now: datetime) -> None:
    """The device acknowledged EraseDevice: its next enrolment is no hijack."""
    Enrollment.objects.filter(pk=enrollment.pk, erase_acknowledged_at=None).update(erase_acknowledged_at=now)
