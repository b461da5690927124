"""HTTPS without a proxy: ``start --tls`` with client certificates, and the two ways of knowing a device.

Shows, with tests/flows/test_mutual_tls_proxies.py, the answer to the seed's question S4 (docs/questions/
how-a-request-is-known-to-come-from-the-device.md), and to S6 what a device trusts in the end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.core.certificates import encode_pem
from scep.core.message import Identity
from simulator.device import Behaviour, SimulatedDevice
from simulator.exchange import Conversation, Request, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from simulator.trust import DeviceTls, Trust, show
from tests.conftest import StartServer
from tests.enrollment.test_server_trust import make
from tests.support import wire
from tests.support.inside import inside, refused_since, state
from tests.support.processes import free_port, wait_until
from tests.support.server import RunningServer
from tests.support.wire import Said, message

pytestmark = [pytest.mark.slow, pytest.mark.once]


class Setting:
    """A server that ends TLS itself, its root, and devices that enrolled there."""

    def __init__(self, server: RunningServer, mdm_port: int, folder: Path) -> None:
        self.server, self.mdm_port = server, mdm_port
        self.root = folder / "root.pem"
        self.root.write_text(server.manage("issuer", "export", "bramley").stdout)

    def device(self, number: int, **behaviour: Any) -> SimulatedDevice:
        """Enrolled; after the download it trusts the root in its profile and no other."""
        device = SimulatedDevice(
            make_hardware("own TLS", number), new_key(), behaviour=Behaviour(**behaviour)
        )
        self.carry(device, device.enrol(f"{self.server.url}/enroll/default/profile"))
        return device

    def carry(self, device: SimulatedDevice, conversation: Conversation[Any]) -> None:
        trust = Trust(ca=self.root, profile_only=True)
        with Transport(tls=DeviceTls(trust, device)) as transport:
            converse(conversation, transport.send)

    def context(self, identity: Identity | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.root))
        if identity is not None:
            show(context, identity)
        return context

    def ask(self, data: bytes, identity: Identity | None = None, port: int | None = None) -> Said:
        """At the MDM addresses unless another port is given."""
        return wire.send(port or self.mdm_port, data, tls=self.context(identity))

    def shown(self) -> str:
        """SHA-256 of the certificate that the server shows."""
        with (
            socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as plain,
            self.context().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            der = connection.getpeercert(binary_form=True)
        assert der is not None
        return hashlib.sha256(der).hexdigest()


def start(start_server: StartServer, folder: Path, proof: str) -> Setting:
    mdm_port = free_port()
    server = start_server(
        tls=True, arguments=("--mdm-port", str(mdm_port)), environment={"BRAMLEY_DEVICE_AUTH": proof}
    )
    return Setting(server, mdm_port, folder)


@pytest.fixture(scope="module")
def either(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return start(start_server, tmp_path_factory.mktemp("root"), "either")


@pytest.fixture(scope="module")
def certificates(start_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return start(start_server, tmp_path_factory.mktemp("root"), "certificate")


def identity(device: SimulatedDevice) -> Identity:
    assert device.enrolled is not None
    return Identity(device.enrolled.certificate, device.private_key)


def idle(device: SimulatedDevice) -> Request:
    assert device.enrolled is not None
    report = {"Status": "Idle", "UDID": device.hardware.udid}
    unsigned = Request("PUT", device.enrolled.mdm.server_url)
    request = device.request(unsigned.url, report, "application/x-apple-aspen-mdm")
    headers = {name: value for name, value in request.headers.items() if name != "Mdm-Signature"}
    return Request("PUT", request.url, request.body, headers)


def signed(device: SimulatedDevice, signer: SimulatedDevice | None = None) -> bytes:
    """An idle connect of ``device``, signed by itself or by somebody else."""
    request = idle(device)
    signature = (signer or device).sign(request.body)
    return message(request, [f"Mdm-Signature: {base64.b64encode(signature).decode()}"])


# Both ways, side by side


def test_a_device_may_sign_or_show_its_certificate(either: Setting) -> None:
    anna = either.device(1, mutual_tls=True, signs=False)
    bert = either.device(2, mutual_tls=False, signs=True)
    for device in (anna, bert):
        assert either.ask(message(idle(device)), identity(device)).status == 200
        assert either.ask(signed(device)).status == 200
        assert either.ask(signed(device), identity(device)).status == 200


def test_nobody_speaks_for_another_device_in_either_way(either: Setting) -> None:
    anna, bert = either.device(3), either.device(4)
    claimed = base64.b64encode(identity(anna).certificate).decode()
    before = state(either.server)
    refused = [
        either.ask(message(idle(anna))),
        either.ask(message(idle(anna)), identity(bert)),
        either.ask(signed(anna, signer=bert)),
        either.ask(signed(anna), identity(bert)),
        either.ask(signed(anna, signer=bert), identity(anna)),
        either.ask(message(idle(anna), [f"Client-Cert: :{claimed}:"])),
    ]
    assert [(said.status, said.body) for said in refused] == [(400, b"")] * len(refused)
    after = state(either.server)
    assert after["rows"] == before["rows"]
    assert refused_since(before, after) == {
        "mdm: no client certificate": 2,
        "mdm: identity of another device": 2,
        "mdm: signature and client certificate differ": 2,
    }


def test_where_certificates_count_a_signature_alone_does_not(certificates: Setting) -> None:
    anna = certificates.device(1, mutual_tls=True)
    assert certificates.ask(signed(anna), identity(anna)).status == 200
    before = state(certificates.server)
    assert certificates.ask(signed(anna)).status == 400
    assert certificates.ask(signed(anna), port=certificates.server.port).status == 400
    after = state(certificates.server)
    assert after["rows"] == before["rows"]
    assert refused_since(before, after) == {"mdm: no client certificate": 2}


def test_a_certificate_is_asked_for_at_the_mdm_port_only(certificates: Setting) -> None:
    """What is shown at the other port does not arrive: SCEP and people are not asked."""
    anna = certificates.device(2, mutual_tls=True)
    assert certificates.ask(message(idle(anna)), identity(anna)).status == 200
    assert certificates.ask(message(idle(anna)), identity(anna), certificates.server.port).status == 400


def test_a_certificate_of_another_ca_ends_in_the_handshake(certificates: Setting) -> None:
    anna = certificates.device(3, mutual_tls=True)
    real = x509.load_der_x509_certificate(identity(anna).certificate)
    key, now = new_key(), datetime.now(UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .serial_number(real.serial_number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .public_key(key.public_key())
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    before = state(certificates.server)
    said = certificates.ask(message(idle(anna)), Identity(forged.public_bytes(Encoding.DER), key))
    assert said.status == 0
    assert state(certificates.server) == before
    assert certificates.ask(message(idle(anna)), identity(anna)).status == 200


def test_a_revoked_certificate_is_refused_on_an_open_connection(certificates: Setting) -> None:
    anna = certificates.device(4, mutual_tls=True)
    serial = f"{x509.load_der_x509_certificate(identity(anna).certificate).serial_number:X}"
    data = message(idle(anna), close=False)
    with (
        socket.create_connection(("127.0.0.1", certificates.mdm_port), timeout=60) as plain,
        certificates.context(identity(anna)).wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        statuses = []
        for revoke in (False, True):
            if revoke:
                certificates.server.manage("certificate", "revoke", serial)
            statuses.append(wire.exchange(connection, data).status)
    assert statuses == [200, 400]


# What the server shows


@pytest.mark.parametrize("flow", ["direct", "ota"])
def test_the_fleet_enrols_with_the_root_of_its_profile_and_no_other(
    certificates: Setting, tmp_path: Path, flow: str
) -> None:
    done = certificates.server.manage(
        *("simulate", "--url", certificates.server.url, "--insecure", "--trust-profile", "--mutual-tls"),
        *("--flow", flow, "--devices", "10", "--rounds", "2", "--signature", "none", "--json"),
        *("--state", str(tmp_path)),
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["enrolled"], report["errors"], report["connects"]) == (10, 0, 20)


def test_another_root_is_not_believed(certificates: Setting, tmp_path: Path) -> None:
    certificates.server.manage("issuer", "create", "other", "--algorithm", "EC-P256")
    other = tmp_path / "other.pem"
    other.write_text(certificates.server.manage("issuer", "export", "other").stdout)
    done = certificates.server.manage(
        *("simulate", "--url", certificates.server.url, "--ca", str(other), "--devices", "1", "--json"),
        check=False,
    )
    assert done.returncode == 1
    assert "certificate verify failed" in done.stderr


def test_the_certificate_is_renewed_without_a_restart(either: Setting) -> None:
    first, pids = either.shown(), either.server.pids["web"]
    inside(
        either.server,
        "from datetime import timedelta\nfrom django.utils import timezone\n"
        "from pki.models import Certificate\n"
        "value = Certificate.objects.filter(purpose='SERVER_TLS')"
        ".update(not_after=timezone.now() + timedelta(days=5))",
    )
    wait_until("another certificate is shown", lambda: either.shown() != first, seconds=60)
    assert either.server.pids["web"] == pids


def test_a_pinned_device_believes_the_listed_roots_and_no_other(either: Setting) -> None:
    """Whatever else it trusts: the root of its own issuer, which signed the server's certificate, as well."""
    pin = "from enrollment.models import EnrollmentProfile as P\nvalue = P.objects.update(pin_tls={})"
    inside(either.server, pin.format(True))
    device = either.device(20, signs=True)
    inside(either.server, pin.format(False))
    assert device.enrolled is not None
    root = x509.load_pem_x509_certificate(either.root.read_bytes()).public_bytes(Encoding.DER)
    assert device.enrolled.mdm.server_pinned == device.enrolled.mdm.check_in_pinned == (root,)
    either.carry(device, device.connect())
    stranger = make("Stranger", now=datetime.now(UTC))
    device.enrolled.mdm = replace(device.enrolled.mdm, server_pinned=(stranger.der,))
    before = state(either.server)
    with pytest.raises(SimulationError, match="certificate verify failed"):
        either.carry(device, device.connect())
    assert state(either.server) == before


def test_the_check_says_that_devices_will_believe_it(either: Setting) -> None:
    """Both addresses, the one that asks for client certificates too; and another address for what it is."""
    told = json.loads(either.server.manage("check_tls", "--json").stdout)
    assert [(one["url"], one["believed"], one["anchor"]) for one in told] == [
        (either.server.url, True, "in_profile"),
        (f"https://127.0.0.1:{either.mdm_port}", True, "in_profile"),
    ]
    assert {finding["code"] for one in told for finding in one["findings"]} == {"root_in_profile"}
    other = f"https://localhost:{either.server.port}"
    done = either.server.manage("check_tls", "--url", other, check=False)
    assert done.returncode == 1
    assert "The certificate is for another host: it names 127.0.0.1" in done.stdout
    assert f"Devices will not trust {other}." in done.stderr


def test_other_commands_know_how_it_was_started(either: Setting) -> None:
    told = inside(
        either.server,
        "from django.conf import settings\nvalue = [settings.BRAMLEY_PUBLIC_URL, settings.BRAMLEY_MDM_URL]",
    )
    assert told == [either.server.url, f"https://127.0.0.1:{either.mdm_port}"]


def test_idle_connections_hold_up_nobody(either: Setting) -> None:
    device = either.device(9)
    idlers = [socket.create_connection(("127.0.0.1", either.mdm_port), timeout=60) for _ in range(300)]
    try:
        assert either.ask(signed(device)).status == 200
    finally:
        for idler in idlers:
            idler.close()


def test_nothing_but_tls_is_spoken(either: Setting) -> None:
    said = wire.send(either.server.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.status != 200
    assert either.ask(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").status == 200


def test_the_root_is_printed_to_be_compared(either: Setting) -> None:
    der = x509.load_pem_x509_certificate(either.root.read_bytes()).public_bytes(Encoding.DER)
    digits = hashlib.sha256(der).hexdigest().upper()
    assert ":".join(digits[at : at + 2] for at in range(0, 64, 2)) in either.server.output
    assert encode_pem(der) == either.root.read_text()
