"""Which public keys a certificate may be issued for.

RSA of 2048 to 8192 bits with a sane exponent and no weakness that can be seen in a moment (small factors,
close primes, ROCA), and the curves P-256 and P-384. Sources: CA/Browser Forum Baseline Requirements 6.1.1.3
and 6.1.6, Boulder's goodkey, CVE-2017-15361.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pki.core.algorithms import PublicKey
from pki.core.certificates import load_public_key
from pki.core.scan import Limits, Malformed, scan

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MIN_RSA_EXPONENT = 5
MAX_RSA_EXPONENT = 1 << 32
FERMAT_ROUNDS = 100
# Squares leave few remainders: of the 100 numbers one in a hundred keys has one that has to be looked at.
# In two groups, so that the remainder of a long number is taken twice only, by a short one.
_REMAINDERS_OF = (64, 63, 65, 11, 17, 19), (23, 29, 31, 37, 41)
_LIMITS = Limits(size=2200, depth=6, nodes=20)


def _primes_below(limit: int) -> list[int]:
    sieve = bytearray([1]) * limit
    sieve[:2] = b"\0\0"
    for number in range(2, math.isqrt(limit) + 1):
        if sieve[number]:
            sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
    return [number for number in range(limit) if sieve[number]]


def _products(numbers: list[int], bits: int) -> list[int]:
    """The product of all, in parts of at most so many bits."""
    parts = [1]
    for number in numbers:
        if (parts[-1] * number).bit_length() > bits:
            parts.append(1)
        parts[-1] *= number
    return parts


# In parts: the divisor of a long number and a longer one takes more than twice as long to find.
_SMALL_PRIMES_PRODUCTS = _products(_primes_below(4096), 480)
# Moduli made by the flawed Infineon library are powers of 65537 modulo each of these primes.
_ROCA_REMAINDERS = tuple(
    (prime, frozenset(pow(65537, exponent, prime) for exponent in range(prime)))
    for prime in _primes_below(168)[1:]
)


class KeyRefused(Exception):
    """The public key will not get a certificate; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@lru_cache(maxsize=64)
def verify_key(spki_der: bytes) -> PublicKey:
    """Load a SubjectPublicKeyInfo (DER) and check it against the policy. Raises :class:`KeyRefused`.

    A key that passed is remembered for a while: one request asks about the same key several times.
    """
    try:
        scan(spki_der, _LIMITS)
        key = load_public_key(spki_der)
    except Malformed as error:
        raise KeyRefused(error.reason) from None
    if isinstance(key, rsa.RSAPublicKey):
        _verify_rsa(key.public_numbers())
        return key
    if isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            raise KeyRefused(f"the curve {key.curve.name} is not allowed: P-256 or P-384")
        return key
    raise KeyRefused("only RSA and EC keys are allowed")


def _verify_rsa(numbers: rsa.RSAPublicNumbers) -> None:
    modulus, exponent = numbers.n, numbers.e
    bits = modulus.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise KeyRefused(f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, this one {bits}")
    if exponent % 2 == 0 or not MIN_RSA_EXPONENT <= exponent < MAX_RSA_EXPONENT:
        raise KeyRefused("the exponent of the RSA key is not allowed")
    if any(math.gcd(modulus % product, product) != 1 for product in _SMALL_PRIMES_PRODUCTS):
        raise KeyRefused("the RSA modulus has a small factor")
    if all(modulus % prime in remainders for prime, remainders in _ROCA_REMAINDERS):
        raise KeyRefused("the RSA key was made by a flawed library (ROCA)")
    if _has_close_factors(modulus):
        raise KeyRefused("the factors of the RSA modulus are too close")


def _has_close_factors(modulus: int) -> bool:
    """Fermat's method: with factors close to each other, a² - n is soon a square."""
    first = math.isqrt(modulus - 1) + 1
    rounds = _rounds_that_may_end(modulus, first)
    while rounds:
        last = rounds.bit_length() - 1
        square = (first + last) ** 2 - modulus
        if math.isqrt(square) ** 2 == square:
            return True
        rounds ^= 1 << last
    return False


def _rounds_that_may_end(modulus: int, first: int) -> int:
    """The rounds, as bits, whose a² - n leaves remainders that a square can leave."""
    rounds = _ALL_ROUNDS
    for divisors in _REMAINDERS_OF:
        product = math.prod(divisors)
        of_modulus, of_first = modulus % product, first % product
        for divisor in divisors:
            rounds &= _square_places(divisor, of_modulus % divisor) >> of_first % divisor
    return rounds


_ALL_ROUNDS = (1 << FERMAT_ROUNDS) - 1


@cache
def _square_places(divisor: int, of_modulus: int) -> int:
    """For which a, as bits from 0 on, a² - n leaves a remainder that a square leaves."""
    squares = {number * number % divisor for number in range(divisor)}
    return sum(
        1 << place
        for place in range(divisor + FERMAT_ROUNDS)
        if (place * place - of_modulus) % divisor in squares
    )
