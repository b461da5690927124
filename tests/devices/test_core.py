"""Ids, texts, platforms, facts: pure functions, total on anything."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.core.facts import MAX_TEXT, device_fields, to_json
from devices.core.identity import (
    SHARED_IPAD_USER,
    ChannelIdentity,
    IdentityError,
    display_name,
    resolve,
)
from devices.core.platforms import platform_of
from devices.core.text import clean, clean_line, has_controls


@pytest.mark.parametrize(
    ("product", "platform"),
    [
        ("iPhone14,2", "iOS"),
        ("iPod9,1", "iOS"),
        ("iPad14,3", "iPadOS"),
        ("MacBookPro18,3", "macOS"),
        ("Mac16,10", "macOS"),
        ("iMac17,1", "macOS"),
        ("VirtualMac2,1", "macOS"),
        ("AppleTV11,1", "tvOS"),
        ("RealityDevice14,1", "visionOS"),
        ("Watch6,1", "watchOS"),
        ("", ""),
        ("Toaster1,1", ""),
    ],
)
def test_a_product_tells_its_platform(product: str, platform: str) -> None:
    assert platform_of(product) == platform


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"UDID": "A1"}, ChannelIdentity("A1")),
        ({"EnrollmentID": "E1"}, ChannelIdentity("E1", user_enrollment=True)),
        (
            {"UDID": "A1", "UserID": "U", "UserShortName": "anna", "UserLongName": "Anna B"},
            ChannelIdentity("A1", user_id="U", user_short_name="anna", user_long_name="Anna B"),
        ),
        (
            {"EnrollmentID": "E1", "EnrollmentUserID": "U"},
            ChannelIdentity("E1", user_enrollment=True, user_id="U"),
        ),
        (
            {"UDID": "A1", "UserID": SHARED_IPAD_USER.lower(), "UserShortName": "a@x"},
            ChannelIdentity("A1", user_id="a@x", user_short_name="a@x"),
        ),
        # Names without an id are of the device's only user, or decoration: the device channel.
        ({"UDID": "A1", "UserShortName": "anna"}, ChannelIdentity("A1")),
    ],
)
def test_ids_are_resolved(message: dict[str, Any], expected: ChannelIdentity) -> None:
    assert resolve(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"UserID": "U"},
        {"UDID": "A", "EnrollmentID": "E"},
        {"UDID": "A", "EnrollmentUserID": "U"},
        {"EnrollmentID": "E", "UserID": "U"},
        {"UDID": "A", "UserID": SHARED_IPAD_USER},
        {"UDID": "A", "UserID": "\u202eU"},
        {"UDID": None},
        {"UDID": "A" * 65},
        {"UDID": "A/../B"},
    ],
)
def test_ids_that_contradict_each_other_are_refused(message: dict[str, Any]) -> None:
    with pytest.raises(IdentityError) as caught:
        resolve(message)
    assert caught.value.reason


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["UDID", "EnrollmentID", "UserID", "EnrollmentUserID", "UserShortName", "UserLongName"]
        ),
        st.sampled_from(["A", SHARED_IPAD_USER, ""]) | values,
    )
)
def test_resolving_is_total(message: dict[str, Any]) -> None:
    try:
        resolved = resolve(message)
    except IdentityError:
        return
    assert resolved.udid
    assert len(resolved.user_id) <= 200


@given(st.dictionaries(st.text(), values, max_size=5))
def test_facts_are_json_that_any_database_holds(answers: dict[str, Any]) -> None:
    text = json.dumps(to_json(answers), allow_nan=False)
    assert "\\u0000" not in text
    for field, value in device_fields(answers).items():
        assert isinstance(value, str), field


def test_facts_keep_no_recovery_keys() -> None:
    assert to_json({"FDE_PersonalRecoveryKeyCMS": b"x", "a": {"FDE_PersonalRecoveryKeyDeviceKey": "y"}}) == {
        "a": {}
    }


def test_facts_in_their_json_form() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert to_json({"data": b"\x00", "at": moment, "real": float("nan"), "list": [1, True]}) == {
        "data": "AA==",
        "at": "2026-01-02T03:04:05+00:00",
        "real": None,
        "list": [1, True],
    }
    assert len(to_json({"x": "y" * 100_000})["x"]) == MAX_TEXT


def test_facts_that_are_too_deep_are_cut() -> None:
    deep: Any = "bottom"
    for _level in range(100):
        deep = [deep]
    json.dumps(to_json({"x": deep}))


@given(st.text())
def test_clean_texts_hold_no_controls(text: str) -> None:
    assert not has_controls(clean_line(text))
    assert not has_controls(clean(text).replace("\n", "").replace("\t", ""))
    text.encode("utf-8", "replace")


@given(st.text(), st.integers(1, 50))
def test_names_are_cut_to_measure(text: str, longest: int) -> None:
    try:
        name = display_name(text, "Name", longest, most=40)
    except IdentityError:
        assert len(text) > 40
        return
    assert len(name) <= longest
    assert name == name.strip()
