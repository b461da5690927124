"""From the answers of devices to what the inventory keeps: plain JSON, short strings, no secrets."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from devices.core.text import clean, clean_line

MAX_DEPTH = 32
MAX_TEXT = 4096

_LEFT_OUT = frozenset(
    {
        # Encrypted recovery keys are secrets of their own, not facts about the device.
        "FDE_PersonalRecoveryKeyCMS",
        "FDE_PersonalRecoveryKeyDeviceKey",
        "PushToken",
    }
)

DEVICE_FIELDS = {
    "DeviceName": ("name", 200),
    "ProductName": ("product_name", 100),
    "ModelName": ("model_name", 100),
    "OSVersion": ("os_version", 40),
    "BuildVersion": ("build_version", 40),
    "IMEI": ("imei", 40),
    "MEID": ("meid", 40),
}
"""Key of DeviceInformation: field of the device, and how long it may be."""


def to_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A property list value as JSON can hold it: data as Base64, dates as ISO 8601, long texts cut."""
    if depth <= 0:
        return None
    if isinstance(value, Mapping):
        return {
            clean(str(key)): to_json(item, depth - 1) for key, item in value.items() if key not in _LEFT_OUT
        }
    if isinstance(value, (list, tuple)):
        return [to_json(item, depth - 1) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str):
        return clean(value)[:MAX_TEXT]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value


def device_fields(answers: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a device that DeviceInformation fills; only those that the answer holds."""
    return {
        field: clean_line(answers[key])[:longest].strip()
        for key, (field, longest) in DEVICE_FIELDS.items()
        if isinstance(answers.get(key), str)
    }
