"""Reading and building certificates, and the names in them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    ExtensionOID,
    NameOID,
)
from hypothesis import given
from hypothesis import strategies as st

from pki.core import asn1, cms
from pki.core.certificates import (
    CertificateFields,
    RecordedFacts,
    alternative_names_of,
    build_certificate,
    build_root,
    describe,
    describe_holder,
    encode_pem,
    format_serial_number,
    load_certificates,
    read_identifiers,
    recorded_facts,
    subject_of,
)
from pki.core.names import (
    NAME_OIDS,
    Name,
    NameRefused,
    describe_name,
    encode_alternative_names,
    encode_name,
    encode_subject,
)
from pki.core.scan import Malformed
from tests.pki.conftest import NOW, Party, self_signed, spki, vector

ROOT_NAME: Name = (("C", "GB"), ("O", "Orchard é"), ("CN", "Root"))


@pytest.fixture(scope="module")
def root(rsa_party: Party) -> Party:
    der = build_root(
        ROOT_NAME,
        private_key=rsa_party.key,
        serial_number=0x0A0B,
        not_before=NOW,
        not_after=NOW + timedelta(days=3650),
    )
    return Party(rsa_party.key, der)


def fields(party: Party, **changes: object) -> CertificateFields:
    values: dict[str, object] = {
        "subject": (("CN", "device"),),
        "public_key": spki(party.key),
        "serial_number": 0x7F01,
        "not_before": NOW,
        "not_after": NOW + timedelta(days=100),
    }
    return CertificateFields(**(values | changes))  # type: ignore[arg-type]


def issue(root: Party, wanted: CertificateFields) -> x509.Certificate:
    der = build_certificate(wanted, issuer_certificate=root.certificate, private_key=root.key)
    return x509.load_der_x509_certificate(der)


def test_a_root(root: Party) -> None:
    certificate = x509.load_der_x509_certificate(root.certificate)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value == x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.ca
    assert {extension.oid for extension in certificate.extensions} == {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    }
    certificate.verify_directly_issued_by(certificate)


def test_an_ec_root_cannot_encipher(ec_key: ec.EllipticCurvePrivateKey) -> None:
    der = build_root(
        ROOT_NAME, private_key=ec_key, serial_number=1, not_before=NOW, not_after=NOW + timedelta(days=1)
    )
    usage = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.key_encipherment


def test_a_certificate_holds_exactly_what_it_should(root: Party, ec_party: Party) -> None:
    wanted = fields(
        ec_party,
        subject=(("CN", "device"), ("serialNumber", "C02XX"), ("emailAddress", "a@example.org")),
        san=(("DNS", "a.example"), ("URI", "urn:uuid:1"), ("email", "a@example.org"), ("IP", "10.0.0.1")),
        key_usage=frozenset({"digitalSignature"}),
        extended_key_usage=("clientAuth",),
        crl_url="http://127.0.0.1/pki/x/1.crl",
        issuer_url="http://127.0.0.1/pki/x/ca.cer",
    )
    certificate = issue(root, wanted)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(root.certificate))
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == 0x7F01
    assert certificate.not_valid_before_utc == NOW
    assert certificate.public_key() == ec_party.key.public_key()
    critical = {extension.oid: extension.critical for extension in certificate.extensions}
    assert critical == {
        ExtensionOID.BASIC_CONSTRAINTS: True,
        ExtensionOID.KEY_USAGE: True,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
        ExtensionOID.EXTENDED_KEY_USAGE: False,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME: False,
        ExtensionOID.CRL_DISTRIBUTION_POINTS: False,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS: False,
    }
    found = certificate.extensions
    assert not found.get_extension_for_class(x509.BasicConstraints).value.ca
    authority = found.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.authority_cert_issuer is None
    assert authority.authority_cert_serial_number is None
    assert authority.key_identifier == describe(root.certificate).subject_key_identifier
    usage = found.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_the_issuers_name_is_copied_byte_by_byte(rsa_party: Party, ec_party: Party) -> None:
    """Whatever string types another CA put into the name of our certificate (threats: path building)."""
    strange = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "GB"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Orchard", _type=x509.name._ASN1Type.T61String),
            x509.NameAttribute(NameOID.COMMON_NAME, "Sub é", _type=x509.name._ASN1Type.BMPString),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(strange)
        .issuer_name(strange)
        .public_key(rsa_party.key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=10))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    authority = builder.sign(rsa_party.key, hashes.SHA256()).public_bytes(Encoding.DER)
    der = build_certificate(fields(ec_party), issuer_certificate=authority, private_key=rsa_party.key)
    assert read_identifiers(der).issuer == read_identifiers(authority).subject


def test_a_key_that_is_not_the_issuers(root: Party, other_party: Party) -> None:
    with pytest.raises(Malformed, match="not that of the issuing certificate"):
        build_certificate(
            fields(other_party), issuer_certificate=root.certificate, private_key=other_party.key
        )


def test_a_certificate_without_subject_names_somebody_else(root: Party, ec_party: Party) -> None:
    certificate = issue(root, fields(ec_party, subject=(), san=(("URI", "urn:x:y"),)))
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical


def test_describe(root: Party, ec_party: Party) -> None:
    wanted = fields(ec_party, san=(("DNS", "a.example"),), extended_key_usage=("clientAuth",))
    der = build_certificate(wanted, issuer_certificate=root.certificate, private_key=root.key)
    facts = describe(der)
    assert facts.subject == "CN=device"
    assert facts.issuer == "CN=Root,O=Orchard é,C=GB"
    assert facts.serial_number == "7F01"
    assert (facts.not_before, facts.not_after) == (NOW, NOW + timedelta(days=100))
    assert facts.key == "EC P-256"
    assert facts.subject_alternative_name == "DNS:a.example"
    assert facts.extended_key_usage == ("clientAuth",)
    assert not facts.is_ca
    assert describe(root.certificate).is_ca
    assert describe(root.certificate).serial_number == "0A0B"
    certificate = x509.load_der_x509_certificate(der)
    assert facts.sha256 == certificate.fingerprint(hashes.SHA256()).hex()


@pytest.mark.parametrize(
    ("number", "text"), [(1, "01"), (0x80, "80"), (0x1000, "1000"), (0xABC, "0ABC"), (0, "00"), (-1, "-01")]
)
def test_serial_numbers_are_whole_bytes(number: int, text: str) -> None:
    assert format_serial_number(number) == text


def test_names_come_back_for_a_renewal(root: Party, ec_party: Party) -> None:
    subject: Name = (("CN", "device"), ("O", "Orchard"), ("serialNumber", "C02"), ("UID", "u"), ("DC", "x"))
    san = (("DNS", "a.example"), ("URI", "urn:x:y"), ("email", "a@example.org"), ("IP", "::1"))
    wanted = fields(ec_party, subject=subject, san=san)
    der = build_certificate(wanted, issuer_certificate=root.certificate, private_key=root.key)
    assert subject_of(der) == subject
    assert alternative_names_of(der) == san


# --- Files -----------------------------------------------------------------------------------------------


def test_files_of_certificates(rsa_party: Party, ec_party: Party) -> None:
    both = (rsa_party.certificate, ec_party.certificate)
    pem = "".join(encode_pem(der) for der in both)
    assert load_certificates(pem.encode()) == both
    assert load_certificates(b"text before\r\n" + pem.replace("\n", "\r\n").encode() + b"after") == both
    assert load_certificates(both[0]) == both[:1]
    assert load_certificates(cms.degenerate(both)) == both


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
        b"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END PKCS7-----",
        b"\x30\x00",
        cms.degenerate([]),
        b"\0" * (1 << 20 | 1),
    ],
)
def test_files_without_certificates(data: bytes) -> None:
    with pytest.raises(Malformed):
        load_certificates(data)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_certificate(data: bytes) -> None:
    for read in (describe, load_certificates, read_identifiers, subject_of):
        with pytest.raises(Malformed):
            read(data)


@given(st.data())
def test_one_changed_byte(rsa_party: Party, data: st.DataObject) -> None:
    """Read, or malformed: nothing else is ever raised."""
    changed = bytearray(rsa_party.certificate)
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    for read in (describe, load_certificates, read_identifiers, subject_of, alternative_names_of):
        try:
            read(bytes(changed))
        except Malformed:
            continue


def test_certificates_of_real_devices_are_read() -> None:
    chain = load_certificates(vector("device-ca/apple-iphone-device-ca-fullchain.pem"))
    assert [describe(der).subject.split(",")[0] for der in chain] == [
        "CN=Apple iPhone Device CA",
        "CN=Apple iPhone Certification Authority",
        "CN=Apple Root CA",
    ]
    (leaf,) = load_certificates(vector("device-ca/device-leaf-2018.pem"))
    assert describe(leaf).key == "RSA 1024"


# --- Names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "device",
        "x" * 64,
        "Anna's iPad (2)",
        "ünïcode 漢字 🍏",
        "../../x",
        "=cmd|' /C calc'!A0",
        "<script>alert(1)</script>",
        "a,b+c=d",
        '"',
        "\u0645\u0631\u062d\u0628\u0627",
    ],
)
def test_values_stand_in_a_name_as_they_are(root: Party, ec_party: Party, value: str) -> None:
    certificate = issue(root, fields(ec_party, subject=(("CN", value),)))
    (attribute,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert attribute.value == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        " x",
        "x ",
        "x" * 65,
        "a\0b",
        "a\nb",
        "a\r\nb",
        "a\tb",
        "a\x7fb",
        "a\x85b",
        "a\u202eb",
        "a\u200fb",
        "a\u2066b",
        "a\u2028b",
        "a\ud800b",
        "a\ue000b",
        "a\U000e0001\ufffe",
    ],
)
def test_values_that_do_not(root: Party, ec_party: Party, value: str) -> None:
    for key in ("CN", "O", "OU"):
        with pytest.raises(NameRefused):
            build_certificate(
                fields(ec_party, subject=((key, value),)),
                issuer_certificate=root.certificate,
                private_key=root.key,
            )


@pytest.mark.parametrize(
    "name",
    [
        (("C", "GBR"),),
        (("C", "G"),),
        (("C", "éé"),),
        (("XX", "x"),),
        (("2.5.4.3", "x"),),
        (("serialNumber", "é"),),
        (("serialNumber", "a*b"),),
        (("emailAddress", "é@x"),),
        tuple(("OU", str(number)) for number in range(17)),
    ],
)
def test_names_that_are_refused(name: Name) -> None:
    with pytest.raises(NameRefused):
        encode_name(name)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("DNS", "a b"),
        ("DNS", "a\0b"),
        ("DNS", "é.example"),
        ("DNS", "a..b"),
        ("DNS", ".a"),
        ("DNS", "x" * 64),
        ("DNS", "a." * 130),
        ("DNS", "*"),
        ("URI", "no scheme"),
        ("URI", "urn:a b"),
        ("URI", "urn:é"),
        ("email", "nobody"),
        ("email", "a@b@c"),
        ("email", "a b@c"),
        ("IP", "1.2.3"),
        ("IP", "1.2.3.4/8"),
        ("UPN", "a@b"),
        ("DNS", ""),
    ],
)
def test_alternative_names_that_are_refused(kind: str, value: str) -> None:
    with pytest.raises(NameRefused):
        encode_alternative_names([(kind, value)])


def test_too_many_alternative_names() -> None:
    names = [("DNS", f"{number}.example") for number in range(17)]
    assert len(encode_alternative_names(names[:16])) == 16
    with pytest.raises(NameRefused):
        encode_alternative_names(names)


@given(
    st.lists(
        st.tuples(st.sampled_from(["CN", "O", "serialNumber", "C", "emailAddress"]), st.text(max_size=70))
    )
)
def test_a_name_is_refused_or_comes_back(name: list[tuple[str, str]]) -> None:
    try:
        encoded = encode_name(tuple(name))
    except NameRefused as refused:
        with pytest.raises(NameRefused, match=re.escape(refused.reason)):
            encode_subject(tuple(name))
        return
    assert encode_subject(tuple(name)) == encoded.public_bytes()
    assert [attribute.value for attribute in encoded] == [value for _key, value in name]
    assert asn1.read(encoded.public_bytes()).tag == asn1.SEQUENCE


@pytest.mark.parametrize("key", [*NAME_OIDS, "XX"])
@pytest.mark.parametrize("value", ["GB", "a*b", "é", "x" * 64, "é" * 40, "x" * 65, "a\nb", ""])
def test_each_part_of_a_name_is_written_as_cryptography_does(key: str, value: str) -> None:
    name = ((key, value), ("O", "Orchard"))
    try:
        encoded = encode_name(name).public_bytes()
    except NameRefused as refused:
        with pytest.raises(NameRefused, match=re.escape(refused.reason)):
            encode_subject(name)
    else:
        assert encode_subject(name) == encoded


@given(st.text(alphabet=st.sampled_from(' #\\,+"<>;\0\n\x1f\x7f\x80aé'), max_size=6))
def test_text_is_escaped_character_by_character(text: str) -> None:
    expected = ""
    for place, character in enumerate(text):
        first, last = place == 0, place == len(text) - 1
        if ord(character) < 32 or ord(character) == 127:
            expected += f"\\{ord(character):02X}"
        elif character in '\\,+"<>;' or (first and character in " #") or (last and character == " "):
            expected += "\\" + character
        else:
            expected += character
    name = asn1.encode_sequence(asn1.encode_oid("2.5.4.3"), asn1.encode(asn1.UTF8_STRING, text.encode()))
    der = asn1.encode_sequence(asn1.encode(asn1.SET, name))
    assert describe_name(asn1.read(der)) == f"CN={expected}"


def test_the_public_key_alone_comes_from_outside(root: Party, rsa_key: rsa.RSAPrivateKey) -> None:
    for bad in (b"", b"\x30\x00", b"junk"):
        with pytest.raises(Malformed):
            build_certificate(
                fields(self_signed(rsa_key), public_key=bad),
                issuer_certificate=root.certificate,
                private_key=root.key,
            )


def test_times_must_be_aware(root: Party, ec_party: Party) -> None:
    certificate = issue(root, fields(ec_party, not_after=datetime.fromisoformat("2027-01-01T02:00:00+02:00")))
    assert certificate.not_valid_after_utc.isoformat() == "2027-01-01T00:00:00+00:00"


EVERYTHING: dict[str, object] = {
    "subject": (("CN", "Zo\u00eb's iPad"), ("O", "Orchard"), ("C", "GB"), ("serialNumber", "C02")),
    "san": (("DNS", "a.example"), ("URI", "urn:x:1"), ("email", "a@example.com"), ("IP", "192.0.2.1")),
    "extended_key_usage": ("clientAuth", "serverAuth"),
    "crl_url": "http://ca.example/1.crl",
    "issuer_url": "http://ca.example/ca.cer",
    "ocsp_url": "http://ca.example/ocsp",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        EVERYTHING,
        {"subject": (), "san": (("DNS", "a.example"),)},
        {"not_after": datetime(2061, 1, 1, tzinfo=UTC), "serial_number": 0x80},
        {"ocsp_no_check": True, "extended_key_usage": ("OCSPSigning",), "key_usage": frozenset()},
        {"is_ca": True, "path_length": 0, "key_usage": frozenset({"keyCertSign", "cRLSign"})},
        {"is_ca": True, "key_identifier": b"identifier", "ocsp_url": "http://ca.example/ocsp"},
    ],
    ids=["plain", "everything", "no subject", "after 2049", "OCSP", "CA", "unlimited CA"],
)
@pytest.mark.once
def test_what_is_built_is_what_the_builder_of_cryptography_builds(
    root: Party, ec_party: Party, changes: dict[str, object]
) -> None:
    wanted = fields(ec_party, **changes)
    der = build_certificate(wanted, issuer_certificate=root.certificate, private_key=root.key)
    assert der == _built_otherwise(wanted, root)
    facts, described = recorded_facts(der, wanted), describe(der)
    assert facts == RecordedFacts(*(getattr(described, name) for name in RecordedFacts._fields))
    assert describe_holder(der) == (facts.subject, facts.public_key_sha256)


def _built_otherwise(wanted: CertificateFields, root: Party) -> bytes:
    issuer = x509.load_der_x509_certificate(root.certificate)
    key = load_der_public_key(wanted.public_key)
    named = {
        "digital_signature": "digitalSignature",
        "content_commitment": "nonRepudiation",
        "key_encipherment": "keyEncipherment",
        "data_encipherment": "dataEncipherment",
        "key_agreement": "keyAgreement",
        "key_cert_sign": "keyCertSign",
        "crl_sign": "cRLSign",
    }
    usage = {attribute: name in wanted.key_usage for attribute, name in named.items()}
    subject = encode_name(wanted.subject)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(wanted.is_ca, wanted.path_length), True),
        (x509.KeyUsage(**usage, encipher_only=False, decipher_only=False), True),
        (
            x509.SubjectKeyIdentifier(wanted.key_identifier)
            if wanted.key_identifier
            else x509.SubjectKeyIdentifier.from_public_key(key),  # type: ignore[arg-type]
            False,
        ),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), False),  # type: ignore[arg-type]
    ]
    usages = {
        "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
        "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
        "OCSPSigning": ExtendedKeyUsageOID.OCSP_SIGNING,
    }
    if wanted.extended_key_usage:
        extensions.append(
            (x509.ExtendedKeyUsage([usages[name] for name in wanted.extended_key_usage]), False)
        )
    if wanted.san:
        names = x509.SubjectAlternativeName(encode_alternative_names(wanted.san))
        extensions.append((names, not wanted.subject))
    if wanted.crl_url:
        point = x509.DistributionPoint([x509.UniformResourceIdentifier(wanted.crl_url)], None, None, None)
        extensions.append((x509.CRLDistributionPoints([point]), False))
    access = [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
        for method, url in (
            (AuthorityInformationAccessOID.OCSP, wanted.ocsp_url),
            (AuthorityInformationAccessOID.CA_ISSUERS, wanted.issuer_url),
        )
        if url
    ]
    if access:
        extensions.append((x509.AuthorityInformationAccess(access), False))
    if wanted.ocsp_no_check:
        extensions.append((x509.OCSPNoCheck(), False))
    builder = (
        x509.CertificateBuilder()
        .issuer_name(issuer.subject)
        .subject_name(subject)
        .public_key(key)  # type: ignore[arg-type]
        .serial_number(wanted.serial_number)
        .not_valid_before(wanted.not_before)
        .not_valid_after(wanted.not_after)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(root.key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "changes", [{"serial_number": 0}, {"serial_number": 1 << 159}, {"not_after": NOW - timedelta(seconds=1)}]
)
def test_fields_that_no_certificate_may_have(
    root: Party, ec_party: Party, changes: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=r"serial number|before it begins"):
        issue(root, fields(ec_party, **changes))


def test_a_file_of_beginnings_is_read_in_one_pass() -> None:
    """Each of them looked for its end through the whole file: minutes for a file of this size."""
    with pytest.raises(Malformed, match="no certificate"):
        load_certificates(b"-----BEGIN CERTIFICATE-----\n" * 37_000)
