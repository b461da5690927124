"""A simulated device against a server that a test plays by hand."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from commands.core import plist
from pki.core import cms
from scep.core.message import self_signed
from simulator import store
from simulator.device import Behaviour, Enrolled, SimulatedDevice, utc_now
from simulator.enrolment_profile import MdmFacts, read_enrolment_profile, verify_fingerprint
from simulator.exchange import Request, Response, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import kept_key, new_key

MDM = MdmFacts(
    topic="com.apple.mgmt.External.1",
    server_url="http://mdm.test/mdm/connect",
    check_in_url="http://mdm.test/mdm/checkin",
    sign_message=True,
    check_out_when_removed=True,
)


@lru_cache(maxsize=1)
def key() -> RSAPrivateKey:
    return new_key()


def enrolled_device(**behaviour: Any) -> SimulatedDevice:
    device = SimulatedDevice(make_hardware("seed", 3), key(), behaviour=Behaviour(**behaviour))
    certificate = self_signed(key(), "device", serial_number=1, now=utc_now()).certificate
    device.enrolled = Enrolled(MDM, certificate, b"t" * 32, "MAGIC", b"u" * 16)
    return device


class Server:
    """Hands out commands; each report that came is in ``reports``."""

    def __init__(
        self, *commands: dict[str, Any], answer: Callable[[int], Response | None] = lambda _n: None
    ) -> None:
        self.commands = list(commands)
        self.answer = answer
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        forced = self.answer(len(self.requests))
        if forced is not None:
            return forced
        return Response(200, plist.write(self.commands.pop(0)) if self.commands else b"")

    @property
    def reports(self) -> list[dict[str, Any]]:
        return [plist.read(request.body, max_size=1 << 20) for request in self.requests]


def command(request_type: str, number: int = 1, **rest: Any) -> dict[str, Any]:
    return {
        "CommandUUID": f"00000000-0000-0000-0000-{number:012}",
        "Command": {"RequestType": request_type, **rest},
    }


@pytest.mark.parametrize("signed_attributes", [False, True])
def test_every_message_is_signed_over_its_body(signed_attributes: bool) -> None:
    device, server = enrolled_device(signed_attributes=signed_attributes), Server(command("ProfileList"))
    converse(device.connect(), server)
    converse(device.update_token(), server)
    for request in server.requests:
        assert request.method == "PUT"
        assert request.headers["User-Agent"] == "MDM/1.0"
        signed = cms.verify_signed_data(
            base64.b64decode(request.headers["Mdm-Signature"]), detached_content=request.body
        )
        assert device.enrolled is not None
        assert signed.signer == device.enrolled.certificate
        assert bool(signed.attributes) == signed_attributes
    assert server.requests[0].headers["Content-Type"] == "application/x-apple-aspen-mdm; charset=UTF-8"
    assert server.requests[-1].headers["Content-Type"] == "application/x-apple-aspen-mdm-checkin"


def test_idle_then_answers_until_nothing_comes() -> None:
    device = enrolled_device()
    server = Server(command("DeviceInformation", 1), command("MakeCoffee", 2))
    assert converse(device.connect(), server) == 2
    assert [report["Status"] for report in server.reports] == ["Idle", "Acknowledged", "CommandFormatError"]
    assert [report.get("CommandUUID") for report in server.reports] == [
        None,
        "00000000-0000-0000-0000-000000000001",
        "00000000-0000-0000-0000-000000000002",
    ]
    assert {report["UDID"] for report in server.reports} == {device.hardware.udid}
    assert (device.tally.connects, device.tally.commands) == (1, 2)


def test_chances_of_one_always_happen() -> None:
    server = Server(command("InstallProfile"), command("EraseDevice", 2))
    converse(enrolled_device(not_now=1.0, errors=1.0).connect(), server)
    assert [report["Status"] for report in server.reports] == ["Idle", "NotNow", "Error"]


def test_a_command_that_comes_again_is_noticed() -> None:
    device, server = enrolled_device(), Server(command("RestartDevice"), command("RestartDevice"))
    converse(device.connect(), server)
    assert device.tally.twice == ["RestartDevice 00000000-0000-0000-0000-000000000001"]


def test_not_now_may_come_again_unnoticed() -> None:
    device, server = (
        enrolled_device(not_now=1.0),
        Server(command("CertificateList"), command("CertificateList")),
    )
    converse(device.connect(), server)
    assert device.tally.twice == []


def test_an_answer_that_did_not_arrive_goes_first_the_next_time() -> None:
    device = enrolled_device()
    server = Server(command("ProfileList"), answer=lambda number: Response(503) if number == 2 else None)
    with pytest.raises(SimulationError, match="HTTP 503") as caught:
        converse(device.connect(), server)
    assert caught.value.passing
    converse(device.connect(), server)
    assert [report["Status"] for report in server.reports] == ["Idle", "Acknowledged", "Acknowledged"]
    assert server.requests[1].body == server.requests[2].body


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_an_error_that_does_not_pass(status: int) -> None:
    with pytest.raises(SimulationError, match=f"connect: HTTP {status}") as caught:
        converse(enrolled_device().connect(), Server(answer=lambda _number: Response(status)))
    assert not caught.value.passing


@pytest.mark.parametrize(
    "body", [b"nonsense", plist.write({}), plist.write({"CommandUUID": 1, "Command": {}})]
)
def test_a_malformed_command_is_an_error(body: bytes) -> None:
    with pytest.raises(SimulationError, match="malformed"):
        converse(enrolled_device().connect(), Server(answer=lambda _number: Response(200, body)))


def test_a_server_that_never_ends_is_an_error() -> None:
    body = plist.write(command("RestartDevice"))
    with pytest.raises(SimulationError, match="more than"):
        converse(enrolled_device().connect(), Server(answer=lambda _number: Response(200, body)))


def test_an_erased_device_is_gone() -> None:
    device, server = enrolled_device(), Server(command("EraseDevice"), command("ProfileList", 2))
    assert converse(device.connect(), server) == 1
    assert device.enrolled is None
    assert [report["Status"] for report in server.reports] == ["Idle", "Acknowledged"]
    assert converse(device.connect(), server) == 0


def test_a_device_that_loses_its_management_checks_out() -> None:
    device = enrolled_device()
    device.contents.management_identifier = "m"
    device.contents.profiles["m"] = {}
    server = Server(command("RemoveProfile", Identifier="m"))
    converse(device.connect(), server)
    assert device.enrolled is None
    assert server.reports[-1]["MessageType"] == "CheckOut"


def test_a_device_is_kept_and_found_again(tmp_path: Path) -> None:
    device = enrolled_device(signed_attributes=True)
    server = Server(
        command("DeviceInformation"), answer=lambda number: Response(500) if number == 2 else None
    )
    with pytest.raises(SimulationError):
        converse(device.connect(), server)
    device.enrolled.mdm = replace(MDM, server_pinned=(b"root",))  # type: ignore[union-attr]
    store.save(tmp_path, 3, device)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    again = store.load(tmp_path, 3, Behaviour(not_now=0.5))
    assert again is not None
    assert again.hardware == device.hardware
    assert again.enrolled == device.enrolled
    assert again.contents == device.contents
    assert again.unsent == device.unsent
    assert again.behaviour == Behaviour(not_now=0.5, signed_attributes=True)
    assert again.private_key.private_numbers() == device.private_key.private_numbers()
    assert store.load(tmp_path, 4, Behaviour()) is None


@pytest.mark.parametrize("text", ["", "{}", '{"version": 99}', '{"version": 1, "hardware": 3}', "[]"])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "device-00001.json").write_text(text)
    with pytest.raises(store.StoreError, match=r"device-00001\.json"):
        store.load(tmp_path, 1, Behaviour())


def test_keys_are_kept_privately(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    made = kept_key(folder, 1)
    assert kept_key(folder, 1).private_numbers() == made.private_numbers()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key-00001.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "data",
    [b"", b"\x30\x80", b"<html>", plist.write({"PayloadType": "Profile Service"}), plist.write({})],
)
def test_what_is_no_enrolment_profile_is_refused(data: bytes) -> None:
    with pytest.raises(SimulationError, match="enrolment profile"):
        read_enrolment_profile(data)


def test_another_ca_than_the_profile_names_is_refused() -> None:
    verify_fingerprint(b"", b"anything")
    with pytest.raises(SimulationError, match="CAFingerprint"):
        verify_fingerprint(b"x" * 32, b"another")
    with pytest.raises(SimulationError, match="CAFingerprint"):
        verify_fingerprint(b"x" * 7, b"another")
