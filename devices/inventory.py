"""What devices say about themselves, kept for people to read and search.

Written from answers on the device channel only. The serial number is set once: what a device says later does
not rename it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from database import rows
from devices.core.facts import DEVICE_FIELDS, device_fields, to_json
from devices.core.platforms import platform_of
from devices.core.text import clean_line
from devices.models import Device

_TABLE = Device._meta.db_table
_FIELDS = tuple(field for field, _longest in DEVICE_FIELDS.values())
_TOLD = ", ".join(f"{field} = COALESCE(%s::varchar, {_TABLE}.{field})" for field in _FIELDS)

DEVICE_INFORMATION = f"""
    UPDATE {_TABLE} SET information = {_TABLE}.information || %s::jsonb,
           information_at = answered.completed_at, {_TOLD},
           platform = COALESCE(%s::varchar, {_TABLE}.platform),
           serial_number = COALESCE(NULLIF({_TABLE}.serial_number, ''), %s::varchar, ''),
           supervised = COALESCE(%s::boolean, {_TABLE}.supervised)
      FROM answered WHERE {_TABLE}.id = %s
"""  # noqa: S608 - only names of our own columns are put together
""":func:`record_device_information` as a part of a larger statement (``commands.statements.Part``)."""
SECURITY_INFO = f"""
    UPDATE {_TABLE} SET security = %s::jsonb, security_at = answered.completed_at
      FROM answered WHERE {_TABLE}.id = %s
"""  # noqa: S608
""":func:`record_security_information`, likewise."""


def record_device_information(device: Device, responses: Mapping[str, Any], now: datetime) -> None:
    """Merge the ``QueryResponses`` of a DeviceInformation answer into the device."""
    known = to_json(responses)
    device.information = {**device.information, **known}
    device.information_at = now
    changed = ["information", "information_at"]
    for field, value in device_fields(responses).items():
        setattr(device, field, value)
        changed.append(field)
    if device.product_name:
        device.platform = platform_of(device.product_name)
        changed.append("platform")
    serial_number = responses.get("SerialNumber")
    if isinstance(serial_number, str) and not device.serial_number:
        device.serial_number = clean_line(serial_number)[:64]
        changed.append("serial_number")
    supervised = responses.get("IsSupervised")
    if isinstance(supervised, bool):
        device.supervised = supervised
        changed.append("supervised")
    rows.update(device, *dict.fromkeys(changed))


def device_information(device_id: int, responses: Mapping[str, Any]) -> list[Any]:
    """The parameters of :data:`DEVICE_INFORMATION`."""
    fields = device_fields(responses)
    platform = platform_of(fields["product_name"]) if fields.get("product_name") else None
    serial_number, supervised = responses.get("SerialNumber"), responses.get("IsSupervised")
    return [
        json.dumps(to_json(responses)),
        *(fields.get(field) for field in _FIELDS),
        platform,
        clean_line(serial_number)[:64] if isinstance(serial_number, str) else None,
        supervised if isinstance(supervised, bool) else None,
        device_id,
    ]


def security_info(device_id: int, info: Mapping[str, Any]) -> list[Any]:
    """The parameters of :data:`SECURITY_INFO`."""
    return [json.dumps(to_json(info)), device_id]


def record_security_information(device: Device, info: Mapping[str, Any], now: datetime) -> None:
    """Replace what is known about the device's security by a ``SecurityInfo`` answer."""
    device.security = to_json(info)
    device.security_at = now
    rows.update(device, "security", "security_at")
