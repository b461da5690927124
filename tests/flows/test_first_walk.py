"""From an empty machine to a managed device, through the running product and a stand-in for APNs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from simulator.device import SimulatedDevice
from simulator.exchange import Conversation, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.conftest import StartServer
from tests.support.apns import ApnsStandIn, Authority
from tests.support.processes import wait_until
from tests.support.server import RunningServer

T = TypeVar("T")
TOPIC = "com.apple.mgmt.External.first-walk"


@pytest.fixture(scope="module")
def apns() -> Iterator[ApnsStandIn]:
    with ApnsStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def server(
    start_server: StartServer, apns: ApnsStandIn, tmp_path_factory: pytest.TempPathFactory
) -> RunningServer:
    server = start_server(apns_url=apns.url, apns_ca=apns.ca_file)
    folder = tmp_path_factory.mktemp("push")
    server.manage("push_certificate", "import", str(_push_certificate(folder, apns.authority, TOPIC)))
    return server


def _push_certificate(folder: Path, authority: Authority, topic: str) -> Path:
    file = folder / "push.pem"
    file.write_bytes(b"".join(authority.push_certificate(topic)))
    return file


@pytest.fixture(scope="module")
def key() -> Any:
    return new_key()


def _carry(conversation: Conversation[T]) -> T:
    with Transport() as transport:
        return converse(conversation, transport.send)


def _enrol(server: RunningServer, key: Any, number: int) -> SimulatedDevice:
    device = SimulatedDevice(make_hardware("first walk", number), key)
    _carry(device.enrol(f"{server.url}/enroll/default/profile"))
    return device


def _query(server: RunningServer, code: str) -> Any:
    """The value of an expression of the ORM, evaluated in the server's own environment."""
    done = server.manage("shell", "--no-imports", "-c", f"import json; {code}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _states(server: RunningServer, command_uuid: str) -> list[str]:
    return list(
        _query(
            server,
            "from commands.models import CommandDelivery as D; print(json.dumps(list("
            f"D.objects.filter(command__uuid='{command_uuid}').values_list('state', flat=True))))",
        )
    )


def _pushed(apns: ApnsStandIn, device: SimulatedDevice) -> Callable[[], bool]:
    assert device.enrolled is not None
    token = device.enrolled.token
    return lambda: bool(apns.pushes_to(token))


def test_a_command_wakes_the_right_device_and_its_answer_arrives(
    server: RunningServer, apns: ApnsStandIn, key: Any
) -> None:
    device, bystander = _enrol(server, key, 1), _enrol(server, new_key(), 2)
    assert device.enrolled is not None
    assert bystander.enrolled is not None

    # After enrolment the server itself asks for the inventory, and says so through APNs.
    wait_until("the device is woken", _pushed(apns, device), seconds=30)
    wait_until("the other one as well", _pushed(apns, bystander), seconds=30)
    push = apns.pushes_to(device.enrolled.token)[0]
    assert (push.topic, push.magic) == (TOPIC, device.enrolled.push_magic)
    assert push.client_topic == TOPIC
    assert push.headers["apns-push-type"] == "mdm"
    assert apns.violations == []
    _carry(device.connect())
    _carry(bystander.connect())
    assert device.tally.request_types == {"DeviceInformation": 1, "SecurityInfo": 1}
    told = _query(
        server,
        "from devices.models import Device as D; "
        f"d = D.objects.get(udid='{device.hardware.udid}'); "
        "print(json.dumps([d.serial_number, d.os_version, d.information_at is not None, bool(d.security)]))",
    )
    assert told == [device.hardware.serial_number, device.hardware.os_version, True, True]

    # A command for one device wakes that one only.
    before = len(apns.pushes)
    queued = json.loads(
        server.manage("enqueue", "ProfileList", "--serial", device.hardware.serial_number, "--json").stdout
    )
    assert (queued["queued"], queued["skipped"]) == (1, [])
    wait_until("a push", lambda: len(apns.pushes) > before, seconds=30)
    assert {push.token for push in apns.pushes[before:]} == {device.enrolled.token}
    assert _states(server, queued["command_uuid"]) == ["QUEUED"]
    _carry(bystander.connect())
    assert _states(server, queued["command_uuid"]) == ["QUEUED"]
    _carry(device.connect())
    assert _states(server, queued["command_uuid"]) == ["ACKNOWLEDGED"]
    assert device.tally.twice == bystander.tally.twice == []


def test_a_device_that_checks_out_is_neither_pushed_nor_given_commands(
    server: RunningServer, key: Any
) -> None:
    device = _enrol(server, new_key(), 3)
    _carry(device.connect())
    _carry(device.check_out())
    queued = json.loads(
        server.manage("enqueue", "ProfileList", "--serial", device.hardware.serial_number, "--json").stdout
    )
    assert queued["queued"] == 0
    assert [skipped["reason"] for skipped in queued["skipped"]] == ["not enrolled"]


@pytest.mark.once  # a server of its own
def test_a_wrong_push_certificate_is_refused_by_apns_and_shown_to_the_administrator(
    start_server: StartServer, apns: ApnsStandIn, tmp_path: Path
) -> None:
    other = start_server(apns_url=apns.url, apns_ca=apns.ca_file)
    stranger = _push_certificate(tmp_path, Authority("somebody else's CA"), TOPIC)
    other.manage("push_certificate", "import", str(stranger))
    device = _enrol(other, new_key(), 4)
    assert device.enrolled is not None
    held = (
        "from push.models import PushCertificate as P; "
        "print(json.dumps(list(P.objects.values_list('held_reason', flat=True))))"
    )
    wait_until("the certificate is held", lambda: _query(other, held) not in ([], [""]), seconds=60)
    assert apns.pushes_to(device.enrolled.token) == []
    listed = other.manage("push_certificate", "list").stdout
    assert TOPIC in listed
