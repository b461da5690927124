"""Simulated devices over the air: right, wrong on purpose, and strict with the server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db.models import Sum
from django.utils import timezone

from audit.models import Refusal
from audit.recording import SERVER
from commands.core import plist
from devices.models import Enrollment, EnrollmentState
from enrollment import device_authorities
from enrollment.models import DeviceAuthority, EnrollmentProfile, EnrollmentSession, SessionState
from pki.core import cms
from pki.core.certificates import describe, encode_pem
from pki.core.device_identity import DeviceAnchor, verify_device_signer
from pki.models import Certificate, Purpose
from scep.core.message import Identity, self_signed
from simulator import store
from simulator.device import Behaviour, SimulatedDevice, utc_now
from simulator.device_ca import (
    CERTIFICATE_FILE,
    KEY_FILE,
    DeviceCa,
    DeviceCaError,
    Manufactured,
    kept_device_ca,
    make_device_ca,
    read_device_ca,
)
from simulator.enrolment_profile import read_enrolment_profile, read_identity_profile
from simulator.exchange import Request, Response, SimulationError, converse
from simulator.fleet import Fleet, Plan
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.management.commands.simulate import (
    Command,
    is_this_machine,
    own_device_ca,
    profile_url,
    trust_here,
)
from simulator.over_the_air import (
    Misbehaviour,
    Service,
    enrol_over_the_air,
    fetch_service,
    message,
    post,
)
from tests.simulator.in_process import InProcess

URL = "http://127.0.0.1:8000/enroll/default/ota"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


@lru_cache(maxsize=16)
def key(name: str) -> RSAPrivateKey:
    return new_key()


@lru_cache(maxsize=1)
def device_ca() -> DeviceCa:
    return make_device_ca(now=utc_now())


@pytest.fixture
def trusted(profile: EnrollmentProfile) -> EnrollmentProfile:
    device_authorities.trust(encode_pem(device_ca().certificate).encode(), actor=SERVER, now=timezone.now())
    return profile


def make_device(number: int = 1, **behaviour: Any) -> SimulatedDevice:
    device = SimulatedDevice(
        make_hardware("over the air", number), key("identity"), behaviour=Behaviour(**behaviour)
    )
    device.manufactured = device_ca().manufacture(f"DEVICE {number}", key(f"made {number}"), now=utc_now())
    return device


def enrol(
    device: SimulatedDevice,
    send: Callable[[Request], Response],
    misbehaviour: Misbehaviour = Misbehaviour.NONE,
) -> None:
    assert device.manufactured is not None
    converse(
        enrol_over_the_air(
            device, device.manufactured, URL, private_key=key("enrolment"), misbehaviour=misbehaviour
        ),
        send,
    )


# Enrolling


@pytest.mark.parametrize("signed_attributes", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_devices_of_all_kinds_enrol(trusted: EnrollmentProfile, number: int, signed_attributes: bool) -> None:
    device, project = make_device(number, signed_attributes=signed_attributes), InProcess()
    enrol(device, project.send)
    assert device.enrolled is not None
    assert Enrollment.objects.get().state == EnrollmentState.ENROLLED
    assert converse(device.connect(), project.send) == 2
    posts = [request for request in project.requests if request.url == URL and request.method == "POST"]
    assert len(posts) == 2
    assert {request.headers["Content-Type"] for request in posts} == {"application/pkcs7-signature"}


@pytest.mark.parametrize(
    ("misbehaviour", "refusals"),
    [
        (Misbehaviour.NONE, {}),
        (Misbehaviour.INTERRUPT, {}),
        (Misbehaviour.REPEAT, {"challenge used before": 1}),
        (Misbehaviour.SWAP, {"no challenge": 2}),
    ],
)
def test_what_goes_wrong_on_the_way_keeps_nobody_out(
    trusted: EnrollmentProfile, misbehaviour: Misbehaviour, refusals: dict[str, int]
) -> None:
    device = make_device()
    enrol(device, InProcess().send, misbehaviour)
    assert device.enrolled is not None
    # Summed: a minute that ends in between begins another row.
    counted = Refusal.objects.order_by("reason").values_list("reason").annotate(Sum("count"))
    assert dict(counted) == refusals
    states = list(EnrollmentSession.objects.order_by("id").values_list("state", flat=True))
    begun = [SessionState.IDENTIFIED] if misbehaviour is Misbehaviour.INTERRUPT else []
    assert states == [*begun, SessionState.COMPLETED]
    assert Certificate.objects.filter(purpose=Purpose.OTA_IDENTITY).count() == 1
    assert Certificate.objects.filter(purpose=Purpose.MDM_IDENTITY).count() == 1


def test_a_device_of_an_unknown_maker_stays_out(profile: EnrollmentProfile) -> None:
    device = make_device()
    with pytest.raises(SimulationError, match=r"phase 2: HTTP 400 \(bad request\)"):
        enrol(device, InProcess().send)
    assert device.enrolled is None
    assert not Certificate.objects.filter(purpose=Purpose.OTA_IDENTITY).exists()


# Strict with the server: what a device would not take


class Changed:
    """The project, with one answer of it changed."""

    def __init__(self, number: int, change: Callable[[Response], Response]) -> None:
        self.project, self.number, self.change, self.count = InProcess(), number, change, 0

    def send(self, request: Request) -> Response:
        answer = self.project.send(request)
        if request.url != URL:
            return answer
        self.count += 1
        return self.change(answer) if self.count == self.number else answer


def resigned(change: Callable[[dict[str, Any]], Any]) -> Callable[[Response], Response]:
    """The same answer with other content, signed by somebody else."""
    stranger = self_signed(key("stranger"), "stranger", serial_number=1, now=utc_now())

    def changed(answer: Response) -> Response:
        content = plist.read(cms.verify_signed_data(answer.body).content, max_size=1 << 20)
        change(content)
        body = cms.sign(
            plist.write(content), certificate=stranger.certificate, private_key=stranger.private_key
        )
        return replace(answer, body=body)

    return changed


def unsigned(answer: Response) -> Response:
    return replace(answer, body=cms.verify_signed_data(answer.body).content)


def extra_payload(content: dict[str, Any]) -> None:
    content["PayloadContent"].append({"PayloadType": "com.apple.wifi.managed"})


@pytest.mark.parametrize(
    ("phase", "change", "problem"),
    [
        (1, unsigned, "not signed"),
        (1, lambda answer: replace(answer, headers={"content-type": "text/html"}), "Content-Type"),
        (1, lambda answer: replace(answer, body=answer.body[:-1]), "signature"),
        (1, resigned(lambda content: content.update(PayloadType="Configuration")), "PayloadType is"),
        (1, resigned(lambda content: content.pop("PayloadContent")), "malformed"),
        (1, resigned(lambda content: content), "no certificate of the profile issued"),
        (2, unsigned, "not signed"),
        (2, resigned(extra_payload), "one SCEP payload"),
        (2, resigned(lambda content: content["PayloadContent"][0].pop("PayloadContent")), "malformed"),
        (2, resigned(lambda content: content), "no certificate of the profile issued"),
        (3, resigned(lambda content: content), "no certificate of the profile issued"),
        (
            3,
            resigned(lambda content: content.update(EncryptedPayloadContent=b"0\x00")),
            "cannot be decrypted",
        ),
        (3, resigned(lambda content: content.update(PayloadContent=[])), "and yet with PayloadContent"),
        (3, lambda answer: Response(503, b"", {}), "phase 3: HTTP 503"),
    ],
)
def test_a_device_takes_no_other_answer(
    trusted: EnrollmentProfile, phase: int, change: Callable[[Response], Response], problem: str
) -> None:
    device = make_device()
    with pytest.raises(SimulationError, match=problem):
        enrol(device, Changed(phase, change).send)
    assert device.enrolled is None
    assert not Enrollment.objects.exists()


def test_a_profile_for_somebody_else_is_not_installed(trusted: EnrollmentProfile) -> None:
    project = InProcess()
    enrol(make_device(), project.send)
    session = EnrollmentSession.objects.get()
    answer = session_answer(project)
    with pytest.raises(SimulationError, match="encrypted to somebody else"):
        read_enrolment_profile(answer)
    other = Identity(
        bytes(Certificate.objects.get(sha256=session.delivered_to_sha256).der), key("somebody else's")
    )
    with pytest.raises(SimulationError, match="cannot be decrypted"):
        read_enrolment_profile(answer, identity=other)


def session_answer(project: InProcess) -> bytes:
    """The management profile, as it is made for the device of the last POST."""
    (last,) = [request for request in project.requests if request.url == URL][-1:]
    EnrollmentSession.objects.update(state=SessionState.IDENTIFIED)
    return project.send(last).body


def test_a_server_that_takes_the_wrong_identity_is_told_on(trusted: EnrollmentProfile) -> None:
    real = InProcess()

    def lax(request: Request) -> Response:
        answer = real.send(request)
        return replace(answer, status=200) if answer.status == 403 else answer

    with pytest.raises(SimulationError, match="HTTP 200 where a refusal was right"):
        enrol(make_device(), lax, Misbehaviour.SWAP)


def test_a_server_that_answers_a_repeated_message_in_another_way_is_told_on(
    trusted: EnrollmentProfile,
) -> None:
    def another_challenge(content: dict[str, Any]) -> None:
        content["PayloadContent"][0]["PayloadContent"]["Challenge"] = "another"

    with pytest.raises(SimulationError, match="answered in another way"):
        enrol(make_device(), Changed(3, resigned(another_challenge)).send, Misbehaviour.REPEAT)


def test_only_what_is_asked_for_is_told(trusted: EnrollmentProfile) -> None:
    service = Service(URL, ("UDID", "SERIAL", "ICCID"), "challenge", b"")
    device = make_device()
    assert device.manufactured is not None
    said = plist.read(
        cms.verify_signed_data(message(device, device.manufactured, service)).content, max_size=1 << 16
    )
    extra = {"NotOnConsole"} if device.hardware.is_mac else set()
    assert set(said) == {"UDID", "SERIAL", "CHALLENGE"} | extra


def test_a_message_of_another_device_can_be_played(trusted: EnrollmentProfile) -> None:
    project, device = InProcess(), make_device()
    assert device.manufactured is not None
    service = converse(fetch_service(URL), project.send)
    body = message(device, device.manufactured, service, changes={"SERIAL": "OTHER"})
    assert read_identity_profile(project.send(post(service, body)).body)
    assert EnrollmentSession.objects.get().serial_number == "OTHER"


# The device CA


def test_what_it_makes_is_a_device() -> None:
    made = device_ca().manufacture("A", key("made 1"), now=utc_now())
    anchor = DeviceAnchor("simulated", device_ca().certificate)
    verified = verify_device_signer(made.certificate, [anchor], now=utc_now())
    assert verified.facts.subject == "CN=A"
    assert verified.facts.not_after - verified.facts.not_before > timedelta(days=3 * 365 - 1)


def test_it_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    made = kept_device_ca(folder)
    again = kept_device_ca(folder)
    assert made.certificate == again.certificate
    assert made.private_key.private_numbers() == again.private_key.private_numbers()
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert (
        describe(kept_device_ca(tmp_path / "other").certificate).subject != describe(made.certificate).subject
    )


@pytest.mark.parametrize("missing", [CERTIFICATE_FILE, KEY_FILE])
def test_files_that_are_none(tmp_path: Path, missing: str) -> None:
    kept_device_ca(tmp_path)
    (tmp_path / missing).write_text("nothing")
    with pytest.raises(DeviceCaError):
        read_device_ca(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DeviceCaError, match="No such file"):
        read_device_ca(tmp_path)


def test_a_device_is_kept_with_what_it_was_made_with(tmp_path: Path) -> None:
    device = make_device()
    store.save(tmp_path, 1, device)
    again = store.load(tmp_path, 1, Behaviour())
    assert again is not None
    assert isinstance(again.manufactured, Manufactured)
    assert device.manufactured is not None
    assert again.manufactured.certificate == device.manufactured.certificate
    text = (tmp_path / "device-00001.json").read_text()
    assert text.count("PRIVATE KEY") == 4


def test_a_device_that_was_kept_before_is_made_anew(tmp_path: Path) -> None:
    device = make_device()
    device.manufactured = None
    store.save(tmp_path, 1, device)
    again = store.load(tmp_path, 1, Behaviour())
    assert again is not None
    assert again.manufactured is None


# The fleet and the command


def test_a_fleet_takes_the_way_of_its_plan(
    trusted: EnrollmentProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transport leads into this process; all else is as it is. The same devices then go on."""
    monkeypatch.setattr("simulator.fleet.Transport", _InProcessTransport)
    plan = Plan(profile_url=URL, devices=2, device_ca=device_ca(), at_once=1, state=tmp_path, retries=0)
    report = _run_here(Fleet(plan))
    assert (report.enrolled, report.errors) == (2, [])
    assert EnrollmentSession.objects.filter(state=SessionState.COMPLETED).count() == 2
    report = _run_here(Fleet(replace(plan, rounds=2)))
    assert (report.enrolled, report.connects, report.errors) == (2, 4, [])
    assert EnrollmentSession.objects.count() == 2


def test_keys_that_are_kept_do_not_make_one_device_of_two(
    trusted: EnrollmentProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server remembers which serial number the key of a device's making speaks for."""
    monkeypatch.setattr("simulator.fleet.Transport", _InProcessTransport)
    for seed in ("one", "two"):
        plan = Plan(URL, 1, device_ca=device_ca(), at_once=1, seed=seed, keys=tmp_path, retries=0)
        report = _run_here(Fleet(plan))
        assert (report.enrolled, report.errors) == (1, [])
    assert Enrollment.objects.filter(state=EnrollmentState.ENROLLED).count() == 2
    assert len(list(tmp_path.glob("made-*"))) == 2


class _InProcessTransport:
    def __init__(self, **_options: Any) -> None:
        self.project = InProcess()

    def __enter__(self) -> _InProcessTransport:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def send(self, request: Request) -> Response:
        return self.project.send(request)


def _run_here(fleet: Fleet) -> Any:
    """In this thread, where the test's transaction is."""
    for number in range(1, fleet.plan.devices + 1):
        fleet._enrol(number)
    for _ in range(fleet.plan.rounds):
        for number in list(fleet.devices):
            fleet._connect(number)
    fleet._count(fleet.now())
    return fleet.report


def run(*arguments: str) -> None:
    call_command(Command(), *arguments)


def test_a_device_ca_is_written_for_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], profile: EnrollmentProfile
) -> None:
    run("--make-device-ca", str(tmp_path / "ca"))
    file = capsys.readouterr().out.strip()
    assert file == str(tmp_path / "ca" / CERTIFICATE_FILE)
    call_command("trust_device_ca", file)
    assert (
        DeviceAuthority.objects.get().sha256 == describe(read_device_ca(tmp_path / "ca").certificate).sha256
    )


def test_the_server_on_this_machine_is_told_for_an_hour(tmp_path: Path, profile: EnrollmentProfile) -> None:
    kept_device_ca(tmp_path)
    before = timezone.now()
    trust_here(tmp_path)
    row = DeviceAuthority.objects.get()
    assert row.trusted_until is not None
    assert timedelta(minutes=59) < row.trusted_until - before < timedelta(minutes=61)


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.8.9.1/", True),
        ("http://[::1]:8000/", True),
        ("http://localhost:8000/enroll/x/", True),
        ("https://mdm.example.com", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://10.0.0.1/", False),
        ("nonsense", False),
    ],
)
def test_only_this_machines_own_addresses_are_this_machine(url: str, here: bool) -> None:
    assert is_this_machine(url) is here


def test_the_address_of_the_way(settings: Any, tmp_path: Path) -> None:
    assert profile_url("http://h/", "", "ota") == "http://h/enroll/default/ota"
    assert profile_url("http://h/enroll/tills/ota", "", "direct") == "http://h/enroll/tills/profile"
    settings.BRAMLEY_HOME = tmp_path
    assert own_device_ca(None) == tmp_path / "simulator"
    assert own_device_ca(Path("/state")) == Path("/state")


def test_another_machine_is_told_nothing_and_the_administrator_how(
    profile: EnrollmentProfile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server elsewhere does not know the CA: nothing is written here, and a line says what to do."""
    settings.BRAMLEY_HOME = tmp_path
    monkeypatch.setattr("simulator.fleet.Transport", _InProcessTransport)
    monkeypatch.setattr("simulator.fleet.ThreadPoolExecutor", _Here)
    with pytest.raises(CommandError, match="1 errors"):
        run("--url", "http://mdm.test", "--devices", "1", "--flow", "ota", "--retries", "0", "--json")
    said = capsys.readouterr().err
    assert f"trust_device_ca {tmp_path / 'simulator' / CERTIFICATE_FILE}" in said
    assert not DeviceAuthority.objects.exists()


class _Here:
    """A pool of this very thread."""

    def __init__(self, *_args: object, **_options: object) -> None:
        return None

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def submit(self, work: Callable[[Any], None], item: Any) -> Any:
        done: Future[None] = Future()
        work(item)
        done.set_result(None)
        return done
