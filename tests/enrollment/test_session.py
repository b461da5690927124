"""The table of an enrolment session, and who may use one."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment.core.session import (
    TABLE,
    Event,
    NotAllowed,
    SessionRefused,
    State,
    next_state,
    same_device,
    states_before,
    verify_device,
)
from enrollment.models import SessionState

FREE = {
    "state": State.CERTIFIED,
    "reason": "",
    "expected_udid": "",
    "expected_serial_number": "",
    "used_by_udid": "",
    "udid": "00008030-000A",
    "serial_number": "C01",
}


def test_the_model_knows_the_same_states() -> None:
    assert [state.value for state in State] == list(SessionState.values)


def test_the_straight_way() -> None:
    state: State = State.OFFERED
    for event in (Event.CERTIFICATE_ISSUED, Event.AUTHENTICATED, Event.TOKEN_UPDATED):
        state = next_state(state, event)
    assert state is State.COMPLETED


@pytest.mark.parametrize(("state", "event"), [pair for pair in product(State, Event) if pair not in TABLE])
def test_everything_else_is_refused(state: State, event: Event) -> None:
    with pytest.raises(NotAllowed):
        next_state(state, event)


@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED])
def test_what_ended_without_an_enrollment_takes_nothing(state: State) -> None:
    assert not [event for event in Event if (state, event) in TABLE]


def test_a_completed_session_is_never_undone() -> None:
    assert {new for (old, _event), new in TABLE.items() if old is State.COMPLETED} == {State.COMPLETED}


def test_nothing_is_completed_that_never_authenticated() -> None:
    assert set(states_before(Event.TOKEN_UPDATED, State.COMPLETED)) == {State.AUTHENTICATED, State.COMPLETED}
    assert State.AUTHENTICATED not in states_before(Event.TIMED_OUT)


def test_a_free_session_takes_any_device() -> None:
    verify_device(**FREE)
    verify_device(**{**FREE, "used_by_udid": "00008030-000a"})
    verify_device(**{**FREE, "expected_udid": "00008030000A", "expected_serial_number": " c01 "})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": State.FAILED, "reason": "stopped by anna"}, "failed: stopped by anna"),
        ({"state": State.EXPIRED}, "expired"),
        ({"expected_udid": "00008030-000B"}, "another device (UDID)"),
        ({"expected_serial_number": "C02"}, "another device (serial number)"),
        ({"used_by_udid": "00008030-000B"}, "used by another device"),
    ],
)
def test_a_session_of_another_device_or_an_ended_one_is_refused(change: dict[str, str], reason: str) -> None:
    with pytest.raises(SessionRefused, match=reason.replace("(", r"\(").replace(")", r"\)")):
        verify_device(**{**FREE, **change})


@given(st.text(), st.text())
def test_same_device_is_an_equivalence(left: str, right: str) -> None:
    assert same_device(left, left)
    assert same_device(left, right) == same_device(right, left)
