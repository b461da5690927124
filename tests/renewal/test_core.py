"""Pure: the table of a campaign's life, pauses, and how many devices may be asked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from renewal.core import pacing, steps
from renewal.core.steps import BEFORE_ACTIVATION, RUNNING, Event, State
from renewal.models import CampaignState

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def test_the_words_are_those_that_are_stored() -> None:
    assert [state.value for state in State] == list(CampaignState.values)
    assert set(steps.TABLE) == set(State)


@given(st.lists(st.sampled_from(list(Event)), max_size=30))
def test_what_has_ended_stays_so_and_nothing_goes_back_before_activation(events: list[Event]) -> None:
    state, was_active = State.DISTRIBUTING, False
    for event in events:
        after = steps.next_state(state, event)
        if state not in RUNNING:
            assert after is None
        state = after or state
        was_active |= event is Event.ACTIVATED and after is not None
        if was_active:
            assert state not in BEFORE_ACTIVATION
    # It is activated once at most.
    if was_active:
        assert steps.next_state(state, Event.ACTIVATED) is None


@given(
    st.integers(1, 100_000),
    st.lists(st.floats(0.1, 300, allow_nan=False), min_size=1, max_size=60),
)
def test_the_rate_holds_whatever_the_ticks(rate: int, distances: list[float]) -> None:
    now, last, asked = NOW, None, 0
    first = pacing.allowance(rate, None, now)
    assert first >= 1
    last = now
    for seconds in distances:
        now += timedelta(seconds=seconds)
        allowed = pacing.allowance(rate, last, now)
        assert 0 <= allowed <= rate
        if allowed:
            asked, last = asked + allowed, now
    assert asked <= rate * sum(distances) / 60 + 1e-6


def test_a_slow_rate_is_not_starved_by_quick_ticks() -> None:
    assert pacing.allowance(2, NOW, NOW + timedelta(seconds=15)) == 0
    assert pacing.allowance(2, NOW, NOW + timedelta(seconds=30)) == 1


def test_twice_at_once_is_nothing_the_second_time() -> None:
    assert pacing.allowance(1000, NOW, NOW) == 0
    assert pacing.allowance(1000, NOW, NOW - timedelta(hours=1)) == 0


@pytest.mark.parametrize(
    ("done", "of", "percent", "expected"),
    [(95, 100, 95, True), (94, 100, 95, False), (0, 0, 95, True), (2, 3, 66, True), (1, 3, 34, False)],
)
def test_enough_is_a_share(done: int, of: int, percent: int, expected: bool) -> None:
    assert pacing.is_reached(done, of, percent) is expected


def test_pauses_grow_and_the_last_repeats() -> None:
    pauses = [pacing.pause_after(number, pacing.EXPIRY_PAUSES) for number in range(1, 7)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == pauses[-2] == pacing.EXPIRY_PAUSES[-1]


def test_time_needed_is_rounded_up() -> None:
    assert [pacing.minutes_needed(devices, 60) for devices in (0, 1, 60, 61)] == [0, 1, 1, 2]
