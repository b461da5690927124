"""Mutual TLS through real proxies, with the configurations of docs/proxies, and whatever a client may claim.

Shows, with tests/flows/test_mutual_tls.py, the answer to the seed's question S4 (docs/questions/
how-a-request-is-known-to-come-from-the-device.md): a certificate counts where its key was proved, and a
header that says so counts from the proxy alone.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from pki.core.certificates import encode_pem
from scep.core.message import Identity
from simulator.device import Behaviour, SimulatedDevice
from simulator.exchange import Conversation, Request, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from simulator.trust import DeviceTls, Trust, show
from tests.conftest import StartServer
from tests.support import wire
from tests.support.apns import Authority
from tests.support.inside import refused_since, state
from tests.support.processes import free_port
from tests.support.proxies import PROXIES, Proxy
from tests.support.server import RunningServer
from tests.support.services import Missing
from tests.support.wire import Said, message

pytestmark = [pytest.mark.slow, pytest.mark.once]


class Setting:
    """The product behind a proxy, and two devices that enrolled through it."""

    def __init__(self, server: RunningServer, proxy: Proxy, ca: Path) -> None:
        self.server, self.proxy, self.ca = server, proxy, ca
        self.anna, self.bert = self.device(1), self.device(2)

    def device(self, number: int) -> SimulatedDevice:
        behaviour = Behaviour(mutual_tls=True, signs=False)
        device = SimulatedDevice(make_hardware("mutual TLS", number), new_key(), behaviour=behaviour)
        self.carry(device, device.enrol(f"{self.proxy.url}/enroll/default/profile"))
        return device

    def carry(self, device: SimulatedDevice, conversation: Conversation[Any]) -> None:
        with Transport(tls=DeviceTls(Trust(ca=self.ca), device)) as transport:
            converse(conversation, transport.send)

    def context(self, identity: Identity | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        if identity is not None:
            show(context, identity)
        return context

    def ask(self, data: bytes, identity: Identity | None = None, port: int | None = None) -> Said:
        """Through the proxy, at the MDM addresses unless another port is given."""
        port = port or self.proxy.mdm_port
        return wire.send(port, data, tls=self.context(identity), host=self.proxy.host)

    def directly(self, data: bytes, source: str = "127.0.0.1") -> Said:
        """Past the proxy."""
        return wire.send(self.server.port, data, source=source)


@pytest.fixture(scope="module", params=sorted(PROXIES))
def setting(
    request: pytest.FixtureRequest, start_server: StartServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Setting]:
    authority, port = Authority("proxy's CA"), free_port()
    ca = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.write_bytes(authority.pem)
    try:
        proxy = PROXIES[request.param](port, authority)
    except Missing as reason:
        pytest.skip(str(reason))
    with proxy:
        server = start_server(port=port, environment=proxy.environment)
        yield Setting(server, proxy, ca)
        server.end()


def idle(device: SimulatedDevice) -> Request:
    """A connect with nothing to report, as the device would send it; not signed."""
    assert device.enrolled is not None
    report = {"Status": "Idle", "UDID": device.hardware.udid}
    return device.request(device.enrolled.mdm.server_url, report, "application/x-apple-aspen-mdm")


def identity(device: SimulatedDevice) -> Identity:
    assert device.enrolled is not None
    return Identity(device.enrolled.certificate, device.private_key)


def claim(proxy: Proxy, device: SimulatedDevice) -> str:
    """The value with which the proxy's header would name the device."""
    certificate = identity(device).certificate
    if proxy.header == "Client-Cert":
        return f":{base64.b64encode(certificate).decode()}:"
    return quote(encode_pem(certificate), safe="")


def lookalike(device: SimulatedDevice) -> Identity:
    """A certificate with the names and the serial number of the device's, signed by itself."""
    real = x509.load_der_x509_certificate(identity(device).certificate)
    key, now = new_key(), datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(real.issuer)
        .serial_number(real.serial_number)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .public_key(key.public_key())
        .sign(key, hashes.SHA256())
    )
    return Identity(made.public_bytes(Encoding.DER), key)


def test_devices_are_known_by_their_certificates(setting: Setting) -> None:
    assert setting.ask(message(idle(setting.anna)), identity(setting.anna)).status == 200
    assert setting.ask(message(idle(setting.bert)), identity(setting.bert)).status == 200


def test_a_fleet_enrols_over_the_air_and_answers(setting: Setting, tmp_path: Path) -> None:
    done = setting.server.manage(
        *("simulate", "--url", setting.proxy.url, "--ca", str(setting.ca), "--mutual-tls", "--flow", "ota"),
        *("--devices", "10", "--rounds", "2", "--keys", str(tmp_path), "--json"),
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["enrolled"], report["errors"], report["connects"]) == (10, 0, 20)


def _claims(setting: Setting, value: str, name: str) -> dict[str, Callable[[], Said]]:
    """Everything by which somebody without Anna's key may try to be Anna. ``value`` names her."""
    body, underscored = idle(setting.anna), name.replace("-", "_")
    bert, ask, directly = identity(setting.bert), setting.ask, setting.directly
    quoted = f":{base64.b64encode(identity(setting.anna).certificate).decode()}:"
    lines = {
        "nothing": [],
        "the header": [f"{name}: {value}"],
        "the header in small letters": [f"{name.lower()}: {value}"],
        "underscores": [f"{underscored}: {value}"],
        "some underscores": [f"{name.replace('-', '_', 1)}: {value}"],
        "both": [f"{name}: {value}", f"{underscored}: {value}"],
        "two headers": [f"{name}: {value}", f"{name}: {value}"],
        "two values": [f"{name}: {value}, {value}"],
        "for this hop": [f"Connection: close, {name}", f"{name}: {value}"],
        "underscores for this hop": [f"Connection: close, {name}", f"{underscored}: {value}"],
        "another proxy's header": [f"Client-Cert: {quoted}, {quoted}"],
        "another proxy's header, once": [f"Client-Cert: {quoted}", f"Client_Cert: {quoted}"],
        "an address of the proxy": ["X-Forwarded-For: 127.0.0.1", f"{underscored}: {value}"],
    }
    tried: dict[str, Callable[[], Said]] = {}
    for title, claimed in lines.items():
        data = message(body, claimed)
        tried[f"no certificate, {title}"] = partial(ask, data)
        tried[f"at the people's port, {title}"] = partial(ask, data, None, setting.proxy.port)
        tried[f"from elsewhere, {title}"] = partial(directly, data, "127.0.0.2")
    for title in ("nothing", "the header", "underscores", "both", "for this hop"):
        data = message(body, lines[title])
        tried[f"another's certificate, {title}"] = partial(ask, data, bert)
    for title in ("nothing", "underscores", "both", "two headers", "two values"):
        # What a proxy would pass on that does not do what it should: the product is the last that can tell.
        claimed = [line for line in lines[title] if title != "both" or "_" in line]
        data = message(body, claimed)
        tried[f"by way of the proxy's address, {title}"] = partial(directly, data)
    tried["a lookalike"] = partial(ask, message(body), lookalike(setting.anna))
    return tried


def test_nobody_else_can_claim_to_be_a_device(setting: Setting) -> None:
    before = state(setting.server)
    tried = _claims(setting, claim(setting.proxy, setting.anna), setting.proxy.header)
    assert len(tried) > 40
    answers = {title: attempt() for title, attempt in tried.items()}
    wrong = {title: answer for title, answer in answers.items() if answer.status != 400 or answer.body}
    assert wrong == {}
    assert not [title for title, answer in answers.items() if "WWW-Authenticate" in answer.head]
    after = state(setting.server)
    assert after["rows"] == before["rows"]
    assert sum(refused_since(before, after).values()) == len(tried), refused_since(before, after)


def test_a_claim_beside_ones_own_certificate_changes_nothing(setting: Setting) -> None:
    """The proxy puts its own word in the place of the client's."""
    name, value = setting.proxy.header, claim(setting.proxy, setting.anna)
    for headers in ([f"{name}: {value}"], [f"{name.replace('-', '_')}: {value}"]):
        assert setting.ask(message(idle(setting.bert), headers), identity(setting.bert)).status == 200


def test_a_signature_alone_is_not_enough(setting: Setting) -> None:
    assert setting.anna.enrolled is not None
    before = state(setting.server)
    request = idle(setting.anna)
    signature = base64.b64encode(setting.anna.sign(request.body)).decode()
    data = message(request, [f"Mdm-Signature: {signature}"])
    assert [setting.ask(data).status, setting.ask(data, port=setting.proxy.port).status] == [400, 400]
    after = state(setting.server)
    assert after["rows"] == before["rows"]
    assert refused_since(before, after) == {"mdm: no client certificate": 2}
    assert setting.ask(data, identity(setting.anna)).status == 200
    assert setting.ask(data, identity(setting.bert)).status == 400


def test_large_messages_get_through_and_larger_ones_do_not(setting: Setting) -> None:
    request = Request(
        "GET", f"{setting.proxy.url}/scep/bramley/?operation=PKIOperation&message={'A' * 30000}"
    )
    answered = setting.ask(message(request), port=setting.proxy.port)
    assert (answered.status, answered.body.strip()) == (400, b"bad request")
    huge = Request("PUT", f"{setting.proxy.mdm_url}/mdm/connect", b"x" * (10 * 1024 * 1024 + 1))
    # Caddy closes the connection, Apache says 502 where the answer comes before the end of the body.
    assert setting.ask(message(huge), identity(setting.anna)).status in {413, 502, 0}


def test_the_mdm_port_serves_nothing_else(setting: Setting) -> None:
    for path in ("/admin/", "/scep/bramley/?operation=GetCACaps", "/enroll/default/", "/"):
        request = Request("GET", f"{setting.proxy.mdm_url}{path}")
        assert setting.ask(message(request)).status == 404


def test_the_proxy_says_who_the_client_is(setting: Setting) -> None:
    request = Request("GET", f"{setting.proxy.url}/metrics")
    assert setting.ask(message(request), port=setting.proxy.port).status == 200  # the client is this machine
    for claimed in ("X-Forwarded-For: 203.0.113.9", "X_Forwarded_For: 203.0.113.9"):
        assert setting.ask(message(request, [claimed]), port=setting.proxy.port).status == 200
