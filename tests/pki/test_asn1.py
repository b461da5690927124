"""Reading and writing values, against asn1crypto as the other opinion."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from asn1crypto import core
from hypothesis import given
from hypothesis import strategies as st

from pki.core import asn1
from pki.core.scan import Malformed

OIDS = st.builds(
    lambda first, second, rest: ".".join(map(str, (first, second, *rest))),
    st.integers(0, 2),
    st.integers(0, 39),
    st.lists(st.integers(0, 2**40), max_size=10),
)


@given(OIDS)
def test_oids(dotted: str) -> None:
    encoded = asn1.encode_oid(dotted)
    assert encoded == core.ObjectIdentifier(dotted).dump()
    assert asn1.decode_oid(asn1.read(encoded)) == dotted


@pytest.mark.parametrize("contents", [b"\x80\x01", b"\x2a\x80\x01", b"\x2a\x81"])
def test_padded_or_cut_oids_are_malformed(contents: bytes) -> None:
    with pytest.raises(Malformed):
        asn1.decode_oid(asn1.read(asn1.encode(asn1.OID, contents)))


@given(st.integers(-(2**200), 2**200))
def test_integers(value: int) -> None:
    encoded = asn1.encode_integer(value)
    assert encoded == core.Integer(value).dump()
    assert asn1.decode_integer(asn1.read(encoded)) == value


@given(st.binary(max_size=400))
def test_octets(value: bytes) -> None:
    encoded = asn1.encode_octets(value)
    assert encoded == core.OctetString(value).dump()
    assert asn1.decode_octets(asn1.read(encoded)) == value
    segmented = b"\x24\x80" + asn1.encode_octets(value[:3]) + asn1.encode_octets(value[3:]) + b"\0\0"
    assert asn1.decode_octets(asn1.read(segmented)) == value


@given(st.text(max_size=60))
def test_text(value: str) -> None:
    encoded = asn1.encode_text(value)
    assert asn1.decode_text(asn1.read(encoded)) == value
    if encoded[0] == asn1.PRINTABLE_STRING:
        assert encoded == core.PrintableString(value).dump()
    else:
        assert encoded == core.UTF8String(value).dump()


@pytest.mark.parametrize(
    "data",
    [
        asn1.encode(asn1.UTF8_STRING, b"\xff"),
        asn1.encode(asn1.PRINTABLE_STRING, b"\xe9"),
        asn1.encode(asn1.BMP_STRING, b"\x00"),
        asn1.encode(asn1.UNIVERSAL_STRING, b"\x00\x11\xff\xff"),
        asn1.encode(asn1.OCTET_STRING, b"a"),
    ],
)
def test_what_is_no_text_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        asn1.decode_text(asn1.read(data))


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime(2026, 11, 24, 12, 0, 5, tzinfo=UTC), b"\x17\x0d261124120005Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
    ],
)
def test_times(at: datetime, expected: bytes) -> None:
    assert asn1.encode_time(at) == expected


def test_set_of_is_sorted() -> None:
    assert asn1.encode_set_of([b"\x02\x01\x05", b"\x02\x01\x01"]) == b"\x31\x06\x02\x01\x01\x02\x01\x05"


def test_fields_are_taken_in_order() -> None:
    node = asn1.read(asn1.encode_sequence(asn1.encode_integer(1), asn1.encode_null()))
    fields = asn1.Fields(node, "thing")
    assert fields.take_optional(asn1.OCTET_STRING) is None
    assert asn1.decode_integer(fields.take(asn1.INTEGER)) == 1
    with pytest.raises(Malformed, match="something too much"):
        fields.end()
    with pytest.raises(Malformed, match="unexpected type"):
        fields.take(asn1.INTEGER)
    fields.take(asn1.NULL)
    fields.end()
    with pytest.raises(Malformed, match="missing"):
        fields.take()
