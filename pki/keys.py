"""Private keys: made, sealed and opened here and nowhere else.

In the database a key is PKCS #8 DER, sealed and bound to its row (see :mod:`vault.sealed`). Opened keys are
kept in the process, a bounded number of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from pki.core.algorithms import PrivateKey
from pki.models import HeldKey, IssuerKey
from vault.sealed import seal, unseal

MAX_OPENED_KEYS = 64

ALGORITHMS: Mapping[str, Callable[[], PrivateKey]] = {
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
    "RSA-4096": lambda: rsa.generate_private_key(65537, 4096),
    "EC-P256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC-P384": lambda: ec.generate_private_key(ec.SECP384R1()),
}


class KeyUnavailable(Exception):
    """The private key is not here: the issuer is only trusted, or its key is kept elsewhere."""


def new_private_key(algorithm: str) -> PrivateKey:
    """A new key; ``algorithm`` is one of :data:`ALGORITHMS`, otherwise ``KeyError``."""
    return ALGORITHMS[algorithm]()


def public_key_der(private_key: PrivateKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def seal_issuer_key(private_key: PrivateKey, uuid: UUID) -> bytes:
    """What ``IssuerKey.private_key_sealed`` holds for the row with this ``uuid``."""
    return _seal(private_key, _issuer_key_context(uuid))


def seal_held_key(private_key: PrivateKey, uuid: UUID) -> bytes:
    """What ``HeldKey.private_key_sealed`` holds for the row with this ``uuid``."""
    return _seal(private_key, _held_key_context(uuid))


def issuer_private_key(issuer_key: IssuerKey) -> PrivateKey:
    """The private key of an issuer's key generation.

    Raises :class:`KeyUnavailable` where it is not ours, and :class:`vault.sealed.SealError` where it was
    sealed with a key that this installation does not have.
    """
    if issuer_key.private_key_sealed is None:
        raise KeyUnavailable(f"the private key of {issuer_key} is not kept here")
    return _open(bytes(issuer_key.private_key_sealed), _issuer_key_context(issuer_key.uuid))


def held_private_key(held_key: HeldKey) -> PrivateKey:
    """The private key of a certificate that this server itself uses. Raises as :func:`issuer_private_key`."""
    return _open(bytes(held_key.private_key_sealed), _held_key_context(held_key.uuid))


def _issuer_key_context(uuid: UUID) -> str:
    return f"pki.issuerkey.private_key:{uuid}"


def _held_key_context(uuid: UUID) -> str:
    return f"pki.heldkey.private_key:{uuid}"


def _seal(private_key: PrivateKey, context: str) -> bytes:
    der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return seal(der, context=context)


@lru_cache(maxsize=MAX_OPENED_KEYS)
def _open(sealed: bytes, context: str) -> PrivateKey:
    key = load_der_private_key(unseal(sealed, context=context), None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise KeyUnavailable("the stored key is neither RSA nor EC")
    return key
