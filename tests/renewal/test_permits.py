"""An expired device is let in for one renewal, by an administrator; all else stays refused (decision D2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from audit.models import AuditEvent
from commands.models import CommandDelivery, DeliveryState
from enrollment.models import EnrollmentProfile
from pki import revocation, trust
from pki.models import IssuerKey, IssuerKeyState, RevocationReason
from renewal import permits
from renewal.models import IdentityRenewal, RenewalPermit, RenewalState
from renewal.permits import PermitRefused
from simulator.device import Behaviour
from simulator.exchange import Response
from tests.mdm.support import assert_rejected
from tests.renewal.phones import ADA, Phone, command_in
from tests.support.device_door import Answer
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def grant(phone: Phone, **options: Any) -> RenewalPermit:
    return permits.grant(phone.enrollment, actor=ADA, now=timezone.now(), **options)


def refused(call: Callable[[], Response], reason: str = "certificate expired") -> None:
    def asked() -> Answer:
        response = call()
        return Answer(response.status, response.body, response.headers)

    assert_rejected(asked, reason)


def test_without_a_permit_an_expired_device_is_refused(phone: Phone) -> None:
    phone.enqueue()
    phone.end_certificate()
    refused(phone.idle)
    refused(lambda: phone.send({"MessageType": "TokenUpdate"}, check_in=True))


def test_with_one_it_renews_itself_and_goes_on_where_it_was(phone: Phone) -> None:
    waiting = phone.enqueue()
    before = phone.end_certificate()
    permit = grant(phone, note="was in a drawer")
    assert (permit.certificate, permit.granted_by, permit.note) == (before, "ada", "was in a drawer")
    assert permit.renewal.state == RenewalState.PLANNED
    enrollment = phone.enrollment

    phone.connect()

    assert phone.pinned == [phone.certificate] != [before]
    permit.refresh_from_db()
    assert permit.used_at is not None
    assert IdentityRenewal.objects.get().state == RenewalState.COMPLETED
    assert (phone.enrollment.pk, phone.enrollment.epoch) == (enrollment.pk, enrollment.epoch)
    # With its new certificate it gets what had waited for it all the time.
    phone.connect()
    assert CommandDelivery.objects.get(command=waiting).state == DeliveryState.ACKNOWLEDGED
    acts = list(
        AuditEvent.objects.filter(action__startswith="renewal_permit").values_list("action", "reason")
    )
    assert sorted(acts) == [("renewal_permit.granted", "was in a drawer"), ("renewal_permit.used", "")]


def test_it_gets_the_renewal_and_nothing_else(phone: Phone, other: Phone) -> None:
    first = phone.enqueue()
    phone.end_certificate()
    permit = grant(phone)
    later = phone.enqueue("SecurityInfo")
    uuid, command = command_in(phone.idle())
    assert command["RequestType"] == "InstallProfile"
    assert permit.renewal.command is not None
    assert uuid.lower() == str(permit.renewal.command.uuid)
    # No check-in, be it at the address of connects; no answer to what it was not given; nobody else's name.
    refused(lambda: phone.send({"MessageType": "CheckOut"}, check_in=True))
    refused(lambda: phone.send({"MessageType": "CheckOut"}))
    refused(lambda: phone.send({"MessageType": "GetBootstrapToken"}, check_in=True))
    for elsewhere in (first, later):
        refused(lambda of=elsewhere: phone.send({"Status": "Acknowledged", "CommandUUID": str(of.uuid)}))  # type: ignore[misc]
    refused(lambda: phone.send({"Status": "Acknowledged", "CommandUUID": "none"}))
    refused(lambda: phone.send({"Status": "Idle", "UserID": "7C9E6679-7425-40DE-944B-E07FC1F90AE7"}))
    refused(
        lambda: phone.send({"Status": "Idle", "UDID": other.device.hardware.udid}),
        "identity of another device",
    )
    refused(lambda: phone.send({"Status": "Sleepy"}), "bad report")
    # Busy: it is asked again.
    assert phone.send({"Status": "NotNow", "CommandUUID": uuid}).body == b""
    assert command_in(phone.idle())[0] == uuid
    states = CommandDelivery.objects.filter(command__in=[first, later]).values_list("state", "sent_count")
    assert list(states) == [("QUEUED", 0), ("QUEUED", 0)]


def test_an_answer_with_the_old_certificate_uses_it_up(phone: Phone) -> None:
    phone.end_certificate()
    permit = grant(phone)
    uuid, _command = command_in(phone.idle())
    assert phone.send({"Status": "Acknowledged", "CommandUUID": uuid}).status == 200
    permit.refresh_from_db()
    assert permit.used_at is not None
    assert IdentityRenewal.objects.get().state == RenewalState.ACKNOWLEDGED
    refused(phone.idle)


def test_one_permit_is_for_one_renewal(phone: Phone) -> None:
    phone.end_certificate()
    grant(phone)
    phone.device.behaviour = Behaviour(errors=1.0)
    phone.connect()
    phone.device.behaviour = Behaviour()
    assert IdentityRenewal.objects.get().state == RenewalState.FAILED
    refused(phone.idle)
    # An administrator may let it in again; that is another permit, and another attempt.
    again = grant(phone)
    assert again.renewal.attempt == 2
    phone.connect()
    assert [row.state for row in phone.renewals] == [RenewalState.FAILED, RenewalState.COMPLETED]
    # The next certificate, expired in its turn, has none.
    phone.end_certificate()
    refused(phone.idle)


def test_the_certificate_before_is_no_way_back(phone: Phone) -> None:
    phone.end_certificate()
    permit = grant(phone)
    old, key = phone.device.enrolled, phone.device.private_key
    phone.connect()
    phone.device.enrolled, phone.device.private_key = old, key
    refused(phone.idle, "certificate superseded")
    # Not even where the row were made open again.
    RenewalPermit.objects.filter(pk=permit.pk).update(used_at=None)
    refused(phone.idle, "certificate superseded")


def test_after_its_time_it_is_void(phone: Phone) -> None:
    phone.end_certificate()
    permit = grant(phone, time=timedelta(hours=1))
    RenewalPermit.objects.filter(pk=permit.pk).update(until=timezone.now() - timedelta(seconds=1))
    refused(phone.idle)


def test_a_permit_can_be_withdrawn_once(phone: Phone) -> None:
    phone.end_certificate()
    permit = grant(phone)
    assert permits.withdraw(permit, actor=ADA, now=timezone.now())
    refused(phone.idle)
    with no_change():
        assert not permits.withdraw(permit, actor=ADA, now=timezone.now())


def test_a_new_permit_takes_the_place_of_an_unused_one(phone: Phone) -> None:
    phone.end_certificate()
    first, second = grant(phone), grant(phone)
    first.refresh_from_db()
    assert first.withdrawn_at is not None
    assert second.renewal == first.renewal
    phone.connect()
    assert IdentityRenewal.objects.get().state == RenewalState.COMPLETED


def test_the_database_holds_one_open_permit(phone: Phone) -> None:
    phone.end_certificate()
    permit = grant(phone)
    permit.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        permit.save(force_insert=True)


def test_revoked_after_it_was_granted_it_is_refused(phone: Phone) -> None:
    certificate = phone.end_certificate()
    grant(phone)
    revocation.revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=ADA, now=timezone.now())
    refused(phone.idle, "certificate revoked")


def test_a_key_that_is_closed_lets_nobody_in(phone: Phone, profile: EnrollmentProfile) -> None:
    phone.end_certificate()
    grant(phone)
    IssuerKey.objects.update(state=IssuerKeyState.CLOSED)
    trust.forget_anchors()
    refused(phone.idle)


def test_the_permit_of_another_device_is_nobodys(phone: Phone, other: Phone) -> None:
    phone.end_certificate()
    other.end_certificate()
    grant(other)
    refused(phone.idle)


# Not granted


def test_not_for_a_certificate_in_force(phone: Phone) -> None:
    with no_change(), pytest.raises(PermitRefused, match="has not expired"):
        grant(phone)


def test_not_for_one_that_is_worse_than_expired(phone: Phone) -> None:
    certificate = phone.end_certificate()
    revocation.revoke(certificate, reason=RevocationReason.UNSPECIFIED, actor=ADA, now=timezone.now())
    with no_change(), pytest.raises(PermitRefused, match="no longer trusted"):
        grant(phone)


@pytest.mark.parametrize("time", [timedelta(0), timedelta(days=31)])
def test_not_for_ever(phone: Phone, time: timedelta) -> None:
    phone.end_certificate()
    with no_change(), pytest.raises(PermitRefused, match="30 days"):
        grant(phone, time=time)


def test_not_for_a_device_that_left(phone: Phone) -> None:
    enrollment = phone.enrollment
    phone.check_in("CheckOut", Topic=enrollment.topic)
    certificate = phone.certificate
    certificate.not_after = timezone.now() - timedelta(days=1)
    certificate.save()
    with no_change(), pytest.raises(PermitRefused, match="not enrolled"):
        permits.grant(enrollment, actor=ADA, now=timezone.now())
