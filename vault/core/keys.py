"""The keys of an installation as text: in a file or in a variable.

Separated by commas or lines: Base64 of 32 bytes each, the one that seals first. ``next:`` before one: it
opens already, and will seal. ``hash:`` before one: what is left of a retired key, to find keyed hashes by; it
opens nothing. A line that begins with ``#`` is a comment.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from vault.core.sealing import KEY_SIZE, KeyRing, hash_key, key_id

NEXT, HASH = "next:", "hash:"


class KeysRefused(ValueError):
    """The text holds no key ring, or the change cannot be made; the message says why, and no key."""


@dataclass(frozen=True)
class Keys:
    """``opening``: the first of them seals. ``upcoming``: opens, and will seal. ``hashing``: only hash."""

    opening: tuple[bytes, ...] = field(repr=False)
    upcoming: bytes | None = field(default=None, repr=False)
    hashing: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def ring(self) -> KeyRing:
        """The keys at work."""
        upcoming = () if self.upcoming is None else (self.upcoming,)
        return KeyRing((*self.opening, *upcoming), self.hashing)

    @property
    def old(self) -> tuple[bytes, ...]:
        """Keys that only open, and are to be retired."""
        return self.opening[1:]

    def adding(self, key: bytes) -> Keys:
        """With a new key that opens, to be made known everywhere before it seals."""
        if self.upcoming is not None:
            raise KeysRefused("there is a new key already that does not seal yet")
        if key in self.opening:
            raise KeysRefused("that key is in the ring already")
        return replace(self, upcoming=key)

    def activating(self) -> Keys:
        """With the new key in the first place: it seals from now on."""
        if self.upcoming is None:
            raise KeysRefused("there is no new key to begin with")
        return replace(self, opening=(self.upcoming, *self.opening), upcoming=None)

    def retiring(self) -> Keys:
        """Without the old keys; what makes their keyed hashes stays."""
        hashing = tuple(dict.fromkeys((*map(hash_key, self.old), *self.hashing)))
        return replace(self, opening=self.opening[:1], hashing=hashing)

    def forgetting_hashes(self) -> Keys:
        """Without what is left of retired keys."""
        return replace(self, hashing=())

    def entries(self) -> Iterator[str]:
        """One text for each key."""
        yield from map(_encode, self.opening)
        if self.upcoming is not None:
            yield NEXT + _encode(self.upcoming)
        yield from (HASH + _encode(key) for key in self.hashing)


def decode_keys(text: str) -> Keys:
    """Read what a file or variable holds. Raises :class:`KeysRefused`."""
    opening: list[bytes] = []
    upcoming: list[bytes] = []
    hashing: list[bytes] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        for entry in filter(None, (part.strip() for part in line.split(","))):
            if entry.startswith(NEXT):
                upcoming.append(_decode(entry.removeprefix(NEXT)))
            elif entry.startswith(HASH):
                hashing.append(_decode(entry.removeprefix(HASH)))
            else:
                opening.append(_decode(entry))
    if not opening:
        raise KeysRefused("there is no encryption key")
    if len(upcoming) > 1:
        raise KeysRefused(f"there are several keys with {NEXT} before them")
    if len({key_id(key) for key in (*opening, *upcoming)}) < len(opening) + len(upcoming):
        raise KeysRefused("an encryption key is there twice")
    return Keys(tuple(opening), upcoming[0] if upcoming else None, tuple(hashing))


def _encode(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _decode(entry: str) -> bytes:
    try:
        key = base64.b64decode(entry, validate=True)
    except ValueError:  # binascii.Error is one, and what says that it is not ASCII
        raise KeysRefused("an encryption key is not Base64") from None
    if len(key) != KEY_SIZE:
        raise KeysRefused(f"an encryption key has {KEY_SIZE} bytes")
    return key
