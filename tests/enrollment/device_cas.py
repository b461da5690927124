"""Device CAs for tests: like Apple's (RSA 1024, SHA-1, expired), like one of today, and of forgers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pki.core import algorithms, asn1
from pki.core.device_identity import APPLE_DEVICE_CA, DeviceAnchor
from simulator.device_ca import Manufactured

NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
SHA1_WITH_RSA = "1.2.840.113549.1.1.5"


@lru_cache(maxsize=32)
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key that is made once for the whole run."""
    return rsa.generate_private_key(65537, bits)


def signed_with_sha1(der: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The same certificate, signed with SHA-1: no library of today signs so."""
    fields = asn1.Fields(asn1.read(der), "certificate")
    members = [node.encoded for node in asn1.children(fields.take(asn1.SEQUENCE))]
    algorithm = algorithms.encode_algorithm(SHA1_WITH_RSA, asn1.encode_null())
    members[2] = algorithm
    signed = asn1.encode_sequence(*members)
    signature = asn1.encode(asn1.BIT_STRING, b"\0" + algorithms.sign(key, "sha1", signed))
    return asn1.encode_sequence(signed, algorithm, signature)


@dataclass(frozen=True)
class Authority:
    """A CA with its key. ``sha1``: how it signs."""

    key: rsa.RSAPrivateKey
    certificate: bytes
    sha1: bool = False

    def anchor(self, *, legacy: bool = False) -> DeviceAnchor:
        return DeviceAnchor("a test's device CA", self.certificate, legacy=legacy)

    def issue(self, key: Any, **changes: Any) -> bytes:
        """A device's certificate; ``changes`` make it another one: see :func:`certificate`."""
        issuer = x509.load_der_x509_certificate(self.certificate)
        return certificate(
            key.public_key(),
            **{
                "issuer": issuer.subject,
                "signer": self.key,
                "sha1": self.sha1,
                "authority": _identifier(issuer),
                **changes,
            },
        )

    def manufacture(self, key: rsa.RSAPrivateKey, **changes: Any) -> Manufactured:
        return Manufactured(self.issue(key, **changes), key)


def certificate(
    public_key: Any,
    *,
    issuer: x509.Name,
    signer: Any,
    subject: str | x509.Name = "6001A957-6FC5-4856-8C5E-DC2E32C61CB9",
    sha1: bool = False,
    ca: bool = False,
    authority: bytes | None = None,
    constraints: bool = True,
    serial_number: int = 4711,
    not_before: datetime = datetime(2018, 11, 8, tzinfo=UTC),
    not_after: datetime = datetime(2036, 11, 8, tzinfo=UTC),
) -> bytes:
    """Any certificate, whether it makes sense or not."""
    if isinstance(subject, str):
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(serial_number)
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if constraints:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if authority is not None:
        builder = builder.add_extension(x509.AuthorityKeyIdentifier(authority, None, None), critical=False)
    der = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)
    return signed_with_sha1(der, signer) if sha1 else der


def _identifier(certificate: x509.Certificate) -> bytes:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


APPLE_NAME = x509.load_der_x509_certificate(APPLE_DEVICE_CA.certificate).subject


@lru_cache(maxsize=8)
def authority(
    name: str = "A device CA", *, bits: int = 2048, sha1: bool = False, **changes: Any
) -> Authority:
    """A CA of its own, signed by itself."""
    key = rsa_key(name, bits)
    subject = changes.pop("subject", None) or x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    der = certificate(
        key.public_key(), issuer=subject, subject=subject, signer=key, sha1=sha1, ca=True, **changes
    )
    return Authority(key, der, sha1)


def like_apple() -> Authority:
    """All that makes Apple's device CA unlike one of today, but with a key that we have."""
    return authority(
        "like Apple's",
        bits=1024,
        sha1=True,
        subject=APPLE_NAME,
        not_before=datetime(2007, 4, 16, tzinfo=UTC),
        not_after=datetime(2014, 4, 16, tzinfo=UTC),
    )


LONG_AGO = {"not_before": datetime(2018, 11, 8, tzinfo=UTC), "not_after": datetime(2019, 11, 8, tzinfo=UTC)}
SOON_OVER = NOW + timedelta(days=1)
