"""The table of an enrolment session, and who may use one."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment.core.session import (
    TABLES,
    Event,
    Flow,
    NotAllowed,
    SessionRefused,
    State,
    next_state,
    same_device,
    states_before,
    verify_device,
)
from enrollment.models import Flow as ModelFlow
from enrollment.models import SessionState

FREE = {
    "flow": Flow.DIRECT,
    "state": State.CERTIFIED,
    "reason": "",
    "expected_udid": "",
    "expected_serial_number": "",
    "used_by_udid": "",
    "used_by_serial_number": "",
    "udid": "00008030-000A",
    "serial_number": "C01",
}


OTA = {**FREE, "flow": Flow.OTA, "used_by_udid": "00008030-000A", "used_by_serial_number": "C01"}
both = pytest.mark.parametrize("flow", list(Flow))


def test_the_model_knows_the_same_states_and_ways() -> None:
    assert [state.value for state in State] == list(SessionState.values)
    assert [flow.value for flow in Flow] == list(ModelFlow.values)


def test_the_straight_way() -> None:
    state: State = State.OFFERED
    for event in (Event.CERTIFICATE_ISSUED, Event.AUTHENTICATED, Event.TOKEN_UPDATED):
        state = next_state(Flow.DIRECT, state, event)
    assert state is State.COMPLETED


@pytest.mark.parametrize("noted", [True, False])
def test_the_way_over_the_air(noted: bool) -> None:
    """With the certificates noted in between, or the device ahead of the sweep that notes them."""
    state: State = State.OFFERED
    way = [
        (Event.IDENTIFIED, True),
        (Event.OTA_CERTIFICATE_ISSUED, noted),
        (Event.DELIVERED, True),
        (Event.CERTIFICATE_ISSUED, noted),
        (Event.AUTHENTICATED, True),
        (Event.TOKEN_UPDATED, True),
    ]
    seen = [state]
    for event, happens in way:
        if happens:
            state = next_state(Flow.OTA, state, event)
            seen.append(state)
    assert state is State.COMPLETED
    expected = [state for state in State if state not in (State.FAILED, State.EXPIRED)]
    if noted:
        assert seen == expected


@both
@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_everything_else_is_refused(flow: Flow, state: State, event: Event) -> None:
    if (state, event) in TABLES[flow]:
        assert next_state(flow, state, event) is TABLES[flow][state, event]
        return
    with pytest.raises(NotAllowed):
        next_state(flow, state, event)


def test_no_phase_is_left_out() -> None:
    """Over the air nobody is managed who was not identified, and the direct way knows no phases."""
    early = (State.OFFERED, State.IDENTIFIED, State.OTA_CERTIFIED)
    assert not [state for state in early if (state, Event.AUTHENTICATED) in TABLES[Flow.OTA]]
    assert states_before(Flow.OTA, Event.DELIVERED) == (State.IDENTIFIED, State.OTA_CERTIFIED)
    assert states_before(Flow.OTA, Event.IDENTIFIED) == (State.OFFERED,)
    phases = (Event.IDENTIFIED, Event.OTA_CERTIFICATE_ISSUED, Event.DELIVERED)
    assert not [event for event in phases if states_before(Flow.DIRECT, event)]


@both
@pytest.mark.parametrize("state", [State.FAILED, State.EXPIRED])
def test_what_ended_without_an_enrollment_takes_nothing(flow: Flow, state: State) -> None:
    assert not [event for event in Event if (state, event) in TABLES[flow]]


@both
def test_a_completed_session_is_never_undone(flow: Flow) -> None:
    assert {new for (old, _event), new in TABLES[flow].items() if old is State.COMPLETED} == {State.COMPLETED}


@both
def test_nothing_is_completed_that_never_authenticated(flow: Flow) -> None:
    done = states_before(flow, Event.TOKEN_UPDATED, State.COMPLETED)
    assert set(done) == {State.AUTHENTICATED, State.COMPLETED}
    assert State.AUTHENTICATED not in states_before(flow, Event.TIMED_OUT)


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


def test_over_the_air_it_is_the_device_of_phase_two() -> None:
    for state in (State.DELIVERED, State.CERTIFIED, State.AUTHENTICATED, State.COMPLETED):
        verify_device(**{**OTA, "state": state})
    verify_device(**{**OTA, "udid": "00008030-000a", "serial_number": "c01"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"serial_number": "C02"}, "another device (serial number)"),
        ({"serial_number": ""}, "another device (serial number)"),
        ({"udid": "00008030-000B"}, "used by another device"),
        ({"state": State.OFFERED}, "has not delivered"),
        ({"state": State.IDENTIFIED}, "has not delivered"),
        ({"state": State.OTA_CERTIFIED}, "has not delivered"),
    ],
)
def test_over_the_air_no_other_device_and_no_short_cut(change: dict[str, str], reason: str) -> None:
    with pytest.raises(SessionRefused, match=reason.replace("(", r"\(").replace(")", r"\)")):
        verify_device(**{**OTA, **change})


@given(st.text(), st.text())
def test_same_device_is_an_equivalence(left: str, right: str) -> None:
    assert same_device(left, left)
    assert same_device(left, right) == same_device(right, left)
