"""Decoding check-in messages: what devices send, and what they never would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.core import plist
from commands.core.report import decode_report
from devices.core.identity import SHARED_IPAD_USER, resolve
from mdm.core.checkin import (
    MAX_CHECKIN,
    MESSAGE_TYPES,
    Authenticate,
    CheckinError,
    CheckOut,
    GetBootstrapToken,
    SetBootstrapToken,
    TokenUpdate,
    UserAuthenticate,
    decode_checkin,
)

MESSAGES = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "mdm"
UDID = "00008030-001A2D3E4F5A6B7C"
AUTHENTICATE = {"MessageType": "Authenticate", "UDID": UDID, "Topic": "com.apple.mgmt.x"}
TOKEN_UPDATE = {
    "MessageType": "TokenUpdate",
    "UDID": UDID,
    "Topic": "com.apple.mgmt.x",
    "Token": b"\x01" * 32,
    "PushMagic": "magic",
}


def real_messages(*folders: str) -> list[Any]:
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.name}")
        for folder in folders
        for path in sorted((MESSAGES / folder).glob("*"))
    ] or [pytest.param(None, id="absent")]


@pytest.mark.parametrize("path", real_messages("Authenticate", "TokenUpdate", "CheckOut"))
def test_check_ins_of_real_devices_decode(path: Path | None) -> None:
    if path is None:
        pytest.skip("the messages of real devices are not here")
    decoded = decode_checkin(plist.read(path.read_bytes(), max_size=MAX_CHECKIN))
    expected = {"Authenticate": Authenticate, "TokenUpdate": TokenUpdate, "CheckOut": CheckOut}
    assert isinstance(decoded, expected[path.parent.name])
    assert decoded.channel.is_user == ("user" in path.name)


@pytest.mark.parametrize(
    "path",
    real_messages(
        "CertificateList",
        "DeviceInformation",
        "DeviceLock",
        "Errors",
        "InstalledApplicationList",
        "ManagedApplicationList",
        "NotNow",
        "ProfileList",
        "SecurityInfo",
    ),
)
def test_reports_of_real_devices_decode(path: Path | None) -> None:
    if path is None:
        pytest.skip("the messages of real devices are not here")
    message = plist.read(path.read_bytes(), max_size=10 * 1024 * 1024)
    assert decode_report(message).command_uuid_text
    assert resolve(message).udid


def test_an_authenticate_keeps_what_the_device_says() -> None:
    decoded = decode_checkin(
        AUTHENTICATE
        | {"DeviceName": "A\u0301nna\x07's Mac", "SerialNumber": "C02X", "ProductName": "Mac16,10", "Junk": 1}
    )
    assert isinstance(decoded, Authenticate)
    assert (decoded.name, decoded.serial_number, decoded.product_name) == ("Ánna's Mac", "C02X", "Mac16,10")
    assert decoded.channel.udid == UDID
    assert not decoded.channel.is_user


def test_a_user_enrolment_is_named_by_its_enrollment_id() -> None:
    message = {**AUTHENTICATE, "EnrollmentID": "ABCDEF0123456789"}
    del message["UDID"]
    decoded = decode_checkin(message)
    assert decoded.channel.user_enrollment
    assert decoded.channel.udid == "ABCDEF0123456789"
    without_udid = {key: value for key, value in TOKEN_UPDATE.items() if key != "UDID"}
    user = decode_checkin({**without_udid, "EnrollmentID": "E1", "EnrollmentUserID": "U1"})
    assert user.channel.user_id == "U1"


def test_users_of_a_shared_ipad_are_told_apart_by_their_short_name() -> None:
    decoded = decode_checkin(
        {**TOKEN_UPDATE, "UserID": SHARED_IPAD_USER, "UserShortName": "anna@school.example"}
    )
    assert decoded.channel.user_id == "anna@school.example"
    with pytest.raises(CheckinError, match="UserShortName"):
        decode_checkin({**TOKEN_UPDATE, "UserID": SHARED_IPAD_USER})


def test_what_a_token_update_leaves_out_is_none() -> None:
    decoded = decode_checkin(TOKEN_UPDATE)
    assert isinstance(decoded, TokenUpdate)
    assert (decoded.unlock_token, decoded.awaiting_configuration, decoded.not_on_console) == (
        None,
        None,
        None,
    )
    assert "magic" not in repr(decoded)


def test_a_bootstrap_token_without_value_means_forget() -> None:
    decoded = decode_checkin({"MessageType": "SetBootstrapToken", "UDID": UDID})
    assert isinstance(decoded, SetBootstrapToken)
    assert decoded.token == b""


def test_other_messages() -> None:
    assert isinstance(decode_checkin({"MessageType": "GetBootstrapToken", "UDID": UDID}), GetBootstrapToken)
    assert isinstance(
        decode_checkin({"MessageType": "UserAuthenticate", "UDID": UDID, "UserID": "U"}), UserAuthenticate
    )


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"MessageType": 1},
        {"MessageType": "authenticate", "UDID": UDID},
        {"MessageType": "ReturnToService", "UDID": UDID},
        {"MessageType": "Authenticate", "Topic": "t"},
        {**AUTHENTICATE, "UDID": 7},
        {**AUTHENTICATE, "UDID": b"x"},
        {**AUTHENTICATE, "UDID": ["x"]},
        {**AUTHENTICATE, "UDID": ""},
        {**AUTHENTICATE, "UDID": "x" * 65},
        {**AUTHENTICATE, "UDID": "../../etc"},
        {**AUTHENTICATE, "UDID": "a\nb"},
        {**AUTHENTICATE, "EnrollmentID": "x"},
        {**AUTHENTICATE, "UserID": "u"},
        {**AUTHENTICATE, "EnrollmentUserID": "u"},
        {**AUTHENTICATE, "Topic": ""},
        {**AUTHENTICATE, "Topic": "t" * 201},
        {**AUTHENTICATE, "Topic": True},
        {**AUTHENTICATE, "SerialNumber": "a\x1b[31m"},
        {**AUTHENTICATE, "SerialNumber": {"a": 1}},
        {**AUTHENTICATE, "OSVersion": 15},
        {**AUTHENTICATE, "DeviceName": "x" * 1025},
        {**AUTHENTICATE, "DeviceName": b"x"},
        {**TOKEN_UPDATE, "Token": b""},
        {**TOKEN_UPDATE, "Token": "text"},
        {**TOKEN_UPDATE, "Token": b"x" * 256},
        {**TOKEN_UPDATE, "PushMagic": ""},
        {**TOKEN_UPDATE, "PushMagic": "m" * 101},
        {**TOKEN_UPDATE, "PushMagic": 1},
        {**TOKEN_UPDATE, "UnlockToken": "text"},
        {**TOKEN_UPDATE, "UnlockToken": b"x" * 65_537},
        {**TOKEN_UPDATE, "AwaitingConfiguration": 1},
        {**TOKEN_UPDATE, "NotOnConsole": "yes"},
        {**TOKEN_UPDATE, "UserID": ""},
        {**TOKEN_UPDATE, "UserID": "u" * 201},
        {**TOKEN_UPDATE, "UserID": "u", "UserShortName": 4},
        {**TOKEN_UPDATE, "UserID": "u", "UserLongName": ["x"]},
        {"MessageType": "SetBootstrapToken", "UDID": UDID, "BootstrapToken": "text"},
        {"MessageType": "SetBootstrapToken", "UDID": UDID, "UserID": "u"},
        {"MessageType": "GetBootstrapToken", "UDID": UDID, "UserID": "u"},
        {"MessageType": "UserAuthenticate", "UDID": UDID},
        {"MessageType": "DeclarativeManagement", "UDID": UDID},
        {"MessageType": "GetToken", "UDID": UDID, "TokenServiceType": 3},
    ],
)
def test_what_no_device_sends_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(CheckinError):
        decode_checkin(message)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "UDID", "EnrollmentID", "UserID", "EnrollmentUserID", "UserShortName", "UserLongName", "Topic", "Token",
    "PushMagic", "UnlockToken", "AwaitingConfiguration", "NotOnConsole", "SerialNumber", "DeviceName",
    "BootstrapToken", "Endpoint", "Data", "TokenServiceType",
]  # fmt: skip


@given(
    message_type=st.sampled_from(MESSAGE_TYPES) | st.text(),
    base=st.sampled_from([{}, AUTHENTICATE, TOKEN_UPDATE]),
    changes=st.dictionaries(st.sampled_from(KEYS) | st.text(), values, max_size=6),
)
def test_the_decoder_is_total(message_type: str, base: dict[str, Any], changes: dict[str, Any]) -> None:
    try:
        decoded = decode_checkin({**base, **changes, "MessageType": message_type})
    except CheckinError:
        pass
    else:
        assert 0 < len(decoded.channel.udid) <= 64
        assert len(decoded.channel.user_id) <= 200
