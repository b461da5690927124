"""What devices say about themselves, kept for people to read and search.

Written from answers on the device channel only. The serial number is set once: what a device says later does
not rename it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from database import rows
from devices.core.facts import device_fields, to_json
from devices.core.platforms import platform_of
from devices.core.text import clean_line
from devices.models import Device


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


def record_security_information(device: Device, info: Mapping[str, Any], now: datetime) -> None:
    """Replace what is known about the device's security by a ``SecurityInfo`` answer."""
    device.security = to_json(info)
    device.security_at = now
    rows.update(device, "security", "security_at")
