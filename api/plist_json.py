"""Property lists as JSON, both ways.

JSON has no bytes and no dates. They are written as an object with one key: ``{"$data": "<base64>"}`` and
``{"$date": "2026-11-24T05:40:00Z"}``. No key of Apple's begins with a dollar sign.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

DATA, DATE = "$data", "$date"


class NotAPropertyList(ValueError):
    """The JSON has something that a property list has not. The text says what, and where."""


def to_plist(value: Any, where: str = "payload") -> Any:
    """What the JSON stands for: bytes and aware datetimes in place of their objects.

    Raises :class:`NotAPropertyList`. Sizes, depth and ranges are the property list writer's to judge.
    """
    if isinstance(value, dict):
        return _special(value, where) if any(key.startswith("$") for key in value) else _each(value, where)
    if isinstance(value, list):
        return [to_plist(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if value is None:
        raise NotAPropertyList(f"{where}: a property list has no null; leave the key out")
    return value


def to_json(value: Any) -> Any:
    """What a property list is in JSON; the reverse of :func:`to_plist`."""
    if isinstance(value, bytes):
        return {DATA: base64.b64encode(value).decode("ascii")}
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=UTC)
        return {DATE: moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def _each(value: dict[str, Any], where: str) -> dict[str, Any]:
    return {key: to_plist(item, f"{where}.{key}") for key, item in value.items()}


def _special(value: dict[str, Any], where: str) -> bytes | datetime:
    (key, text), *others = value.items()
    if others or key not in {DATA, DATE} or not isinstance(text, str):
        raise NotAPropertyList(
            f'{where}: a key with a dollar sign stands alone: {{"{DATA}": base64}} or {{"{DATE}": ISO 8601}}'
        )
    return _data(text, where) if key == DATA else _date(text, where)


def _data(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NotAPropertyList(f"{where}: not base64") from None


def _date(text: str, where: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise NotAPropertyList(f"{where}: not a date as ISO 8601 writes it") from None
    if moment.tzinfo is None:
        raise NotAPropertyList(f"{where}: the date needs a time zone")
    return moment
