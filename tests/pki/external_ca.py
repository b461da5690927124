"""Somebody else's CA: signs the requests of ours, well or in any way that can go wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pki.core import algorithms, asn1
from pki.core.algorithms import PrivateKey
from tests.pki.conftest import NOW

YEAR = timedelta(days=365)


def key_usage(**changes: bool) -> x509.KeyUsage:
    """What a CA that answers SCEP has, but for ``changes``."""
    usage = {
        "digital_signature": True,
        "content_commitment": False,
        "key_encipherment": True,
        "data_encipherment": False,
        "key_agreement": False,
        "key_cert_sign": True,
        "crl_sign": True,
        "encipher_only": False,
        "decipher_only": False,
    }
    return x509.KeyUsage(**(usage | changes))


@dataclass
class ExternalCa:
    """A root, or an intermediate below another."""

    name: str = "Corp Root"
    above: ExternalCa | None = None
    path_length: int | None = None
    not_before: datetime = NOW - YEAR
    not_after: datetime = NOW + 20 * YEAR
    key: PrivateKey = field(default_factory=lambda: rsa.generate_private_key(65537, 2048))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Corp"),
                x509.NameAttribute(NameOID.COMMON_NAME, self.name),
            ]
        )
        signer = self.above or self
        issuer = self.above.certificate.subject if self.above else subject
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
            .add_extension(x509.BasicConstraints(ca=True, path_length=self.path_length), critical=True)
            .add_extension(key_usage(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
        )
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def chain(self) -> list[bytes]:
        """This CA and those above it, the root last."""
        return [self.der, *(self.above.chain if self.above else [])]

    def answer(
        self,
        request: bytes,
        *,
        subject: x509.Name | None = None,
        public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | None = None,
        ca: bool = True,
        path_length: int | None = 0,
        usage: x509.KeyUsage | None = None,
        with_usage: bool = True,
        not_before: datetime = NOW - timedelta(days=1),
        not_after: datetime = NOW + 5 * YEAR,
        key_identifier: bytes | None = None,
        extensions: tuple[x509.ExtensionType, ...] = (),
        key: PrivateKey | None = None,
    ) -> bytes:
        """A certificate for a request (DER) of a CA of ours; each argument is a way to get it wrong."""
        asked = x509.load_der_x509_csr(request)
        public = public_key or asked.public_key()
        identifier = (
            x509.SubjectKeyIdentifier(key_identifier)
            if key_identifier
            else x509.SubjectKeyIdentifier.from_public_key(public)
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject or asked.subject)
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(
                x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True
            )
            .add_extension(identifier, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if with_usage:
            if usage is None:
                usage = key_usage(key_encipherment=isinstance(public, rsa.RSAPublicKey))
            builder = builder.add_extension(usage, critical=True)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(key or self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def signed_with_sha1(certificate: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """The same certificate with a signature that nobody should make any more (``cryptography`` does not)."""
    fields = asn1.Fields(asn1.read(certificate), "certificate")
    signed = fields.take(asn1.SEQUENCE).encoded.replace(_RSA_SHA256, _RSA_SHA1)
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
    return asn1.encode_sequence(signed, _RSA_SHA1, asn1.encode(asn1.BIT_STRING, b"\0" + signature))


_RSA_SHA256 = algorithms.encode_algorithm("1.2.840.113549.1.1.11", asn1.encode_null())
_RSA_SHA1 = algorithms.encode_algorithm("1.2.840.113549.1.1.5", asn1.encode_null())
