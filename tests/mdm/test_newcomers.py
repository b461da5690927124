"""A device enrols by one statement for each message, and by the long way: both are the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from django.db import connection, transaction
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from audit.models import AuditEvent
from audit.recording import SERVER
from commands.core import plist
from commands.models import Command, CommandDelivery
from devices import registry, statements
from devices.models import Device as DeviceRow
from devices.models import DeviceGroup, Enrollment, Identity
from enrollment import blocking, completion
from enrollment.models import EnrollmentProfile, EnrollmentSession, Flow, SessionState
from enrollment.setup import ensure_default_profile
from mdm import newcomers
from mdm.answers import Reply
from pki import revocation, trust
from pki.models import (
    Certificate,
    Issuer,
    IssuerKind,
    Purpose,
    RevocationReason,
)
from push.models import PushCertificate, PushRequest
from tests.mdm.support import assert_rejected, enrollment_of
from tests.support.concurrency import somebody_waits
from tests.support.device_door import Answer
from tests.support.devices import TOPIC, Device, device_key, make_device, make_issuer
from tests.support.everything import Rows, everything
from tests.support.processes import wait_until
from tests.support.snapshot import no_change

ON_POSTGRESQL = connection.vendor == "postgresql"
only_on_postgresql = pytest.mark.skipif(not ON_POSTGRESQL, reason="SQLite goes the long way")
Say = Callable[[Device], Any]


# --- devices and where they come from ----------------------------------------------------------------------


@pytest.fixture
def profile(issuer: Issuer) -> EnrollmentProfile:
    return ensure_default_profile(issuer)


def session(profile: EnrollmentProfile, **fields: Any) -> EnrollmentSession:
    now = timezone.now()
    return EnrollmentSession.objects.create(
        profile=profile, created_at=now, expires_at=now + timedelta(hours=1), **fields
    )


def of_a_session(profile: EnrollmentProfile, **fields: Any) -> Device:
    return make_device("C", binding=session(profile, **fields).uuid)


def foreign_device(number: int = 1) -> Device:
    """One with a certificate of another CA, which is trusted from now on."""
    ca_key, key = device_key(930), device_key(931)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old MDM CA")])
    now = timezone.now()
    ca = (
        x509.CertificateBuilder(name, name, ca_key.public_key(), 1)
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=99))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    trust.trust_issuer(ca.public_bytes(Encoding.DER), purpose=Purpose.MDM_IDENTITY, actor=SERVER)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"device {number}")])
    der = (
        x509.CertificateBuilder(name, subject, key.public_key(), 76 + number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=50))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]), critical=False)
        .sign(ca_key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    return Device(
        certificate=Certificate(der=der), key=key, udid=f"00008030-0{number}", serial_number="LA00000001"
    )


def authenticate(device: Device, **changes: Any) -> Answer:
    return device.check_in(device.authenticate_message(**changes))


def token_update(device: Device, **changes: Any) -> Answer:
    return device.check_in(device.token_update_message(**changes))


# --- both ways ----------------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What came of a conversation. ``short``: for each message, whether it went the short way."""

    answers: list[tuple[int, bytes]]
    rows: Rows
    wakes: int
    short: list[bool] = field(default_factory=list)


@dataclass
class Ways:
    """Carries a conversation out by either way, and takes it back."""

    monkeypatch: pytest.MonkeyPatch
    callbacks: DjangoCaptureOnCommitCallbacks

    def run(
        self, device: Device, says: Sequence[Say], *, by_the_long_way: bool = False, elsewhere: bool = False
    ) -> Ran:
        """``elsewhere``: each message comes to another process."""
        short: list[bool] = []

        def at_once(*arguments: Any) -> Reply | None:
            if elsewhere:
                newcomers._begun.clear()
            short.append(False)
            reply = None if by_the_long_way else at_once_itself(*arguments)
            short[-1] = reply is not None
            return reply

        def first_token_update(*arguments: Any) -> Reply | None:
            reply = None if by_the_long_way else first_token_update_itself(*arguments)
            short[-1] = reply is not None
            return reply

        at_once_itself, first_token_update_itself = newcomers.at_once, newcomers.first_token_update
        with self.monkeypatch.context() as patch, transaction.atomic():
            moment = timezone.now()
            patch.setattr(timezone, "now", lambda: moment)
            patch.setattr(newcomers, "at_once", at_once)
            patch.setattr(newcomers, "first_token_update", first_token_update)
            with self.callbacks() as wakes:
                answers = [(answer.status, answer.body) for answer in (say(device) for say in says)]
            ran = Ran(answers, _without_moment(everything(), moment), len(wakes), short)
            transaction.set_rollback(True)
        trust.forget_anchors()
        return ran

    def both(self, device: Device, *says: Say) -> Ran:
        """By both, and compared: every answer, every row, and whether a worker is woken."""
        short = self.run(device, says)
        compare(short, self.run(device, says, by_the_long_way=True))
        return short


def compare(one: Ran, other: Ran) -> None:
    assert one.answers == other.answers
    for model, rows in other.rows.items():
        assert one.rows[model] == rows, model
    assert one.wakes == other.wakes


def _without_moment(rows: Rows, moment: Any) -> Rows:
    texts = {
        moment.replace(second=0, microsecond=0): "this minute",
        moment: "now",
        (moment + timedelta(days=3)): "in three days",
    }
    return {
        model: [{name: _word(value, texts) for name, value in row.items()} for row in found]
        for model, found in rows.items()
    }


def _word(value: Any, texts: dict[Any, str]) -> Any:
    if isinstance(value, str):
        for moment, word in texts.items():
            value = value.replace(moment.isoformat(), word)
        return value
    return texts.get(value, value) if not isinstance(value, (dict, list)) else value


@pytest.fixture
def ways(
    monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> Ways:
    return Ways(monkeypatch, django_capture_on_commit_callbacks)


def certified(profile: EnrollmentProfile) -> Device:
    return of_a_session(profile, state=SessionState.CERTIFIED)


def over_the_air(profile: EnrollmentProfile) -> Device:
    return of_a_session(
        profile,
        flow=Flow.OTA,
        state=SessionState.DELIVERED,
        udid="00008030-0000000000000043",
        serial_number="F00000000C",
        answer_sealed=b"answer",
    )


USUAL: dict[str, Callable[[EnrollmentProfile], Device]] = {
    "direct": of_a_session,
    "direct, certificate noted": certified,
    "over the air": over_the_air,
    "a session that is gone": lambda _profile: make_device("C"),
    "no session": lambda _profile: unbound(),
    "another CA": lambda _profile: foreign_device(),
}


def unbound(letter: str = "C") -> Device:
    device = make_device(letter)
    Certificate.objects.filter(pk=device.certificate.pk).update(binding=None)
    return device


@pytest.mark.django_db
@pytest.mark.parametrize("can_be_woken", [True, False])
@pytest.mark.parametrize("origin", USUAL)
def test_an_enrolment_is_the_same_by_both_ways(
    profile: EnrollmentProfile, ways: Ways, origin: str, can_be_woken: bool
) -> None:
    if can_be_woken:
        PushCertificate.objects.create(state="ACTIVE", topic=TOPIC, private_key_sealed=b"sealed")
    device = USUAL[origin](profile)
    ran = ways.both(device, authenticate, token_update)
    compare(ran, ways.run(device, [authenticate, token_update], elsewhere=True))
    assert ran.answers == [(200, b""), (200, b"")]
    assert ran.wakes == 1
    assert ran.short == [ON_POSTGRESQL, ON_POSTGRESQL]
    told = [row["action"] for row in ran.rows["audit.AuditEvent"]]
    asleep = [] if can_be_woken else ["enrollment.cannot_be_woken"]
    expected = ["enrollment.authenticated", "enrollment.enrolled", *asleep, *["command.enqueued"] * 2]
    assert told[-len(expected) :] == expected
    commands = [row["request_type"] for row in ran.rows["commands.Command"]]
    assert commands == ["DeviceInformation", "SecurityInfo"]
    assert [row["command_id"] for row in ran.rows["commands.CommandDelivery"]] == [0, 1]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "says",
    [
        {"SerialNumber": "", "DeviceName": "", "ProductName": "", "ModelName": "", "OSVersion": ""},
        {"SerialNumber": "", "DeviceName": "Zoë's 50% „Mac“ \N{FACE WITH TEARS OF JOY}", "IMEI": "35 2"},
        {"DeviceName": "", "ProductName": "iPhone14,2", "MEID": "35", "BuildVersion": "22A"},
    ],
)
def test_whatever_it_says_of_itself(profile: EnrollmentProfile, ways: Ways, says: dict[str, Any]) -> None:
    device = of_a_session(profile)
    ran = ways.both(device, lambda one: authenticate(one, **says), token_update)
    assert ran.short == [ON_POSTGRESQL] * 2


@pytest.mark.django_db
@pytest.mark.parametrize("awaiting", [True, False])
def test_awaiting_configuration(profile: EnrollmentProfile, ways: Ways, awaiting: bool) -> None:
    ran = ways.both(
        of_a_session(profile),
        authenticate,
        lambda one: token_update(one, AwaitingConfiguration=awaiting, NotOnConsole=False),
    )
    assert ran.short == [ON_POSTGRESQL] * 2
    assert [row["awaiting_configuration"] for row in ran.rows["devices.Enrollment"]] == [awaiting]


@pytest.mark.django_db
def test_a_device_known_by_an_enrollment_id(profile: EnrollmentProfile, ways: Ways) -> None:
    def renamed(message: dict[str, Any]) -> dict[str, Any]:
        return {("EnrollmentID" if key == "UDID" else key): value for key, value in message.items()}

    ran = ways.both(
        of_a_session(profile),
        lambda one: one.check_in(renamed(one.authenticate_message())),
        lambda one: one.check_in(renamed(one.token_update_message())),
    )
    assert ran.answers == [(200, b""), (200, b"")]
    assert [row["user_enrollment"] for row in ran.rows["devices.Device"]] == [True]


# --- what is unusual goes the long way, and is decided there ------------------------------------------------


def blocked(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    blocking.block(device.serial_number.lower(), reason="stolen", actor=SERVER, now=timezone.now())
    return device


def unlisted(profile: EnrollmentProfile) -> Device:
    EnrollmentProfile.objects.update(only_listed=True)
    return of_a_session(profile)


def known(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    DeviceRow.objects.create(udid=device.udid, serial_number="old")
    return device


def enrolled_already(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    make_device("D", udid=device.udid).enrol()
    return device


def approved(profile: EnrollmentProfile) -> Device:
    return of_a_session(profile, pre_approved=True, expected_serial_number="F00000000C")


def in_a_used_session(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    make_device("D", binding=device.certificate.binding).enrol()
    return device


def revoked(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    revocation.revoke(
        device.certificate, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=timezone.now()
    )
    return device


def of_an_issuer_that_is_not_trusted(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    Issuer.objects.update(trusted_for=[])
    return device


def renewed(profile: EnrollmentProfile) -> Device:
    device = of_a_session(profile)
    device.enrol()
    return make_device("C", binding=device.certificate.binding, renewed_from=device.certificate)


UNUSUAL: dict[str, tuple[Callable[[EnrollmentProfile], Device], int]] = {
    "blocked": (blocked, 400),
    "not listed": (unlisted, 400),
    "known": (known, 200),
    "enrolled already": (enrolled_already, 200),
    "approved beforehand": (approved, 200),
    "another device's session": (in_a_used_session, 400),
    "stopped": (lambda profile: of_a_session(profile, state=SessionState.FAILED, reason="stopped"), 400),
    "expired": (lambda profile: of_a_session(profile, state=SessionState.EXPIRED), 400),
    "made for another": (lambda profile: of_a_session(profile, expected_udid="OTHER"), 400),
    "over the air, not delivered": (
        lambda profile: of_a_session(profile, flow=Flow.OTA, state=SessionState.IDENTIFIED),
        400,
    ),
    "renewed": (renewed, 200),
}


@pytest.mark.django_db
@pytest.mark.parametrize("origin", UNUSUAL)
def test_an_unusual_authenticate_goes_the_long_way(
    profile: EnrollmentProfile, ways: Ways, origin: str
) -> None:
    make, status = UNUSUAL[origin]
    ran = ways.both(make(profile), authenticate)
    assert ran.answers == [(status, b"")]
    assert not any(ran.short)


@pytest.mark.django_db
@pytest.mark.parametrize("make", [revoked, of_an_issuer_that_is_not_trusted])
def test_a_certificate_that_does_not_count_is_refused_before_its_message_is_read(
    profile: EnrollmentProfile, ways: Ways, make: Callable[[EnrollmentProfile], Device]
) -> None:
    device = make(profile)
    assert ways.both(device, lambda one: one.check_in(b"no property list")).answers == [(400, b"")]
    with no_change():
        assert authenticate(device).status == 400


@pytest.mark.django_db
def test_a_foreign_certificate_is_put_on_record_with_an_enrolment_only(profile: EnrollmentProfile) -> None:
    device = foreign_device()
    blocking.block(device.serial_number, reason="stolen", actor=SERVER, now=timezone.now())
    assert_rejected(lambda: authenticate(device), "device is blocked")
    assert not Certificate.objects.filter(foreign=True).exists()


@pytest.mark.django_db
def test_repetitions_are_told_apart(profile: EnrollmentProfile, ways: Ways) -> None:
    ran = ways.both(
        of_a_session(profile), authenticate, authenticate, token_update, token_update, authenticate
    )
    assert {status for status, _body in ran.answers} == {200}
    assert ran.short == [ON_POSTGRESQL, False, ON_POSTGRESQL, False, False]
    assert len(ran.rows["commands.Command"]) == 2


@pytest.mark.django_db
def test_a_device_that_starts_over_goes_the_long_way(profile: EnrollmentProfile, ways: Ways) -> None:
    device = of_a_session(profile)
    device.enrol()
    ran = ways.both(device, lambda one: authenticate(one, OSVersion="16"), token_update)
    assert ran.answers == [(200, b""), (200, b"")]
    assert not any(ran.short)


def deposits_a_token(device: Device) -> Answer:
    return token_update(device, UnlockToken=b"unlock")


def of_another_device(device: Device) -> Answer:
    return token_update(device, UDID="00008030-OTHER")


def of_a_user(device: Device) -> Answer:
    return token_update(device, UserID="U-1", UserShortName="anna")


@pytest.mark.django_db
@pytest.mark.parametrize("say", [deposits_a_token, of_another_device, of_a_user])
def test_an_unusual_token_update_goes_the_long_way(profile: EnrollmentProfile, ways: Ways, say: Say) -> None:
    device = of_a_session(profile)
    assert authenticate(device).status == 200
    if say is deposits_a_token:  # what is sealed differs each time
        ran = ways.run(device, [say], by_the_long_way=False)
    else:
        ran = ways.both(device, say)
    assert not any(ran.short)


@pytest.mark.django_db
def test_groups_to_join(profile: EnrollmentProfile, ways: Ways) -> None:
    profile.groups.add(DeviceGroup.objects.create(name="Orchard"))
    ran = ways.both(of_a_session(profile), authenticate, token_update)
    assert ran.short == [ON_POSTGRESQL, False]
    assert len(ran.rows["devices.Device_groups"]) == 1


@pytest.mark.django_db
def test_a_held_device_completes_nothing(profile: EnrollmentProfile, ways: Ways) -> None:
    device = enrolled_already(profile)
    ran = ways.both(device, authenticate, token_update)
    assert ran.answers == [(200, b""), (200, b"")]
    assert not any(ran.short)
    assert len(ran.rows["commands.Command"]) == 2


@pytest.mark.django_db
def test_a_stranger_is_refused_by_both_ways(profile: EnrollmentProfile, ways: Ways) -> None:
    device = foreign_device()
    Issuer.objects.filter(kind=IssuerKind.TRUST_ONLY).update(trusted_for=[])
    trust.forget_anchors()
    ran = ways.both(device, authenticate)
    assert ran.answers == [(400, b"")]
    assert [row["reason"] for row in ran.rows["audit.Refusal"]] == ["certificate issuer not trusted"]


# --- another is quicker ------------------------------------------------------------------------------------


def in_the_background(call: Callable[[], Answer], answers: list[Answer]) -> threading.Thread:
    def run() -> None:
        try:
            answers.append(call())
        finally:
            connection.close()

    return threading.Thread(target=run)


def while_undecided(first: Callable[[], Any], second: Callable[[], Answer]) -> Answer:
    """The answer to ``second``, which begins when ``first`` is done but not yet committed."""
    answers: list[Answer] = []
    thread = in_the_background(second, answers)
    with transaction.atomic():
        first()
        thread.start()
        wait_until("the second waits for the first", somebody_waits)
    thread.join()
    return answers[0]


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("make", [unbound, foreign_device])
def test_one_certificate_enrols_one_of_two_devices(make: Callable[[], Device]) -> None:
    make_issuer()
    trust.forget_anchors()
    one = make()
    other = Device(one.certificate, one.key, udid="00008030-OTHER")
    answer = while_undecided(lambda: authenticate(one), lambda: authenticate(other))
    assert answer.status == 400
    assert [row.udid for row in DeviceRow.objects.all()] == [one.udid]
    assert Enrollment.objects.count() == Identity.objects.count() == 1
    assert AuditEvent.objects.filter(action="enrollment.authenticated").count() == 1


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_of_two_that_say_to_be_one_device_the_later_is_held() -> None:
    make_issuer()
    one, other = make_device("A"), make_device("B")
    other.udid = one.udid
    answer = while_undecided(lambda: authenticate(one), lambda: authenticate(other))
    assert answer.status == 200
    assert sorted(Enrollment.objects.values_list("state", flat=True)) == ["AUTHENTICATED", "QUARANTINED"]
    assert DeviceRow.objects.count() == 1


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_one_session_enrols_one_of_two_devices() -> None:
    profile = ensure_default_profile(make_issuer())
    one = of_a_session(profile)
    other = make_device("D", binding=one.certificate.binding)
    answer = while_undecided(lambda: authenticate(one), lambda: authenticate(other))
    assert answer.status == 400
    assert [row.udid for row in DeviceRow.objects.all()] == [one.udid]


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_session_that_is_stopped_meanwhile_stays_stopped() -> None:
    """As by the long way: the device is in, the attempt is on record as ended."""
    device = of_a_session(ensure_default_profile(make_issuer()))
    stopped = EnrollmentSession.objects.get()

    def stop() -> None:
        assert completion.stop(stopped, actor=SERVER, now=timezone.now())

    assert while_undecided(stop, lambda: authenticate(device)).status == 200
    stopped.refresh_from_db()
    assert (stopped.state, stopped.udid) == (SessionState.FAILED, "")
    assert enrollment_of(device).state == "AUTHENTICATED"


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_the_same_token_update_twice_at_once_asks_once() -> None:
    make_issuer()
    device = make_device("A")
    assert authenticate(device).status == 200
    assert while_undecided(lambda: token_update(device), lambda: token_update(device)).status == 200
    assert Command.objects.count() == CommandDelivery.objects.count() == 2
    assert AuditEvent.objects.filter(action="enrollment.enrolled").count() == 1
    assert PushRequest.objects.count() == 1


@only_on_postgresql
@pytest.mark.django_db(transaction=True)
def test_a_token_update_of_an_enrollment_that_ends_meanwhile_is_refused() -> None:
    make_issuer()
    device = make_device("A")
    assert authenticate(device).status == 200
    enrollment = enrollment_of(device)

    def end() -> None:
        registry.check_out(enrollment, timezone.now())

    assert while_undecided(end, lambda: token_update(device)).status == 400
    enrollment.refresh_from_db()
    assert (enrollment.state, enrollment.push_token) == ("CHECKED_OUT", None)
    assert not Command.objects.exists()
    assert not PushRequest.objects.exists()


@only_on_postgresql
@pytest.mark.django_db
def test_what_the_statement_cannot_keep_leaves_nothing(
    profile: EnrollmentProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that another wrote between the look and the writing: all of it is taken back."""
    device = of_a_session(profile)
    DeviceRow.objects.create(udid=device.udid)
    newcomers._authenticate.cache_clear()
    monkeypatch.setattr(statements, "UNKNOWN_DEVICE", "%(device_udid)s::varchar IS NOT NULL")
    try:
        with no_change():
            body, der = plist.write(device.authenticate_message()), bytes(device.certificate.der)
            assert newcomers.at_once(der, body, timezone.now()) is None
    finally:
        newcomers._authenticate.cache_clear()
