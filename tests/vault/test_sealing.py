"""Secrets at rest: bound to row and field, with rotation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.core.sealing import KeyRing, SealError

OLD, NEW = b"\x01" * 32, b"\x02" * 32
NONCE = b"\x00" * 12


def test_a_sealed_value_opens_with_the_same_context_only() -> None:
    ring = KeyRing([OLD])
    sealed = ring.seal(b"secret", context="devices.escrowedsecret.value:a", nonce=NONCE)
    assert ring.unseal(sealed, context="devices.escrowedsecret.value:a") == b"secret"
    with pytest.raises(SealError):
        ring.unseal(sealed, context="devices.escrowedsecret.value:b")


def test_rotation_opens_old_values_and_seals_with_the_new_key() -> None:
    before, after = KeyRing([OLD]), KeyRing([NEW, OLD])
    sealed = before.seal(b"secret", context="c", nonce=NONCE)
    assert after.unseal(sealed, context="c") == b"secret"
    assert not after.sealed_with_first_key(sealed)
    assert after.sealed_with_first_key(after.seal(b"secret", context="c", nonce=NONCE))
    with pytest.raises(SealError):
        KeyRing([NEW]).unseal(sealed, context="c")


def test_keyed_hashes_are_found_after_rotation() -> None:
    assert KeyRing([OLD]).keyed_hashes(b"v", purpose="p")[0] in KeyRing([NEW, OLD]).keyed_hashes(
        b"v", purpose="p"
    )
    ring = KeyRing([OLD])
    assert ring.keyed_hashes(b"v", purpose="p") != ring.keyed_hashes(b"v", purpose="q")


@given(st.binary(max_size=200))
def test_arbitrary_bytes_open_to_an_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(SealError):
        KeyRing([OLD]).unseal(data, context="c")


@given(st.binary(max_size=200), st.integers(min_value=0))
def test_one_changed_bit_does_not_open(plaintext: bytes, position: int) -> None:
    ring = KeyRing([OLD])
    sealed = bytearray(ring.seal(plaintext, context="c", nonce=NONCE))
    sealed[position % len(sealed)] ^= 1
    with pytest.raises(SealError):
        ring.unseal(bytes(sealed), context="c")
