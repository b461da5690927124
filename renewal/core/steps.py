"""The life of a re-key campaign as a table. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """How far a campaign got. The same words are stored."""

    DISTRIBUTING = "DISTRIBUTING"  # devices get the new root, until enough of them have it
    READY = "READY"  # enough have it: an administrator activates
    REISSUING = "REISSUING"  # the new key issues; devices get new certificates in waves
    DRAINED = "DRAINED"  # no device in management depends on an old key any more
    CLOSED = "CLOSED"
    ABORTED = "ABORTED"


class Event(StrEnum):
    """What can happen to it."""

    ENOUGH = "enough devices have the new root"
    ACTIVATED = "the new key is in use"
    NONE_LEFT = "no device depends on an old key"
    SOME_LEFT = "a device depends on an old key again"
    CLOSE = "the old keys are closed"
    ABORT = "an administrator gives it up"


RUNNING = frozenset({State.DISTRIBUTING, State.READY, State.REISSUING, State.DRAINED})
BEFORE_ACTIVATION = frozenset({State.DISTRIBUTING, State.READY})
AFTER_ACTIVATION = frozenset({State.REISSUING, State.DRAINED})

TABLE: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.DISTRIBUTING: {
            Event.ENOUGH: State.READY,
            # An administrator may do it before enough have the root, here or at the issuer itself.
            Event.ACTIVATED: State.REISSUING,
            Event.ABORT: State.ABORTED,
        },
        State.READY: {Event.ACTIVATED: State.REISSUING, Event.ABORT: State.ABORTED},
        State.REISSUING: {
            Event.NONE_LEFT: State.DRAINED,
            # Somebody insists, knowing who is cut off.
            Event.CLOSE: State.CLOSED,
            Event.ABORT: State.ABORTED,
        },
        State.DRAINED: {
            Event.SOME_LEFT: State.REISSUING,
            Event.CLOSE: State.CLOSED,
            Event.ABORT: State.ABORTED,
        },
        State.CLOSED: {},
        State.ABORTED: {},
    }
)


def next_state(state: State, event: Event) -> State | None:
    """The state after ``event``; None where it cannot happen."""
    return TABLE[state].get(event)
