"""Keys that get a certificate, and keys that do not."""

from __future__ import annotations

import math
import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from pki.core import algorithms, asn1, policy
from pki.core.policy import KeyRefused, verify_key
from tests.pki.conftest import spki


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    """A SubjectPublicKeyInfo with these numbers, whatever they are."""
    key = asn1.encode_sequence(asn1.encode_integer(modulus), asn1.encode_integer(exponent))
    return asn1.encode_sequence(
        algorithms.encode_algorithm(algorithms.RSA_ENCRYPTION, asn1.encode_null()),
        asn1.encode(asn1.BIT_STRING, b"\0" + key),
    )


SMALL = math.prod(number for number in range(3, 5000) if all(number % d for d in range(2, number)))


def rough(bits: int) -> int:
    """A number of so many bits without small factors: good enough for a modulus nobody will use."""
    while True:
        number = secrets.randbits(bits) | 1 << (bits - 1) | 1
        if math.gcd(number, SMALL) == 1:
            return number


def refused(der: bytes) -> str:
    with pytest.raises(KeyRefused) as error:
        verify_key(der)
    return error.value.reason


@pytest.mark.parametrize("bits", [2048, 3072, 4096, 8192])
def test_rsa(bits: int) -> None:
    modulus = rough(bits)
    key = verify_key(rsa_spki(modulus))
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.public_numbers().n == modulus
    verify_key(rsa_spki(modulus, exponent=2**32 - 1))
    verify_key(rsa_spki(modulus, exponent=17))


def test_generated_keys(rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> None:
    assert verify_key(spki(rsa_key)) == rsa_key.public_key()
    assert verify_key(spki(ec_key)) == ec_key.public_key()
    other = ec.generate_private_key(ec.SECP384R1())
    assert verify_key(spki(other)) == other.public_key()


@pytest.mark.parametrize("bits", [512, 1024, 2047, 8193, 8300])
def test_rsa_of_another_size(bits: int) -> None:
    assert "2048 to 8192 bits" in refused(rsa_spki(rough(bits)))


@pytest.mark.parametrize("bits", [256, 16384, 32768])
def test_rsa_of_a_size_that_is_not_even_read(bits: int) -> None:
    assert refused(rsa_spki(rough(bits)))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 65536, 2**32, 2**32 + 1, 2**64 + 1])
def test_exponents(exponent: int) -> None:
    assert refused(rsa_spki(rough(2048), exponent))


def test_even_modulus() -> None:
    assert refused(rsa_spki(rough(2048) - 1))


@pytest.mark.parametrize("factor", [3, 5, 751, 4093])
def test_small_factor(factor: int) -> None:
    modulus = rough(2040)
    while (modulus * factor).bit_length() < 2048:
        modulus *= 2
        modulus += 1
    assert "small factor" in refused(rsa_spki(modulus * factor))


def test_close_factors() -> None:
    """The two halves of CVE-2022-26320: q is the next candidate after p."""
    first = rough(1024) | 3 << 1022
    while math.gcd(first, SMALL) != 1:
        first += 2
    second = first + 2
    while math.gcd(second, SMALL) != 1:
        second += 2
    assert "too close" in refused(rsa_spki(first * second))
    assert "too close" in refused(rsa_spki(first * first))


def by_every_round(modulus: int) -> bool:
    """Fermat's method without sparing a square root."""
    first = math.isqrt(modulus - 1) + 1
    squares = [(first + number) ** 2 - modulus for number in range(policy.FERMAT_ROUNDS)]
    return any(math.isqrt(square) ** 2 == square for square in squares)


@given(st.integers(100, 1 << 40), st.integers(0, 10**6))
def test_no_round_of_fermats_method_is_missed(half: int, distance: int) -> None:
    """Numbers with close factors, from the first round to the one behind the last, and their neighbours."""
    first = 2 * half + 1
    for modulus in (first * (first + 2 * distance), first * (first + 2 * distance) + 2):
        assert policy._has_close_factors(modulus) is by_every_round(modulus)


@pytest.mark.parametrize("round_number", [0, 1, 50, 98, 99, 100])
def test_the_last_round_counts_and_the_next_does_not(round_number: int) -> None:
    """n = a² - b² where a is that many above the root of n."""
    middle = 1 << 1024
    distance = next(
        distance
        for distance in range(math.isqrt(2 * round_number * middle), 2 * middle, 2)
        if (middle - math.isqrt(middle**2 - distance**2 - 1) - 1) == round_number
    )
    modulus = middle**2 - distance**2
    assert policy._has_close_factors(modulus) is by_every_round(modulus) is (round_number < 100)


def test_roca() -> None:
    """A modulus with the fingerprint of CVE-2017-15361: a power of 65537 modulo the product of 39 primes."""
    primes = [number for number in range(2, 168) if all(number % d for d in range(2, number))]
    product = math.prod(primes)
    while True:
        start = pow(65537, secrets.randbits(64), product)
        modulus = (secrets.randbits(2047) | 1 << 2047) // product * product + start
        if modulus.bit_length() == 2048 and math.gcd(modulus, SMALL) == 1:
            break
    assert "ROCA" in refused(rsa_spki(modulus))


@pytest.mark.parametrize("curve", [ec.SECP224R1(), ec.SECP521R1(), ec.SECP256K1(), ec.BrainpoolP256R1()])
def test_other_curves(curve: ec.EllipticCurve) -> None:
    assert "P-256 or P-384" in refused(spki(ec.generate_private_key(curve)))


def test_a_point_off_the_curve(ec_key: ec.EllipticCurvePrivateKey) -> None:
    der = bytearray(spki(ec_key))
    der[-1] ^= 1
    assert "cannot be read" in refused(bytes(der))


def test_the_point_at_infinity(ec_key: ec.EllipticCurvePrivateKey) -> None:
    whole = asn1.read(spki(ec_key))
    algorithm, _key = asn1.children(whole)
    assert refused(asn1.encode_sequence(algorithm.encoded, asn1.encode(asn1.BIT_STRING, b"\0\0")))


def test_other_kinds_of_key() -> None:
    for key in (ed25519.Ed25519PrivateKey.generate(), dsa.generate_private_key(2048)):
        der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert "only RSA and EC" in refused(der)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    assert refused(data)
