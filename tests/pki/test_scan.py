"""The look over ASN.1 before any parser: what passes is small and whole."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

import pytest
from asn1crypto import parser
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from pki.core import asn1, cms
from pki.core.certificates import load_certificates
from pki.core.csr import decode_signing_request
from pki.core.path import verify_issued_by
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Limits, Malformed, scan
from tests.pki.conftest import Party


def nested(depth: int, inner: bytes = b"\x05\x00") -> bytes:
    for _ in range(depth):
        inner = asn1.encode(asn1.SEQUENCE, inner)
    return inner


@pytest.mark.parametrize(
    "data",
    [
        b"\x05\x00",
        b"\x30\x00",
        b"\x30\x80\x00\x00",
        b"\x30\x80\x05\x00\x00\x00",
        b"\x30\x80\x30\x80\x00\x00\x05\x00\x00\x00",
        b"\x30\x80\x30\x02\x05\x00\x00\x00",
        b"\x30\x06\x30\x80\x05\x00\x00\x00",
        b"\x24\x80\x04\x01a\x04\x01b\x00\x00",
        b"\xa0\x02\x05\x00",
        b"\x30\x81\x02\x05\x00",  # a length longer than it needs to be: BER
        b"\x30\x84\x00\x00\x00\x02\x05\x00",
        nested(23),
    ],
)
def test_well_formed_passes(data: bytes) -> None:
    scan(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x30", "cut off"),
        (b"\x05\x00\x05\x00", "bytes after the end"),
        (b"\x30\x00\x00", "bytes after the end"),
        (b"\x30\x80\x00\x00\x00\x00", "bytes after the end"),
        (b"\x05\x00junk", "bytes after the end"),
        (b"\x30\x03\x05\x00", "length points outside"),
        (b"\x30\x84\xff\xff\xff\xff", "length points outside"),
        (b"\x30\x88\x00\x00\x00\x00\x00\x00\x00\x00", "length out of range"),
        (b"\x30\x84\x00", "length out of range"),
        (b"\x30\x82\x01", "length out of range"),
        (b"\x30\x02\x05", "length points outside"),
        (b"\x30\x04\x05\x00\x05", "length points outside"),
        (b"\x30\x03\x05\x00\x05", "cut off"),
        (b"\x30\x80", "cut off"),
        (b"\x30\x80\x05\x00", "cut off"),
        (b"\x30\x80\x05\x00\x00", "cut off"),
        (b"\x30\x02\x00\x00", "stray end of contents"),
        (b"\x00\x00", "stray end of contents"),
        (b"\x30\x80\x00\x01\x00\x00", "stray end of contents"),
        (b"\x04\x80\x00\x00", "indefinite length of a primitive value"),
        (b"\x1f\x81\x01\x00", "high tag number"),
        (b"\xbf\x00", "high tag number"),
        (b"\x26\x02\x06\x00", "constructed encoding of a primitive type"),
        (b"\x10\x00", "primitive encoding of a constructed type"),
        (b"\x06\x00", "empty object identifier"),
        (b"\x02\x00", "empty integer"),
        (b"\x30\x80\x30\x82\x00\x10\x00\x00", "length points outside"),
    ],
)
def test_malformed_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as refused:
        scan(data)
    assert refused.value.reason == reason


LONG = b"\x01" * 60000
BOMBS = {
    "OID of 60 kB": (asn1.encode_sequence(asn1.encode(asn1.OID, LONG)), "object identifier too long"),
    "OID of 65 bytes": (asn1.encode(asn1.OID, b"\x81" * 64 + b"\x01"), "object identifier too long"),
    "INTEGER of 60 kB": (asn1.encode_sequence(asn1.encode(asn1.INTEGER, LONG)), "integer too long"),
    "depth 25": (nested(25), "too deep"),
    "depth 16 000": (b"\x30\x80" * 16000 + b"\0\0" * 16000, "too deep"),
    "indefinite without end": (b"\x30\x80" * 30000, "too deep"),
    "20 000 nodes": (asn1.encode_sequence(b"\x05\x00" * 20000), "too many nodes"),
    "400 000 nodes": (asn1.encode_sequence(b"\x05\x00" * 400000), "too large"),
    "4 GB claimed": (b"\x30\x84\xff\xff\xff\xf0" + b"\x05\x00" * 10, "length points outside"),
    "4 GB claimed inside": (
        asn1.encode_sequence(b"\x04\x84\xff\xff\xff\xf0" + b"a" * 100),
        "length points outside",
    ),
    "2 MB of text": (asn1.encode_octets(b"a" * 2_000_000), "too large"),
    "20 000 segments": (b"\x24\x80" + b"\x04\x01a" * 20000 + b"\0\0", "too many nodes"),
    "20 000 ends": (b"\x30\x80" + b"\x00\x00" * 20000, "bytes after the end"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_a_limit(name: str) -> None:
    data, reason = BOMBS[name]
    with pytest.raises(Malformed, match=reason):
        scan(data)


def test_limits_are_exact() -> None:
    scan(nested(23))
    with pytest.raises(Malformed):
        scan(nested(24, asn1.encode_sequence(b"")))
    limits = Limits(size=10, nodes=3, oid=2, integer=2, depth=2)
    scan(b"\x30\x04\x05\x00\x05\x00", limits)
    with pytest.raises(Malformed):
        scan(b"\x30\x06\x05\x00\x05\x00\x05\x00", limits)
    scan(asn1.encode(asn1.OID, b"\x2a\x03"), limits)
    with pytest.raises(Malformed):
        scan(asn1.encode(asn1.OID, b"\x2a\x03\x04"), limits)
    scan(asn1.encode(asn1.INTEGER, b"\x01\x01"), limits)
    with pytest.raises(Malformed):
        scan(asn1.encode(asn1.INTEGER, b"\x01\x01\x01"), limits)
    with pytest.raises(Malformed):
        scan(asn1.encode_octets(b"a" * 9), limits)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_pass_or_are_malformed(data: bytes) -> None:
    try:
        scan(data)
    except Malformed:
        return
    # What passes, the reader reads to its end without another error.
    _walk(asn1.read(data))
    assert asn1.read(data).end == len(data)


def _walk(node: asn1.Node) -> int:
    if not node.tag & 0x20:
        return 1
    return 1 + sum(_walk(child) for child in asn1.children(node))


TREES = st.recursive(
    st.one_of(
        st.binary(max_size=40).map(asn1.encode_octets),
        st.integers(-(2**70), 2**70).map(asn1.encode_integer),
        st.just(b"\x05\x00"),
    ),
    lambda inner: st.tuples(st.sampled_from([0x30, 0x31, 0xA0, 0xA3]), st.lists(inner, max_size=4)).flatmap(
        lambda pair: st.sampled_from(
            [
                asn1.encode(pair[0], *pair[1]),
                bytes((pair[0], 0x80)) + b"".join(pair[1]) + b"\0\0",
            ]
        )
    ),
    max_leaves=15,
)


@given(TREES)
def test_it_agrees_with_another_reader(data: bytes) -> None:
    scan(data)
    info = parser.parse(data, strict=True)
    node = asn1.read(data)
    assert (node.contents, len(data)) == (info[4], len(info[3]) + len(info[4]) + len(info[5]))


@given(TREES, st.integers(0), st.integers(0, 255))
def test_a_changed_byte_gives_a_tree_or_malformed(data: bytes, position: int, value: int) -> None:
    changed = bytearray(data)
    changed[position % len(data)] = value
    try:
        scan(bytes(changed))
    except Malformed:
        return
    _walk(asn1.read(bytes(changed)))


@given(TREES, st.integers(1))
def test_cut_off_anywhere_is_malformed(data: bytes, position: int) -> None:
    with pytest.raises(Malformed):
        scan(data[: position % len(data)])


@pytest.mark.parametrize("name", BOMBS)
def test_every_reader_looks_first(name: str, rsa_party: Party) -> None:
    """C11: whatever takes bytes of strangers refuses them by the scan, before a parser sees them."""
    data, reason = BOMBS[name]
    certificate, key = rsa_party.certificate, rsa_party.key
    assert isinstance(key, rsa.RSAPrivateKey)
    readers: list[Callable[[bytes], object]] = [
        cms.verify_signed_data,
        cms.decode_signed_data,
        cms.certificates_of,
        partial(cms.decrypt, recipient=certificate, private_key=key, random=secrets.token_bytes),
        decode_signing_request,
        lambda data: verify_issued_by(data, certificate),
    ]
    for read in readers:
        with pytest.raises(Malformed, match=reason):
            read(data)
    with pytest.raises(KeyRefused):
        verify_key(data)
    with pytest.raises(Malformed):
        load_certificates(data)
