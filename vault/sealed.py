"""Sealing with this installation's keys (see :mod:`vault.core.sealing`).

The keys come from ``BRAMLEY_ENCRYPTION_KEYS``, from the file that ``BRAMLEY_ENCRYPTION_KEYS_FILE`` names, or
from ``BRAMLEY_HOME/encryption.keys`` (how they are written: :mod:`vault.core.keys`). Never from the database.

A file is looked at each time and read again when it has changed: a running process takes up a rotation at
once. A variable stays what it was at the start.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from django.conf import settings

from vault.core.keys import Keys, KeysRefused, decode_keys
from vault.core.sealing import NONCE_SIZE, KeyRing, SealError, UnknownKey

__all__ = ["SealError", "key_ring", "keyed_hash", "keyed_hashes", "seal", "unseal"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    """What was found in a file. ``seen``: by what one notices that it has changed."""

    path: Path
    seen: tuple[int, ...]
    ring: KeyRing


_last_read: _Read | None = None


def key_ring() -> KeyRing:
    """The installation's key ring, as it is now. Raises :class:`vault.core.keys.KeysRefused`, ``OSError``."""
    source: str | Path = settings.BRAMLEY_ENCRYPTION_KEYS
    return _ring_of_file(source) if isinstance(source, Path) else _decode(source)


@lru_cache(maxsize=4)
def _decode(text: str) -> KeyRing:
    return decode_keys(text).ring


def _ring_of_file(path: Path, *, anew: bool = False) -> KeyRing:
    """The ring in a file; that of the last time where the file has become unreadable meanwhile."""
    global _last_read  # noqa: PLW0603 - one ring for the process, replaced as a whole
    last = _last_read if _last_read is not None and _last_read.path == path else None
    seen = _look(path)
    if last is not None and last.seen == seen and not anew:
        return last.ring
    try:
        ring = read_keys(path).ring
    except (OSError, KeysRefused) as error:
        if last is None:
            raise
        logger.error("the encryption keys in %s cannot be read, the former stay: %s", path, error)
        ring = last.ring
    _last_read = _Read(path, seen, ring)
    return ring


def _look(path: Path) -> tuple[int, ...]:
    try:
        state = path.stat()
    except OSError:
        return ()
    return (state.st_ino, state.st_size, state.st_mtime_ns)


def read_keys(path: Path) -> Keys:
    """The keys in a file. Raises :class:`vault.core.keys.KeysRefused` and ``OSError``."""
    return decode_keys(path.read_text())


def seal(plaintext: bytes, *, context: str) -> bytes:
    """Encrypt a secret for one field of one row, e.g. ``context="pki.issuerkey.private_key:<uuid>"``."""
    return key_ring().seal(plaintext, context=context, nonce=secrets.token_bytes(NONCE_SIZE))


def unseal(sealed: bytes, *, context: str) -> bytes:
    """Decrypt what :func:`seal` made. Raises :class:`SealError`."""
    sealed = bytes(sealed)
    try:
        return key_ring().unseal(sealed, context=context)
    except UnknownKey:
        source: str | Path = settings.BRAMLEY_ENCRYPTION_KEYS
        if not isinstance(source, Path):
            raise
        # Another process has a newer file: what a network file system says of its age may be old.
        return _ring_of_file(source, anew=True).unseal(sealed, context=context)


def keyed_hash(value: str, *, purpose: str) -> bytes:
    """HMAC-SHA256 of a secret that is only ever looked up, under the newest key (32 bytes)."""
    return key_ring().keyed_hashes(value.encode(), purpose=purpose)[0]


def keyed_hashes(value: str, *, purpose: str) -> list[bytes]:
    """The same under every key of the ring: look-ups go on working after a rotation."""
    return key_ring().keyed_hashes(value.encode(), purpose=purpose)
