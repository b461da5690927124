"""Locations of keys in tokens."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.core.token_uri import TokenUri, TokenUriRefused, decode_token_uri


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("pkcs11:token=Bramley;object=ca", TokenUri("Bramley", None, "ca", None)),
        ("pkcs11:object=my%20ca;token=a%3Bb;type=private", TokenUri("a;b", None, "my ca", None)),
        ("pkcs11:serial=DEADBEEF;id=%01%FF", TokenUri(None, "DEADBEEF", None, b"\x01\xff")),
        (" pkcs11:token=Apfel%C3%BC;object=x;id=x ", TokenUri("Apfelü", None, "x", b"x")),
    ],
)
def test_reading(written: str, uri: TokenUri) -> None:
    assert decode_token_uri(written) == uri
    assert decode_token_uri(str(uri)) == uri


@pytest.mark.parametrize(
    "written",
    [
        "",
        "ca-1",
        "pkcs11:",
        "pkcs11:token=x",
        "pkcs11:object=x",
        "pkcs11:token=;object=x",
        "pkcs11:token=x;object=",
        "pkcs11:token=x;object=y;object=z",
        "pkcs11:token=x;object=y;type=cert",
        "pkcs11:token=x;object=y;slot-id=1",
        "pkcs11:token=x;object=y?pin-value=1234",
        "pkcs11:token=x;object=y?module-path=/lib/evil.so",
        "pkcs11:token=x;object=%0A",
        "pkcs11:token=x;object=%FF",
        "pkcs11:token=x;object=%",
        "pkcs11:token=x;object",
        f"pkcs11:token=x;object={'y' * 500}",
    ],
)
def test_what_is_refused(written: str) -> None:
    with pytest.raises(TokenUriRefused) as refused:
        decode_token_uri(written)
    assert "1234" not in refused.value.reason


@given(st.text(max_size=120))
def test_any_text_is_read_or_refused(text: str) -> None:
    for written in (text, f"pkcs11:token=t;object={text}", f"pkcs11:{text}"):
        with contextlib.suppress(TokenUriRefused):
            uri = decode_token_uri(written)
            assert decode_token_uri(str(uri)) == uri
