"""The life of one delivery as a table (reliability.md 4.2), and the choice of what is handed out next.

QUEUED → SENT → ACKNOWLEDGED, ERROR or FORMAT_ERROR; SENT → NOT_NOW → SENT; QUEUED or NOT_NOW → CANCELLED or
EXPIRED. A command of the dangerous class (:attr:`Outstanding.at_most_once`) that was handed out and never
answered becomes UNCERTAIN: an administrator lets it go again or gives it up. Final states absorb everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class State(StrEnum):
    """Where a delivery stands. The same words are stored."""

    QUEUED = "QUEUED"
    SENT = "SENT"
    NOT_NOW = "NOT_NOW"
    UNCERTAIN = "UNCERTAIN"
    ACKNOWLEDGED = "ACKNOWLEDGED"
    ERROR = "ERROR"
    FORMAT_ERROR = "FORMAT_ERROR"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class Event(StrEnum):
    """What can happen to a delivery."""

    HAND_OUT = "hand out"
    ACKNOWLEDGED = "acknowledged"
    ERROR = "error"
    FORMAT_ERROR = "format error"
    NOT_NOW = "not now"
    DOUBT = "doubt"  # handed out, and no answer came
    RESEND = "resend"  # an administrator lets it go again
    GIVE_UP = "give up"  # an administrator does not
    CANCEL = "cancel"
    EXPIRE = "expire"
    END = "end"  # the enrollment, or its epoch, is over


OUTSTANDING = frozenset({State.QUEUED, State.SENT, State.NOT_NOW})
FINAL = frozenset({State.ACKNOWLEDGED, State.ERROR, State.FORMAT_ERROR, State.EXPIRED, State.CANCELLED})

# A device may answer what we do not remember having handed out: after a restored backup, or late.
_ANSWERS = {
    Event.ACKNOWLEDGED: State.ACKNOWLEDGED,
    Event.ERROR: State.ERROR,
    Event.FORMAT_ERROR: State.FORMAT_ERROR,
    Event.NOT_NOW: State.NOT_NOW,
}
_ANY_TIME = {**_ANSWERS, Event.END: State.CANCELLED}

TABLE: dict[State, dict[Event, State]] = {
    State.QUEUED: {
        **_ANY_TIME,
        Event.HAND_OUT: State.SENT,
        Event.CANCEL: State.CANCELLED,
        Event.EXPIRE: State.EXPIRED,
    },
    State.SENT: {
        **_ANY_TIME,
        Event.HAND_OUT: State.SENT,
        Event.CANCEL: State.CANCELLED,
        Event.EXPIRE: State.EXPIRED,
    },
    State.NOT_NOW: {
        **_ANY_TIME,
        Event.HAND_OUT: State.SENT,
        Event.CANCEL: State.CANCELLED,
        Event.EXPIRE: State.EXPIRED,
    },
    State.UNCERTAIN: {**_ANY_TIME, Event.RESEND: State.QUEUED, Event.GIVE_UP: State.CANCELLED},
    **{state: {} for state in FINAL},
}
# What was handed out once and must not be again: no answer is neither cancelled nor expired, it is a doubt.
SENT_AT_MOST_ONCE: dict[Event, State] = {**_ANY_TIME, Event.DOUBT: State.UNCERTAIN}


def next_state(state: State, event: Event, *, at_most_once: bool = False) -> State | None:
    """The state after ``event``, or None where the event changes nothing (a final state, a wrong moment)."""
    if at_most_once and state is State.SENT:
        return SENT_AT_MOST_ONCE.get(event)
    return TABLE[state].get(event)


@dataclass(frozen=True, slots=True)
class Outstanding:
    """What the choice needs to know of one outstanding delivery whose ``not_before`` has come."""

    state: State
    at_most_once: bool
    cancelled: bool  # the command was cancelled while this was with the device
    expires_at: datetime | None


def event_when_met(delivery: Outstanding, *, now: datetime) -> Event:
    """What happens to the oldest outstanding delivery when its device connects and is ready.

    HAND_OUT: it is the one to send (also again, under the same UUID, where the answer never came). Otherwise
    it leaves the queue by that event, and the next one is looked at.
    """
    if delivery.state is State.SENT and delivery.at_most_once:
        return Event.DOUBT
    if delivery.cancelled:
        return Event.CANCEL
    if delivery.expires_at is not None and delivery.expires_at <= now:
        return Event.EXPIRE
    return Event.HAND_OUT
