"""What the server itself does with answers to commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from commands import queue
from commands.core import plist
from commands.core.report import Report, Status
from commands.models import CommandDelivery
from commands.statements import Part
from devices import inventory, registry
from devices.models import Channel, Enrollment
from mdm import departure
from renewal import identities, progress
from vault.sealed import SealError

logger = logging.getLogger(__name__)


def apply(enrollment: Enrollment, delivery: CommandDelivery, report: Report, now: datetime) -> None:
    """Take over an answer that has just moved ``delivery``, in that transaction.

    Who filled in the command hears of every answer. Else only what was acknowledged counts, and only of the
    device channel: what a user's channel answers says nothing about the device.
    """
    if delivery.command.filled_by == identities.FILLED_BY:
        progress.answered(enrollment, delivery, report, now)
        return
    acknowledged = report.status is Status.ACKNOWLEDGED and enrollment.channel == Channel.DEVICE
    if acknowledged and delivery.command.request_type == "RemoveProfile":
        _remove_profile(enrollment, delivery, now)
        return
    take_over(enrollment, delivery.command.request_type, report, now)


def take_over(enrollment: Enrollment, request_type: str, report: Report, now: datetime) -> None:
    """What :func:`apply` makes of an answer to such a command, if it is filled in by nobody."""
    handle = _HANDLERS.get(request_type)
    if report.status is Status.ACKNOWLEDGED and enrollment.channel == Channel.DEVICE and handle is not None:
        handle(enrollment, report.raw, now)


def _device_information(enrollment: Enrollment, answer: Mapping[str, Any], now: datetime) -> None:
    responses = answer.get("QueryResponses")
    if isinstance(responses, Mapping):
        inventory.record_device_information(enrollment.device, responses, now)


def _security_info(enrollment: Enrollment, answer: Mapping[str, Any], now: datetime) -> None:
    info = answer.get("SecurityInfo")
    if isinstance(info, Mapping):
        inventory.record_security_information(enrollment.device, info, now)


def _erase_device(enrollment: Enrollment, _answer: Mapping[str, Any], now: datetime) -> None:
    registry.erased(enrollment, now)


def _remove_profile(enrollment: Enrollment, delivery: CommandDelivery, now: datetime) -> None:
    try:
        identifier = queue.open_payload(delivery.command).get("Identifier")
    except (SealError, plist.PlistError):
        logger.exception("command %s cannot be read: was it the management profile?", delivery.command.uuid)
        return
    departure.removed(enrollment, identifier, now)


_HANDLERS: Mapping[str, Callable[[Enrollment, Mapping[str, Any], datetime], None]] = {
    "DeviceInformation": _device_information,
    "SecurityInfo": _security_info,
    "EraseDevice": _erase_device,
}
CAREFUL = ("EraseDevice", "RemoveProfile")
"""Commands whose answers may change the enrollment itself: they are taken under its lock."""


def says_something(report: Report) -> bool:
    """Whether the server may take something over from the answer."""
    return "QueryResponses" in report.raw or "SecurityInfo" in report.raw


def part_of(request_type: str, report: Report, device_id: int) -> Part | None:
    """What :func:`apply` makes of an answer to such a command, as a part of the statement that keeps it.

    For answers of a device channel to commands that are filled in by nobody and none of :data:`CAREFUL`.
    None: nothing is made of it. PostgreSQL only.
    """
    if report.status is not Status.ACKNOWLEDGED:
        return None
    if request_type == "DeviceInformation" and isinstance(said := report.raw.get("QueryResponses"), Mapping):
        return Part(inventory.DEVICE_INFORMATION, inventory.device_information(device_id, said))
    if request_type == "SecurityInfo" and isinstance(said := report.raw.get("SecurityInfo"), Mapping):
        return Part(inventory.SECURITY_INFO, inventory.security_info(device_id, said))
    return None
