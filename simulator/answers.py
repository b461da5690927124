"""What a device answers to a command: a table from RequestType to a function.

Inventory is plausible and, for the same hardware, always the same but for what commands changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from commands.core import plist
from simulator.enrolment_profile import MAX_PROFILE, open_profile
from simulator.exchange import SimulationError
from simulator.hardware import Hardware, dice
from simulator.inventory import (
    device_information,
    installed_applications,
    restrictions,
    security_information,
    users,
)

# What iOS never answers with NotNow.
NEVER_NOT_NOW = frozenset(
    {
        "ClearPasscode",
        "DeviceInformation",
        "DeviceLock",
        "EraseDevice",
        "InstalledApplicationList",
        "ProfileList",
        "ProvisioningProfileList",
        "Restrictions",
    }
)


class Effect(Enum):
    """What a command does to the enrolment itself, after the answer is sent."""

    ERASED = "erased"
    MANAGEMENT_REMOVED = "management removed"
    RENEWED = "renewed"


@dataclass
class Contents:
    """What is on the device and changes: kept between runs."""

    name: str
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    management_identifier: str = ""
    passcode: bool = True
    locked: bool = False
    lost_mode: bool = False
    certificates: list[tuple[str, bytes, bool]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """Status and response keys; ``effect`` and ``payload`` for what follows."""

    status: str = "Acknowledged"
    keys: Mapping[str, Any] = field(default_factory=dict)
    effect: Effect | None = None
    payload: bytes = b""


Answerer = Callable[[Hardware, Contents, Mapping[str, Any]], Answer]


def answer(hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    """The answer to the ``Command`` dictionary. An unknown RequestType is a CommandFormatError."""
    request_type = command.get("RequestType")
    answerer = ANSWERS.get(request_type) if isinstance(request_type, str) else None
    if answerer is None:
        return error(
            12021, "MCMDMErrorDomain", f"Unknown command: {request_type}", status="CommandFormatError"
        )
    return answerer(hardware, contents, command)


def error(code: int, domain: str, text: str, *, status: str = "Error") -> Answer:
    """An answer with one link of an error chain."""
    return Answer(
        status,
        {
            "ErrorChain": [
                {
                    "ErrorCode": code,
                    "ErrorDomain": domain,
                    "LocalizedDescription": text,
                    "USEnglishDescription": text,
                }
            ]
        },
    )


def may_be_not_now(request_type: object) -> bool:
    """Whether a device may put this command off."""
    return request_type not in NEVER_NOT_NOW


def _acknowledge(_hardware: Hardware, _contents: Contents, _command: Mapping[str, Any]) -> Answer:
    return Answer()


def _device_information(hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    known = device_information(hardware, name=contents.name, lost_mode=contents.lost_mode)
    queries = command.get("Queries")
    wanted = queries if isinstance(queries, list) and queries else list(known)
    found = {name: known[name] for name in wanted if isinstance(name, str) and name in known}
    return Answer(keys={"QueryResponses": found})


def _security_info(hardware: Hardware, contents: Contents, _command: Mapping[str, Any]) -> Answer:
    return Answer(keys={"SecurityInfo": security_information(hardware, passcode=contents.passcode)})


def _profile_list(_hardware: Hardware, contents: Contents, _command: Mapping[str, Any]) -> Answer:
    return Answer(keys={"ProfileList": list(contents.profiles.values())})


def _certificate_list(_hardware: Hardware, contents: Contents, _command: Mapping[str, Any]) -> Answer:
    return Answer(
        keys={
            "CertificateList": [
                {"CommonName": name, "Data": der, "IsIdentity": is_identity}
                for name, der, is_identity in contents.certificates
            ]
        }
    )


def _installed_applications(hardware: Hardware, _contents: Contents, command: Mapping[str, Any]) -> Answer:
    wanted = command.get("Identifiers")
    return Answer(
        keys={
            "InstalledApplicationList": [
                app
                for app in installed_applications(hardware)
                if not isinstance(wanted, list) or app["Identifier"] in wanted
            ]
        }
    )


def _install_profile(_hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    data = command.get("Payload")
    if not isinstance(data, bytes):
        return error(12021, "MCMDMErrorDomain", "InstallProfile without Payload", status="CommandFormatError")
    try:
        plain, _signer = open_profile(data)
        content = plist.read(plain, max_size=MAX_PROFILE)
        entry = profile_entry(content)
    except (SimulationError, plist.PlistError, KeyError, TypeError) as problem:
        return error(4001, "MCInstallationErrorDomain", f"Profile Failed to Install: {problem}")
    types = {payload["PayloadType"] for payload in entry["PayloadContent"]}
    if "com.apple.mdm" in types:
        if entry["PayloadIdentifier"] != contents.management_identifier:
            return error(4001, "MCInstallationErrorDomain", "Only one MDM payload can be installed")
        return Answer(effect=Effect.RENEWED, payload=data)
    contents.profiles[entry["PayloadIdentifier"]] = entry
    return Answer()


def _remove_profile(_hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    identifier = command.get("Identifier")
    if not isinstance(identifier, str) or identifier not in contents.profiles:
        return error(12013, "MCMDMErrorDomain", f"The profile “{identifier}” is not managed by MDM.")
    if identifier == contents.management_identifier:
        return Answer(effect=Effect.MANAGEMENT_REMOVED)
    del contents.profiles[identifier]
    return Answer()


def _device_lock(_hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    contents.locked = True
    if "Message" not in command and "PhoneNumber" not in command:
        return Answer()
    return Answer(keys={"MessageResult": "Success" if contents.passcode else "NoPasscodeSet"})


def _clear_passcode(hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    if hardware.is_mac:
        return error(12021, "MCMDMErrorDomain", "Unknown command: ClearPasscode", status="CommandFormatError")
    if not isinstance(command.get("UnlockToken"), bytes):
        return error(5013, "MCPasscodeErrorDomain", "The unlock token is missing.")
    contents.passcode = contents.locked = False
    return Answer()


def _erase_device(hardware: Hardware, _contents: Contents, command: Mapping[str, Any]) -> Answer:
    pin = command.get("PIN")
    if hardware.is_mac and pin is not None and not (isinstance(pin, str) and len(pin) == 6):
        return error(12002, "MCMDMErrorDomain", "The PIN must be six characters long.")
    return Answer(effect=Effect.ERASED)


def _settings(_hardware: Hardware, contents: Contents, command: Mapping[str, Any]) -> Answer:
    items = command.get("Settings")
    if not isinstance(items, list):
        return error(12021, "MCMDMErrorDomain", "Settings without Settings", status="CommandFormatError")
    results = []
    for item in items:
        if not isinstance(item, dict):
            continue
        if item.get("Item") == "DeviceName" and isinstance(item.get("DeviceName"), str):
            contents.name = item["DeviceName"]
        results.append({"Item": str(item.get("Item")), "Status": "Acknowledged"})
    return Answer(keys={"Settings": results})


def _user_list(hardware: Hardware, _contents: Contents, _command: Mapping[str, Any]) -> Answer:
    if not hardware.is_mac:
        return error(12021, "MCMDMErrorDomain", "UserList is for Shared iPad and Mac.")
    return Answer(keys={"Users": users(hardware)})


def _restrictions(_hardware: Hardware, _contents: Contents, _command: Mapping[str, Any]) -> Answer:
    return Answer(keys={"GlobalRestrictions": restrictions()})


def _enable_lost_mode(_hardware: Hardware, contents: Contents, _command: Mapping[str, Any]) -> Answer:
    contents.lost_mode = True
    return Answer()


def _disable_lost_mode(_hardware: Hardware, contents: Contents, _command: Mapping[str, Any]) -> Answer:
    contents.lost_mode = False
    return Answer()


def _device_location(hardware: Hardware, contents: Contents, _command: Mapping[str, Any]) -> Answer:
    if not contents.lost_mode:
        return error(12067, "MCMDMErrorDomain", "The device is not in MDM Lost Mode.")
    chance = dice(f"{hardware.udid}/location")
    return Answer(
        keys={
            "Latitude": 51.5 + chance.random() / 10,
            "Longitude": -0.1 - chance.random() / 10,
            "HorizontalAccuracy": 65.0,
            "Timestamp": "2024-11-01T12:00:00Z",
        }
    )


def _install_application(_hardware: Hardware, _contents: Contents, command: Mapping[str, Any]) -> Answer:
    return Answer(
        keys={
            "Identifier": str(command.get("Identifier") or command.get("iTunesStoreID") or ""),
            "State": "Queued",
        }
    )


def _fixed(**keys: Any) -> Answerer:
    def fixed(_hardware: Hardware, _contents: Contents, _command: Mapping[str, Any]) -> Answer:
        return Answer(keys=keys)

    return fixed


ANSWERS: Mapping[str, Answerer] = {
    "AccountConfiguration": _acknowledge,
    "ActivationLockBypassCode": _fixed(ActivationLockBypassCode="7YH00-0Z5CK-Y2VD-M4PH-CAKY-RAVG"),
    "AvailableOSUpdates": _fixed(AvailableOSUpdates=[]),
    "CertificateList": _certificate_list,
    "ClearActivationLockBypassCode": _acknowledge,
    "ClearPasscode": _clear_passcode,
    "ClearRestrictionsPassword": _acknowledge,
    "DeclarativeManagement": _acknowledge,
    "DeviceConfigured": _acknowledge,
    "DeviceInformation": _device_information,
    "DeviceLocation": _device_location,
    "DeviceLock": _device_lock,
    "DisableLostMode": _disable_lost_mode,
    "EnableLostMode": _enable_lost_mode,
    "EraseDevice": _erase_device,
    "InstallApplication": _install_application,
    "InstallEnterpriseApplication": _acknowledge,
    "InstallProfile": _install_profile,
    "InstalledApplicationList": _installed_applications,
    "ManagedApplicationList": _fixed(ManagedApplicationList={}),
    "OSUpdateStatus": _fixed(OSUpdateStatus=[]),
    "PlayLostModeSound": _acknowledge,
    "ProfileList": _profile_list,
    "ProvisioningProfileList": _fixed(ProvisioningProfileList=[]),
    "RemoveApplication": _acknowledge,
    "RemoveProfile": _remove_profile,
    "RestartDevice": _acknowledge,
    "Restrictions": _restrictions,
    "ScheduleOSUpdate": _fixed(UpdateResults=[]),
    "ScheduleOSUpdateScan": _fixed(ScanInitiated=True),
    "SecurityInfo": _security_info,
    "Settings": _settings,
    "ShutDownDevice": _acknowledge,
    "UserList": _user_list,
}


def profile_entry(content: Mapping[str, Any]) -> dict[str, Any]:
    """How an installed profile appears in ProfileList. Raises KeyError or TypeError for what is none."""
    inner = content["PayloadContent"]
    return {
        **_named(content),
        "PayloadRemovalDisallowed": bool(content.get("PayloadRemovalDisallowed", False)),
        "HasRemovalPasscode": False,
        "IsEncrypted": False,
        "IsManaged": True,
        "PayloadContent": [{**_named(part), "PayloadType": str(part["PayloadType"])} for part in inner],
    }


def _named(part: Mapping[str, Any]) -> dict[str, Any]:
    optional = ("PayloadDisplayName", "PayloadOrganization", "PayloadDescription")
    return {
        "PayloadIdentifier": str(part["PayloadIdentifier"]),
        "PayloadUUID": str(part["PayloadUUID"]),
        "PayloadVersion": 1,
        **{name: str(part[name]) for name in optional if name in part},
    }
