"""Check-in messages: from a property list to one frozen dataclass per MessageType.

Source: Apple's check-in protocol (MessageType and its keys). Types and lengths are checked here, so that what
comes after sees only values that a device could have meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from devices.core.identity import ChannelIdentity, IdentityError, display_name, resolve
from devices.core.text import has_controls

MAX_CHECKIN = 1024 * 1024
"""Bytes of a check-in message."""
MAX_PUSH_TOKEN = 255
MAX_UNLOCK_TOKEN = 65_536
MAX_BOOTSTRAP_TOKEN = 65_536
MAX_PUSH_MAGIC = 100
MAX_TOPIC = 200


class CheckinError(Exception):
    """The message is none that devices send. ``reason`` says why, without its content."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Authenticate:
    """The device wants to enrol, or starts over."""

    channel: ChannelIdentity
    topic: str
    serial_number: str = ""
    name: str = ""
    product_name: str = ""
    model_name: str = ""
    os_version: str = ""
    build_version: str = ""
    imei: str = ""
    meid: str = ""


@dataclass(frozen=True)
class TokenUpdate:
    """How to wake a channel. None where the message says nothing: what is stored stays."""

    channel: ChannelIdentity
    topic: str
    push_token: bytes = field(repr=False)
    push_magic: str = field(repr=False)
    unlock_token: bytes | None = field(default=None, repr=False)
    awaiting_configuration: bool | None = None
    not_on_console: bool | None = None


@dataclass(frozen=True)
class CheckOut:
    """The management profile was removed."""

    channel: ChannelIdentity


@dataclass(frozen=True)
class SetBootstrapToken:
    """A bootstrap token to keep; empty: forget it."""

    channel: ChannelIdentity
    token: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class GetBootstrapToken:
    """The device asks for its bootstrap token."""

    channel: ChannelIdentity


@dataclass(frozen=True)
class UserAuthenticate:
    """A network user of a Mac logs in."""

    channel: ChannelIdentity


@dataclass(frozen=True)
class DeclarativeManagement:
    """A request of declarative management."""

    channel: ChannelIdentity
    endpoint: str
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class GetToken:
    """The device asks for a token for one of Apple's services."""

    channel: ChannelIdentity
    service_type: str


Message = (
    Authenticate
    | TokenUpdate
    | CheckOut
    | SetBootstrapToken
    | GetBootstrapToken
    | UserAuthenticate
    | DeclarativeManagement
    | GetToken
)


def decode_checkin(message: Mapping[str, Any]) -> Message:
    """Decode what :func:`commands.core.plist.read` returned. Raises :class:`CheckinError`, nothing else."""
    message_type = message.get("MessageType")
    if not isinstance(message_type, str):
        raise CheckinError("MessageType is missing")
    decode = _DECODERS.get(message_type)
    if decode is None:
        raise CheckinError("unknown MessageType")
    try:
        return decode(message, resolve(message))
    except IdentityError as error:
        raise CheckinError(error.reason) from None


def _authenticate(message: Mapping[str, Any], channel: ChannelIdentity) -> Authenticate:
    if channel.is_user:
        raise CheckinError("Authenticate on the user channel")
    return Authenticate(
        channel=channel,
        topic=_text(message, "Topic", MAX_TOPIC),
        serial_number=_text(message, "SerialNumber", 64, required=False),
        name=display_name(message.get("DeviceName", ""), "DeviceName", 200),
        product_name=_text(message, "ProductName", 100, required=False),
        model_name=display_name(message.get("ModelName", ""), "ModelName", 100),
        os_version=_text(message, "OSVersion", 40, required=False),
        build_version=_text(message, "BuildVersion", 40, required=False),
        imei=_text(message, "IMEI", 40, required=False),
        meid=_text(message, "MEID", 40, required=False),
    )


def _token_update(message: Mapping[str, Any], channel: ChannelIdentity) -> TokenUpdate:
    push_token = _data(message, "Token", MAX_PUSH_TOKEN)
    if not push_token:
        raise CheckinError("Token is missing or empty")
    return TokenUpdate(
        channel=channel,
        topic=_text(message, "Topic", MAX_TOPIC),
        push_token=push_token,
        push_magic=_text(message, "PushMagic", MAX_PUSH_MAGIC),
        unlock_token=_data(message, "UnlockToken", MAX_UNLOCK_TOKEN) or None,
        awaiting_configuration=_flag(message, "AwaitingConfiguration"),
        not_on_console=_flag(message, "NotOnConsole"),
    )


def _check_out(_message: Mapping[str, Any], channel: ChannelIdentity) -> CheckOut:
    return CheckOut(channel)


def _set_bootstrap_token(message: Mapping[str, Any], channel: ChannelIdentity) -> SetBootstrapToken:
    _device_channel(channel, "SetBootstrapToken")
    return SetBootstrapToken(channel, _data(message, "BootstrapToken", MAX_BOOTSTRAP_TOKEN))


def _get_bootstrap_token(_message: Mapping[str, Any], channel: ChannelIdentity) -> GetBootstrapToken:
    _device_channel(channel, "GetBootstrapToken")
    return GetBootstrapToken(channel)


def _user_authenticate(_message: Mapping[str, Any], channel: ChannelIdentity) -> UserAuthenticate:
    if not channel.is_user:
        raise CheckinError("UserAuthenticate without a user")
    return UserAuthenticate(channel)


def _declarative_management(message: Mapping[str, Any], channel: ChannelIdentity) -> DeclarativeManagement:
    return DeclarativeManagement(
        channel, _text(message, "Endpoint", 300), _data(message, "Data", MAX_CHECKIN)
    )


def _get_token(message: Mapping[str, Any], channel: ChannelIdentity) -> GetToken:
    return GetToken(channel, _text(message, "TokenServiceType", 200))


_DECODERS: Mapping[str, Callable[[Mapping[str, Any], ChannelIdentity], Message]] = {
    "Authenticate": _authenticate,
    "TokenUpdate": _token_update,
    "CheckOut": _check_out,
    "SetBootstrapToken": _set_bootstrap_token,
    "GetBootstrapToken": _get_bootstrap_token,
    "UserAuthenticate": _user_authenticate,
    "DeclarativeManagement": _declarative_management,
    "GetToken": _get_token,
}
MESSAGE_TYPES = tuple(_DECODERS)


def _device_channel(channel: ChannelIdentity, what: str) -> None:
    if channel.is_user:
        raise CheckinError(f"{what} on the user channel")


def _text(message: Mapping[str, Any], key: str, longest: int, *, required: bool = True) -> str:
    value = message.get(key, "")
    if not isinstance(value, str) or len(value) > longest or has_controls(value):
        raise CheckinError(f"{key} is not a text of at most {longest} characters")
    if required and not value:
        raise CheckinError(f"{key} is missing")
    return value


def _data(message: Mapping[str, Any], key: str, longest: int) -> bytes:
    value = message.get(key, b"")
    if not isinstance(value, bytes) or len(value) > longest:
        raise CheckinError(f"{key} is not data of at most {longest} bytes")
    return value


def _flag(message: Mapping[str, Any], key: str) -> bool | None:
    value = message.get(key)
    if value is not None and not isinstance(value, bool):
        raise CheckinError(f"{key} is not a boolean")
    return value
