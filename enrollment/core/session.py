"""The life of an attempt to enrol, as a table, and who may use it. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """How far the attempt got."""

    OFFERED = "OFFERED"
    CERTIFIED = "CERTIFIED"
    AUTHENTICATED = "AUTHENTICATED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class Event(StrEnum):
    """What can happen to it."""

    CERTIFICATE_ISSUED = "CERTIFICATE_ISSUED"
    AUTHENTICATED = "AUTHENTICATED"
    TOKEN_UPDATED = "TOKEN_UPDATED"  # noqa: S105 - the name of a message
    STOPPED = "STOPPED"
    TIMED_OUT = "TIMED_OUT"


# A device that repeats itself, or comes back with the same identity, says Authenticate and TokenUpdate again:
# a completed session stays completed. What has ended otherwise takes nothing any more. An authenticated one
# does not time out: the device may wait in quarantine until an administrator decides.
TABLE: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.OFFERED, Event.CERTIFICATE_ISSUED): State.CERTIFIED,
        (State.OFFERED, Event.AUTHENTICATED): State.AUTHENTICATED,
        (State.OFFERED, Event.STOPPED): State.FAILED,
        (State.OFFERED, Event.TIMED_OUT): State.EXPIRED,
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
)


class NotAllowed(Exception):
    """The event cannot happen in this state."""


class SessionRefused(Exception):
    """This device may not use this session; ``reason`` is for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def next_state(state: str, event: Event) -> State:
    """The state after ``event``. Raises :class:`NotAllowed`; a state that is none is a ValueError."""
    try:
        return TABLE[State(state), event]
    except KeyError:
        raise NotAllowed(f"{event} in {state}") from None


def states_before(event: Event, after: State | None = None) -> tuple[State, ...]:
    """The states in which ``event`` is allowed (and leads to ``after``, where given)."""
    return tuple(old for (old, what), new in TABLE.items() if what is event and after in (None, new))


def same_device(left: str, right: str) -> bool:
    """Compare UDIDs or serial numbers as people and devices write them: case, spaces and hyphens aside."""
    return _plain(left) == _plain(right)


def _plain(text: str) -> str:
    return "".join(text.split()).replace("-", "").casefold()


def verify_device(
    *,
    state: str,
    reason: str,
    expected_udid: str,
    expected_serial_number: str,
    used_by_udid: str,
    udid: str,
    serial_number: str,
) -> None:
    """One session is for one device. Raises :class:`SessionRefused` with what stands against it.

    1. The session has not ended without an enrolment.
    2. Where a device is expected, it is this one.
    3. Where a device has used it, it is this one.
    """
    if state in (State.FAILED, State.EXPIRED):
        raise SessionRefused(
            f"the enrolment session {'failed' if state == State.FAILED else 'expired'}"
            + (f": {reason}" if reason else "")
        )
    if expected_udid and not same_device(expected_udid, udid):
        raise SessionRefused("the enrolment session was made for another device (UDID)")
    if expected_serial_number and not same_device(expected_serial_number, serial_number):
        raise SessionRefused("the enrolment session was made for another device (serial number)")
    if used_by_udid and not same_device(used_by_udid, udid):
        raise SessionRefused("the enrolment session was used by another device")
