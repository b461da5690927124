"""A renewed identity brings the roots for the server's TLS, pinned as the enrolment profile says today."""

from __future__ import annotations

import plistlib
from typing import Any

import pytest
from django.utils import timezone

from audit.recording import SERVER
from enrollment.models import EnrollmentProfile
from pki import issuers, server_tls
from pki.core.certificates import encode_pem
from pki.core.cms import verify_signed_data
from renewal import identities
from renewal.models import RenewalState
from tests.enrollment.test_server_trust import make
from tests.renewal.phones import ADA, Phone, command_in

pytestmark = pytest.mark.django_db


def renewed(phone: Phone) -> list[dict[str, Any]]:
    """The payloads of the profile that the device is sent."""
    identities.renew(phone.enrollment, actor=ADA, now=timezone.now())
    _uuid, command = command_in(phone.idle())
    payloads: list[dict[str, Any]] = plistlib.loads(verify_signed_data(command["Payload"]).content)[
        "PayloadContent"
    ]
    return payloads


def test_a_root_that_was_added_since_goes_along_and_is_pinned(phone: Phone) -> None:
    now = timezone.now()
    root = make("Proxy Root", now=now, days=(-10, 3000)).der
    server_tls.add_anchor(encode_pem(root).encode(), actor=SERVER, now=now)
    EnrollmentProfile.objects.update(pin_tls=True, pin_unrevoked=True)
    payloads = renewed(phone)
    roots = {
        part["PayloadContent"]: part["PayloadUUID"]
        for part in payloads
        if part["PayloadType"] == "com.apple.security.root"
    }
    assert set(roots) == {issuers.chain(issuers.default_issuer())[-1], root}
    (mdm,) = [part for part in payloads if part["PayloadType"] == "com.apple.mdm"]
    assert mdm["ServerURLPinningCertificateUUIDs"] == [roots[root]]
    assert mdm["CheckInURLPinningCertificateUUIDs"] == [roots[root]]
    assert mdm["PinningRevocationCheckRequired"] is True
    # The device installs it, and goes on with what it says.
    phone.connect()
    assert phone.renewals[0].state == RenewalState.COMPLETED
    assert phone.device.pinned_at(mdm["ServerURL"]) == (root,)


def test_without_pinning_nothing_is_pinned(phone: Phone) -> None:
    (mdm,) = [part for part in renewed(phone) if part["PayloadType"] == "com.apple.mdm"]
    assert not [name for name in mdm if "Pinning" in name]
    phone.connect()
    assert phone.device.pinned_at(mdm["ServerURL"]) == ()
