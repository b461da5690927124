"""Authenticated encryption of secrets at rest (AES-256-GCM, RFC 5116).

A sealed value is ``version (1) | key id (4) | nonce (12) | ciphertext and tag``. The additional
authenticated data is the *context*, a string that names the row and the field: a ciphertext that was
copied into another row or another field does not open.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VERSION = b"\x01"
KEY_SIZE = 32
KEY_ID_SIZE = 4
NONCE_SIZE = 12


class SealError(Exception):
    """A sealed value could not be opened: unknown key, other context, or altered bytes."""


class UnknownKey(SealError):
    """It is sealed with a key that is not in the key ring."""


def key_id(key: bytes) -> bytes:
    """The public name of a key: the first 4 bytes of SHA-256 over a label and the key."""
    return hashlib.sha256(b"bramley key id\0" + key).digest()[:KEY_ID_SIZE]


def hash_key(key: bytes) -> bytes:
    """What makes the keyed hashes under a key. It opens nothing, and may outlive the key."""
    return hmac.digest(key, b"bramley keyed hash", "sha256")


def sealed_with(sealed: bytes) -> bytes:
    """The id of the key that a value is sealed with, whatever else is in it."""
    return bytes(sealed[len(VERSION) : len(VERSION) + KEY_ID_SIZE])


@dataclass(frozen=True)
class KeyRing:
    """Keys of 32 bytes. The first one seals; all of them open.

    ``hash_keys``: those of keys that were retired (:func:`hash_key`). Keyed hashes made under them are found.
    """

    keys: Sequence[bytes] = field(repr=False)
    hash_keys: Sequence[bytes] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("a key ring needs at least one key")
        for key in (*self.keys, *self.hash_keys):
            if len(key) != KEY_SIZE:
                raise ValueError("an encryption key has 32 bytes")

    @cached_property
    def _ciphers(self) -> dict[bytes, AESGCM]:
        """By the id of their key, the first key first."""
        ciphers: dict[bytes, AESGCM] = {}
        for key in self.keys:
            ciphers.setdefault(key_id(key), AESGCM(key))
        return ciphers

    def seal(self, plaintext: bytes, *, context: str, nonce: bytes) -> bytes:
        """Encrypt ``plaintext`` under the first key, bound to ``context``. ``nonce``: 12 random bytes."""
        if len(nonce) != NONCE_SIZE:
            raise ValueError("a nonce has 12 bytes")
        first_id, cipher = next(iter(self._ciphers.items()))
        return b"".join((VERSION, first_id, nonce, cipher.encrypt(nonce, plaintext, context.encode())))

    def unseal(self, sealed: bytes, *, context: str) -> bytes:
        """Decrypt a value that :meth:`seal` made with the same context. Raises :class:`SealError`."""
        header = len(VERSION) + KEY_ID_SIZE
        if sealed[: len(VERSION)] != VERSION or len(sealed) < header + NONCE_SIZE:
            raise SealError("not a sealed value")
        cipher = self._ciphers.get(sealed_with(sealed))
        if cipher is None:
            raise UnknownKey("sealed with a key that is not in the key ring")
        nonce, ciphertext = sealed[header : header + NONCE_SIZE], sealed[header + NONCE_SIZE :]
        try:
            return cipher.decrypt(nonce, ciphertext, context.encode())
        except InvalidTag:
            raise SealError("the value was altered or belongs to another field") from None

    def sealed_with_first_key(self, sealed: bytes) -> bool:
        """Whether a value needs no re-sealing after a rotation."""
        return sealed_with(sealed) == key_id(self.keys[0])

    def keyed_hashes(self, value: bytes, *, purpose: str) -> list[bytes]:
        """HMAC-SHA256 of ``value`` under every key, the current one first (32 bytes each)."""
        return [hmac.digest(key, value, "sha256") for key in self._derived(purpose)]

    def _derived(self, purpose: str) -> Sequence[bytes]:
        """What hashes for a purpose, under every key: made once for each, purposes are few."""
        derived = self._of_purposes.get(purpose)
        if derived is None:
            under = [*(hash_key(key) for key in self.keys), *self.hash_keys]
            derived = [hmac.digest(key, purpose.encode(), "sha256") for key in under]
            self._of_purposes[purpose] = derived
        return derived

    @cached_property
    def _of_purposes(self) -> dict[str, Sequence[bytes]]:
        return {}
