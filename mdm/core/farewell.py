"""The answer that makes a device leave management. It is given on an administrator's word only.

Apple's schema, ``mdm/errors/unrecognized.device.yaml``: a 403 with ``com.apple.unrecognized.device`` where
the system knows it; before that a 401.
"""

from __future__ import annotations

from dataclasses import dataclass

from commands.core import plist

UNRECOGNIZED = "com.apple.unrecognized.device"
_INTRODUCED = {
    "iOS": (17, 0),
    "iPadOS": (17, 0),
    "macOS": (14, 0),
    "tvOS": (17, 0),
    "visionOS": (1, 1),
    "watchOS": (10, 0),
}


@dataclass(frozen=True)
class Farewell:
    """Status, body and type of the answer."""

    status: int
    body: bytes
    content_type: str


def farewell(platform: str, os_version: str) -> Farewell:
    """What a device of this system understands as the end of its management. 401 where that is unknown."""
    introduced = _INTRODUCED.get(platform)
    if introduced is None or _version(os_version) < introduced:
        return Farewell(401, b"", "text/plain")
    body = plist.write({"code": UNRECOGNIZED, "description": "This device was unenrolled."})
    return Farewell(403, body, "application/xml")


def _version(text: str) -> tuple[int, int]:
    """The first two numbers of a version; zeros for what is none."""
    numbers = [int(part) for part in text.strip().split(".")[:2] if part.isascii() and part.isdigit()]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0) if numbers else (0, 0)
