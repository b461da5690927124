"""Answers to commands that the same process has handed out: who answers is compared, not looked up again."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from audit.models import Refusal
from commands import queue
from commands.core import plist
from commands.core.report import decode_report
from commands.models import Command, CommandDelivery, CommandResult, DeliveryState
from devices.core.identity import resolve
from devices.models import Device as DeviceRow
from devices.models import Enrollment, EnrollmentState, Identity, IdentityState
from mdm import awaited, results
from mdm.statements import who_answers
from pki.models import Certificate, CertificateStatus, Issuer, IssuerKey, IssuerKeyState, IssuerState, Purpose
from push.models import PushRequest
from tests.mdm.support import assert_rejected, enrollment_of
from tests.mdm.test_connect import enqueue, quiet
from tests.mdm.test_cost import captured
from tests.mdm.test_parallel import answer_and_close, enrolled
from tests.support.concurrency import somebody_waits
from tests.support.devices import Device, command_uuid, make_device
from tests.support.processes import wait_until
from tests.support.snapshot import no_change

ON_POSTGRESQL = connection.vendor == "postgresql"
pytestmark = pytest.mark.skipif(not ON_POSTGRESQL, reason="SQLite goes step by step")

Change = Callable[[Device], Any]


@pytest.fixture(autouse=True)
def nothing_awaited() -> Iterator[None]:
    awaited.forget()
    yield
    awaited.forget()


@pytest.fixture
def quiet_a(enrolled_a: Device) -> Device:
    return quiet(enrolled_a)


def with_a_command(device: Device, name: str = "ProfileList") -> str:
    """It has been handed out by this process."""
    enqueue(device, name=name)
    return command_uuid(device.idle())


def test_an_answer_is_one_statement(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    with captured() as statements:
        assert quiet_a.answer(uuid_text, ProfileList=[]).body == b""
    assert len(statements) == 1
    assert CommandResult.objects.get().status == "Acknowledged"


def test_and_so_is_the_next_one(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    for name in ("ProfileList", "DeviceInformation", "SecurityInfo"):
        enqueue(quiet_a, name=name)
        with captured() as statements:
            uuid_text = command_uuid(quiet_a.answer(uuid_text))
        assert len(statements) == 1
    assert not quiet_a.answer(uuid_text, SecurityInfo={"PasscodePresent": True}).body
    assert DeviceRow.objects.get(udid=quiet_a.udid).security == {"PasscodePresent": True}


def test_it_is_in_another_process_too_where_the_device_has_been(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    enqueue(quiet_a)
    awaited._awaited.clear()
    with captured() as statements:
        uuid_text = command_uuid(quiet_a.answer(uuid_text))
    assert len(statements) == 1
    with captured() as statements:  # and that one it awaits
        assert quiet_a.answer(uuid_text, "Error", ErrorChain=[{"ErrorCode": 1}]).body == b""
    assert len(statements) == 1
    kept = CommandResult.objects.order_by("pk").values_list("status", "error_chain")
    error = {"code": 1, "domain": "", "message": ""}
    assert list(kept) == [("Acknowledged", []), ("Error", [error])]


def test_a_process_where_it_has_not_been_looks_up_who_answers(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    awaited.forget()
    with captured() as statements:
        assert quiet_a.answer(uuid_text).status == 200
    assert len(statements) == 2


def careful(device: Device) -> str:
    return with_a_command(device, "EraseDevice")


def filled_in(device: Device) -> str:
    uuid_text = with_a_command(device)
    Command.objects.filter(uuid=uuid_text).update(filled_by="somebody")
    return uuid_text


def not_the_first(device: Device) -> str:
    with_a_command(device)
    enqueue(device)
    delivery = CommandDelivery.objects.order_by("-pk")[0]
    delivery.state = DeliveryState.SENT
    delivery.save()
    return str(delivery.command.uuid)


def unknown(device: Device) -> str:
    with_a_command(device)
    return str(uuid.uuid4())


@pytest.mark.parametrize("ask", [careful, filled_in, not_the_first, unknown])
def test_what_another_process_has_to_look_at(quiet_a: Device, ask: Callable[[Device], str]) -> None:
    """By one statement it changes nothing; then it goes the usual way."""
    uuid_text = ask(quiet_a)
    awaited._awaited.clear()
    enrollment = enrollment_of(quiet_a)
    report = decode_report(quiet_a.message(Status="Acknowledged", CommandUUID=uuid_text))
    channel = resolve(quiet_a.message())
    who = who_answers(hashlib.sha256(bytes(quiet_a.certificate.der)).hexdigest(), channel, timezone.now())
    with no_change():
        found = queue.take_answer_of(who, report, timezone.now(), body=b"x", careful=results.CAREFUL)
    assert found is None
    assert quiet_a.answer(uuid_text).status == 200
    answered = CommandDelivery.objects.filter(enrollment=enrollment, state=DeliveryState.ACKNOWLEDGED)
    assert answered.exists() == (ask is not unknown)


def test_what_the_server_makes_of_an_answer_another_process_makes_of_it(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a, "DeviceInformation")
    awaited._awaited.clear()
    assert quiet_a.answer(uuid_text, QueryResponses={"DeviceName": "Library 3"}).status == 200
    assert DeviceRow.objects.get(udid=quiet_a.udid).name == "Library 3"


def test_the_same_answer_again_changes_nothing(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    assert quiet_a.answer(uuid_text).status == 200
    kept = list(CommandResult.objects.values())
    assert quiet_a.answer(uuid_text).status == 200
    assert list(CommandResult.objects.values()) == kept


# What is no longer so


def of_enrollment(**values: Any) -> Change:
    return lambda device: Enrollment.objects.filter(pk=enrollment_of(device).pk).update(**values)


def of_certificate(**values: Any) -> Change:
    return lambda device: Certificate.objects.filter(pk=device.certificate.pk).update(**values)


def of_identity(**values: Any) -> Change:
    return lambda device: Identity.objects.filter(certificate=device.certificate).update(**values)


def of_key(**values: Any) -> Change:
    return lambda device: IssuerKey.objects.filter(pk=device.certificate.issuer_key_id).update(**values)


def of_issuer(**values: Any) -> Change:
    return lambda device: Issuer.objects.update(**values)


def of_delivery(**values: Any) -> Change:
    return lambda device: CommandDelivery.objects.filter(
        enrollment=enrollment_of(device), state=DeliveryState.SENT
    ).update(**values)


def pinned_to_another(device: Device) -> None:
    other = make_device("C")
    other.enrol()
    identity = Identity.objects.filter(certificate=device.certificate)
    identity.update(enrollment=enrollment_of(other))


CHANGES: dict[str, Change] = {
    **{
        f"enrollment {state}": of_enrollment(state=state)
        for state in EnrollmentState.values
        if state != EnrollmentState.ENROLLED
    },
    "epoch": of_enrollment(epoch=7),
    "another purpose": of_certificate(purpose=Purpose.OTA_IDENTITY),
    "revoked": of_certificate(status=CertificateStatus.REVOKED),
    "superseded": of_certificate(status=CertificateStatus.SUPERSEDED),
    "identity superseded": of_identity(state=IdentityState.SUPERSEDED),
    "pinned to another": pinned_to_another,
    "key closed": of_key(state=IssuerKeyState.CLOSED),
    **{
        f"issuer {state}": of_issuer(state=state)
        for state in (IssuerState.DRAFT, IssuerState.AWAITING, IssuerState.REVOKED)
    },
    "no purpose": of_issuer(trusted_for=[]),
    "trusted for another purpose": of_issuer(trusted_for=[Purpose.OTA_IDENTITY.value]),
    **{
        f"delivery {state}": of_delivery(state=state)
        for state in DeliveryState.values
        if state != DeliveryState.SENT
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_meanwhile(quiet_a: Device, change: str) -> None:
    """The very next request sees it, in this process and in another."""
    here, elsewhere, usual = (outcome(quiet_a, CHANGES[change], known) for known in KNOWN)
    assert here == usual
    assert elsewhere == usual


@pytest.mark.parametrize(
    "change", ["revoked", "issuer REVOKED", "no purpose", "enrollment CHECKED_OUT", "epoch"]
)
def test_that_is_refused_or_an_orphan(quiet_a: Device, change: str) -> None:
    uuid_text = with_a_command(quiet_a)
    CHANGES[change](quiet_a)
    quiet_a.answer(uuid_text)
    assert Refusal.objects.exists()
    assert not CommandResult.objects.exists()
    assert CommandDelivery.objects.order_by("-pk")[0].state == DeliveryState.SENT


TRUSTED = {
    "key next": of_key(state=IssuerKeyState.NEXT),
    "key previous": of_key(state=IssuerKeyState.PREVIOUS),
    "issuer retired": of_issuer(state=IssuerState.RETIRED),
    "several purposes": of_issuer(trusted_for=[purpose.value for purpose in Purpose]),
}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("change", TRUSTED)
def test_what_is_trusted_still(quiet_a: Device, change: str, elsewhere: bool) -> None:
    uuid_text = with_a_command(quiet_a)
    if elsewhere:
        awaited._awaited.clear()
    TRUSTED[change](quiet_a)
    with captured() as statements:
        assert quiet_a.answer(uuid_text).status == 200
    assert len(statements) == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_certificate_that_expired_meanwhile(
    quiet_a: Device, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    uuid_text = with_a_command(quiet_a)
    if elsewhere:
        awaited._awaited.clear()
    after: datetime = quiet_a.certificate.not_after + timedelta(seconds=1)
    monkeypatch.setattr(timezone, "now", lambda: after)
    assert_rejected(lambda: quiet_a.answer(uuid_text), "certificate expired")


KNOWN = ("awaited", "known", "unknown")
"""Of the device: its answer, that it has been here, nothing."""


def outcome(device: Device, change: Change, known: str) -> dict[str, Any]:
    """What an answer leads to after a change, all of which is taken back afterwards."""
    with transaction.atomic():
        pk = enrollment_of(device).pk
        uuid_text = with_a_command(device)
        change(device)
        if known == "known":
            awaited._awaited.clear()
        elif known == "unknown":
            awaited.forget()
        answer = device.answer(uuid_text, ProfileList=[])
        deliveries = CommandDelivery.objects.filter(enrollment=pk).order_by("pk")
        columns = ("state", "epoch", "sent_count", "reason")
        found = {
            "answer": (answer.status, answer.body),
            "deliveries": list(deliveries.values_list(*columns)),
            "results": list(CommandResult.objects.values_list("status", "error_chain")),
            "push": list(PushRequest.objects.filter(enrollment=pk).values_list("state", "attempts")),
            "enrollment": Enrollment.objects.values("state", "epoch").get(pk=pk),
            "refusals": list(Refusal.objects.order_by("pk").values_list("reason", "count")),
        }
        transaction.set_rollback(True)
    return found


# Messages


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_message_that_names_another_device(quiet_a: Device, elsewhere: bool) -> None:
    uuid_text = with_a_command(quiet_a)
    if elsewhere:
        awaited._awaited.clear()
    message = {"UDID": "OTHER", "Status": "Acknowledged", "CommandUUID": uuid_text}
    assert_rejected(lambda: quiet_a.connect(message), "identity of another device")
    message = {"EnrollmentID": quiet_a.udid, "Status": "Acknowledged", "CommandUUID": uuid_text}
    quiet_a.idle()
    if elsewhere:
        awaited._awaited.clear()
    assert_rejected(lambda: quiet_a.connect(message), "identity of another device")


@pytest.mark.parametrize(
    "body", [b"no property list", plist.write({"Status": "Idle"}), plist.write({"UDID": "x"})]
)
def test_a_message_that_is_none(quiet_a: Device, body: bytes) -> None:
    with_a_command(quiet_a)
    reason = "bad property list" if body.startswith(b"no") else "bad report"
    assert_rejected(lambda: quiet_a.connect(body), reason)


def test_messages_that_are_no_answer_to_it_go_the_usual_way(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    assert command_uuid(quiet_a.idle()) == uuid_text
    assert quiet_a.answer(uuid_text, "NotNow").status == 200
    assert CommandDelivery.objects.order_by("-pk")[0].state == DeliveryState.NOT_NOW
    assert command_uuid(quiet_a.idle()) == uuid_text
    assert quiet_a.answer(str(uuid.uuid4())).status == 200
    assert list(Refusal.objects.values_list("reason", flat=True)) == ["orphan result"]
    assert command_uuid(quiet_a.idle()) == uuid_text
    assert quiet_a.connect(quiet_a.token_update_message()).status == 200


def test_the_report_of_a_user_is_none_of_the_device(quiet_a: Device) -> None:
    uuid_text = with_a_command(quiet_a)
    assert_rejected(lambda: quiet_a.answer(uuid_text, UserID="U"), "unknown user")


# What is kept


def test_nothing_of_strangers_is_read_before_they_are_known(
    quiet_a: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_arguments: Any, **_options: Any) -> Any:
        raise AssertionError("read")

    uuid_text = with_a_command(quiet_a)
    stranger = make_device("S")
    Certificate.objects.filter(pk=stranger.certificate.pk).update(status=CertificateStatus.REVOKED)
    monkeypatch.setattr(plist, "read", read)
    assert_rejected(lambda: stranger.answer(uuid_text), "certificate revoked")


def test_nothing_is_read_early_of_a_device_whose_answer_was_refused(
    quiet_a: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid_text = with_a_command(quiet_a)
    Certificate.objects.filter(pk=quiet_a.certificate.pk).update(status=CertificateStatus.REVOKED)
    assert_rejected(lambda: quiet_a.answer(uuid_text), "certificate revoked")
    read = []
    monkeypatch.setattr(plist, "read", lambda *_arguments, **_options: read.append(1))
    assert_rejected(lambda: quiet_a.answer(uuid_text), "certificate revoked")
    assert not read


def test_as_many_as_fit(quiet_a: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with_a_command(quiet_a)
    (one,) = awaited._awaited.values()
    monkeypatch.setattr(awaited, "AT_MOST", 2)
    monkeypatch.setattr(awaited, "KNOWN_AT_MOST", 2)
    for name in ("a", "b", "a", "c"):
        awaited.remember(name, one)
        awaited.note(name)
    assert [awaited.is_known(name) for name in "abc"] == [True, False, True]
    assert list(awaited._awaited) == ["a", "c"]
    assert (awaited.take("a"), awaited.take("a"), awaited.take("b")) == (one, None, None)


@pytest.mark.django_db(transaction=True)
def test_a_device_that_is_unenrolled_in_this_moment() -> None:
    """The answer waits for the enrollment, and is none of an enrolled device when it is its turn."""
    device = enrolled()
    enrollment = enrollment_of(device)
    uuid_text = with_a_command(device)
    answering = threading.Thread(target=refused_and_close, args=(device, uuid_text))
    with transaction.atomic():
        Enrollment.objects.filter(pk=enrollment.pk).update(state=EnrollmentState.CHECKED_OUT)
        answering.start()
        wait_until("the answer waits for the enrollment", somebody_waits)
    answering.join()
    assert not CommandResult.objects.exists()
    assert list(Refusal.objects.values_list("reason", flat=True)) == ["enrollment ended: CHECKED_OUT"]


def refused_and_close(device: Device, uuid_text: str) -> None:
    with pytest.raises(AssertionError):
        answer_and_close(device, uuid_text)
