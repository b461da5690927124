"""Which certificates are a device's: threats E1, E2 and fact F6."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from pki.core.certificates import describe, load_certificates, read_identifiers
from pki.core.device_identity import (
    APPLE_CHAIN,
    APPLE_DEVICE_CA,
    DeviceAnchor,
    NotADevice,
    verify_device_signer,
)
from pki.core.path import verify_issued_by
from tests.enrollment.device_cas import (
    APPLE_NAME,
    LONG_AGO,
    NOW,
    Authority,
    authority,
    certificate,
    like_apple,
    rsa_key,
)

APPLE = [APPLE_DEVICE_CA]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "vectors"


def vector(name: str) -> bytes:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not here: certificates of real devices are not kept in the repository")
    return path.read_bytes()


@pytest.fixture
def real_leaf() -> bytes:
    """What Apple's device CA issued to a Mac in 2018: RSA 1024, SHA-1, long expired."""
    (leaf,) = load_certificates(vector("device-ca/device-leaf-2018.pem"))
    return leaf


# The real ones


def test_the_pinned_ca_is_apples() -> None:
    """Its certificate leads to Apple Root CA, with SHA-1 all the way, and is what Apple has published."""
    device_ca, above, root = APPLE_CHAIN
    verify_issued_by(device_ca, above, allow_sha1=True)
    verify_issued_by(above, root, allow_sha1=True)
    verify_issued_by(root, root, allow_sha1=True)
    assert describe(root).sha256.startswith("b0b1730e")
    facts = describe(device_ca)
    assert (facts.subject, facts.key) == (
        "CN=Apple iPhone Device CA,OU=Apple iPhone,O=Apple Inc.,C=US",
        "RSA 1024",
    )
    assert facts.not_after == datetime(2014, 4, 16, 22, 54, 46, tzinfo=UTC)


def test_the_published_chain_is_the_pinned_one() -> None:
    assert load_certificates(vector("device-ca/apple-iphone-device-ca-fullchain.pem")) == APPLE_CHAIN


@pytest.mark.parametrize("year", [2018, 2026, 2040])
def test_a_real_device_is_one_at_any_time(real_leaf: bytes, year: int) -> None:
    verified = verify_device_signer(real_leaf, APPLE, now=datetime(year, 12, 1, tzinfo=UTC))
    assert verified.anchor is APPLE_DEVICE_CA
    assert verified.facts.subject == "CN=6001A957-6FC5-4856-8C5E-DC2E32C61CB9"


def test_every_changed_byte_of_it_counts(real_leaf: bytes) -> None:
    for position in range(len(real_leaf)):
        forged = bytearray(real_leaf)
        forged[position] ^= 1
        with pytest.raises(NotADevice):
            verify_device_signer(bytes(forged), APPLE, now=NOW)


def test_bytes_after_its_end_count(real_leaf: bytes) -> None:
    with pytest.raises(NotADevice):
        verify_device_signer(real_leaf + b"\0", APPLE, now=NOW)


@pytest.mark.parametrize("position", range(3))
def test_apples_cas_are_no_devices(position: int) -> None:
    with pytest.raises(NotADevice, match="that of a CA"):
        verify_device_signer(APPLE_CHAIN[position], APPLE, now=NOW)


@pytest.mark.parametrize(
    "name", ["mock_push_cert.pem", "mock_push_cert_no_uid.pem", "mock_push_cert_wrong_uid_prefix.pem"]
)
def test_a_push_certificate_is_no_device(name: str) -> None:
    (der,) = load_certificates(vector(f"push/{name}"))
    with pytest.raises(NotADevice):
        verify_device_signer(der, APPLE, now=NOW)


@pytest.mark.parametrize("position", [1, 2])
def test_what_another_ca_of_apples_issued_is_no_device(position: int) -> None:
    """A developer's or a push certificate leads to the same root. The root alone is not enough (E2)."""
    issuer = x509.load_der_x509_certificate(APPLE_CHAIN[position])
    forger = rsa_key("forger")
    der = certificate(
        forger.public_key(), issuer=issuer.subject, signer=forger, subject="iPhone Developer: A"
    )
    with pytest.raises(NotADevice, match="none of the trusted device CAs"):
        verify_device_signer(der, APPLE, now=NOW)


def test_the_real_leaf_counts_only_while_apple_is_an_anchor(real_leaf: bytes) -> None:
    with pytest.raises(NotADevice, match="none of the trusted"):
        verify_device_signer(real_leaf, [], now=NOW)
    with pytest.raises(NotADevice, match="none of the trusted"):
        verify_device_signer(real_leaf, [authority().anchor()], now=NOW)


# Forgeries, from who has no key of Apple's


def forged_ca(**changes: object) -> Authority:
    """A forger's CA that calls itself what Apple's device CA is called."""
    return authority("a forger's", subject=APPLE_NAME, **changes)


def test_a_ca_of_the_same_name_is_another_ca() -> None:
    leaf = forged_ca().issue(rsa_key("device"))
    assert read_identifiers(leaf).issuer == read_identifiers(APPLE_DEVICE_CA.certificate).subject
    with pytest.raises(NotADevice, match="key identifier is another"):
        verify_device_signer(leaf, APPLE, now=NOW)


@pytest.mark.parametrize("sha1", [True, False])
def test_nor_does_the_same_key_identifier_make_it_the_same(sha1: bool) -> None:
    pinned = x509.load_der_x509_certificate(APPLE_DEVICE_CA.certificate)
    identifier = pinned.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    leaf = forged_ca().issue(rsa_key("device"), authority=identifier, sha1=sha1, **LONG_AGO)
    with pytest.raises(NotADevice, match="signature is wrong"):
        verify_device_signer(leaf, APPLE, now=NOW)


def test_a_leaf_without_a_key_identifier_is_not_believed_more() -> None:
    leaf = forged_ca().issue(rsa_key("device"), authority=None)
    with pytest.raises(NotADevice, match="signature is wrong"):
        verify_device_signer(leaf, APPLE, now=NOW)


@pytest.mark.parametrize("issuer", [APPLE_NAME, x509.Name([])])
def test_self_signed_is_no_device(issuer: x509.Name) -> None:
    key = rsa_key("device")
    leaf = certificate(key.public_key(), issuer=issuer, signer=key)
    with pytest.raises(NotADevice):
        verify_device_signer(leaf, APPLE, now=NOW)


def test_a_device_issues_no_devices() -> None:
    """The holder of a real device certificate uses it as a CA, under its own name and under the CA's (E2)."""
    apple = like_apple()
    anchor = apple.anchor(legacy=True)
    device = rsa_key("device")
    leaf = apple.issue(device, **LONG_AGO)
    verify_device_signer(leaf, [anchor], now=NOW)
    name = x509.load_der_x509_certificate(leaf).subject
    for issuer, reason in ((name, "none of the trusted"), (APPLE_NAME, "signature is wrong")):
        below = certificate(rsa_key("below").public_key(), issuer=issuer, signer=device)
        with pytest.raises(NotADevice, match=reason):
            verify_device_signer(below, [anchor], now=NOW)


def test_a_ca_below_the_device_ca_is_no_device() -> None:
    apple = like_apple()
    leaf = apple.issue(rsa_key("device"), ca=True)
    with pytest.raises(NotADevice, match="that of a CA"):
        verify_device_signer(leaf, [apple.anchor(legacy=True)], now=NOW)


@pytest.mark.parametrize("bits", [1024, 2048])
@pytest.mark.parametrize("constraints", [True, False])
def test_what_is_like_apples_passes_as_apples_does(bits: int, constraints: bool) -> None:
    """RSA 1024, SHA-1, long expired; and SHA-256 with a longer key, as devices of 2024 have it."""
    apple = like_apple()
    leaf = apple.issue(
        rsa_key(f"device {bits}", bits), sha1=bits == 1024, constraints=constraints, **LONG_AGO
    )
    verify_device_signer(leaf, [apple.anchor(legacy=True)], now=NOW)


def test_a_key_that_apple_never_certified_is_too_short() -> None:
    """cryptography makes no such key any more, so the modulus stands for one."""
    apple = like_apple()
    numbers = rsa_key("short", 1024).public_key().public_numbers()
    short = type(numbers)(e=65537, n=(numbers.n >> 512) | 1).public_key()
    leaf = certificate(short, issuer=APPLE_NAME, signer=apple.key, sha1=True)
    with pytest.raises(NotADevice, match="too short"):
        verify_device_signer(leaf, [apple.anchor(legacy=True)], now=NOW)


# The same under a CA of today, where only today's rules hold


def test_a_device_of_another_ca() -> None:
    trusted = authority()
    for key in (rsa_key("device"), ec.generate_private_key(ec.SECP256R1())):
        verified = verify_device_signer(trusted.issue(key), [*APPLE, trusted.anchor()], now=NOW)
        assert verified.anchor.certificate == trusted.certificate


def test_what_only_apple_may_is_refused_there() -> None:
    old = like_apple()
    anchor = old.anchor()
    for leaf, reason in [
        (old.issue(rsa_key("device")), "SHA-1"),
        (old.issue(rsa_key("device 1024", 1024), sha1=False), "bits"),
        (old.issue(rsa_key("device"), sha1=False, **LONG_AGO), "not valid now"),
        (old.issue(rsa_key("device"), sha1=False), "certificate of a test's device CA is not valid now"),
    ]:
        with pytest.raises(NotADevice, match=reason):
            verify_device_signer(leaf, [anchor], now=NOW)


def test_time_counts_to_the_second() -> None:
    trusted = authority()
    leaf = trusted.issue(rsa_key("device"), not_before=NOW, not_after=NOW + timedelta(days=1))
    for moment in (NOW, NOW + timedelta(days=1)):
        verify_device_signer(leaf, [trusted.anchor()], now=moment)
    for moment in (NOW - timedelta(seconds=1), NOW + timedelta(days=1, seconds=1)):
        with pytest.raises(NotADevice, match="not valid now"):
            verify_device_signer(leaf, [trusted.anchor()], now=moment)


def test_two_cas_of_one_name_are_both_tried() -> None:
    one, other = authority("one", subject=APPLE_NAME), authority("other", subject=APPLE_NAME)
    anchors = [DeviceAnchor("one", one.certificate), DeviceAnchor("other", other.certificate)]
    assert verify_device_signer(other.issue(rsa_key("device")), anchors, now=NOW).anchor.name == "other"


@given(st.binary(max_size=400))
def test_anything_is_a_device_or_not_a_device(data: bytes) -> None:
    with pytest.raises(NotADevice):
        verify_device_signer(data, APPLE, now=NOW)
