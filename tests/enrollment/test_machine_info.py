"""What a device says of itself, and what it may not say."""

from __future__ import annotations

import plistlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrollment.core.machine_info import (
    ATTRIBUTES,
    MachineInfo,
    MachineInfoError,
    decode_machine_info,
    normal_serial_number,
)

SAID = {
    "UDID": "00008030-001A2B3C4D5E6F70",
    "SERIAL": "f4gx10ab0d9x",
    "PRODUCT": "iPhone12,8",
    "VERSION": "22B83",
    "IMEI": "35 123456 789012 3",
    "MEID": "35123456789012",
    "CHALLENGE": "abc",
}


def decoded(**changes: Any) -> MachineInfo:
    said = {key: value for key, value in {**SAID, **changes}.items() if value is not None}
    return decode_machine_info(plistlib.dumps(said))


def test_what_a_phone_says() -> None:
    assert decoded() == MachineInfo(
        udid="00008030-001A2B3C4D5E6F70",
        serial_number="F4GX10AB0D9X",
        product="iPhone12,8",
        version="22B83",
        imei="35 123456 789012 3",
        meid="35123456789012",
        challenge="abc",
    )
    assert set(ATTRIBUTES) == set(SAID) - {"CHALLENGE"}


def test_what_a_mac_says_beside_it_is_left_aside() -> None:
    info = decoded(
        IMEI=None, MEID=None, NotOnConsole=False, UserID="501", UserShortName="anna", LANGUAGE="en"
    )
    assert (info.imei, info.meid, info.serial_number) == ("", "", "F4GX10AB0D9X")


@pytest.mark.parametrize("serial", ["F4GX10AB0D9X", "f4gx10ab0d9x", " F4GX 10AB 0D9X\n"])
def test_a_serial_number_has_one_form(serial: str) -> None:
    assert normal_serial_number(serial) == decoded(SERIAL=serial).serial_number == "F4GX10AB0D9X"


@pytest.mark.parametrize("name", ["UDID", "SERIAL"])
@pytest.mark.parametrize("value", [None, "", "   "])
def test_a_device_says_which_it_is(name: str, value: str | None) -> None:
    with pytest.raises(MachineInfoError, match=f"{name} is missing"):
        decoded(**{name: value})


@pytest.mark.parametrize("name", sorted(SAID))
@pytest.mark.parametrize("value", [5, 1.5, True, b"x", ["x"], {"x": "y"}])
def test_all_of_it_is_text(name: str, value: object) -> None:
    with pytest.raises(MachineInfoError, match=f"{name} is not text"):
        decoded(**{name: value})


@pytest.mark.parametrize("name", sorted(SAID))
def test_none_of_it_is_long(name: str) -> None:
    decoded(**{name: "x" * 64})
    with pytest.raises(MachineInfoError, match=f"{name} is longer"):
        decoded(**{name: "x" * 256})


@pytest.mark.parametrize("value", ["C01\u202eX", "C01\u200bX", "C01\u00a0X", "C01\nX"])
def test_all_of_it_prints(value: str) -> None:
    """What reorders or hides text would show another serial number than it is."""
    with pytest.raises(MachineInfoError, match="do not print"):
        decoded(PRODUCT=value)


def test_markup_is_text() -> None:
    product = "</string><key>X</key><b>{{7*7}}</b>"
    assert decoded(PRODUCT=product).product == product


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<plist/>",
        b"<plist><array/></plist>",
        b"bplist00\x00",
        b'<!DOCTYPE p [<!ENTITY a "b">]><plist><dict/></plist>',
        b"1\x0b0\x09\x06\x03U\x04\x03\x0c\x02hi",
    ],
)
def test_other_content_is_refused(content: bytes) -> None:
    with pytest.raises(MachineInfoError):
        decode_machine_info(content)


def test_a_large_or_deep_one_is_refused() -> None:
    with pytest.raises(MachineInfoError, match="larger"):
        decoded(LANGUAGE="x" * 20_000)
    with pytest.raises(MachineInfoError, match="deeper"):
        decoded(LANGUAGE=[[[[["x"]]]]])
    with pytest.raises(MachineInfoError, match="more nodes"):
        decoded(LANGUAGE=["x"] * 500)


@given(st.binary(max_size=300))
def test_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(MachineInfoError):
        decode_machine_info(data)


@given(
    st.dictionaries(st.sampled_from([*SAID, "OTHER"]), st.text(max_size=80) | st.integers(0, 9), max_size=8)
)
def test_any_words_are_read_or_refused(said: dict[str, Any]) -> None:
    try:
        data = plistlib.dumps(said)
    except ValueError:
        return
    try:
        info = decode_machine_info(data)
    except MachineInfoError:
        return
    assert info.udid
    assert info.serial_number == normal_serial_number(info.serial_number)
