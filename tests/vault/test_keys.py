"""Keys as text, and what a rotation does to them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vault.core.keys import Keys, KeysRefused, decode_keys
from vault.core.sealing import KeyRing, SealError, hash_key

OLD, NEW, THIRD = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        (text(OLD), Keys((OLD,))),
        (f"{text(NEW)},{text(OLD)}", Keys((NEW, OLD))),
        (f"\n{text(NEW)}\n\n {text(OLD)} ,\n", Keys((NEW, OLD))),
        (f"# made in May, or in June\n{text(OLD)}\nnext:{text(NEW)}\n", Keys((OLD,), NEW)),
        (f"{text(OLD)},hash:{text(NEW)},hash:{text(THIRD)}", Keys((OLD,), None, (NEW, THIRD))),
    ],
)
def test_reading(written: str, keys: Keys) -> None:
    assert decode_keys(written) == keys
    assert decode_keys("\n".join(keys.entries())) == keys


@pytest.mark.parametrize(
    "written",
    [
        "",
        "# nothing",
        f"next:{text(OLD)}",
        f"hash:{text(OLD)}",
        "not base64",
        text(b"short"),
        f"{text(OLD)},{text(OLD)}",
        f"{text(OLD)},next:{text(OLD)}",
        f"{text(OLD)},next:{text(NEW)},next:{text(THIRD)}",
        f"last:{text(OLD)}",
    ],
)
def test_what_is_no_ring_is_refused_without_showing_it(written: str) -> None:
    with pytest.raises(KeysRefused) as refused:
        decode_keys(written)
    assert text(OLD) not in str(refused.value)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(written: str) -> None:
    try:
        keys = decode_keys(written)
    except KeysRefused:
        return
    assert keys.ring.keys


def test_a_rotation_step_by_step() -> None:
    keys = Keys((OLD,))
    before = keys.ring.seal(b"secret", context="c", nonce=bytes(12))
    code = keys.ring.keyed_hashes(b"code", purpose="p")[0]

    keys = keys.adding(NEW)
    assert keys.ring.seal(b"secret", context="c", nonce=bytes(12)) == before
    assert keys.ring.unseal(KeyRing([NEW]).seal(b"x", context="c", nonce=bytes(12)), context="c") == b"x"
    with pytest.raises(KeysRefused):
        keys.adding(THIRD)

    keys = keys.activating()
    assert (keys.opening, keys.old, keys.upcoming) == ((NEW, OLD), (OLD,), None)
    assert keys.ring.unseal(before, context="c") == b"secret"
    with pytest.raises(KeysRefused):
        keys.activating()
    with pytest.raises(KeysRefused):
        keys.adding(OLD)

    keys = keys.retiring()
    assert (keys.opening, keys.hashing) == ((NEW,), (hash_key(OLD),))
    with pytest.raises(SealError):
        keys.ring.unseal(before, context="c")
    # What is left of the old key finds what was hashed with it, and opens nothing.
    assert code in keys.ring.keyed_hashes(b"code", purpose="p")
    with pytest.raises(SealError):
        KeyRing(keys.hashing).unseal(before, context="c")
    assert keys.retiring() == keys
    again = keys.adding(THIRD).activating().retiring()
    assert again.hashing == (hash_key(NEW), hash_key(OLD))
    assert code not in again.forgetting_hashes().ring.keyed_hashes(b"code", purpose="p")


def test_keys_are_not_shown() -> None:
    keys = Keys((OLD,), NEW, (THIRD,))
    for shown in (repr(keys), str(keys), repr(keys.ring)):
        for key in (OLD, NEW, THIRD):
            assert text(key) not in shown
            assert repr(key) not in shown
