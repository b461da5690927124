"""A TokenUpdate to the process in which its enrollment began: what is known is compared, not read again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from commands.core import plist
from devices.models import Enrollment, EnrollmentState, IdentityState
from enrollment.models import EnrollmentProfile
from mdm import newcomers
from pki.models import CertificateStatus, IssuerKeyState
from push.models import PushRequest
from tests.mdm.support import enrollment_of
from tests.mdm.test_awaited import of_certificate, of_enrollment, of_identity, of_issuer, of_key
from tests.mdm.test_newcomers import (
    ON_POSTGRESQL,
    Ways,
    authenticate,
    of_a_session,
    only_on_postgresql,
    profile,
    token_update,
    ways,
)
from tests.support.device_door import Answer
from tests.support.devices import Device, make_device
from tests.support.snapshot import no_change

__all__ = ["profile", "ways"]

CHANGES: dict[str, Callable[[Device], Any]] = {
    **{
        f"enrollment {state}": of_enrollment(state=state)
        for state in EnrollmentState.values
        if state != EnrollmentState.AUTHENTICATED
    },
    "epoch": of_enrollment(epoch=7),
    "revoked": of_certificate(status=CertificateStatus.REVOKED),
    "identity superseded": of_identity(state=IdentityState.SUPERSEDED),
    "key closed": of_key(state=IssuerKeyState.CLOSED),
    "no purpose": of_issuer(trusted_for=[]),
    "pushed": lambda device: PushRequest.objects.create(enrollment=enrollment_of(device), state="DUE"),
}


@pytest.mark.django_db
@pytest.mark.parametrize("changed", CHANGES)
def test_what_has_changed_since_counts(profile: EnrollmentProfile, ways: Ways, changed: str) -> None:
    def later(device: Device) -> Answer:
        CHANGES[changed](device)
        return token_update(device)

    device = of_a_session(profile)
    ran = ways.both(device, authenticate, later)
    assert ran.short == [ON_POSTGRESQL, ON_POSTGRESQL and changed == "epoch"]  # that is as it is read then


@pytest.mark.django_db
def test_a_token_update_long_after_is_a_contact(profile: EnrollmentProfile, ways: Ways) -> None:
    def later(device: Device) -> Answer:
        Enrollment.objects.update(last_seen_at=timezone.now() - timedelta(days=1))
        for begun in newcomers._begun.values():
            begun.enrollment.last_seen_at = timezone.now() - timedelta(days=1)
        return token_update(device)

    ran = ways.both(of_a_session(profile), authenticate, later)
    assert [row["last_seen_at"] for row in ran.rows["devices.Enrollment"]] == ["now"]


@only_on_postgresql
@pytest.mark.django_db
def test_it_ends_with_its_certificate(profile: EnrollmentProfile) -> None:
    device = of_a_session(profile)
    assert authenticate(device).status == 200
    der, body = bytes(device.certificate.der), plist.write(device.token_update_message())
    with no_change():
        assert newcomers.at_once(der, body, device.certificate.not_after + timedelta(seconds=1)) is None


@only_on_postgresql
@pytest.mark.django_db
def test_of_many_that_begin_the_oldest_is_forgotten(
    profile: EnrollmentProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "REMEMBERED", 1)
    newcomers._begun.clear()
    older, newer = of_a_session(profile), make_device("D")
    for device in (older, newer):
        assert authenticate(device).status == 200
    assert list(newcomers._begun) == [newer.certificate.sha256]
    for device in (older, newer):
        assert token_update(device).status == 200
        assert enrollment_of(device).state == "ENROLLED"
    assert not newcomers._begun
