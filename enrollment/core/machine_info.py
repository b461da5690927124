"""What a device says of itself when it asks to enrol: the attributes in a message that it signed.

Over the air they are those that phase 1 asked for (Apple: "Profile Service"), with the challenge beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from commands.core import plist

# What phase 1 asks for, in Apple's words. A name that its owner gave the device is not needed to enrol it.
ATTRIBUTES = ("UDID", "VERSION", "PRODUCT", "SERIAL", "IMEI", "MEID")

MAX_CONTENT = 16 * 1024
MAX_DEPTH = 4
MAX_NODES = 200
MAX_VALUE = 64
MAX_CHALLENGE = 255


class MachineInfoError(Exception):
    """The message does not say what it must; ``reason`` is for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class MachineInfo:
    """One device's words. What it did not say is empty.

    ``serial_number`` is in its normal form (:func:`normal_serial_number`). ``version`` is what Apple calls
    the build ("22B83").
    """

    udid: str
    serial_number: str
    product: str = ""
    version: str = ""
    imei: str = ""
    meid: str = ""
    challenge: str = ""


def decode_machine_info(content: bytes) -> MachineInfo:
    """Read the signed content, an XML property list. Raises :class:`MachineInfoError`, and nothing else.

    UDID and SERIAL must be there. Other keys than the known ones are left aside: macOS adds some.
    """
    try:
        said = plist.read(content, max_size=MAX_CONTENT, max_depth=MAX_DEPTH, max_nodes=MAX_NODES)
    except plist.PlistError as error:
        raise MachineInfoError(str(error)) from error
    info = MachineInfo(
        udid=_text(said, "UDID"),
        serial_number=normal_serial_number(_text(said, "SERIAL")),
        product=_text(said, "PRODUCT"),
        version=_text(said, "VERSION"),
        imei=_text(said, "IMEI"),
        meid=_text(said, "MEID"),
        challenge=_text(said, "CHALLENGE", limit=MAX_CHALLENGE),
    )
    if not info.udid:
        raise MachineInfoError("UDID is missing")
    if not info.serial_number:
        raise MachineInfoError("SERIAL is missing")
    return info


def normal_serial_number(serial_number: str) -> str:
    """One form for each serial number: capital letters, no white space."""
    return "".join(serial_number.split()).upper()


def _text(said: dict[str, Any], key: str, *, limit: int = MAX_VALUE) -> str:
    value = said.get(key, "")
    if not isinstance(value, str):
        raise MachineInfoError(f"{key} is not text")
    value = value.strip()
    if len(value) > limit:
        raise MachineInfoError(f"{key} is longer than {limit} characters")
    if not value.isprintable():
        raise MachineInfoError(f"{key} holds characters that do not print")
    return value
