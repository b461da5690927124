"""Why a push certificate lets this server, and no other, reach APNs; how it is made, renewed and watched.

APNs is a stand-in here, but one with real TLS that demands a client certificate, and with Apple's rules for
topics and tokens.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import ssl
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from push.client import ApnsClient
from push.core import vendor
from push.core.notification import Notification
from simulator.device import SimulatedDevice
from simulator.exchange import converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.conftest import StartServer
from tests.push.vendor_files import key_pem, pem, rsa_key
from tests.support.apns import ApnsStandIn, Authority, Behaviour, Push, Reply, refusal
from tests.support.processes import wait_until
from tests.support.server import RunningServer

TOPIC = "com.apple.mgmt.External.s2"
OTHER_TOPIC = "com.apple.mgmt.External.somebody-else"
TOKEN = secrets.token_bytes(32)


def as_apple_does(push: Push) -> Behaviour:
    """A device's token is good for the topic that it enrolled with, and for no other."""
    if push.token == TOKEN and push.topic != TOPIC:
        return refusal(400, "DeviceTokenNotForTopic")
    return Reply()


@pytest.fixture(scope="module")
def apns() -> Iterator[ApnsStandIn]:
    with ApnsStandIn() as stand_in:
        stand_in.default = as_apple_does
        yield stand_in


# --- who gets in, and how far ---


def send(apns: ApnsStandIn, certificate: bytes, key: bytes, topic: str) -> str:
    """One push to the device, with Bramley's own client; APNs' answer in words."""

    async def whole() -> str:
        async with ApnsClient(certificate, key, apns.url, apns.ca_file) as client:
            push = Notification(TOKEN, "MAGIC", topic, uuid.uuid4(), 0)
            return str((await client.send([push]))[0].answer)

    return asyncio.run(whole())


@pytest.mark.once
def test_with_certificate_and_key_of_the_topic_the_device_is_reached(apns: ApnsStandIn) -> None:
    certificate, key = apns.authority.push_certificate(TOPIC)
    assert send(apns, certificate, key, TOPIC) == "200"
    (push,) = apns.pushes_to(TOKEN)
    assert (push.client_topic, push.topic) == (TOPIC, TOPIC)
    assert json.loads(push.body) == {"mdm": "MAGIC"}, "nothing but the call"


@pytest.mark.once
def test_nobody_else_gets_in(apns: ApnsStandIn) -> None:
    certificate, _key = apns.authority.push_certificate(TOPIC)
    reached = len(apns.pushes)

    # The certificate is no secret. Without its key it opens nothing: TLS asks for a proof of the key.
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        _context(apns, certificate + key_pem(rsa_key("thief")))
    # A certificate of one's own making, with the same topic written into it.
    forged, forged_key = Authority("APNs stand-in CA").push_certificate(TOPIC)
    assert _refused_in_tls(send(apns, forged, forged_key, TOPIC))
    stranger, stranger_key = Authority("somebody").push_certificate(TOPIC)
    assert _refused_in_tls(send(apns, stranger, stranger_key, TOPIC))
    # The right one, when its time is over.
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired, expired_key = apns.authority.push_certificate(
        TOPIC, not_before=yesterday - timedelta(days=365), not_after=yesterday
    )
    assert "expired" in send(apns, expired, expired_key, TOPIC)
    # No certificate at all.
    with pytest.raises(OSError, match=r"(?i)certificate.required|closed|reset|eof"):
        _speak_without_certificate(apns)

    assert len(apns.pushes) == reached, "not one of them was heard"


@pytest.mark.once
def test_a_genuine_certificate_of_another_topic_reaches_none_of_our_devices(apns: ApnsStandIn) -> None:
    """Another organisation's server, with everything that Apple gives it."""
    certificate, key = apns.authority.push_certificate(OTHER_TOPIC)
    assert send(apns, certificate, key, TOPIC) == "403 BadCertificate", "not with our topic"
    assert send(apns, certificate, key, OTHER_TOPIC) == "400 DeviceTokenNotForTopic", "nor with its own"


def _refused_in_tls(answer: str) -> bool:
    return any(words in answer for words in ("unknown ca", "bad certificate", "decrypt error"))


def _context(apns: ApnsStandIn, certificate_and_key: bytes | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=apns.ca_file)
    context.set_alpn_protocols(["h2"])
    if certificate_and_key is not None:
        path = Path(apns.ca_file).with_name("client.pem")
        path.write_bytes(certificate_and_key)
        context.load_cert_chain(path)
    return context


def _speak_without_certificate(apns: ApnsStandIn) -> None:
    """TLS 1.3 tells a client only after its handshake that its certificate is missing: when it reads."""
    with (
        socket.create_connection(("127.0.0.1", apns.port), timeout=10) as raw,
        _context(apns, None).wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        if connection.recv(100) == b"":
            raise ConnectionError("closed")


# --- how it is made and renewed, with the product ---


@pytest.fixture(scope="module")
def server(start_server: StartServer, apns: ApnsStandIn) -> RunningServer:
    return start_server(apns_url=apns.url, apns_ca=apns.ca_file)


def from_apple_s_portal(authority: Authority, upload: str, topic: str) -> bytes:
    """What the portal does with an upload: it looks at the vendor's signature, and makes a certificate."""
    signed = vendor.decode(upload.encode())
    assert vendor.verify(signed, request=signed.request).common_name == "MDM Vendor: Example Ltd"
    return authority.sign_request(signed.request, topic)


RUN = """
import io, json, sys
from django.core.management import CommandError, call_command
said = []
for arguments in json.loads({arguments!r}):
    out = io.StringIO()
    try:
        call_command(*arguments, stdout=out, stderr=out)
    except CommandError as error:
        said.append("refused: " + str(error))
    else:
        said.append(out.getvalue())
print(json.dumps(said))
"""


def manage(server: RunningServer, *commands: list[str]) -> list[str]:
    """Several commands in one process, each with what it printed or why it was refused."""
    code = RUN.format(arguments=json.dumps(commands))
    done = server.manage("shell", "--no-imports", "-c", code)
    return [str(said) for said in json.loads(done.stdout.strip().splitlines()[-1])]


def written(folder: Path, content: bytes) -> str:
    path = folder / secrets.token_hex(4)
    path.write_bytes(content)
    return str(path)


def serial_number(certificate: bytes) -> str:
    return f"{x509.load_pem_x509_certificate(certificate).serial_number:X}"


def test_made_renewed_and_no_device_notices(server: RunningServer, apns: ApnsStandIn, tmp_path: Path) -> None:
    # 1. The request, signed by the organisation's own vendor certificate; Apple's answer, without any key.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "MDM Vendor: Example Ltd")])
    certificate = apns.authority._build(name, rsa_key("vendor").public_key())
    file = written(tmp_path, pem(certificate) + key_pem(rsa_key("vendor")))
    *said, signed = manage(
        server,
        ["push_certificate", "vendor", "import", file],
        ["push_certificate", "request"],
        ["push_certificate", "sign"],
    )
    assert "PRIVATE" not in "".join([*said, signed])
    first = from_apple_s_portal(apns.authority, signed, TOPIC)
    (listed,) = manage(server, ["push_certificate", "import", written(tmp_path, first)])
    assert listed.startswith(f"{TOPIC}  until")

    # 2. A device enrols, is woken, and answers.
    device = SimulatedDevice(make_hardware("push certificate", 1), new_key())
    _carry(device.enrol(f"{server.url}/enroll/default/profile"))
    assert device.enrolled is not None
    token = device.enrolled.token
    wait_until("the device is woken", lambda: bool(apns.pushes_to(token)), seconds=30)
    _carry(device.connect())
    before = apns.pushes_to(token)

    # 3. A year later, first the wrong way: another account at Apple's portal makes another topic, and nothing
    #    changes. Then the right way: the same topic, another key.
    _request, signed = manage(
        server, ["push_certificate", "request", "--renew", TOPIC], ["push_certificate", "sign"]
    )
    wrong = from_apple_s_portal(apns.authority, signed, OTHER_TOPIC)
    second = from_apple_s_portal(apns.authority, signed, TOPIC)
    refused, unchanged, _taken, renewed, _queued = manage(
        server,
        ["push_certificate", "import", written(tmp_path, wrong)],
        ["push_certificate", "list", "--json"],
        ["push_certificate", "import", written(tmp_path, second)],
        ["push_certificate", "list", "--json"],
        ["enqueue", "ProfileList", "--serial", device.hardware.serial_number],
    )
    assert refused.startswith("refused: The certificate has another topic")
    assert "has to enrol again" in refused
    assert [row["serial_number"] for row in json.loads(unchanged)] == [serial_number(first)]
    assert [row["serial_number"] for row in json.loads(renewed)] == [serial_number(second)]

    # 4. The device is woken as before, without enrolling again.
    wait_until("it is woken again", lambda: len(apns.pushes_to(token)) > len(before), seconds=30)
    push = apns.pushes_to(token)[-1]
    assert push.connection > before[-1].connection, "a new connection, with the new certificate"
    assert (push.client_topic, push.magic) == (TOPIC, device.enrolled.push_magic)
    _carry(device.connect())
    assert device.tally.request_types["ProfileList"] == 1


def test_it_is_watched(server: RunningServer, apns: ApnsStandIn, tmp_path: Path) -> None:
    """A certificate with 20 days left: the warning is on record, once."""
    soon = datetime.now(UTC) + timedelta(days=20)
    file = written(tmp_path, b"".join(apns.authority.push_certificate(f"{TOPIC}.watched", not_after=soon)))
    code = (
        "import json; from django.core.management import call_command; "
        f"call_command('push_certificate', 'import', {file!r}, '--confirm-topic-change'); "
        "from push.tasks import warn_of_expiry; warn_of_expiry(); warn_of_expiry(); "
        "from audit.models import AuditEvent as E; print(json.dumps([[e.target_label, e.details] for e in "
        "E.objects.filter(action='push_certificate.expires_soon')]))"
    )
    done = server.manage("shell", "--no-imports", "-c", code)
    ((label, details),) = json.loads(done.stdout.strip().splitlines()[-1])
    assert (label, details["within_days"]) == (f"{TOPIC}.watched", 30)


def _carry(conversation: Any) -> None:
    with Transport() as transport:
        converse(conversation, transport.send)
