"""Simulated devices against the project in this process, and what the project knows of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.utils import timezone

from audit.recording import Actor
from commands import queue
from commands.core import plist
from commands.models import Command, CommandSource
from devices.models import Enrollment, EnrollmentState, Identity, IdentityState
from pki.models import Certificate
from renewal.models import IdentityRenewal
from simulator.device import CHECK_IN_TYPE, CONNECT_TYPE, SimulatedDevice
from simulator.exchange import Response, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from tests.simulator.in_process import InProcess

URL = "http://127.0.0.1:8000/enroll/default/profile"
ADA = Actor(name="ada", remote_addr="192.0.2.9")


@lru_cache(maxsize=16)
def _key(number: int) -> RSAPrivateKey:
    return new_key()


@dataclass
class Phone:
    """One device with the server that it talks to."""

    device: SimulatedDevice
    server: InProcess = field(default_factory=InProcess)

    @property
    def enrollment(self) -> Enrollment:
        """Its enrollment now."""
        return Enrollment.objects.select_related("device").get(
            device__udid=self.device.hardware.udid, state=EnrollmentState.ENROLLED
        )

    @property
    def certificate(self) -> Certificate:
        """The record of the certificate that the device signs with."""
        assert self.device.enrolled is not None
        return Certificate.objects.get(sha256=hashlib.sha256(self.device.enrolled.certificate).hexdigest())

    @property
    def pinned(self) -> list[Certificate]:
        """The certificates that may speak for the device, as the server has it."""
        rows = Identity.objects.filter(enrollment=self.enrollment, state=IdentityState.ACTIVE)
        return [row.certificate for row in rows.select_related("certificate")]

    @property
    def renewals(self) -> list[IdentityRenewal]:
        """The attempts to renew its identity, the first one first."""
        return list(IdentityRenewal.objects.filter(enrollment=self.enrollment).order_by("pk"))

    def connect(self) -> int:
        """One connect with all that comes of it; how many commands it got."""
        return converse(self.device.connect(), self.server.send)

    def check_in(self, message_type: str, **facts: Any) -> bytes:
        return converse(self.device.check_in(message_type, **facts), self.server.send)

    def send(self, message: Mapping[str, Any], *, check_in: bool = False) -> Response:
        """One signed message as it is; the UDID is added."""
        assert self.device.enrolled is not None
        mdm = self.device.enrolled.mdm
        url, kind = (mdm.check_in_url, CHECK_IN_TYPE) if check_in else (mdm.server_url, CONNECT_TYPE)
        body = {"UDID": self.device.hardware.udid, **message}
        return self.server.send(self.device.request(url, body, kind))

    def idle(self) -> Response:
        return self.send({"Status": "Idle"})

    def enqueue(self, request_type: str = "ProfileList", payload: Mapping[str, Any] | None = None) -> Command:
        return queue.enqueue(
            request_type,
            payload,
            [self.enrollment.pk],
            source=CommandSource.ADMIN,
            actor=ADA,
            now=timezone.now(),
        ).command

    def end_certificate(self, ago: timedelta = timedelta(days=1)) -> Certificate:
        """Make the record of its certificate say that it has ended."""
        certificate = self.certificate
        certificate.not_after = datetime.now(UTC) - ago
        certificate.not_before = certificate.not_after - timedelta(days=730)
        certificate.save(update_fields=["not_before", "not_after"])
        return certificate


def new_phone(number: int, **options: Any) -> Phone:
    """A device that enrols, and answers what it is asked at first."""
    phone = Phone(SimulatedDevice(make_hardware("renewal", number), _key(number), **options))
    converse(phone.device.enrol(URL), phone.server.send)
    phone.connect()
    return phone


def command_in(response: Response) -> tuple[str, dict[str, Any]]:
    """CommandUUID and the Command dictionary of an answer."""
    assert response.status == 200
    envelope = plist.read(response.body, max_size=4 << 20)
    return envelope["CommandUUID"], envelope["Command"]
