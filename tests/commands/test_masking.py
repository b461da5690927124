"""What onlookers see of requests and answers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from commands.core.masking import MASK, masked, readable


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PIN", "918273"),
        ("PIN", 918273),
        ("Password", "x"),
        ("NewPassword", "x"),
        ("CurrentPassword", "x"),
        ("passwordHash", b"x"),
        ("UnlockToken", b"x"),
        ("BootstrapToken", b"x"),
        ("PersonalRecoveryKey", "x"),
        ("FDE_PersonalRecoveryKeyCMS64.Key", "x"),
        ("ActivationLockBypassCode", "x"),
        ("SharedSecret", "x"),
        ("Challenge", "x"),
        ("PushMagic", "x"),
        ("RedemptionCode", "x"),
    ],
)
def test_secrets_are_masked_at_any_depth(key: str, value: object) -> None:
    assert masked({key: value}) == {key: MASK}
    assert masked({"a": [{"b": {key: value}}]}) == {"a": [{"b": {key: MASK}}]}
    assert masked({key: [value, value]}) == {key: [MASK, MASK]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("PasscodePresent", True),
        ("KeyType", "personal"),
        ("SerialNumber", "F00"),
        ("MaxPasswordAgeInDays", 90),
        ("Message", "hello"),
        ("BatteryLevel", 0.5),
        ("LastCloudBackupDate", datetime(2026, 1, 1, tzinfo=UTC)),
        ("Password", ""),
        ("RequirePassword", False),
    ],
)
def test_the_rest_is_shown(key: str, value: object) -> None:
    assert masked({key: value}) == {key: value}


def test_data_is_only_counted() -> None:
    assert masked({"Payload": bytes(1234)}) == {"Payload": "(1234 bytes)"}


def test_readable() -> None:
    text, cut = readable({"PIN": "123456", "Message": "<b>", "Payload": b"xyz"})
    assert "123456" not in text
    assert "<string>&lt;b&gt;</string>" in text
    assert "(3 bytes)" in text
    assert not cut
    text, cut = readable({"list": list(range(5000))})
    assert cut
    assert len(text.splitlines()) == 3000
