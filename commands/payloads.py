"""Payloads that people bring: a property list, or JSON."""

from __future__ import annotations

import json
from typing import Any

from commands.core import plist
from commands.enqueueing import MAX_PAYLOAD, InvalidCommand


def decode_payload(data: bytes) -> dict[str, Any]:
    """The Command dictionary of an uploaded file: XML or binary property list, or a JSON object.

    The envelope of a device's message (``{Command, CommandUUID}``) is taken off. JSON cannot say bytes or
    dates: a command that needs them comes as a property list. Raises :class:`InvalidCommand`.
    """
    if len(data) > MAX_PAYLOAD:
        raise InvalidCommand(f"the payload is larger than {MAX_PAYLOAD // 1024 // 1024} MiB")
    content = _json(data) if data.lstrip()[:1] == b"{" else _property_list(data)
    inner = content.get("Command")
    return inner if isinstance(inner, dict) and set(content) <= {"Command", "CommandUUID"} else content


def _property_list(data: bytes) -> dict[str, Any]:
    try:
        return plist.read(data, max_size=MAX_PAYLOAD, binary=True)
    except plist.PlistError as problem:
        raise InvalidCommand(f"the payload is no property list that can be used: {problem}") from None


def _json(data: bytes) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidCommand("the payload is not valid JSON") from None
    return content
