"""The table of a delivery's life."""

from __future__ import annotations

from datetime import timedelta

import pytest

from commands.core.delivery import FINAL, OUTSTANDING, Event, Outstanding, State, event_when_met, next_state
from commands.models import OUTSTANDING as STORED_OUTSTANDING
from commands.models import DeliveryState
from tests.commands.fleet import NOW


def test_the_stored_words_are_those_of_the_table() -> None:
    assert {state.value for state in State} == set(DeliveryState.values)
    assert {state.value for state in OUTSTANDING} == {state.value for state in STORED_OUTSTANDING}


@pytest.mark.parametrize("state", sorted(FINAL))
@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("once", [True, False])
def test_final_states_absorb_everything(state: State, event: Event, once: bool) -> None:
    assert next_state(state, event, at_most_once=once) is None


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
@pytest.mark.parametrize("once", [True, False])
def test_answers_are_taken_in_every_other_state(state: State, once: bool) -> None:
    assert next_state(state, Event.ACKNOWLEDGED, at_most_once=once) is State.ACKNOWLEDGED
    assert next_state(state, Event.ERROR, at_most_once=once) is State.ERROR
    assert next_state(state, Event.FORMAT_ERROR, at_most_once=once) is State.FORMAT_ERROR
    assert next_state(state, Event.NOT_NOW, at_most_once=once) is State.NOT_NOW
    assert next_state(state, Event.END, at_most_once=once) is State.CANCELLED


def test_what_was_handed_out_at_most_once_is_not_handed_out_again() -> None:
    for event in (Event.HAND_OUT, Event.CANCEL, Event.EXPIRE, Event.RESEND):
        assert next_state(State.SENT, event, at_most_once=True) is None
    assert next_state(State.SENT, Event.DOUBT, at_most_once=True) is State.UNCERTAIN
    assert next_state(State.SENT, Event.DOUBT) is None
    assert next_state(State.UNCERTAIN, Event.HAND_OUT, at_most_once=True) is None
    assert next_state(State.UNCERTAIN, Event.RESEND, at_most_once=True) is State.QUEUED
    assert next_state(State.UNCERTAIN, Event.GIVE_UP, at_most_once=True) is State.CANCELLED
    # NotNow says that it was not carried out.
    assert next_state(State.NOT_NOW, Event.HAND_OUT, at_most_once=True) is State.SENT


def met(state: State, *, once: bool = False, cancelled: bool = False, expires: float | None = None) -> Event:
    expires_at = None if expires is None else NOW + timedelta(seconds=expires)
    return event_when_met(Outstanding(state, once, cancelled, expires_at), now=NOW)


def test_what_happens_to_the_oldest_when_the_device_is_ready() -> None:
    for state in sorted(OUTSTANDING):
        assert met(state) is Event.HAND_OUT
        assert met(state, expires=1) is Event.HAND_OUT
        assert met(state, expires=0) is Event.EXPIRE
        assert met(state, cancelled=True) is Event.CANCEL
    assert met(State.SENT, once=True) is Event.DOUBT
    assert met(State.SENT, once=True, expires=-1) is Event.DOUBT
    assert met(State.SENT, once=True, cancelled=True) is Event.DOUBT
    assert met(State.QUEUED, once=True) is Event.HAND_OUT


@pytest.mark.parametrize("state", sorted(OUTSTANDING))
@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("expires", [None, -1, 1])
def test_the_choice_is_always_a_step_of_the_table(
    state: State, once: bool, cancelled: bool, expires: float | None
) -> None:
    event = met(state, once=once, cancelled=cancelled, expires=expires)
    assert next_state(state, event, at_most_once=once) is not None
