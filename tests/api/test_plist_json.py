"""Property lists as JSON and back."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.answers import without_secrets
from api.plist_json import NotAPropertyList, to_json, to_plist
from commands.core.masking import MASK

keys = st.text(max_size=8).filter(lambda key: not key.startswith("$"))
moments = st.integers(0, 7_200_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))
scalars = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), moments)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
)


@given(st.dictionaries(keys, values, max_size=4))
def test_there_and_back(value: dict[str, Any]) -> None:
    assert to_plist(json.loads(json.dumps(to_json(value)))) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$data", "$date", "$x", "a", ""]), inner, max_size=3)
    ),
)


@given(json_values)
def test_any_json_is_taken_or_refused_in_our_own_words(value: Any) -> None:
    with suppress(NotAPropertyList):
        to_plist(value)


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, None]}, "payload.a[1]"),
        ({"a": {"$data": "AAA"}}, "payload.a"),
        ({"a": {"$data": 5}}, "payload.a"),
        ({"a": {"$data": "AAAA", "b": 1}}, "payload.a"),
        ({"a": {"$date": "2026-11-24T05:40:00"}}, "payload.a"),
        ({"a": {"$uid": 1}}, "payload.a"),
    ],
)
def test_the_place_is_named(value: Any, where: str) -> None:
    with pytest.raises(NotAPropertyList) as caught:
        to_plist(value)
    assert str(caught.value).startswith(f"{where}:")


def test_secrets_are_masked_and_data_is_kept() -> None:
    answer = {
        "PasscodePresent": True,
        "SecurityInfo": {"FDE_PersonalRecoveryKeyDeviceKey": "x", "FDE_Enabled": True},
        "Users": [{"UnlockToken": b"x", "FullName": "Ada"}],
        "ActivationLockBypassCode": "x",
        "CertificateList": [{"CommonName": "CA", "Data": b"\x30\x82", "IsIdentity": False}],
    }
    assert without_secrets(answer) == {
        "PasscodePresent": True,
        "SecurityInfo": {"FDE_PersonalRecoveryKeyDeviceKey": MASK, "FDE_Enabled": True},
        "Users": [{"UnlockToken": MASK, "FullName": "Ada"}],
        "ActivationLockBypassCode": MASK,
        "CertificateList": [{"CommonName": "CA", "Data": b"\x30\x82", "IsIdentity": False}],
    }


@given(st.dictionaries(keys, values, max_size=4))
def test_any_answer_keeps_its_shape(answer: dict[str, Any]) -> None:
    shown = without_secrets(answer)
    assert shown.keys() == answer.keys()
    json.dumps(to_json(shown))
