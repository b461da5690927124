"""Keys, certificates and issuers for the tests of pki."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from audit.recording import Actor
from pki import issuers, ocsp, trust
from pki.core.algorithms import PrivateKey
from pki.core.certificates import CertificateFields, build_self_signed, encode_pem
from pki.issuance import Grant, issue
from pki.models import Certificate, Issuer, Purpose

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
ACTOR = Actor(name="tester")
SHARED = Path(__file__).resolve().parents[3] / "shared"


def vector(name: str) -> bytes:
    """A message of a real device or client; the test is skipped where they are not at hand."""
    path = SHARED / "vectors" / name
    if not path.exists():
        pytest.skip(f"{path} is not here: messages of real devices are not kept in the repository")
    return path.read_bytes()


@dataclass(frozen=True)
class Party:
    """Somebody with a key and a certificate of it."""

    key: PrivateKey
    certificate: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Key and certificate as PEM files, for openssl."""
        key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
        key.write_bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        certificate.write_text(encode_pem(self.certificate))
        return key, certificate


def spki(key: PrivateKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def self_signed(key: PrivateKey, name: str = "signer", serial_number: int | None = None) -> Party:
    """A party with a certificate signed by itself."""
    fields = CertificateFields(
        subject=(("CN", name),),
        public_key=spki(key),
        serial_number=serial_number or x509.random_serial_number(),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=365),
    )
    return Party(key, build_self_signed(fields, private_key=key))


def openssl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    """Run openssl and return what it printed; a failure fails the test with its words."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def other_rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="session")
def rsa_party(rsa_key: rsa.RSAPrivateKey) -> Party:
    return self_signed(rsa_key, "RSA signer")


@pytest.fixture(scope="session")
def other_party(other_rsa_key: rsa.RSAPrivateKey) -> Party:
    return self_signed(other_rsa_key, "other signer")


@pytest.fixture(scope="session")
def ec_party(ec_key: ec.EllipticCurvePrivateKey) -> Party:
    return self_signed(ec_key, "EC signer")


@pytest.fixture(autouse=True)
def _fresh_memory() -> None:
    """What a process remembers of CAs does not outlive a test's database."""
    trust.forget_anchors()
    ocsp.forget()


@pytest.fixture
def issuer(db: None) -> Issuer:
    """An issuer of our own."""
    return issuers.create_issuer(
        "bramley", "Bramley Test CA", organization="Orchard", algorithm="RSA-2048", actor=ACTOR, now=NOW
    )


IssueCertificate = Callable[..., Certificate]


@pytest.fixture
def issue_certificate(issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey) -> IssueCertificate:
    """A function that issues one certificate; everything about it has a default."""

    def issue_one(
        name: str = "device",
        *,
        purpose: Purpose = Purpose.MDM_IDENTITY,
        key: PrivateKey | None = None,
        now: datetime = NOW,
        **grant: object,
    ) -> Certificate:
        granted = Grant(issuer, purpose, (("CN", name),), reason="test", **grant)  # type: ignore[arg-type]
        return issue(granted, spki(key or ec_key), actor=ACTOR, now=now)

    return issue_one
