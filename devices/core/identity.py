"""Who a message says it is from: device or user channel, by the keys that Apple puts into every message.

Source: Apple's check-in and command protocols; what a message says is a claim, the certificate decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from devices.core.text import clean_line, has_controls

SHARED_IPAD_USER = "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"
"""UserID of every user of a Shared iPad; the user is named by UserShortName."""

_DEVICE_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,63}")
MAX_USER_ID = 200
MAX_NAME = 200


class IdentityError(Exception):
    """The ids of a message are missing, contradict each other or are none; ``reason`` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ChannelIdentity:
    """The channel that a message names.

    ``udid`` holds the EnrollmentID where ``user_enrollment`` is true. ``user_id`` is what tells the users of
    one device apart: UserID, EnrollmentUserID, on a Shared iPad UserShortName; empty for the device channel.
    """

    udid: str
    user_enrollment: bool = False
    user_id: str = ""
    user_short_name: str = ""
    user_long_name: str = ""

    @property
    def is_user(self) -> bool:
        """Whether this is the user channel."""
        return bool(self.user_id)


def resolve(message: Mapping[str, Any]) -> ChannelIdentity:
    """Read the ids of a message. Exactly one family of ids may occur. Raises :class:`IdentityError`."""
    udid = _device_id(message, "UDID")
    enrollment_id = _device_id(message, "EnrollmentID")
    if udid and enrollment_id:
        raise IdentityError("UDID and EnrollmentID together")
    if not udid and not enrollment_id:
        raise IdentityError("no UDID and no EnrollmentID")
    own_key, other_key = ("EnrollmentUserID", "UserID") if enrollment_id else ("UserID", "EnrollmentUserID")
    if other_key in message:
        raise IdentityError(f"{other_key} with {'EnrollmentID' if enrollment_id else 'UDID'}")
    return _with_user(message, udid or enrollment_id, bool(enrollment_id), own_key)


def _with_user(
    message: Mapping[str, Any], device_id: str, user_enrollment: bool, key: str
) -> ChannelIdentity:
    if key not in message:
        return ChannelIdentity(udid=device_id, user_enrollment=user_enrollment)
    user_id = _text(message, key, MAX_USER_ID)
    short_name = _text(message, "UserShortName", MAX_NAME) if "UserShortName" in message else ""
    long_name = display_name(message.get("UserLongName", ""), "UserLongName", MAX_NAME)
    if user_id.upper() == SHARED_IPAD_USER:
        if not short_name:
            raise IdentityError("Shared iPad user without UserShortName")
        user_id = short_name
    return ChannelIdentity(
        udid=device_id,
        user_enrollment=user_enrollment,
        user_id=user_id,
        user_short_name=short_name,
        user_long_name=long_name,
    )


def _device_id(message: Mapping[str, Any], key: str) -> str:
    if key not in message:
        return ""
    value = message[key]
    if not isinstance(value, str) or not _DEVICE_ID.fullmatch(value):
        raise IdentityError(f"{key} is not an identifier")
    return value


def _text(message: Mapping[str, Any], key: str, longest: int) -> str:
    value = message[key]
    if not isinstance(value, str) or not value or len(value) > longest or has_controls(value):
        raise IdentityError(f"{key} is not a short text")
    return value


def display_name(value: Any, key: str, longest: int, *, most: int = 1024) -> str:
    """A name that people chose: normalised (NFC), without control characters, cut at ``longest`` characters.

    Only shown, never compared. Longer than ``most`` characters, or not a text: :class:`IdentityError`.
    """
    if not isinstance(value, str) or len(value) > most:
        raise IdentityError(f"{key} is not a short text")
    return clean_line(value)[:longest].strip()
