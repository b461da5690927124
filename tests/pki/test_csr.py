"""Certification requests: what clients ask for, of which only the key counts."""

from __future__ import annotations

import pytest
from asn1crypto import csr as oracle
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pki.core import algorithms, asn1
from pki.core.csr import (
    CHALLENGE_PASSWORD,
    CsrError,
    asked_names,
    decode_signing_request,
    encode_signing_request,
)
from pki.core.names import NameRefused
from tests.pki.conftest import Party, openssl, spki
from tests.pki.messages import attribute

SUBJECT = (("CN", "device, 1"), ("O", "Orchard <x>"))


def request(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    *,
    version: int = 0,
    digest: str = "sha256",
    attributes: list[bytes] | None = None,
    subject: bytes = b"\x30\x00",
    public_key: bytes | None = None,
    algorithm: bytes | None = None,
) -> bytes:
    """A request assembled by hand."""
    info = asn1.encode_sequence(
        asn1.encode_integer(version),
        subject,
        public_key or spki(key),
        asn1.encode(0xA0, *(attributes or [])),
    )
    if algorithm is None:
        rsa_oid = algorithms.RSA_SIGNATURE_OIDS[digest]
        is_rsa = isinstance(key, rsa.RSAPrivateKey)
        algorithm = algorithms.encode_algorithm(rsa_oid if is_rsa else algorithms.ECDSA_OIDS[digest])
    signature = algorithms.sign(key, digest, info)
    return asn1.encode_sequence(info, algorithm, asn1.encode(asn1.BIT_STRING, b"\0" + signature))


@pytest.mark.parametrize("who", ["rsa_party", "ec_party"])
def test_what_we_encode_decodes(request: pytest.FixtureRequest, who: str) -> None:
    party: Party = request.getfixturevalue(who)
    data = encode_signing_request(
        subject=SUBJECT, private_key=party.key, challenge_password="SECRET", san=[("DNS", "a.example")]
    )
    decoded = decode_signing_request(data)
    assert decoded.der == data
    assert decoded.subject == r"O=Orchard \<x\>,CN=device\, 1"
    assert decoded.public_key == spki(party.key)
    assert decoded.key == ("RSA 2048" if who == "rsa_party" else "EC P-256")
    assert decoded.challenge_passwords == ("SECRET",)
    assert decoded.extension_oids == ("2.5.29.17",)
    assert oracle.CertificationRequest.load(data)["certification_request_info"]["version"].native == "v1"
    openssl("req", "-inform", "DER", "-verify", "-noout", stdin=data)


def test_secrets_are_not_in_its_repr(rsa_party: Party) -> None:
    data = encode_signing_request(subject=SUBJECT, private_key=rsa_party.key, challenge_password="CANARY")
    assert "CANARY" not in repr(decode_signing_request(data))


@pytest.mark.parametrize("version", [0, 2])
def test_versions_that_occur(rsa_key: rsa.RSAPrivateKey, version: int) -> None:
    """Real macOS clients write 2, which other parsers refuse (F3)."""
    data = request(rsa_key, version=version)
    assert decode_signing_request(data).public_key == spki(rsa_key)
    if version == 2:
        with pytest.raises(x509.InvalidVersion):
            x509.load_der_x509_csr(data)


@pytest.mark.parametrize("version", [1, 3, -1, 256])
def test_other_versions(rsa_key: rsa.RSAPrivateKey, version: int) -> None:
    with pytest.raises(CsrError, match="version"):
        decode_signing_request(request(rsa_key, version=version))


def test_sha1_by_permission(rsa_key: rsa.RSAPrivateKey) -> None:
    data = request(rsa_key, digest="sha1")
    assert decode_signing_request(data).key == "RSA 2048"
    with pytest.raises(CsrError, match="SHA-1"):
        decode_signing_request(data, allow_sha1=False)


def test_md5_never(rsa_key: rsa.RSAPrivateKey) -> None:
    md5 = algorithms.encode_algorithm("1.2.840.113549.1.1.4", asn1.encode_null())
    with pytest.raises(CsrError, match="not supported"):
        decode_signing_request(request(rsa_key, algorithm=md5))


def test_every_challenge_password_is_reported(rsa_key: rsa.RSAPrivateKey) -> None:
    one = attribute(CHALLENGE_PASSWORD, asn1.encode_text("one"))
    two = attribute(CHALLENGE_PASSWORD, asn1.encode(asn1.UTF8_STRING, b"two"))
    both = attribute(CHALLENGE_PASSWORD, asn1.encode_text("one"), asn1.encode_text("two"))
    assert decode_signing_request(request(rsa_key)).challenge_passwords == ()
    for attributes in ([one, two], [both]):
        decoded = decode_signing_request(request(rsa_key, attributes=attributes))
        assert decoded.challenge_passwords == ("one", "two")
    none = attribute(CHALLENGE_PASSWORD)
    assert decode_signing_request(request(rsa_key, attributes=[none])).challenge_passwords == ()


@pytest.mark.parametrize(
    "tag", [asn1.PRINTABLE_STRING, asn1.UTF8_STRING, asn1.IA5_STRING, asn1.TELETEX_STRING]
)
def test_string_types_of_the_challenge(rsa_key: rsa.RSAPrivateKey, tag: int) -> None:
    attributes = [attribute(CHALLENGE_PASSWORD, asn1.encode(tag, b"SECRET"))]
    decoded = decode_signing_request(request(rsa_key, attributes=attributes))
    assert decoded.challenge_passwords == ("SECRET",)


@pytest.mark.parametrize("value", [asn1.encode_octets(b"S"), asn1.encode(asn1.UTF8_STRING, b"\xff")])
def test_a_challenge_that_is_no_text(rsa_key: rsa.RSAPrivateKey, value: bytes) -> None:
    with pytest.raises(CsrError):
        decode_signing_request(request(rsa_key, attributes=[attribute(CHALLENGE_PASSWORD, value)]))


def test_limits(rsa_key: rsa.RSAPrivateKey) -> None:
    many = [attribute(f"1.2.3.{number}", asn1.encode_null()) for number in range(21)]
    assert decode_signing_request(request(rsa_key, attributes=many[:20])).key == "RSA 2048"
    with pytest.raises(CsrError, match="too many attributes"):
        decode_signing_request(request(rsa_key, attributes=many))
    names = [asn1.encode(asn1.SET, _name_part("2.5.4.3", b"x")) for _ in range(65)]
    with pytest.raises(CsrError, match="too many parts"):
        decode_signing_request(request(rsa_key, subject=asn1.encode_sequence(*names)))
    with pytest.raises(CsrError, match="too large"):
        decode_signing_request(encode_signing_request(subject=SUBJECT, private_key=rsa_key) + b"\0" * 70000)


def _name_part(oid: str, value: bytes, tag: int = asn1.UTF8_STRING) -> bytes:
    return asn1.encode_sequence(asn1.encode_oid(oid), asn1.encode(tag, value))


@pytest.mark.parametrize(
    ("part", "shown"),
    [
        (_name_part("2.5.4.3", b"a\r\nb\0"), r"CN=a\0D\0Ab\00"),
        (_name_part("2.5.4.3", b" #x "), r"CN=\ #x\ "),
        (_name_part("2.5.4.3", b"#x"), r"CN=\#x"),
        (_name_part("2.5.4.3", b'a+b="c";<d>\\'), r"CN=a\+b=\"c\"\;\<d\>\\"),
        (_name_part("1.2.3.4", b"x"), "1.2.3.4=x"),
        (_name_part("2.5.4.5", b"C02", asn1.PRINTABLE_STRING), "serialNumber=C02"),
        (_name_part("2.5.4.3", b"\xff", asn1.UTF8_STRING), "CN=#0c01ff"),
        (_name_part("2.5.4.45", b"\0\x01", asn1.BIT_STRING), "2.5.4.45=#03020001"),
        (_name_part("2.5.4.3", "é".encode("utf-16-be"), asn1.BMP_STRING), "CN=é"),
    ],
)
def test_the_subject_is_shown_on_one_line(rsa_key: rsa.RSAPrivateKey, part: bytes, shown: str) -> None:
    subject = asn1.encode_sequence(asn1.encode(asn1.SET, part))
    decoded = decode_signing_request(request(rsa_key, subject=subject))
    assert decoded.subject == shown
    assert decoded.subject_der == subject


def test_without_proof_of_possession(rsa_key: rsa.RSAPrivateKey, other_rsa_key: rsa.RSAPrivateKey) -> None:
    """B11: somebody else's public key, and one flipped bit of the signature."""
    with pytest.raises(CsrError, match="signature is wrong"):
        decode_signing_request(request(rsa_key, public_key=spki(other_rsa_key)))
    data = bytearray(request(rsa_key))
    data[-1] ^= 1
    with pytest.raises(CsrError, match="signature is wrong"):
        decode_signing_request(bytes(data))


def test_other_keys() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    with pytest.raises(CsrError, match="not supported"):
        decode_signing_request(builder.sign(key, None).public_bytes(Encoding.DER))
    for curve in (ec.SECP224R1(), ec.SECP521R1(), ec.SECP256K1()):
        other = ec.generate_private_key(curve)
        with pytest.raises(CsrError, match="curve"):
            decode_signing_request(builder.sign(other, hashes.SHA256()).public_bytes(Encoding.DER))


def test_bytes_after_the_end(rsa_key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(CsrError, match="after the end"):
        decode_signing_request(request(rsa_key) + b"\0")


def test_it_agrees_with_cryptography(rsa_key: rsa.RSAPrivateKey) -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "GB"),
            x509.NameAttribute(NameOID.COMMON_NAME, "dévice"),
            x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@example.org"),
        ]
    )
    built = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"SECRET")
        .sign(rsa_key, hashes.SHA256())
    )
    decoded = decode_signing_request(built.public_bytes(Encoding.DER))
    assert decoded.subject == "emailAddress=a@example.org,CN=dévice,C=GB"
    assert decoded.challenge_passwords == ("SECRET",)
    assert decoded.extension_oids == ("2.5.29.19",)


def test_names_that_no_certificate_should_hold(rsa_key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(NameRefused):
        encode_signing_request(subject=(("CN", "a\0b"),), private_key=rsa_key)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(CsrError):
        decode_signing_request(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_changed_byte(rsa_party: Party, data: st.DataObject) -> None:
    """Refused, or what is signed is as it was."""
    encoded = encode_signing_request(subject=SUBJECT, private_key=rsa_party.key, challenge_password="SECRET")
    changed = bytearray(encoded)
    changed[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_signing_request(bytes(changed))
    except CsrError:
        return
    assert decoded.challenge_passwords == ("SECRET",)
    assert decoded.public_key == spki(rsa_party.key)


def test_the_names_that_are_asked_for(rsa_key: rsa.RSAPrivateKey) -> None:
    subject = (("C", "GB"), ("O", "Orchard"), ("CN", "router, 1"))
    san = (
        ("DNS", "r1.example"),
        ("IP", "192.0.2.1"),
        ("IP", "2001:db8::1"),
        ("URI", "urn:x"),
        ("email", "a@b.c"),
    )
    asked = asked_names(
        decode_signing_request(encode_signing_request(subject=subject, private_key=rsa_key, san=san))
    )
    assert (asked.subject, asked.alternative_names, asked.left_out) == (subject, san, ())


def test_names_that_no_certificate_holds_are_left_out(rsa_key: rsa.RSAPrivateKey) -> None:
    def part(oid: str, tag: int, value: bytes) -> bytes:
        pair = asn1.encode_sequence(asn1.encode_oid(oid), asn1.encode(tag, value))
        return asn1.encode(asn1.SET, pair)

    subject = asn1.encode_sequence(
        part("2.5.4.3", asn1.UTF8_STRING, b"good"),
        part("2.5.4.10", asn1.UTF8_STRING, b"nul\0byte"),
        part("1.2.3.4", asn1.UTF8_STRING, b"unknown"),
        part("2.5.4.11", asn1.INTEGER, b"\1"),
    )
    names = asn1.encode_sequence(
        asn1.encode(0x82, b"good.example"),
        asn1.encode(0x82, b"bad name"),
        asn1.encode(0x87, b"\1\2\3"),
        asn1.encode(0xA0, b""),
    )
    extension = asn1.encode_sequence(asn1.encode_oid("2.5.29.17"), asn1.encode_octets(names))
    asked = asked_names(
        decode_signing_request(
            request(
                rsa_key,
                subject=subject,
                attributes=[attribute("1.2.840.113549.1.9.14", asn1.encode_sequence(extension))],
            )
        )
    )
    assert asked.subject == (("CN", "good"),)
    assert asked.alternative_names == (("DNS", "good.example"),)
    assert len(asked.left_out) == 6


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_asked_names_never_raise(rsa_key: rsa.RSAPrivateKey, value: bytes) -> None:
    extension = asn1.encode_sequence(asn1.encode_oid("2.5.29.17"), asn1.encode_octets(value))
    asked_names(
        decode_signing_request(
            request(rsa_key, attributes=[attribute("1.2.840.113549.1.9.14", asn1.encode_sequence(extension))])
        )
    )
