"""The facts about commands, held against Apple's schema where it is at hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from commands.core import catalogue, plist
from commands.core.catalogue import REQUEST_TYPES

SCHEMA = Path(__file__).resolve().parents[3] / "shared" / "apple-schema" / "os18.1" / "mdm" / "commands"
FACTS = {
    "requesttype": re.compile(r"^\s+requesttype: (\S+)$", re.MULTILINE),
    "key": re.compile(r"^- key: (\S+)\n(?:  .*\n)*?  presence: (\w+)$", re.MULTILINE),
    "platform": re.compile(r"^    (\w+OS):\n      introduced: '?([^'\n]+)'?$", re.MULTILINE),
}


def schema_files() -> list[Path]:
    if not SCHEMA.is_dir():
        pytest.skip("Apple's schema (../shared/apple-schema) is not here")
    return sorted(SCHEMA.glob("*.yaml"))


def test_every_command_of_the_schema_is_known_and_no_other() -> None:
    names = {FACTS["requesttype"].findall(path.read_text())[0] for path in schema_files()}
    assert len(names) == 66
    assert names == set(REQUEST_TYPES)


def test_keys_and_platforms_are_those_of_the_schema() -> None:
    for path in schema_files():
        text = path.read_text()
        known = REQUEST_TYPES[FACTS["requesttype"].findall(text)[0]]
        request = text.split("\npayloadkeys:\n", 1)[1] if "\npayloadkeys:\n" in text else ""
        request = request.split("\nresponsekeys:\n", 1)[0]
        keys = dict(FACTS["key"].findall("\n" + request))
        assert set(keys) == {*known.required, *known.optional}, known.name
        assert {key for key, presence in keys.items() if presence == "required"} == set(known.required)
        head = text.split("\npayloadkeys:\n", 1)[0].split("\nresponsekeys:\n", 1)[0]
        introduced = {os: since for os, since in FACTS["platform"].findall(head) if since != "n/a"}
        assert introduced == {os: support.introduced for os, support in known.platforms.items()}, known.name


def test_dangerous_commands_go_out_at_most_once() -> None:
    dangerous = {
        *("EraseDevice", "DeviceLock", "RestartDevice", "ShutDownDevice", "ClearPasscode"),
        *("ClearRestrictionsPassword", "RotateFileVaultKey", "SetAutoAdminPassword", "SetRecoveryLock"),
        *("SetFirmwarePassword", "DeleteUser", "LogOutUser", "LOMDeviceRequest"),
    }
    assert {name for name in REQUEST_TYPES if catalogue.at_most_once(name)} == dangerous
    assert not catalogue.at_most_once("DoSomethingNew")


def test_what_never_says_not_now() -> None:
    assert {name for name, known in REQUEST_TYPES.items() if known.never_not_now} == {
        *("DeviceInformation", "ProfileList", "DeviceLock", "EraseDevice", "ClearPasscode"),
        *("ProvisioningProfileList", "InstalledApplicationList", "Restrictions"),
    }


def test_required_keys() -> None:
    assert catalogue.missing_keys("InstallProfile", {}) == ("Payload",)
    assert catalogue.missing_keys("InstallProfile", {"Payload": b"x"}) == ()
    assert catalogue.missing_keys("DeviceInformation", {}) == ()  # has a default
    assert catalogue.missing_keys("ClearPasscode", {}) == ()  # filled in for each device
    assert catalogue.missing_keys("DoSomethingNew", {}) == ()


def test_channels_and_platforms() -> None:
    assert REQUEST_TYPES["ProfileList"].user_channel
    assert not REQUEST_TYPES["DeviceLock"].user_channel
    assert not REQUEST_TYPES["ActiveNSExtensions"].device_channel
    assert REQUEST_TYPES["DeviceLock"].knows("iPadOS")
    assert not REQUEST_TYPES["DeviceLock"].knows("tvOS")
    assert REQUEST_TYPES["DeviceLock"].knows("")


def test_groups_hold_every_command_once() -> None:
    names = [command.name for _, commands in catalogue.by_group() for command in commands]
    assert sorted(names) == sorted(REQUEST_TYPES)
    assert all(commands for _, commands in catalogue.by_group())


def test_defaults_can_be_written() -> None:
    for known in REQUEST_TYPES.values():
        assert plist.write({"RequestType": known.name, **known.defaults})
