"""What several tests of the device endpoint ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from audit.models import Refusal
from devices.models import Channel, Enrollment, EnrollmentState
from tests.support.device_door import Answer
from tests.support.devices import CHECKIN, CONNECT, TOPIC, Device
from tests.support.snapshot import no_change

CANARY = "CANARY-5f1d"


def assert_rejected(call: Callable[[], Answer], reason: str, *, status: int = 400) -> None:
    """Refused with an empty body, nothing changed, the administrator told why, and no secret in that."""
    counted = sum(Refusal.objects.values_list("count", flat=True))
    with no_change():
        answer = call()
    assert (answer.status, answer.body) == (status, b"")
    assert "WWW-Authenticate" not in answer.headers
    assert sum(Refusal.objects.values_list("count", flat=True)) == counted + 1
    last = Refusal.objects.order_by("-last_at", "-pk").filter(surface="mdm", reason=reason).first()
    assert last is not None, list(Refusal.objects.values_list("reason", "detail"))
    assert CANARY not in repr(list(Refusal.objects.values()))


def every_message(device: Device) -> list[tuple[str, dict[str, Any]]]:
    """Twelve messages with the ids of ``device``: eight check-ins and four reports."""
    uuid = "0b8ae5a4-6e4f-4c0e-9d0d-7d9a3c0b1a2b"
    return [
        (CHECKIN, device.authenticate_message()),
        (CHECKIN, device.token_update_message(b"\x09" * 32, CANARY)),
        (CHECKIN, device.message(MessageType="CheckOut", Topic=TOPIC)),
        (CHECKIN, device.message(MessageType="SetBootstrapToken", BootstrapToken=CANARY.encode())),
        (CHECKIN, device.message(MessageType="GetBootstrapToken")),
        (CHECKIN, device.message(MessageType="UserAuthenticate", UserID="U")),
        (CHECKIN, device.message(MessageType="DeclarativeManagement", Endpoint="tokens")),
        (CHECKIN, device.message(MessageType="GetToken", TokenServiceType="com.apple.maid")),
        (CONNECT, device.message(Status="Idle")),
        (CONNECT, device.message(Status="Acknowledged", CommandUUID=uuid)),
        (CONNECT, device.message(Status="NotNow", CommandUUID=uuid)),
        (CONNECT, device.message(Status="Error", CommandUUID=uuid, ErrorChain=[])),
    ]


def enrollment_of(device: Device) -> Enrollment:
    """The live enrollment of the device channel."""
    return Enrollment.objects.get(
        device__udid=device.udid,
        channel=Channel.DEVICE,
        state__in=(EnrollmentState.AUTHENTICATED, EnrollmentState.ENROLLED),
    )
