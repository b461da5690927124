"""Private keys: made, sealed and opened here and nowhere else.

In the database a key is PKCS #8 DER, sealed and bound to its row (see :mod:`vault.sealed`). Opened keys are
kept in the process, a bounded number of them. The key of an issuer may be in a PKCS #11 token instead
(:mod:`pki.tokens`): then its row says where, and the token signs. Whoever signs notices no difference but
:class:`TokenUnavailable` while the token is away.
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
from django.db.models import Q

from pki.core.algorithms import PrivateKey, PublicKey
from pki.core.token_uri import TokenUriRefused, decode_token_uri
from pki.models import HeldKey, IssuerKey, ProfileSigner
from pki.tokens import TokenKey, TokenUnavailable, find_key, make_key, token_key
from vault.sealed import SealError, seal, unseal

MAX_OPENED_KEYS = 64

ALGORITHMS: Mapping[str, Callable[[], PrivateKey]] = {
    "RSA-2048": lambda: rsa.generate_private_key(65537, 2048),
    "RSA-3072": lambda: rsa.generate_private_key(65537, 3072),
    "RSA-4096": lambda: rsa.generate_private_key(65537, 4096),
    "EC-P256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EC-P384": lambda: ec.generate_private_key(ec.SECP384R1()),
}


# Issuer keys that we sign with, here or in a token; for queries of IssuerKey.
OURS = Q(private_key_sealed__isnull=False) | ~Q(key_location="")


class KeyUnavailable(Exception):
    """The private key is not here: the issuer is only trusted, or its key is kept elsewhere."""


class KeyRefused(Exception):
    """The key in the token cannot be used for an issuer; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# What keeps a key of ours from signing: to be caught where the work can wait.
CANNOT_SIGN = (KeyUnavailable, TokenUnavailable, SealError)


def new_private_key(algorithm: str) -> PrivateKey:
    """A new key; ``algorithm`` is one of :data:`ALGORITHMS`, otherwise ``KeyError``."""
    return ALGORITHMS[algorithm]()


def public_key_der(private_key: PrivateKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def algorithm_of(key: PrivateKey | PublicKey) -> str:
    """The name of a key's algorithm, as in :data:`ALGORITHMS` where it is there."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return f"EC-P{key.curve.key_size}"


def new_issuer_key(location: str, algorithm: str) -> TokenKey:
    """The key of a new generation of an issuer in a PKCS #11 token; made there where there is none yet.

    ``location``: a URI (RFC 7512) without PIN and module. Raises :class:`KeyRefused` where there is another
    kind of key or an issuer has it already, and :class:`TokenUnavailable`.
    """
    try:
        uri = decode_token_uri(location)
    except TokenUriRefused as refused:
        raise KeyRefused(refused.reason) from None
    if uri.label is None:
        raise KeyRefused("a key that is made in a token needs a label: object=…")
    key = find_key(uri)
    if key is None:
        return make_key(uri, algorithm)
    if algorithm_of(key) != algorithm:
        raise KeyRefused(f"the token holds a key {algorithm_of(key)} at {uri}, and {algorithm} is asked for")
    if IssuerKey.objects.filter(public_key=public_key_der(key)).exists():
        raise KeyRefused("the key in the token is that of an issuer already")
    return key


def kept(private_key: PrivateKey | None, uuid: UUID) -> dict[str, bytes | str | None]:
    """How the ``IssuerKey`` with this ``uuid`` keeps its private key: the values of those of its fields.

    None for an issuer that is only trusted.
    """
    if isinstance(private_key, TokenKey):
        return {"private_key_sealed": None, "key_location": str(private_key.location)}
    sealed = seal_issuer_key(private_key, uuid) if private_key else None
    return {"private_key_sealed": sealed, "key_location": ""}


def decrypts(key: IssuerKey | PrivateKey) -> bool:
    """Whether the key also decrypts, as SCEP wants it: RSA keys that are kept here do."""
    if isinstance(key, IssuerKey):
        return not key.key_location and key.algorithm.startswith("RSA")
    return isinstance(key, rsa.RSAPrivateKey) and not isinstance(key, TokenKey)


def seal_issuer_key(private_key: PrivateKey, uuid: UUID) -> bytes:
    """What ``IssuerKey.private_key_sealed`` holds for the row with this ``uuid``."""
    return _seal(private_key, _issuer_key_context(uuid))


def seal_held_key(private_key: PrivateKey, uuid: UUID) -> bytes:
    """What ``HeldKey.private_key_sealed`` holds for the row with this ``uuid``."""
    return _seal(private_key, _held_key_context(uuid))


def issuer_private_key(issuer_key: IssuerKey) -> PrivateKey:
    """The private key of an issuer's key generation.

    Raises :class:`KeyUnavailable` where it is not ours, and :class:`vault.sealed.SealError` where it was
    sealed with a key that this installation does not have. A key in a token is not asked for until it signs.
    """
    if issuer_key.key_location:
        return _token_key(issuer_key.key_location, bytes(issuer_key.public_key))
    if issuer_key.private_key_sealed is None:
        raise KeyUnavailable(f"the private key of {issuer_key} is not kept here")
    return _open(bytes(issuer_key.private_key_sealed), _issuer_key_context(issuer_key.uuid))


def remembered_private_key(issuer_key: IssuerKey, *, kept_here: bool) -> PrivateKey:
    """The same for a row that was read without its keys; ``kept_here``: whether a sealed one is in it.

    The key of a generation never changes, so only the first call in a process reads and opens it.
    """
    if not kept_here and not issuer_key.key_location:
        raise KeyUnavailable(f"the private key of {issuer_key} is not kept here")
    return _remembered(issuer_key.uuid, issuer_key.key_location)


def held_private_key(held_key: HeldKey) -> PrivateKey:
    """The private key of a certificate that this server itself uses. Raises as :func:`issuer_private_key`."""
    return _open(bytes(held_key.private_key_sealed), _held_key_context(held_key.uuid))


def seal_signer_key(private_key: PrivateKey, uuid: UUID) -> bytes:
    """What ``ProfileSigner.private_key_sealed`` holds for the row with this ``uuid``."""
    return _seal(private_key, _signer_key_context(uuid))


def signer_private_key(signer: ProfileSigner) -> PrivateKey:
    """The imported private key of a signer of profiles. Raises as :func:`issuer_private_key`."""
    if signer.private_key_sealed is None:
        raise KeyUnavailable(f"{signer} has no key of its own")
    return _open(bytes(signer.private_key_sealed), _signer_key_context(signer.uuid))


def _signer_key_context(uuid: UUID) -> str:
    return f"pki.profilesigner.private_key:{uuid}"


def _issuer_key_context(uuid: UUID) -> str:
    return f"pki.issuerkey.private_key:{uuid}"


def _held_key_context(uuid: UUID) -> str:
    return f"pki.heldkey.private_key:{uuid}"


def _seal(private_key: PrivateKey, context: str) -> bytes:
    der = private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return seal(der, context=context)


@lru_cache(maxsize=MAX_OPENED_KEYS)
def _token_key(location: str, public_key: bytes) -> TokenKey:
    return token_key(location, public_key)


@lru_cache(maxsize=MAX_OPENED_KEYS)
def _remembered(uuid: UUID, _location: str) -> PrivateKey:
    return issuer_private_key(IssuerKey.objects.get(uuid=uuid))


@lru_cache(maxsize=MAX_OPENED_KEYS)
def _open(sealed: bytes, context: str) -> PrivateKey:
    key = load_der_private_key(unseal(sealed, context=context), None)
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise KeyUnavailable("the stored key is neither RSA nor EC")
    return key
