"""What a device says when it connects: ready, done, failed, or not now (apple-mdm 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

MAX_TEXT = 1024
MAX_UUID = 64
MAX_ERRORS = 16


class Status(StrEnum):
    """Apple's words for the answer to a command."""

    IDLE = "Idle"
    ACKNOWLEDGED = "Acknowledged"
    ERROR = "Error"
    COMMAND_FORMAT_ERROR = "CommandFormatError"
    NOT_NOW = "NotNow"


class ReportError(Exception):
    """The message is not a report. The text says why, without its content."""


@dataclass(frozen=True, slots=True)
class DeviceError:
    """One link of an ErrorChain. ``message`` is English where the device gives it."""

    code: int | None
    domain: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        """For storing: ``{"code", "domain", "message"}``."""
        return {"code": self.code, "domain": self.domain, "message": self.message}


@dataclass(frozen=True, slots=True)
class Report:
    """A decoded report.

    ``command_uuid_text`` is what the device sent ("" when Idle); ``command_uuid`` the same as a UUID, None
    where it is not one, and then it belongs to no command of ours. ``raw`` is the whole message.
    """

    status: Status
    command_uuid: UUID | None
    command_uuid_text: str
    error_chain: tuple[DeviceError, ...]
    request_type: str
    not_on_console: bool
    raw: Mapping[str, Any] = field(repr=False)


def decode_report(message: Mapping[str, Any]) -> Report:
    """Check the types of a message to ``/mdm/connect`` and give it a shape.

    ``message`` is what :func:`commands.core.plist.read` returned. Raises :class:`ReportError`.
    """
    status = _status(message)
    uuid_text = _text(message, "CommandUUID", MAX_UUID)
    if status is not Status.IDLE and not uuid_text:
        raise ReportError("an answer without CommandUUID")
    not_on_console = message.get("NotOnConsole", False)
    if not isinstance(not_on_console, bool):
        raise ReportError("NotOnConsole is not a boolean")
    return Report(
        status=status,
        command_uuid=_uuid(uuid_text) if status is not Status.IDLE else None,
        command_uuid_text=uuid_text,
        error_chain=_error_chain(message.get("ErrorChain")),
        request_type=_text(message, "RequestType", MAX_TEXT),
        not_on_console=not_on_console,
        raw=message,
    )


def _status(message: Mapping[str, Any]) -> Status:
    value = message.get("Status")
    if not isinstance(value, str):
        raise ReportError("Status is missing or not a text")
    try:
        return Status(value)
    except ValueError:
        raise ReportError("an unknown Status") from None


def _text(message: Mapping[str, Any], key: str, limit: int) -> str:
    value = message.get(key, "")
    if not isinstance(value, str):
        raise ReportError(f"{key} is not a text")
    if len(value) > limit:
        raise ReportError(f"{key} is longer than {limit} characters")
    return value


def _uuid(text: str) -> UUID | None:
    """Only the usual form: 36 characters. UUID() itself takes braces, ``urn:`` and stray hyphens."""
    if len(text) != 36 or text.count("-") != 4:
        return None
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text.lower() else None


def _error_chain(chain: Any) -> tuple[DeviceError, ...]:
    """The errors of the device, cut to what can be kept and shown."""
    if chain is None:
        return ()
    if not isinstance(chain, list):
        raise ReportError("ErrorChain is not an array")
    return tuple(_error(link) for link in chain[:MAX_ERRORS])


def _error(link: Any) -> DeviceError:
    if not isinstance(link, dict):
        raise ReportError("a link of ErrorChain is not a dictionary")
    code = link.get("ErrorCode")
    if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
        raise ReportError("ErrorCode is not an integer")
    english, local = link.get("USEnglishDescription", ""), link.get("LocalizedDescription", "")
    domain = link.get("ErrorDomain", "")
    if not all(isinstance(text, str) for text in (english, local, domain)):
        raise ReportError("a text of ErrorChain is not a text")
    return DeviceError(code=code, domain=domain[:MAX_TEXT], message=(english or local)[:MAX_TEXT])
