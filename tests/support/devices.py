"""Devices for tests: a key, a certificate that ``pki`` issued, and Apple's messages, signed."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.utils import timezone

from audit.recording import SERVER
from commands.core import plist
from pki import issuance, issuers, keys
from pki.core import cms
from pki.models import Certificate, Issuer, Purpose
from tests.support.device_door import Answer, DeviceClient

TOPIC = "com.apple.mgmt.External.00000000-0000-0000-0000-0000000000aa"
CHECKIN, CONNECT = "/mdm/checkin", "/mdm/connect"


@lru_cache(maxsize=64)
def device_key(number: int = 0, algorithm: str = "EC-P256") -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """A key that is made once for the whole run."""
    key = keys.new_private_key(algorithm)
    assert isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey))
    return key


def make_issuer(slug: str = "bramley") -> Issuer:
    """An issuer with a key that is quick to make."""
    return issuers.create_issuer(slug, f"Test CA {slug}", algorithm="EC-P256", actor=SERVER)


def issue_certificate(
    key: Any,
    *,
    issuer: Issuer | None = None,
    purpose: Purpose = Purpose.MDM_IDENTITY,
    binding: uuid.UUID | None = None,
    renewed_from: Certificate | None = None,
    validity_days: int | None = None,
    now: datetime | None = None,
    common_name: str = "device",
) -> Certificate:
    """A certificate as SCEP would have it issued."""
    return issuance.issue(
        issuance.Grant(
            issuer=issuer or issuers.default_issuer(),
            purpose=purpose,
            subject=(("CN", common_name),),
            binding=binding,
            renewed_from=renewed_from,
            validity_days=validity_days,
            reason="test",
        ),
        keys.public_key_der(key),
        actor=SERVER,
        now=now or timezone.now() - timedelta(minutes=1),
    )


@dataclass
class Device:
    """One device: it holds an identity and talks to the device endpoint."""

    certificate: Certificate
    key: Any
    udid: str = "00008030-000000000000000A"
    serial_number: str = "F0000000000A"
    client: DeviceClient = field(default_factory=DeviceClient)
    digest: str = "sha256"
    attributes: tuple[()] | None = None

    def signature(self, body: bytes) -> str:
        """``Mdm-Signature`` of a body; without signed attributes, as Apple's clients do."""
        message = cms.sign(
            body,
            certificate=bytes(self.certificate.der),
            private_key=self.key,
            attributes=self.attributes,
            detached=True,
            digest=self.digest,
        )
        return base64.b64encode(message).decode()

    def send(self, path: str, message: Mapping[str, Any] | bytes, **headers: str) -> Answer:
        """PUT a message, signed."""
        body = message if isinstance(message, bytes) else plist.write(message)
        return self.client.put(path, body, {"Mdm-Signature": self.signature(body), **headers})

    def check_in(self, message: Mapping[str, Any] | bytes) -> Answer:
        """PUT to the check-in address."""
        return self.send(CHECKIN, message)

    def connect(self, message: Mapping[str, Any] | bytes) -> Answer:
        """PUT to the connect address."""
        return self.send(CONNECT, message)

    def enrol(self, *, push_token: bytes = b"\x01" * 32, push_magic: str = "magic-1") -> None:
        """Authenticate and the first TokenUpdate."""
        assert self.check_in(self.authenticate_message()).status == 200
        assert self.check_in(self.token_update_message(push_token, push_magic)).status == 200

    def idle(self, **more: Any) -> Answer:
        """Connect with nothing to report."""
        return self.connect(self.message(Status="Idle", **more))

    def answer(self, command_uuid: str, status: str = "Acknowledged", **more: Any) -> Answer:
        """Report on a command."""
        return self.connect(self.message(Status=status, CommandUUID=command_uuid, **more))

    def message(self, **values: Any) -> dict[str, Any]:
        """A message of this device."""
        return {"UDID": self.udid, **values}

    def authenticate_message(self, **changes: Any) -> dict[str, Any]:
        """Authenticate, as a Mac says it."""
        return self.message(
            **{
                "MessageType": "Authenticate",
                "Topic": TOPIC,
                "SerialNumber": self.serial_number,
                "DeviceName": "Anna's Mac",
                "ProductName": "Mac16,10",
                "ModelName": "Mac mini",
                "OSVersion": "15.4",
                "BuildVersion": "24E263",
                **changes,
            }
        )

    def token_update_message(
        self, push_token: bytes = b"\x01" * 32, push_magic: str = "magic-1", **more: Any
    ) -> dict[str, Any]:
        """TokenUpdate of the device channel, or of a user's with ``UserID``."""
        return self.message(
            **{
                "MessageType": "TokenUpdate",
                "Topic": TOPIC,
                "Token": push_token,
                "PushMagic": push_magic,
                **more,
            }
        )


def make_device(
    letter: str = "A", *, udid: str = "", binding: uuid.UUID | None = None, **certificate: Any
) -> Device:
    """A device with a fresh certificate; another letter is another device with another key."""
    key = device_key(ord(letter))
    return Device(
        certificate=issue_certificate(key, binding=binding or uuid.uuid4(), **certificate),
        key=key,
        udid=udid or f"00008030-00000000000000{ord(letter):02X}",
        serial_number=f"F00000000{letter}",
    )


def command_uuid(answer: Answer) -> str:
    """The CommandUUID of a command that was handed out."""
    uuid_text = plist.read(answer.body, max_size=1 << 20)["CommandUUID"]
    assert isinstance(uuid_text, str)
    return uuid_text


def request_type(answer: Answer) -> str:
    """The RequestType of a command that was handed out."""
    name = plist.read(answer.body, max_size=1 << 20)["Command"]["RequestType"]
    assert isinstance(name, str)
    return name
