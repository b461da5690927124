"""The server renews identities: the certificate changes, and nothing else does."""

from __future__ import annotations

import hashlib
import plistlib
from typing import Any

import pytest
from django.utils import timezone

from audit.models import AuditEvent
from commands import queue
from commands.models import CommandDelivery, CommandResult, DeliveryState
from devices import escrow
from devices.models import Enrollment, EscrowedSecret, Identity, IdentityState, SecretKind
from enrollment.models import EnrollmentProfile, EnrollmentSession
from pki import issuers
from pki.core.cms import verify_signed_data
from pki.models import Certificate, CertificateStatus
from push.models import PushRequest, PushState
from renewal import identities, progress
from renewal.identities import NotRenewable
from renewal.models import IdentityRenewal, RenewalReason, RenewalState
from scep.models import Challenge
from simulator.device import Behaviour
from simulator.enrolment_profile import read_enrolment_profile
from simulator.exchange import Request, SimulationError, converse
from simulator.identity import obtain_certificate
from tests.mdm.support import assert_rejected
from tests.renewal.phones import ADA, Phone, command_in, new_phone
from tests.simulator.in_process import InProcess
from tests.support.devices import Device, make_device
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def renew(phone: Phone, **options: Any) -> IdentityRenewal:
    return identities.renew(phone.enrollment, actor=ADA, now=timezone.now(), **options)


def profile_in(command: dict[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = plistlib.loads(verify_signed_data(command["Payload"]).content)
    return content


def parts(content: dict[str, Any]) -> dict[str, Any]:
    return {part["PayloadType"].rpartition(".")[2]: part for part in content["PayloadContent"]}


def test_a_new_certificate_takes_over_and_nothing_else_changes(phone: Phone) -> None:
    before, enrollment = phone.certificate, phone.enrollment
    secrets = list(EscrowedSecret.objects.filter(enrollment=enrollment).values())
    history = CommandResult.objects.count()
    waiting = phone.enqueue("SecurityInfo")
    renewal = renew(phone)
    assert (renewal.state, renewal.certificate_before, renewal.attempt) == (RenewalState.PLANNED, before, 1)
    assert PushRequest.objects.get(enrollment=enrollment).state == PushState.DUE

    assert phone.connect() == 2

    after = phone.certificate
    assert after != before
    assert phone.pinned == [after]
    assert Certificate.objects.get(pk=before.pk).status == CertificateStatus.SUPERSEDED
    assert (after.binding, after.subject) == (before.binding, before.subject)
    (done,) = phone.renewals
    assert (done.state, done.certificate_after, done.error) == (RenewalState.COMPLETED, after, "")
    assert done.sent_at is not None
    assert done.acknowledged_at is not None
    # The same life of the same device: nothing was begun anew, lost or asked again.
    same = phone.enrollment
    assert (same.pk, same.epoch, same.authenticated_at) == (
        enrollment.pk,
        enrollment.epoch,
        enrollment.authenticated_at,
    )
    assert Enrollment.objects.count() == 1
    assert {row["id"] for row in secrets} <= set(EscrowedSecret.objects.values_list("pk", flat=True))
    assert CommandResult.objects.count() == history + 2
    assert CommandDelivery.objects.get(command=waiting).state == DeliveryState.ACKNOWLEDGED
    assert not queue.has_outstanding(same)
    assert phone.connect() == 0
    assert AuditEvent.objects.filter(action="identity_renewal.planned", actor="ada").count() == 1
    assert AuditEvent.objects.filter(action="enrollment.identity_renewed").count() == 1


def test_the_escrow_is_still_there_afterwards(profile: EnrollmentProfile) -> None:
    phone = next(one for one in map(new_phone, range(1, 9)) if one.device.hardware.is_mac)
    token = escrow.current(phone.enrollment, SecretKind.BOOTSTRAP_TOKEN)
    assert token
    renew(phone)
    phone.connect()
    assert phone.renewals[0].state == RenewalState.COMPLETED
    answer = plistlib.loads(phone.check_in("GetBootstrapToken"))
    assert answer["BootstrapToken"] == token


def test_the_profile_is_the_devices_own_with_another_identity(phone: Phone) -> None:
    session = EnrollmentSession.objects.select_related("profile").get()
    told = session.told
    assert told
    # What the administrator changed since is not what the device may be told now.
    session.profile.access_rights, session.profile.check_out_when_removed = 1, False
    session.profile.name, session.profile.topic = "Another name", "com.apple.mgmt.External.other"
    session.profile.save()
    renew(phone)
    _uuid, command = command_in(phone.idle())
    assert set(command) == {"RequestType", "Payload"}
    content = profile_in(command)
    found = parts(content)
    assert phone.device.enrolled is not None
    assert content["PayloadIdentifier"] == phone.device.contents.management_identifier
    assert content["PayloadDisplayName"] == "Another name"
    mdm, scep = found["mdm"], found["scep"]
    assert mdm["Topic"] == phone.enrollment.topic == phone.device.enrolled.mdm.topic
    assert (mdm["ServerURL"], mdm["CheckInURL"]) == (told["server"], told["check_in"])
    assert (mdm["AccessRights"], mdm["CheckOutWhenRemoved"]) == (8191, True)
    assert mdm["IdentityCertificateUUID"] == scep["PayloadUUID"]
    authority = issuers.chain(session.profile.issuer)[0]
    assert scep["PayloadContent"]["CAFingerprint"] == hashlib.sha256(authority).digest()
    challenge = Challenge.objects.get(consumed_at=None)
    assert challenge.binding == phone.enrollment.binding
    installed = phone.device.contents.profiles[content["PayloadIdentifier"]]
    before = {part["PayloadIdentifier"]: part["PayloadUUID"] for part in installed["PayloadContent"]}
    after = {part["PayloadIdentifier"]: part["PayloadUUID"] for part in content["PayloadContent"]}
    assert set(before) == set(after)
    assert [name for name in after if after[name] != before[name]] == [scep["PayloadIdentifier"]]
    # The challenge is nowhere but on its way: neither in the queue nor in the record.
    secret = scep["PayloadContent"]["Challenge"]
    assert secret not in repr(list(AuditEvent.objects.values()))
    assert secret not in repr(queue.open_payload(phone.renewals[0].command))  # type: ignore[arg-type]


def test_handed_out_again_it_has_another_challenge_and_the_first_is_void(phone: Phone) -> None:
    renew(phone)
    (first_uuid, first), (second_uuid, second) = command_in(phone.idle()), command_in(phone.idle())
    assert first_uuid == second_uuid
    challenges = [parts(profile_in(c))["scep"]["PayloadContent"]["Challenge"] for c in (first, second)]
    assert challenges[0] != challenges[1]
    assert Challenge.objects.filter(consumed_at=None, expires_at__gt=timezone.now()).count() == 1
    assert phone.connect() == 1
    assert phone.renewals[0].state == RenewalState.COMPLETED


def test_until_the_new_certificate_is_used_the_old_one_speaks(phone: Phone) -> None:
    before = phone.certificate
    renew(phone)
    server = phone.server

    def no_token_update(request: Request) -> Request:
        if request.url.endswith("/checkin"):
            raise SimulationError("network", "gone", passing=True)
        return request

    phone.server = InProcess(before=no_token_update)
    phone.connect()
    phone.server = server
    # The device has its certificate and could not use it: it went back to the old one, and said so.
    assert Certificate.objects.filter(binding=before.binding).count() == 2
    assert phone.certificate == before
    assert phone.pinned == [before]
    (failed,) = phone.renewals
    assert (failed.state, failed.permanent) == (RenewalState.FAILED, False)
    assert "Profile Failed to Install" in failed.error
    renew(phone)
    phone.connect()
    assert [renewal.state for renewal in phone.renewals] == [RenewalState.FAILED, RenewalState.COMPLETED]
    assert phone.renewals[1].attempt == 2
    assert phone.certificate not in (before,)


def test_not_now_is_asked_again_and_an_error_is_kept(profile: EnrollmentProfile) -> None:
    phone = new_phone(3)
    renew(phone)
    phone.device.behaviour = Behaviour(not_now=1.0)
    phone.connect()
    assert phone.renewals[0].state == RenewalState.SENT
    phone.device.behaviour = Behaviour(errors=1.0)
    phone.connect()
    (failed,) = phone.renewals
    assert (failed.state, failed.error) == (RenewalState.FAILED, "The simulated device was told to fail.")
    assert failed.finished_at is not None


def test_a_device_that_renews_by_itself_is_done(phone: Phone) -> None:
    renewal = renew(phone)
    certificate = phone.certificate
    certificate.pk, certificate.sha256, certificate.serial_number = None, "0" * 64, "AA"
    certificate.save()
    progress.taken_over(phone.enrollment, certificate, timezone.now())
    renewal.refresh_from_db()
    assert (renewal.state, renewal.certificate_after) == (RenewalState.COMPLETED, certificate)
    # Its command is not handed out any more.
    assert phone.idle().body == b""
    delivery = CommandDelivery.objects.get(command=renewal.command)
    assert (delivery.state, delivery.sent_count) == (DeliveryState.CANCELLED, 0)
    assert "new certificate already" in delivery.reason


# Refusals


def test_only_one_renewal_is_open_at_a_time(phone: Phone) -> None:
    renew(phone)
    with no_change(), pytest.raises(NotRenewable, match="being renewed already"):
        renew(phone)
    planned = identities.plan([phone.enrollment.pk], reason=RenewalReason.EXPIRY, now=timezone.now())
    assert (planned.renewals, [refused.reason for refused in planned.refused]) == (
        [],
        [identities.OPEN_ALREADY],
    )
    assert len(phone.renewals) == 1


def test_a_device_that_left_is_not_renewed(phone: Phone) -> None:
    enrollment = phone.enrollment
    renewal = renew(phone)
    phone.check_in("CheckOut", Topic=enrollment.topic)
    assert progress.settle(timezone.now()) == 1
    renewal.refresh_from_db()
    assert (renewal.state, renewal.error) == (RenewalState.CANCELLED, progress.ENDED)
    with no_change(), pytest.raises(NotRenewable, match="not enrolled"):
        identities.renew(enrollment, actor=ADA, now=timezone.now())


def test_who_did_not_enrol_by_a_profile_of_ours_cannot_be_renewed(profile: EnrollmentProfile) -> None:
    stranger = make_device("Z")
    stranger.enrol()
    enrollment = Enrollment.objects.get(device__udid=stranger.udid)
    with no_change(), pytest.raises(NotRenewable, match="has to enrol again"):
        identities.renew(enrollment, actor=ADA, now=timezone.now())
    identities.plan([enrollment.pk], reason=RenewalReason.EXPIRY, now=timezone.now())
    (row,) = IdentityRenewal.objects.all()
    assert (row.state, row.permanent, row.error) == (RenewalState.FAILED, True, identities.NOT_OURS)


def test_a_profile_that_is_gone_meanwhile_ends_it(phone: Phone) -> None:
    renewal = renew(phone)
    EnrollmentSession.objects.all().delete()
    assert phone.idle().body == b""
    assert Challenge.objects.filter(consumed_at=None).count() == 0
    assert progress.settle(timezone.now()) == 1
    renewal.refresh_from_db()
    assert (renewal.state, renewal.error) == (
        RenewalState.FAILED,
        "the enrolment profile by which the device enrolled is gone",
    )
    assert progress.settle(timezone.now()) == 0


def test_a_cancelled_command_ends_it(phone: Phone) -> None:
    renewal = renew(phone)
    assert renewal.command is not None
    queue.cancel(renewal.command, ADA, timezone.now())
    assert progress.settle(timezone.now()) == 1
    renewal.refresh_from_db()
    assert (renewal.state, renewal.error) == (RenewalState.FAILED, "cancelled by ada")


def test_the_renewed_certificate_of_another_device_is_refused(phone: Phone, other: Phone) -> None:
    """It is bound to the other enrollment: whoever has it cannot speak for a device but that one."""
    renew(other)
    _uuid, command = command_in(other.idle())
    stolen = parts(profile_in(command))["scep"]["PayloadContent"]["Challenge"]
    identity = Identity.objects.get(enrollment=other.enrollment, state=IdentityState.ACTIVE)
    facts = read_enrolment_profile(command["Payload"]).scep
    assert facts.challenge == stolen
    der = converse(
        obtain_certificate(
            facts, private_key=phone.device.private_key, signer=None, now=phone.device.clock()
        ),
        phone.server.send,
    )
    certificate = Certificate.objects.get(sha256=hashlib.sha256(der).hexdigest())
    assert certificate.binding == other.enrollment.binding
    thief = Device(certificate, phone.device.private_key, udid=phone.device.hardware.udid)
    for reported in ("Idle", "Acknowledged"):
        report = thief.message(Status=reported, CommandUUID=_uuid)
        assert_rejected(lambda said=report: thief.connect(said), "identity of another device")  # type: ignore[misc]
    assert_rejected(lambda: thief.check_in(thief.token_update_message()), "identity of another device")
    assert Identity.objects.get(enrollment=other.enrollment, state=IdentityState.ACTIVE) == identity
    assert phone.connect() == 0


def test_nobody_is_told_a_device_uses_a_certificate_that_it_does_not(phone: Phone) -> None:
    """The profile is installed, and the device goes on with its old certificate: after a day that failed."""
    renewal = renew(phone)
    uuid, _command = command_in(phone.idle())
    phone.send({"Status": "Acknowledged", "CommandUUID": uuid})
    renewal.refresh_from_db()
    assert renewal.state == RenewalState.ACKNOWLEDGED
    now = timezone.now()
    assert progress.settle(now) == 0
    late = now + progress.NOT_USED_AFTER * 2
    Enrollment.objects.update(last_seen_at=late)
    assert progress.settle(late) == 1
    renewal.refresh_from_db()
    assert (renewal.state, renewal.error) == (RenewalState.FAILED, progress.NOT_USED)
