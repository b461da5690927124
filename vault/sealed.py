"""Sealing with this installation's keys (see :mod:`vault.core.sealing`).

The keys come from ``BRAMLEY_ENCRYPTION_KEYS`` (comma-separated, base64 of 32 bytes, newest first), from the
file that ``BRAMLEY_ENCRYPTION_KEYS_FILE`` names, or from ``BRAMLEY_HOME/encryption.keys``. Never from the
database.
"""

from __future__ import annotations

import base64
import secrets
from functools import lru_cache

from django.conf import settings

from vault.core.sealing import NONCE_SIZE, KeyRing, SealError

__all__ = ["SealError", "key_ring", "keyed_hash", "keyed_hashes", "seal", "unseal"]


@lru_cache(maxsize=4)
def _parse(text: str) -> KeyRing:
    return KeyRing(
        tuple(base64.b64decode(part, validate=True) for part in text.replace("\n", ",").split(",") if part)
    )


def key_ring() -> KeyRing:
    """The installation's key ring."""
    return _parse(settings.BRAMLEY_ENCRYPTION_KEYS)


def seal(plaintext: bytes, *, context: str) -> bytes:
    """Encrypt a secret for one field of one row, e.g. ``context="pki.issuerkey.private_key:<uuid>"``."""
    return key_ring().seal(plaintext, context=context, nonce=secrets.token_bytes(NONCE_SIZE))


def unseal(sealed: bytes, *, context: str) -> bytes:
    """Decrypt what :func:`seal` made. Raises :class:`SealError`."""
    return key_ring().unseal(bytes(sealed), context=context)


def keyed_hash(value: str, *, purpose: str) -> bytes:
    """HMAC-SHA256 of a secret that is only ever looked up, under the newest key (32 bytes)."""
    return key_ring().keyed_hashes(value.encode(), purpose=purpose)[0]


def keyed_hashes(value: str, *, purpose: str) -> list[bytes]:
    """The same under every key of the ring: look-ups go on working after a rotation."""
    return key_ring().keyed_hashes(value.encode(), purpose=purpose)
