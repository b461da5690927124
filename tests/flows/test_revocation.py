"""Revoked is revoked: on every web process at once, and for everybody who asks over HTTP."""

from __future__ import annotations

import base64
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from simulator.device import SimulatedDevice
from simulator.exchange import SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.conftest import StartServer
from tests.support.processes import wait_until
from tests.support.server import RunningServer

REQUESTS = 40


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> RunningServer:
    """The product with several web processes, on SQLite too."""
    return start_server(environment={"BRAMLEY_WEB_PROCESSES": "3"})


def enrol(server: RunningServer, number: int) -> SimulatedDevice:
    device = SimulatedDevice(make_hardware("revocation", number), new_key())
    with Transport() as transport:
        converse(device.enrol(f"{server.url}/enroll/default/profile"), transport.send)
    return device


def identity(device: SimulatedDevice) -> x509.Certificate:
    assert device.enrolled is not None
    return x509.load_der_x509_certificate(device.enrolled.certificate)


def connects(device: SimulatedDevice) -> list[str]:
    """What comes of many connects, each over a connection of its own: "" or what went wrong."""

    def connect(_number: int) -> str:
        with Transport() as transport:
            try:
                converse(device.connect(), transport.send)
            except SimulationError as error:
                return error.problem
            return ""

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(connect, range(REQUESTS)))


def worked(pids: list[int]) -> dict[int, int]:
    """The processor time of each process so far, in ticks."""
    fields = {pid: Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids}
    return {pid: int(values[11]) + int(values[12]) for pid, values in fields.items()}


def test_a_revoked_identity_is_refused_by_every_process_at_once(server: RunningServer) -> None:
    device, bystander = enrol(server, 1), enrol(server, 2)
    workers = server.pids["web"][1:]
    assert len(workers) >= 2
    before = worked(workers)

    def all_have_served() -> bool:
        assert set(connects(device)) == {""}
        return all(worked(workers)[pid] > before[pid] for pid in workers)

    wait_until("every web process has served the device", all_have_served, seconds=60)
    server.manage("certificate", "revoke", f"{identity(device).serial_number:X}", "--reason", "keyCompromise")
    assert set(connects(device)) == {"HTTP 400"}
    assert set(connects(bystander)) == {""}
    # It stays so after a restart.
    server.end()
    server.start()
    assert set(connects(device)) == {"HTTP 400"}
    assert set(connects(bystander)) == {""}


# --- For everybody else ----------------------------------------------------------------------------------


def fetch(server: RunningServer, path: str) -> bytes:
    with urlopen(f"{server.url}{path}", timeout=30) as answer:
        content: bytes = answer.read()
        return content


def rekey(server: RunningServer) -> None:
    server.manage(
        "shell",
        "--no-imports",
        "-c",
        "from django.utils import timezone as t; from audit.recording import SERVER as a; "
        "from pki import rollover as r; from pki.models import Issuer; "
        "i = Issuer.objects.get(slug='bramley'); r.rekey(i, actor=a, now=t.now()); "
        "r.activate(i, actor=a, now=t.now())",
    )


class Openssl:
    """openssl as a relying party of one key generation, over HTTP."""

    def __init__(self, server: RunningServer, folder: Path, generation: int) -> None:
        self.server, self.generation = server, generation
        self.folder = folder / str(generation)
        self.folder.mkdir()
        authority = fetch(server, f"/pki/bramley/{generation}.cer")
        self.root = self.folder / "root.pem"
        self.root.write_bytes(x509.load_der_x509_certificate(authority).public_bytes(Encoding.PEM))

    def ocsp(self, serial_number: int, *options: str) -> str:
        """``good``, ``revoked`` or ``unknown``; signature, times and nonce are verified."""
        done = subprocess.run(
            [
                *("openssl", "ocsp", "-issuer", str(self.root), "-serial", f"{serial_number:#x}"),
                *("-url", f"{self.server.url}/pki/bramley/ocsp", "-CAfile", str(self.root), *options),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "Response verify OK" in done.stderr
        return done.stdout.splitlines()[0].rpartition(": ")[2]

    def listed(self) -> set[int]:
        """The serial numbers on the list; its signature is verified."""
        done = subprocess.run(
            ["openssl", "crl", "-inform", "DER", "-text", "-noout", "-CAfile", str(self.root)],
            input=fetch(self.server, f"/pki/bramley/{self.generation}.crl"),
            capture_output=True,
            check=True,
        )
        assert b"verify OK" in done.stderr
        lines = done.stdout.decode().splitlines()
        return {int(line.rpartition(":")[2], 16) for line in lines if "Serial Number:" in line}


@pytest.mark.once  # what openssl reads does not depend on the database
def test_openssl_agrees_across_a_re_key(server: RunningServer, tmp_path: Path) -> None:
    good, bad = (identity(enrol(server, number)).serial_number for number in (11, 12))
    server.manage("certificate", "revoke", f"{bad:X}")
    first = Openssl(server, tmp_path, 1)
    for nonce in ("-nonce", "-no_nonce"):
        assert (first.ocsp(good, nonce), first.ocsp(bad, nonce)) == ("good", "revoked")
        assert first.ocsp(0x1234567890, nonce) == "unknown"
    assert bad in first.listed()
    assert good not in first.listed()

    rekey(server)
    new_good, new_bad = (identity(enrol(server, number)).serial_number for number in (13, 14))
    for serial_number in (good, new_bad):
        server.manage("certificate", "revoke", f"{serial_number:X}")
    second = Openssl(server, tmp_path, 2)
    # A process learns of a new key generation within five seconds.
    wait_until("every process knows the new key", lambda: _known_everywhere(second, new_good), seconds=30)
    assert (first.ocsp(good), first.ocsp(bad), first.ocsp(new_good)) == ("revoked", "revoked", "unknown")
    assert (second.ocsp(new_good), second.ocsp(new_bad), second.ocsp(bad)) == ("good", "revoked", "unknown")
    assert {good, bad} <= first.listed()
    assert second.listed() == {new_bad}


def _known_everywhere(asked: Openssl, serial_number: int) -> bool:
    try:
        return {asked.ocsp(serial_number) for _again in range(10)} == {"good"}
    except AssertionError:
        return False


@pytest.mark.once
def test_requests_in_addresses_pass_through_the_web_server(server: RunningServer) -> None:
    """Base64 holds slashes, also two in a row, and plus signs; clients escape them or do not."""
    certificate = identity(enrol(server, 21))
    authority = x509.load_der_x509_certificate(fetch(server, "/pki/bramley/ca.cer"))
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, authority, hashes.SHA256())
    # In fours, because where a group of Base64 begins depends on how long the serial number is.
    nonce = x509.OCSPNonce(b"\xff" * 60 + b"\xfb\xef\xbe\xff" * 10 + os.urandom(2))
    request = builder.add_extension(nonce, critical=False).build().public_bytes(Encoding.DER)
    encoded = base64.b64encode(request).decode()
    assert "//" in encoded
    assert "+" in encoded
    for written in (encoded, quote(encoded, safe=""), quote(encoded, safe="/")):
        answer = ocsp.load_der_ocsp_response(fetch(server, f"/pki/bramley/ocsp/{written}"))
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
        assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce.nonce
