"""The stand-in for APNs, certificates of its CA, and enrollments to push to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from pytest_django import Settings

from audit.recording import Actor
from devices.models import Device, Enrollment, EnrollmentState
from push import certificates, connections
from push.models import PushCertificate
from tests.support.apns import ApnsStandIn

TOPIC = "com.apple.mgmt.External.18a16429"
NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
ADMIN = Actor(name="admin")

MakeEnrollments = Callable[..., list[Enrollment]]


@pytest.fixture
def apns() -> Iterator[ApnsStandIn]:
    with ApnsStandIn() as stand_in:
        yield stand_in


@pytest.fixture
def now() -> datetime:
    """The real time, to the second: TLS checks the stand-in's certificates against the real clock."""
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def push_door(apns: ApnsStandIn, settings: Settings) -> Iterator[ApnsStandIn]:
    """The stand-in, set as this installation's APNs."""
    settings.BRAMLEY_APNS_URL = apns.url
    settings.BRAMLEY_APNS_CA = apns.ca_file
    yield apns
    connections.close()


@pytest.fixture
def certificate(db: None, push_door: ApnsStandIn, now: datetime) -> PushCertificate:
    """An imported push certificate that the stand-in accepts."""
    return import_for(push_door, TOPIC, now)


def import_for(apns: ApnsStandIn, topic: str, now: datetime, **options: object) -> PushCertificate:
    pem, key = apns.authority.quick_push_certificate(topic)
    return certificates.import_certificate(pem + key, actor=ADMIN, now=now, **options)  # type: ignore[arg-type]


@pytest.fixture
def make_enrollments(db: None) -> MakeEnrollments:
    """Enrolled devices with a push token each."""

    def make(count: int = 1, **changes: object) -> list[Enrollment]:
        start = Device.objects.count()
        devices = Device.objects.bulk_create(
            Device(udid=f"UDID-{number:06d}", serial_number=f"S{number:06d}")
            for number in range(start, start + count)
        )
        fields: dict[str, object] = {
            "state": EnrollmentState.ENROLLED,
            "topic": TOPIC,
            "token_updated_at": datetime.now(UTC) - timedelta(days=1),
            **changes,
        }
        return Enrollment.objects.bulk_create(
            Enrollment(
                **{
                    "device": device,
                    "push_token": secrets.token_bytes(32),
                    "push_magic": f"MAGIC-{device.udid}",
                    **fields,
                }
            )
            for device in devices
        )

    return make
