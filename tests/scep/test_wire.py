"""The query string and the message inside it, as clients really write them."""

from __future__ import annotations

import base64
import contextlib
import textwrap
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scep.core import capabilities, wire

# Bytes whose base64 holds every digit, + and / among them.
BODY = bytes(range(256)) + b"\xfb\xef\xbe\xff"
TEXT = base64.b64encode(BODY).decode()


def message_of(query: str) -> bytes:
    return wire.decode_get_message(wire.decode_query(query).message)


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(quote(TEXT, safe=""), id="everything escaped"),
        pytest.param(TEXT, id="nothing escaped"),
        pytest.param(TEXT.replace("=", "%3D"), id="only = escaped (macOS)"),
        pytest.param(TEXT.replace("+", "%20").replace("=", "%3D"), id="+ as an escaped space"),
        pytest.param(TEXT.replace("+", " "), id="+ as a space"),
        pytest.param("%0A".join(textwrap.wrap(TEXT, 64)) + "%0A", id="%0A every 64 (strongSwan)"),
        pytest.param("%0D%0A".join(textwrap.wrap(TEXT, 76)), id="CR LF every 76"),
        pytest.param("\n".join(textwrap.wrap(TEXT, 64)), id="bare line ends"),
        pytest.param(TEXT.rstrip("="), id="no padding"),
        pytest.param(TEXT.replace("+", "-").replace("/", "_"), id="alphabet for URLs"),
    ],
)
def test_base64_is_read_liberally(written: str) -> None:
    assert message_of(f"operation=PKIOperation&message={written}") == BODY


@pytest.mark.parametrize("written", ["", "=", "%0A", "a", "A*A", "%00%00", "AAAA=AAAA", "%C3%BC", "AA%"])
def test_what_is_no_base64_is_refused(written: str) -> None:
    with pytest.raises(wire.WireError):
        message_of(f"operation=PKIOperation&message={written}")


def test_the_largest_message_passes_and_one_byte_more_does_not() -> None:
    largest = bytes(wire.MAX_MESSAGE)
    assert message_of(wire.encode_query("PKIOperation", largest)) == largest
    for size in (wire.MAX_MESSAGE + 1, wire.MAX_MESSAGE * 20):
        with pytest.raises(wire.TooLarge):
            message_of(wire.encode_query("PKIOperation", bytes(size)))


@pytest.mark.parametrize(
    ("query", "operation"),
    [
        ("operation=GetCACaps", "GetCACaps"),
        ("operation=GetCACaps&message=", "GetCACaps"),
        ("message=Device%20Management%20Identity%20Certificate&operation=GetCACert", "GetCACert"),
        ("operation=GetCACert&message=a+b", "GetCACert"),
        ("x=1&operation=PKIOperation&y", "PKIOperation"),
        ("", ""),
        ("Operation=GetCACaps", ""),
        ("operation", ""),
        ("operation=%FF", "\ufffd"),
    ],
)
def test_the_operation_is_found(query: str, operation: str) -> None:
    assert wire.decode_query(query).operation == operation


@pytest.mark.parametrize("query", ["operation=GetCACaps&operation=PKIOperation", "message=a&message=b"])
def test_a_parameter_that_is_there_twice_is_refused(query: str) -> None:
    with pytest.raises(wire.WireError):
        wire.decode_query(query)


@given(st.binary(max_size=2000))
def test_what_a_client_writes_is_read_again(body: bytes) -> None:
    if body:
        assert message_of(wire.encode_query("PKIOperation", body)) == body


@given(st.text(max_size=200))
def test_a_query_is_read_or_refused_and_nothing_else(query: str) -> None:
    with contextlib.suppress(wire.WireError):
        message_of(query)


def test_capabilities_are_lines_of_their_own_with_lf_only() -> None:
    body = capabilities.encode_capabilities()
    assert b"\r" not in body
    assert body.endswith(b"\n")
    lines = body.decode("ascii").split("\n")[:-1]
    assert set(lines) == {
        "AES",
        "DES3",
        "POSTPKIOperation",
        "Renewal",
        "SHA-256",
        "SHA-384",
        "SHA-512",
        "SCEPStandard",
    }


@pytest.mark.parametrize(
    ("body", "post", "cipher", "digest"),
    [
        (capabilities.encode_capabilities(), True, "aes128_cbc", "sha512"),
        (b"POSTPKIOperation\r\nSHA-256\r\nAES\r\n", True, "aes128_cbc", "sha256"),
        (b"SCEPStandard", True, "aes128_cbc", "sha256"),
        (b"DES3\nSHA-1\n", False, "des_ede3_cbc", "sha256"),
        (b"", False, "des_ede3_cbc", "sha256"),
        (b"<html>\xff", False, "des_ede3_cbc", "sha256"),
    ],
)
def test_a_client_takes_the_best_of_what_is_offered(
    body: bytes, post: bool, cipher: str, digest: str
) -> None:
    found = capabilities.decode_capabilities(body)
    assert (found.by_post, found.cipher, found.digest) == (post, cipher, digest)
