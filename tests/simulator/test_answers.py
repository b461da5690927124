"""What simulated devices answer."""

from __future__ import annotations

import plistlib
from collections.abc import Callable
from datetime import UTC
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.core import plist
from simulator.answers import ANSWERS, Contents, Effect, answer, may_be_not_now
from simulator.hardware import Hardware, make_hardware


def find(condition: Callable[[Hardware], bool]) -> Hardware:
    return next(made for number in range(1, 500) if condition(made := make_hardware("seed", number)))


PHONE = find(lambda made: made.product_name == "iPhone17,1")
MAC = find(lambda made: made.is_mac)
TV = find(lambda made: made.platform == "tvOS")
EVERY = [PHONE, MAC, TV]


def contents(hardware: Hardware) -> Contents:
    return Contents(
        name=hardware.name,
        management_identifier="org.bramley.enrollment.x",
        profiles={"org.bramley.enrollment.x": {"PayloadIdentifier": "org.bramley.enrollment.x"}},
        certificates=[("Device identity", b"DER", True)],
    )


def profile(identifier: str = "com.example.wifi", kind: str = "com.apple.wifi.managed") -> bytes:
    part = {
        "PayloadType": kind,
        "PayloadIdentifier": f"{identifier}.1",
        "PayloadUUID": "B",
        "PayloadVersion": 1,
    }
    return plistlib.dumps(
        {
            "PayloadType": "Configuration",
            "PayloadIdentifier": identifier,
            "PayloadUUID": "A",
            "PayloadVersion": 1,
            "PayloadDisplayName": "Wi-Fi",
            "PayloadContent": [part],
        }
    )


@pytest.mark.parametrize("hardware", EVERY, ids=lambda made: made.platform)
@pytest.mark.parametrize("request_type", sorted(ANSWERS))
def test_every_answer_is_a_property_list(hardware: Hardware, request_type: str) -> None:
    given_answer = answer(hardware, contents(hardware), {"RequestType": request_type})
    assert given_answer.status in {"Acknowledged", "Error", "CommandFormatError"}
    assert ("ErrorChain" in given_answer.keys) == (given_answer.status != "Acknowledged")
    plist.read(plist.write({"Status": given_answer.status, **given_answer.keys}), max_size=1 << 20)


VALUES: Any = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(EVERY),
    st.sampled_from([*ANSWERS, "Nonsense", 7]),
    st.dictionaries(
        st.sampled_from(
            ["Queries", "Payload", "Identifier", "Settings", "PIN", "UnlockToken", "Identifiers"]
        ),
        VALUES,
    ),
)
def test_no_command_breaks_a_device(hardware: Hardware, request_type: object, rest: dict[str, Any]) -> None:
    answer(hardware, contents(hardware), {**rest, "RequestType": request_type})


def test_an_unknown_command_is_a_format_error() -> None:
    given_answer = answer(PHONE, contents(PHONE), {"RequestType": "MakeCoffee"})
    assert given_answer.status == "CommandFormatError"
    assert given_answer.keys["ErrorChain"][0]["ErrorDomain"] == "MCMDMErrorDomain"


def test_device_information_answers_what_is_asked_and_known() -> None:
    asked = ["UDID", "SerialNumber", "DeviceName", "EthernetMAC", "Nonsense"]
    command = {"RequestType": "DeviceInformation", "Queries": asked}
    assert answer(PHONE, contents(PHONE), command).keys["QueryResponses"] == {
        "UDID": PHONE.udid,
        "SerialNumber": PHONE.serial_number,
        "DeviceName": PHONE.name,
    }
    odd = {"RequestType": "DeviceInformation", "Queries": [{}, ["UDID"], 7]}
    assert answer(PHONE, contents(PHONE), odd).keys["QueryResponses"] == {}
    everything = answer(MAC, contents(MAC), {"RequestType": "DeviceInformation"}).keys["QueryResponses"]
    assert everything["ProvisioningUDID"] == MAC.provisioning_udid
    assert "IMEI" not in everything


def test_a_name_that_was_set_is_the_name() -> None:
    on_device = contents(PHONE)
    settings = [{"Item": "DeviceName", "DeviceName": "Till 4"}, {"Item": "Bluetooth", "Enabled": True}]
    given_answer = answer(PHONE, on_device, {"RequestType": "Settings", "Settings": settings})
    assert [result["Status"] for result in given_answer.keys["Settings"]] == ["Acknowledged"] * 2
    command = {"RequestType": "DeviceInformation", "Queries": ["DeviceName"]}
    assert answer(PHONE, on_device, command).keys["QueryResponses"] == {"DeviceName": "Till 4"}


def test_profiles_come_and_go() -> None:
    on_device = contents(MAC)
    install = {"RequestType": "InstallProfile", "Payload": profile()}
    assert answer(MAC, on_device, install).status == "Acknowledged"
    listed = answer(MAC, on_device, {"RequestType": "ProfileList"}).keys["ProfileList"]
    assert [entry["PayloadIdentifier"] for entry in listed] == [
        "org.bramley.enrollment.x",
        "com.example.wifi",
    ]
    remove = {"RequestType": "RemoveProfile", "Identifier": "com.example.wifi"}
    assert answer(MAC, on_device, remove).status == "Acknowledged"
    assert answer(MAC, on_device, remove).status == "Error"
    assert len(on_device.profiles) == 1


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"<plist>", profile(kind="com.apple.mdm"), None])
def test_a_bad_profile_is_an_error_and_changes_nothing(payload: bytes | None) -> None:
    on_device = contents(MAC)
    before = dict(on_device.profiles)
    given_answer = answer(MAC, on_device, {"RequestType": "InstallProfile", "Payload": payload})
    assert given_answer.status in {"Error", "CommandFormatError"}
    assert on_device.profiles == before


def test_what_ends_the_enrolment_says_so() -> None:
    assert answer(PHONE, contents(PHONE), {"RequestType": "EraseDevice"}).effect is Effect.ERASED
    remove = {"RequestType": "RemoveProfile", "Identifier": "org.bramley.enrollment.x"}
    assert answer(PHONE, contents(PHONE), remove).effect is Effect.MANAGEMENT_REMOVED
    renew = {
        "RequestType": "InstallProfile",
        "Payload": profile("org.bramley.enrollment.x", "com.apple.mdm"),
    }
    assert answer(PHONE, contents(PHONE), renew).effect is Effect.RENEWED


def test_platforms_differ() -> None:
    phone = answer(PHONE, contents(PHONE), {"RequestType": "SecurityInfo"}).keys["SecurityInfo"]
    mac = answer(MAC, contents(MAC), {"RequestType": "SecurityInfo"}).keys["SecurityInfo"]
    assert "PasscodePresent" in phone
    assert "FDE_Enabled" not in phone
    assert "FDE_Enabled" in mac
    assert answer(PHONE, contents(PHONE), {"RequestType": "UserList"}).status == "Error"
    assert answer(MAC, contents(MAC), {"RequestType": "UserList"}).status == "Acknowledged"


def test_what_ios_never_puts_off() -> None:
    assert not may_be_not_now("EraseDevice")
    assert may_be_not_now("InstallProfile")
