"""The life of an attempt to enrol, as a table, and who may use it. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType


class Flow(StrEnum):
    """The way in."""

    DIRECT = "DIRECT"
    OTA = "OTA"


class State(StrEnum):
    """How far the attempt got."""

    OFFERED = "OFFERED"
    IDENTIFIED = "IDENTIFIED"
    OTA_CERTIFIED = "OTA_CERTIFIED"
    DELIVERED = "DELIVERED"
    CERTIFIED = "CERTIFIED"
    AUTHENTICATED = "AUTHENTICATED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class Event(StrEnum):
    """What can happen to it."""

    IDENTIFIED = "IDENTIFIED"
    OTA_CERTIFICATE_ISSUED = "OTA_CERTIFICATE_ISSUED"
    DELIVERED = "DELIVERED"
    CERTIFICATE_ISSUED = "CERTIFICATE_ISSUED"
    AUTHENTICATED = "AUTHENTICATED"
    TOKEN_UPDATED = "TOKEN_UPDATED"  # noqa: S105 - the name of a message
    STOPPED = "STOPPED"
    TIMED_OUT = "TIMED_OUT"


Table = Mapping[tuple[State, Event], State]

# From the device's identity on, every way is the same. A device that repeats itself, or comes back with the
# same identity, says Authenticate and TokenUpdate again: a completed session stays completed. What has ended
# otherwise takes nothing any more. An authenticated one does not time out: the device may wait in quarantine
# until an administrator decides.
_MANAGEMENT: dict[tuple[State, Event], State] = {
    (State.CERTIFIED, Event.CERTIFICATE_ISSUED): State.CERTIFIED,
    (State.CERTIFIED, Event.AUTHENTICATED): State.AUTHENTICATED,
    (State.CERTIFIED, Event.STOPPED): State.FAILED,
    (State.CERTIFIED, Event.TIMED_OUT): State.EXPIRED,
    (State.AUTHENTICATED, Event.CERTIFICATE_ISSUED): State.AUTHENTICATED,
    (State.AUTHENTICATED, Event.AUTHENTICATED): State.AUTHENTICATED,
    (State.AUTHENTICATED, Event.TOKEN_UPDATED): State.COMPLETED,
    (State.AUTHENTICATED, Event.STOPPED): State.FAILED,
    (State.COMPLETED, Event.CERTIFICATE_ISSUED): State.COMPLETED,
    (State.COMPLETED, Event.AUTHENTICATED): State.COMPLETED,
    (State.COMPLETED, Event.TOKEN_UPDATED): State.COMPLETED,
}

# Certificates are issued without a word to the session, and noted by a sweep: a device may be ahead of it.
_DIRECT: dict[tuple[State, Event], State] = {
    (State.OFFERED, Event.CERTIFICATE_ISSUED): State.CERTIFIED,
    (State.OFFERED, Event.AUTHENTICATED): State.AUTHENTICATED,
    (State.OFFERED, Event.STOPPED): State.FAILED,
    (State.OFFERED, Event.TIMED_OUT): State.EXPIRED,
}
_OTA: dict[tuple[State, Event], State] = {
    # Phase 1: the device has the address and a challenge. Phase 2: it shows who made it.
    (State.OFFERED, Event.IDENTIFIED): State.IDENTIFIED,
    (State.OFFERED, Event.STOPPED): State.FAILED,
    (State.OFFERED, Event.TIMED_OUT): State.EXPIRED,
    # It gets a certificate for the rest of the enrolment, and shows it in phase 3.
    (State.IDENTIFIED, Event.OTA_CERTIFICATE_ISSUED): State.OTA_CERTIFIED,
    (State.IDENTIFIED, Event.DELIVERED): State.DELIVERED,
    (State.IDENTIFIED, Event.STOPPED): State.FAILED,
    (State.IDENTIFIED, Event.TIMED_OUT): State.EXPIRED,
    (State.OTA_CERTIFIED, Event.OTA_CERTIFICATE_ISSUED): State.OTA_CERTIFIED,
    (State.OTA_CERTIFIED, Event.DELIVERED): State.DELIVERED,
    (State.OTA_CERTIFIED, Event.STOPPED): State.FAILED,
    (State.OTA_CERTIFIED, Event.TIMED_OUT): State.EXPIRED,
    # It has the profile with the management payload: from here on as in the direct way.
    (State.DELIVERED, Event.CERTIFICATE_ISSUED): State.CERTIFIED,
    (State.DELIVERED, Event.AUTHENTICATED): State.AUTHENTICATED,
    (State.DELIVERED, Event.STOPPED): State.FAILED,
    (State.DELIVERED, Event.TIMED_OUT): State.EXPIRED,
}
TABLES: Mapping[Flow, Table] = MappingProxyType(
    {
        Flow.DIRECT: MappingProxyType({**_DIRECT, **_MANAGEMENT}),
        Flow.OTA: MappingProxyType({**_OTA, **_MANAGEMENT}),
    }
)


class NotAllowed(Exception):
    """The event cannot happen in this state."""


class SessionRefused(Exception):
    """This device may not use this session; ``reason`` is for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def next_state(flow: str, state: str, event: Event) -> State:
    """The state after ``event``. Raises :class:`NotAllowed`; a state or way that is none is a ValueError."""
    try:
        return TABLES[Flow(flow)][State(state), event]
    except KeyError:
        raise NotAllowed(f"{event} in {state}") from None


def states_before(flow: Flow, event: Event, after: State | None = None) -> tuple[State, ...]:
    """The states in which ``event`` is allowed (and leads to ``after``, where given)."""
    return tuple(_states_before(TABLES[flow], event, after))


def _states_before(table: Table, event: Event, after: State | None) -> Iterator[State]:
    for (old, what), new in table.items():
        if what is event and after in (None, new):
            yield old


def same_device(left: str, right: str) -> bool:
    """Compare UDIDs or serial numbers as people and devices write them: case, spaces and hyphens aside."""
    return _plain(left) == _plain(right)


def _plain(text: str) -> str:
    return "".join(text.split()).replace("-", "").casefold()


def verify_device(
    *,
    flow: str,
    state: str,
    reason: str,
    expected_udid: str,
    expected_serial_number: str,
    used_by_udid: str,
    used_by_serial_number: str,
    udid: str,
    serial_number: str,
) -> None:
    """One session is for one device. Raises :class:`SessionRefused` with what stands against it.

    Asked where the device says Authenticate.

    1. The session has not ended without an enrolment, and has come so far that there can be an identity.
    2. Where a device is expected, it is this one.
    3. Where a device has used it, it is this one. What was said over the air was said in two signed
       messages, serial number included.
    """
    verify_open(state, reason)
    if flow == Flow.OTA and (State(state), Event.AUTHENTICATED) not in TABLES[Flow.OTA]:
        raise SessionRefused("the over-the-air enrolment has not delivered a management profile")
    verify_expected(
        expected_udid=expected_udid,
        expected_serial_number=expected_serial_number,
        udid=udid,
        serial_number=serial_number,
    )
    if used_by_udid and not same_device(used_by_udid, udid):
        raise SessionRefused("the enrolment session was used by another device")
    if flow == Flow.OTA and not same_device(used_by_serial_number, serial_number):
        raise SessionRefused("the enrolment session was used by another device (serial number)")


def verify_open(state: str, reason: str) -> None:
    """The session has not ended without an enrolment. Raises :class:`SessionRefused`."""
    if state in (State.FAILED, State.EXPIRED):
        raise SessionRefused(
            f"the enrolment session {'failed' if state == State.FAILED else 'expired'}"
            + (f": {reason}" if reason else "")
        )


def verify_expected(
    *, expected_udid: str, expected_serial_number: str, udid: str, serial_number: str
) -> None:
    """Where the session was made for one device, it is this one. Raises :class:`SessionRefused`."""
    if expected_udid and not same_device(expected_udid, udid):
        raise SessionRefused("the enrolment session was made for another device (UDID)")
    if expected_serial_number and not same_device(expected_serial_number, serial_number):
        raise SessionRefused("the enrolment session was made for another device (serial number)")
