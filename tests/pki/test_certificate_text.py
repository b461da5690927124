"""The text of a certificate reads as that of openssl."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pki.core.certificate_text import certificate_text, places_of
from pki.core.certificates import CertificateFields, build_certificate, build_self_signed
from pki.core.scan import Malformed
from tests.pki.conftest import NOW, openssl, spki

pytestmark = pytest.mark.once

# The key and the signature, which are left out, and what newer versions of openssl write otherwise.
_BYTES = re.compile(r"^( {16}(pub|Modulus):| {20}[0-9a-f:]+)$")


def by_openssl(der: bytes) -> list[str]:
    text = openssl("x509", "-inform", "DER", "-noout", "-text", "-certopt", "no_sigdump", stdin=der).decode()
    return [re.sub(r"(?<=\w)=(?=\w)", " = ", line) for line in _lines(text)]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip() and not _BYTES.match(line.rstrip())]


def fields(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> CertificateFields:
    return CertificateFields(
        subject=(("CN", "Anna's iPad"), ("O", "Orchard"), ("serialNumber", "C02XG0FDH7JY")),
        public_key=spki(key),
        serial_number=0x0A1B2C << 100,
        not_before=datetime(2026, 11, 4, 5, 6, 7, tzinfo=UTC),
        not_after=NOW + timedelta(days=30),
        key_usage=frozenset({"digitalSignature", "nonRepudiation", "keyAgreement"}),
        extended_key_usage=("clientAuth", "emailProtection"),
        san=(("DNS", "a.example"), ("email", "a@b.example"), ("IP", "192.0.2.1"), ("URI", "urn:x:y")),
        crl_url="http://mdm.example/pki/bramley/1.crl",
        issuer_url="http://mdm.example/pki/bramley/1.cer",
        ocsp_url="http://mdm.example/pki/bramley/ocsp",
        ocsp_no_check=True,
    )


def test_it_reads_as_that_of_openssl(
    rsa_key: rsa.RSAPrivateKey, other_rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    authority = replace(
        fields(rsa_key),
        is_ca=True,
        path_length=1,
        key_usage=frozenset({"digitalSignature", "keyCertSign", "cRLSign"}),
        san=(),
    )
    root = build_self_signed(authority, private_key=rsa_key)
    leaves = [
        build_certificate(fields(key), issuer_certificate=root, private_key=rsa_key)
        for key in (other_rsa_key, ec_key)
    ]
    on_curve = build_self_signed(fields(ec_key), private_key=ec_key)
    for der in (root, *leaves, on_curve):
        assert _lines(certificate_text(der)) == by_openssl(der)


def test_what_others_put_in_is_shown_and_stays_in_its_line(ec_key: ec.EllipticCurvePrivateKey) -> None:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a\nSubject: CN = root")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(ec_key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW)
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x" * 100), False)
        .add_extension(x509.AuthorityKeyIdentifier(None, [x509.DirectoryName(name)], 255), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"),
                    x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
                ]
            ),
            critical=True,
        )
    )
    text = certificate_text(builder.sign(ec_key, hashes.SHA384()).public_bytes(Encoding.DER))
    assert "        Subject: CN = a\\0ASubject: CN = root\n" in text
    for wanted in (
        "            1.2.3.4:\n                78:78:",
        "… (100 bytes)",
        "serial:FF",
        "DirName:CN = a\\0A",
        "Subject Alternative Name: critical",
        "othername: 1.3.6.1.4.1.311.20.2.3:0C:01:61, Registered ID:1.2.3",
        "ecdsa-with-SHA384",
    ):
        assert wanted in text, text


def test_any_changed_byte_gives_a_text_or_malformed(
    rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    """Certificates of other CAs are shown too, whatever is in them."""
    root = build_self_signed(replace(fields(rsa_key), san=()), private_key=rsa_key)
    der = build_certificate(fields(ec_key), issuer_certificate=root, private_key=rsa_key)
    for position in range(len(der)):
        for bit in (0x01, 0x80, 0xFF):
            changed = bytearray(der)
            changed[position] ^= bit
            try:
                text = certificate_text(bytes(changed))
                places_of(bytes(changed))
            except Malformed:
                continue
            assert text.startswith("Certificate:")


def test_an_extension_that_is_there_twice(ec_key: ec.EllipticCurvePrivateKey) -> None:
    """No builder makes it: an OID is turned into that of another extension."""
    der = build_self_signed(fields(ec_key), private_key=ec_key)
    again = der.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d0f"))
    assert again != der
    for read in (certificate_text, places_of):
        with pytest.raises(Malformed):
            read(again)


def test_what_is_no_certificate() -> None:
    with pytest.raises(Malformed):
        certificate_text(b"0\x00")
