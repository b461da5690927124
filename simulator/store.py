"""Devices in a folder, so that a later run goes on with the same ones: one JSON file each, mode 0600."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from simulator.answers import Contents
from simulator.device import Behaviour, Enrolled, SimulatedDevice
from simulator.device_ca import Manufactured
from simulator.enrolment_profile import MdmFacts
from simulator.hardware import Hardware
from simulator.keys import key_from_pem, key_to_pem, write_private

VERSION = 1


class StoreError(Exception):
    """A file in the folder is not what :func:`save` writes."""


def save(folder: Path, number: int, device: SimulatedDevice) -> None:
    """Keep device ``number``."""
    write_private(folder / _file_name(number), json.dumps(_as_json(device), indent=1, default=_encode))


def load(folder: Path, number: int, behaviour: Behaviour) -> SimulatedDevice | None:
    """Device ``number``, if it was kept. Raises :class:`StoreError`."""
    path = folder / _file_name(number)
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(), object_hook=_decode)
        if value["version"] != VERSION:
            raise StoreError(f"{path}: written by another version")
        return _from_json(value, behaviour)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: {error}") from error


def _file_name(number: int) -> str:
    return f"device-{number:05}.json"


def _as_json(device: SimulatedDevice) -> dict[str, Any]:
    return {
        "version": VERSION,
        "hardware": device.hardware.as_json(),
        "private_key": key_to_pem(device.private_key),
        "manufactured": _manufactured_as_json(device.manufactured),
        "signed_attributes": device.behaviour.signed_attributes,
        "contents": asdict(device.contents),
        "enrolled": asdict(device.enrolled) if device.enrolled else None,
        "answered": list(device.answered),
        "unsent": device.unsent,
    }


def _from_json(value: dict[str, Any], behaviour: Behaviour) -> SimulatedDevice:
    device = SimulatedDevice(
        Hardware.from_json(value["hardware"]),
        key_from_pem(value["private_key"]),
        behaviour=replace(behaviour, signed_attributes=value["signed_attributes"]),
    )
    if made := value.get("manufactured"):  # a device that was kept before there was any has none
        device.manufactured = Manufactured(made["certificate"], key_from_pem(made["private_key"]))
    contents = value["contents"]
    contents["certificates"] = [tuple(entry) for entry in contents["certificates"]]
    device.contents = Contents(**contents)
    if value["enrolled"]:
        mdm = value["enrolled"]["mdm"]
        pinned = {name: tuple(mdm.get(name, ())) for name in ("server_pinned", "check_in_pinned")}
        device.enrolled = Enrolled(**{**value["enrolled"], "mdm": MdmFacts(**{**mdm, **pinned})})
        device.anchors = tuple(
            der for _name, der, is_identity in device.contents.certificates if not is_identity
        )
    device.answered = dict.fromkeys(value["answered"])
    device.unsent = value["unsent"]
    return device


def _manufactured_as_json(manufactured: Manufactured | None) -> dict[str, Any] | None:
    if manufactured is None:
        return None
    return {
        "certificate": manufactured.certificate,
        "private_key": key_to_pem(manufactured.private_key),
    }


def _encode(value: object) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} is not kept")


def _decode(value: dict[str, Any]) -> Any:
    if set(value) == {"base64"}:
        return base64.b64decode(value["base64"], validate=True)
    return value
