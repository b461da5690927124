"""Over-the-air enrolment, through the running product: who signs what, and to whom what is encrypted.

The seed's question S5 ("how are profiles signed and encrypted in phases 1 to 3?") is answered in
docs/protocols/over-the-air.md and shown here, with openssl as the judge.
"""

from __future__ import annotations

import json
import plistlib
import subprocess
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from pki.core.certificates import encode_pem, load_certificates
from scep.core.message import Identity
from simulator.device import SimulatedDevice, utc_now
from simulator.device_ca import CERTIFICATE_FILE, DeviceCa, kept_device_ca
from simulator.enrolment_profile import read_identity_profile
from simulator.exchange import Request, Response, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.identity import obtain_certificate
from simulator.keys import key_to_pem, new_key, write_private
from simulator.over_the_air import (
    Misbehaviour,
    Service,
    enrol_over_the_air,
    fetch_service,
    message,
    post,
)
from simulator.transport import Transport
from tests.conftest import StartServer
from tests.support.server import RunningServer

pytestmark = [pytest.mark.slow, pytest.mark.once]


@lru_cache(maxsize=16)
def key(name: str) -> RSAPrivateKey:
    return new_key()


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a device CA."""
    folder = tmp_path_factory.mktemp("maker")
    kept_device_ca(folder)
    return folder


@pytest.fixture(scope="module")
def server(start_server: StartServer, maker: Path) -> RunningServer:
    """The product, told by command to trust that device CA."""
    server = start_server()
    server.manage("trust_device_ca", str(maker / CERTIFICATE_FILE), "--name", "The test's")
    return server


@pytest.fixture(scope="module")
def root(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root certificate, from where relying parties get it."""
    file = tmp_path_factory.mktemp("root") / "root.pem"
    with Transport() as transport:
        der = transport.send(Request("GET", f"{server.url}/pki/bramley/ca.cer")).body
    file.write_text(encode_pem(load_certificates(der)[0]))
    return file


@dataclass
class Wire:
    """Everything that went over it."""

    seen: list[tuple[Request, Response]] = field(default_factory=list)

    def carry(self, conversation: Any) -> Any:
        with Transport() as transport:

            def send(request: Request) -> Response:
                answer = transport.send(request)
                self.seen.append((request, answer))
                return answer

            return converse(conversation, send)


def device(ca: DeviceCa, number: int) -> SimulatedDevice:
    made = SimulatedDevice(make_hardware("flows over the air", number), key("identity"))
    made.manufactured = ca.manufacture(f"DEVICE {number}", key(f"made {number}"), now=utc_now())
    return made


def openssl(*arguments: str | Path, content: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *map(str, arguments)], input=content, capture_output=True, check=False)


def verified(profile: bytes, root: Path) -> bytes:
    """The content, where openssl finds a right signature that leads to our root."""
    done = openssl(
        *("cms", "-verify", "-inform", "DER", "-binary", "-CAfile", root, "-purpose", "any"), content=profile
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def decrypted(envelope: bytes, identity: Identity, folder: Path) -> subprocess.CompletedProcess[bytes]:
    certificate, key_file = folder / "identity.pem", folder / "identity.key"
    certificate.write_text(encode_pem(identity.certificate))
    write_private(key_file, key_to_pem(identity.private_key))
    return openssl(
        *("cms", "-decrypt", "-inform", "DER", "-binary", "-recip", certificate, "-inkey", key_file),
        content=envelope,
    )


def ask(server: RunningServer, code: str) -> Any:
    """A value of the server's own database."""
    done = server.manage("shell", "--no-imports", "-c", f"import json; {code}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def sessions(server: RunningServer, serial_number: str) -> list[str]:
    rows = "from enrollment.models import EnrollmentSession as S; print(json.dumps(list("
    rows += (
        f"S.objects.filter(serial_number='{serial_number}').order_by('id').values_list('state', flat=True))))"
    )
    found: list[str] = ask(server, rows)
    return found


def test_profiles_are_signed_and_encrypted_phase_by_phase(
    server: RunningServer, maker: Path, root: Path, tmp_path: Path
) -> None:
    """S5, step by step. Nothing but openssl, our root and the device's key opens what was on the wire."""
    phone, wire = device(kept_device_ca(maker), 1), Wire()
    assert phone.manufactured is not None
    address = f"{server.url}/enroll/default/ota"

    # Phase 1: signed by us, so that the device knows who wants to know. Nothing in it is for one device only
    # but the challenge, so nothing is encrypted.
    service: Service = wire.carry(fetch_service(address))
    first = wire.seen[-1][1]
    assert first.headers["content-type"] == "application/x-apple-aspen-config"
    top = plistlib.loads(verified(first.body, root))
    assert top["PayloadType"] == "Profile Service"
    assert top["PayloadContent"]["URL"] == address

    # Phase 2: what the device says is signed with the identity that it was made with; the answer by us.
    with Transport() as transport:
        answer = transport.send(post(service, message(phone, phone.manufactured, service)))
    scep, _signer = read_identity_profile(answer.body)
    second = plistlib.loads(verified(answer.body, root))
    assert [payload["PayloadType"] for payload in second["PayloadContent"]] == ["com.apple.security.scep"]

    # It gets a certificate for the rest of the enrolment,
    certificate = wire.carry(
        obtain_certificate(scep, private_key=key("enrolment"), signer=None, now=utc_now())
    )
    identity = Identity(certificate, key("enrolment"))

    # Phase 3: and signs with that. The profile is encrypted to it, and then signed by us.
    with Transport() as transport:
        answer = transport.send(post(service, message(phone, identity, service, challenge=False)))
    captured = tmp_path / "captured.mobileconfig"
    captured.write_bytes(answer.body)
    outer = plistlib.loads(verified(captured.read_bytes(), root))
    assert outer["IsEncrypted"] is True
    assert "PayloadContent" not in outer
    opened = decrypted(outer["EncryptedPayloadContent"], identity, tmp_path)
    assert opened.returncode == 0, opened.stderr.decode()
    payloads = {payload["PayloadType"]: payload for payload in plistlib.loads(opened.stdout)}
    assert list(payloads) == ["com.apple.security.root", "com.apple.security.scep", "com.apple.mdm"]
    mdm = payloads["com.apple.mdm"]
    assert mdm["ServerURL"] == f"{server.url}/mdm/connect"

    # Without the device's key nothing of the payloads is readable on the wire,
    secrets = [
        payloads["com.apple.security.scep"]["PayloadContent"]["Challenge"],
        mdm["Topic"],
        mdm["ServerURL"],
        "com.apple.mdm",
    ]
    for secret in secrets:
        assert secret.encode() in opened.stdout
        assert secret.encode() not in captured.read_bytes()
    # not with another key, nor with the server's certificate at hand,
    stranger = decrypted(outer["EncryptedPayloadContent"], Identity(certificate, key("stranger")), tmp_path)
    assert stranger.returncode != 0
    assert b"com.apple.mdm" not in stranger.stdout
    # and a changed byte of it breaks the signature.
    changed = bytearray(captured.read_bytes())
    changed[len(changed) // 2] ^= 1
    broken = openssl(
        "cms", "-verify", "-inform", "DER", "-CAfile", root, "-purpose", "any", content=bytes(changed)
    )
    assert broken.returncode != 0

    # The device installs it, gets its identity, checks in, and is managed.
    wire.carry(phone.install(captured.read_bytes(), identity=identity, signers=(service.signer,)))
    assert sessions(server, phone.hardware.serial_number) == ["COMPLETED"]
    assert wire.carry(phone.connect()) == 2


@pytest.mark.parametrize("kind", [Misbehaviour.INTERRUPT, Misbehaviour.REPEAT, Misbehaviour.SWAP])
def test_phases_interrupted_repeated_and_swapped(
    server: RunningServer, maker: Path, kind: Misbehaviour
) -> None:
    number = 10 + list(Misbehaviour).index(kind)
    phone = device(kept_device_ca(maker), number)
    assert phone.manufactured is not None
    Wire().carry(
        enrol_over_the_air(
            phone,
            phone.manufactured,
            f"{server.url}/enroll/default/ota",
            private_key=key("enrolment"),
            misbehaviour=kind,
        )
    )
    begun = ["IDENTIFIED"] if kind is Misbehaviour.INTERRUPT else []
    assert sessions(server, phone.hardware.serial_number) == [*begun, "COMPLETED"]


def test_another_maker_is_a_stranger(server: RunningServer, tmp_path: Path) -> None:
    phone = device(kept_device_ca(tmp_path), 20)
    assert phone.manufactured is not None
    with pytest.raises(SimulationError, match="phase 2: HTTP 400"):
        Wire().carry(
            enrol_over_the_air(
                phone,
                phone.manufactured,
                f"{server.url}/enroll/default/ota",
                private_key=key("enrolment"),
            )
        )
    assert sessions(server, phone.hardware.serial_number) == []
    refusals = "from audit.models import Refusal as R; print(json.dumps(list("
    refusals += "R.objects.filter(surface='enroll').values_list('reason', flat=True))))"
    assert "signed by no device" in ask(server, refusals)


def test_two_hundred_devices(server: RunningServer, tmp_path: Path) -> None:
    """``simulate --flow ota --devices 200``: all enrolled, 0 errors.

    Each device is made with a key of its own. Those that it makes itself come out of a pool: making RSA keys
    is no work of the server's.
    """
    pool = [key_to_pem(key(f"pool {number}")) for number in range(8)]
    for number in range(1, 201):
        for kind in ("key", "enrolment"):
            write_private(tmp_path / f"{kind}-{number:05}.pem", pool[number % len(pool)])
    done = server.manage(
        *("simulate", "--url", server.url, "--flow", "ota", "--devices", "200", "--json"),
        *("--keys", str(tmp_path)),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    counts = {name: report[name] for name in ("devices", "enrolled", "connects", "errors", "twice")}
    assert counts == {"devices": 200, "enrolled": 200, "connects": 200, "errors": 0, "twice": 0}
    assert report["request_types"]["DeviceInformation"] == 200
