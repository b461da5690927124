"""Who issued what, and what is revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pki.core.certificates import (
    CertificateFields,
    build_certificate,
    build_root,
    build_self_signed,
    load_certificates,
)
from pki.core.crl import REASONS, RevokedCertificate, build_crl
from pki.core.path import PathError, verify_issued_by
from pki.core.scan import Malformed
from tests.pki.conftest import NOW, Party, spki, vector


def root_of(key: object, name: str = "Root") -> bytes:
    return build_root(
        (("CN", name),),
        private_key=key,  # type: ignore[arg-type]
        serial_number=x509.random_serial_number(),
        not_before=NOW,
        not_after=NOW + timedelta(days=1000),
    )


def leaf_of(root: bytes, key: object, subject: Party) -> bytes:
    fields = CertificateFields(
        subject=(("CN", "device"),),
        public_key=spki(subject.key),
        serial_number=x509.random_serial_number(),
        not_before=NOW,
        not_after=NOW + timedelta(days=10),
    )
    return build_certificate(fields, issuer_certificate=root, private_key=key)  # type: ignore[arg-type]


def refused(certificate: bytes, issuer: bytes, **arguments: bool) -> str:
    with pytest.raises(PathError) as error:
        verify_issued_by(certificate, issuer, **arguments)
    return error.value.reason


@pytest.mark.parametrize("who", ["rsa_party", "ec_party"])
def test_issued(request: pytest.FixtureRequest, other_party: Party, who: str) -> None:
    party: Party = request.getfixturevalue(who)
    root = root_of(party.key)
    leaf = leaf_of(root, party.key, other_party)
    verify_issued_by(leaf, root)
    verify_issued_by(root, root)
    assert "name" in refused(root, leaf)
    assert "name" in refused(leaf, leaf)


def test_a_ca_with_another_name(rsa_party: Party, other_party: Party) -> None:
    leaf = leaf_of(root_of(rsa_party.key), rsa_party.key, other_party)
    assert "name" in refused(leaf, root_of(rsa_party.key, "Other"))


def test_a_ca_with_the_same_name_and_another_key(
    rsa_party: Party, other_party: Party, ec_party: Party
) -> None:
    """A2: an attacker's clone of our CA."""
    real, clone = root_of(rsa_party.key), root_of(other_party.key)
    forged = leaf_of(clone, other_party.key, ec_party)
    verify_issued_by(forged, clone)
    assert "key identifier" in refused(forged, real)


def test_a_ca_cloned_with_its_key_identifier(rsa_party: Party, other_party: Party) -> None:
    """With the same SKI it is the signature that tells."""
    real = x509.load_der_x509_certificate(root_of(rsa_party.key))
    ski = real.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(real.subject)
        .public_key(other_party.key.public_key())
        .serial_number(5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.AuthorityKeyIdentifier(ski.digest, None, None), critical=False)
        .sign(other_party.key, hashes.SHA256())
    )
    assert "signature is wrong" in refused(forged.public_bytes(Encoding.DER), real.public_bytes(Encoding.DER))


def test_an_end_entity_does_not_issue(rsa_party: Party, other_party: Party, ec_party: Party) -> None:
    root = root_of(rsa_party.key)
    end = leaf_of(root, rsa_party.key, other_party)
    below = _by_hand(other_party, x509.load_der_x509_certificate(end).subject, ec_party)
    assert "not a CA" in refused(below, end)


def test_a_ca_that_may_not_sign_certificates(rsa_party: Party, ec_party: Party) -> None:
    fields = CertificateFields(
        subject=(("CN", "odd"),),
        public_key=spki(rsa_party.key),
        serial_number=3,
        not_before=NOW,
        not_after=NOW + timedelta(days=10),
        is_ca=True,
        key_usage=frozenset({"digitalSignature", "cRLSign"}),
    )
    odd = build_self_signed(fields, private_key=rsa_party.key)
    assert "may not sign" in refused(leaf_of(odd, rsa_party.key, ec_party), odd)


def _by_hand(issuer: Party, name: x509.Name, subject: Party) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name)
        .public_key(subject.key.public_key())
        .serial_number(5)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_apples_chain_by_permission_of_sha1() -> None:
    chain = load_certificates(vector("device-ca/apple-iphone-device-ca-fullchain.pem"))
    (leaf,) = load_certificates(vector("device-ca/device-leaf-2018.pem"))
    whole = (leaf, *chain)
    for certificate, issuer in zip(whole, chain, strict=False):
        verify_issued_by(certificate, issuer, allow_sha1=True)
    assert "SHA-1" in refused(leaf, chain[0])
    assert refused(leaf, chain[1], allow_sha1=True)
    # A leaf of the device CA is no CA.
    assert refused(leaf, leaf, allow_sha1=True)


@given(st.data())
def test_one_changed_byte_is_refused(rsa_party: Party, ec_party: Party, data: st.DataObject) -> None:
    """Every byte of a certificate counts: signed, or the signature itself."""
    root = _CACHE.setdefault("root", root_of(rsa_party.key))
    leaf = _CACHE.setdefault("leaf", leaf_of(root, rsa_party.key, ec_party))
    changed = bytearray(leaf)
    changed[data.draw(st.integers(0, 1 << 16)) % len(leaf)] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PathError):
        verify_issued_by(bytes(changed), root)


_CACHE: dict[str, bytes] = {}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(rsa_party: Party, data: bytes) -> None:
    with pytest.raises(PathError):
        verify_issued_by(data, rsa_party.certificate)
    with pytest.raises(PathError):
        verify_issued_by(rsa_party.certificate, data)


# --- CRLs ------------------------------------------------------------------------------------------------


def crl_of(party: Party, root: bytes, revoked: list[RevokedCertificate], number: int = 1) -> bytes:
    return build_crl(
        revoked,
        number=number,
        this_update=NOW,
        next_update=NOW + timedelta(days=7),
        issuer_certificate=root,
        private_key=party.key,
    )


@pytest.mark.parametrize("who", ["rsa_party", "ec_party"])
def test_a_list(request: pytest.FixtureRequest, who: str) -> None:
    party: Party = request.getfixturevalue(who)
    root = root_of(party.key)
    at = datetime(2026, 5, 6, 7, 8, 9, tzinfo=UTC)
    revoked = [
        RevokedCertificate(number, at + timedelta(days=number), reason)
        for number, reason in enumerate(REASONS, start=1)
    ]
    crl = x509.load_der_x509_crl(crl_of(party, root, revoked, number=258))
    certificate = x509.load_der_x509_certificate(root)
    assert crl.is_signature_valid(certificate.public_key())  # type: ignore[arg-type]
    assert crl.issuer == certificate.subject
    assert crl.issuer.public_bytes() == certificate.subject.public_bytes()
    assert (crl.last_update_utc, crl.next_update_utc) == (NOW, NOW + timedelta(days=7))
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 258
    authority = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert authority.key_identifier
    entries = list(crl)
    assert [entry.serial_number for entry in entries] == list(range(1, len(REASONS) + 1))
    assert entries[1].revocation_date_utc == at + timedelta(days=2)
    # "unspecified" is said by saying nothing (RFC 5280 section 5.3.1).
    assert not list(entries[0].extensions)
    for entry, reason in list(zip(entries, REASONS, strict=True))[1:]:
        found = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        assert found.value == reason


def test_an_empty_list(rsa_party: Party) -> None:
    crl = x509.load_der_x509_crl(crl_of(rsa_party, root_of(rsa_party.key), []))
    assert not list(crl)


def test_a_list_of_100_000_is_bounded(rsa_party: Party) -> None:
    revoked = [RevokedCertificate((1 << 158) + number, NOW) for number in range(100_000)]
    crl = crl_of(rsa_party, root_of(rsa_party.key), revoked)
    assert len(crl) < 5_000_000
    assert len(x509.load_der_x509_crl(crl)) == 100_000


def test_a_list_needs_the_issuers_key(rsa_party: Party, other_rsa_key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(Malformed, match="not that of the issuing certificate"):
        crl_of(rsa_party, root_of(other_rsa_key), [])
