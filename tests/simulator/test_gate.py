"""Simulated people at the gate of an enrolment page: codes, accounts, and what they are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.core.management import CommandError
from django.test import Client
from django.utils import timezone

from audit.recording import Actor
from devices.models import Enrollment, EnrollmentState
from enrollment import codes, device_authorities
from enrollment.models import Access, EnrollmentCode, EnrollmentProfile, EnrollmentSession
from pki.core.certificates import encode_pem
from simulator.device import SimulatedDevice
from simulator.device_ca import make_device_ca
from simulator.exchange import Conversation, Request, Response, SimulationError, converse
from simulator.fleet import Plan
from simulator.gate import Gate, pass_gate
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.management.commands.simulate import Command, codes_of, login_of, plan_of
from simulator.over_the_air import Misbehaviour, enrol_over_the_air
from tests.simulator.in_process import InProcess

URL = "http://127.0.0.1:8000/enroll/default/"
pytestmark = [pytest.mark.django_db, pytest.mark.once]


@pytest.fixture(autouse=True)
def _empty_cache() -> None:
    cache.clear()


def closed(profile: EnrollmentProfile, access: Access) -> EnrollmentProfile:
    profile.access = access
    profile.save()
    return profile


def code(profile: EnrollmentProfile, **more: Any) -> tuple[EnrollmentCode, str]:
    (minted,) = codes.mint(
        profile, count=1, label="Class 7b", actor=Actor("ada"), now=timezone.now(), **{"max_uses": 1, **more}
    )
    return minted


def device(number: int = 1) -> SimulatedDevice:
    return SimulatedDevice(make_hardware("gates", number), new_key())


def carry(conversation: Conversation[Any]) -> Any:
    return converse(conversation, InProcess().send)


def test_with_a_code_a_device_enrols(profile: EnrollmentProfile) -> None:
    _row, value = code(closed(profile, Access.CODE))
    carry(device().enrol(f"{URL}profile", Gate(code=value.lower())))
    enrollment = Enrollment.objects.get()
    assert enrollment.state == EnrollmentState.ENROLLED
    session = EnrollmentSession.objects.get()
    assert session.uuid == enrollment.binding
    assert session.code is not None
    assert session.code.label == "Class 7b"
    with pytest.raises(SimulationError, match="This code does not work"):  # it worked once
        carry(device(2).enrol(f"{URL}profile", Gate(code=value)))
    assert Enrollment.objects.count() == 1


def test_with_an_account_a_device_enrols(profile: EnrollmentProfile) -> None:
    closed(profile, Access.LOGIN)
    User.objects.create_user("anna", password="orchard-gate-9")
    carry(device().enrol(f"{URL}profile", Gate(name="anna", password="orchard-gate-9")))
    assert EnrollmentSession.objects.get().person == "anna"
    with pytest.raises(SimulationError, match="Name or password are wrong"):
        carry(device(2).enrol(f"{URL}profile", Gate(name="anna", password="orchard-gate-8")))
    assert EnrollmentSession.objects.count() == 1


@pytest.mark.parametrize("misbehaviour", list(Misbehaviour))
def test_over_the_air_each_beginning_shows_it_anew(
    profile: EnrollmentProfile, misbehaviour: Misbehaviour
) -> None:
    row, value = code(closed(profile, Access.CODE), max_uses=5)
    maker = make_device_ca(now=timezone.now())
    device_authorities.trust(encode_pem(maker.certificate).encode(), actor=Actor("ada"), now=timezone.now())
    someone = device()
    made = maker.manufacture("someone", new_key(), now=someone.clock())
    carry(
        enrol_over_the_air(
            someone,
            made,
            f"{URL}ota",
            private_key=new_key(),
            misbehaviour=misbehaviour,
            gate=Gate(code=value),
        )
    )
    assert Enrollment.objects.get().state == EnrollmentState.ENROLLED
    row.refresh_from_db()
    assert row.uses == (2 if misbehaviour is Misbehaviour.INTERRUPT else 1)


@pytest.mark.parametrize(
    ("access", "gate", "said"),
    [
        (Access.CODE, Gate(name="anna", password="x"), "it asks for code"),
        (Access.LOGIN, Gate(code="x"), "it asks for password and username"),
        (Access.CODE, Gate(), "it asks for code"),
    ],
)
def test_who_knows_something_else_says_what_was_asked_for(
    profile: EnrollmentProfile, access: Access, gate: Gate, said: str
) -> None:
    closed(profile, access)
    with pytest.raises(SimulationError, match=said):
        carry(pass_gate(f"{URL}profile", gate))
    assert not EnrollmentSession.objects.exists()


def test_where_nothing_is_asked_nothing_is_shown(profile: EnrollmentProfile) -> None:
    server = InProcess()
    assert converse(pass_gate(f"{URL}ota", Gate(code="x")), server.send) == f"{URL}ota"
    assert [request.method for request in server.requests] == ["GET"]


def answers(*responses: Response) -> Callable[[Request], Response]:
    left = list(responses)
    return lambda _request: left.pop(0)


@pytest.mark.parametrize(
    ("responses", "said"),
    [
        ([Response(303, headers={"location": "https://elsewhere.example/"})], "leads to another server"),
        ([Response(303, headers={"location": "/enroll/default/"})] * 5, "round in circles"),
        ([Response(404)], "HTTP 404"),
        ([Response(403)], "HTTP 403"),
        ([Response(200, b"<p>nothing")], "nothing that can be typed"),
        ([Response(200, b"<form><input name=code></form>"), Response(200)], "offers no profile"),
    ],
)
def test_what_the_page_does_wrong_is_told(responses: list[Response], said: str) -> None:
    with pytest.raises(SimulationError, match=said):
        converse(pass_gate(f"{URL}profile", Gate(code="x")), answers(*responses))


def test_codes_are_handed_out_in_turn() -> None:
    plan = Plan(f"{URL}profile", 5, codes=("AAAA", "BBBB"))
    assert [gate.code for number in (1, 2, 3) if (gate := plan.gate(number))] == ["AAAA", "BBBB", "AAAA"]
    assert Plan(f"{URL}profile", 1, login=("anna", "secret")).gate(1) == Gate(name="anna", password="secret")
    assert Plan(f"{URL}profile", 1).gate(1) is None
    for text in (repr(plan), repr(plan.gate(1)), repr(Gate(password="secret"))):
        assert "AAAA" not in text
        assert "secret" not in text


def options(**given: Any) -> dict[str, Any]:
    return {"code": "", "codes": None, "login": "", "password_file": None, **given}


def test_options_say_what_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("AAAA-1111\n\n  BBBB-2222 \n")
    assert codes_of(options(code="X")) == ("X",)
    assert codes_of(options(codes=file)) == ("AAAA-1111", "BBBB-2222")
    assert codes_of(options()) == ()
    file.write_text(" a password \nand more")
    assert login_of(options(login="anna", password_file=file)) == ("anna", " a password ")
    assert login_of(options()) is None
    everything = vars(
        Command().create_parser("manage.py", "simulate").parse_args(["--url", URL, "--devices", "1"])
    )
    assert plan_of({**everything, "code": "X"}).codes == ("X",)
    empty, away = tmp_path / "empty", tmp_path / "away"
    empty.touch()
    for given in (
        {"code": "X", "codes": file},
        {"codes": empty},
        {"codes": away},
        {"login": "anna"},
        {"password_file": file},
        {"login": "anna", "password_file": empty},
        {"login": "anna", "password_file": away},
        {"login": "anna", "password_file": file, "code": "X"},
    ):
        with pytest.raises(CommandError):
            plan_of({**everything, **given})


def test_the_simulator_counts_as_a_browser(profile: EnrollmentProfile) -> None:
    """Its POST passes the check against requests of other sites, and one without the cookie does not."""
    _row, value = code(closed(profile, Access.CODE))
    client = Client(enforce_csrf_checks=True)
    assert client.post("/enroll/default/code", {"code": value}).status_code == 403
    assert "ticket=" in carry(pass_gate(f"{URL}profile", Gate(code=value)))
