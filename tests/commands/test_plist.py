"""Property lists: what is taken, what is refused, and that nothing else ever comes out."""

from __future__ import annotations

import contextlib
import plistlib
import tracemalloc
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.core import plist
from commands.core.plist import PlistError
from tests.commands import vectors
from tests.commands.properties import CALM

MIB = 1024 * 1024
DOCTYPE = (
    b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">'
)


def read(data: bytes, **limits: Any) -> dict[str, Any]:
    return plist.read(data, **{"max_size": MIB, **limits})


def document(
    inner: bytes, *, doctype: bytes = DOCTYPE, declaration: bytes = b'<?xml version="1.0"?>'
) -> bytes:
    return declaration + doctype + b'<plist version="1.0">' + inner + b"</plist>"


def value(inner: bytes) -> Any:
    return read(document(b"<dict><key>K</key>" + inner + b"</dict>"))["K"]


def same(ours: Any, theirs: Any) -> bool:
    """Equal, where plistlib gives naive datetimes."""
    if isinstance(ours, datetime) and isinstance(theirs, datetime):
        return ours.replace(tzinfo=None) == theirs.replace(tzinfo=None)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


def test_every_message_of_a_real_device_is_read() -> None:
    vectors.folder()
    for path in vectors.messages():
        data = path.read_bytes()
        ours = read(data)
        assert ours, path
        try:
            theirs = plistlib.loads(data)
        except ValueError:
            continue  # base64 without its padding: plistlib does not take it
        assert same(ours, theirs), path


def test_kinds_of_values() -> None:
    assert value(b"<string> a &amp; b </string>") == " a & b "
    assert value(b"<string/>") == ""
    assert value(b"<string><![CDATA[<b>]]></string>") == "<b>"
    assert value(b"<string>a<!-- c -->b</string>") == "ab"
    assert value(b"<integer>-5</integer>") == -5
    assert value(b"<integer> 0x1F </integer>") == 31
    assert value(b"<real>1.5e3</real>") == 1500.0
    assert value(b"<true/>") is True
    assert value(b"<false/>") is False
    assert value(b"<date>2024-02-29T23:59:59Z</date>") == datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    assert value(b"<data>\n\tAQID\n\tBA==\n</data>") == b"\x01\x02\x03\x04"
    assert value(b"<data></data>") == b""
    assert value(b"<data>Base64=</data>") == b"\x05\xab\x1e\xeb"
    assert value(b"<array><dict/><array/></array>") == [{}, []]
    assert (
        value("<string>gr\u00fc\u00df \U0001f34e \u202e</string>".encode())
        == "gr\u00fc\u00df \U0001f34e \u202e"
    )


def test_a_byte_order_mark_and_no_declaration_are_fine() -> None:
    assert read(b"\xef\xbb\xbf" + document(b"<dict/>")) == {}
    assert read(b"<plist><dict/></plist>") == {}
    assert read(document(b"<dict/>", declaration=b'<?xml version="1.0" encoding="utf-8"?>')) == {}
    assert read(document(b"<dict/>", doctype=b"<!DOCTYPE plist>")) == {}


BOMBS = {
    "billion laughs": document(
        b"<dict><key>a</key><string>&c;</string></dict>",
        doctype=b'<!DOCTYPE plist [<!ENTITY a "lol"><!ENTITY b "&a;&a;"><!ENTITY c "&b;&b;">]>',
    ),
    "external entity": document(
        b"<dict><key>a</key><string>&x;</string></dict>",
        doctype=b'<!DOCTYPE plist [<!ENTITY x SYSTEM "http://127.0.0.1:9/">]>',
    ),
    "parameter entity": document(
        b"<dict/>", doctype=b'<!DOCTYPE plist [<!ENTITY % x SYSTEM "http://127.0.0.1:9/">%x;]>'
    ),
    "internal subset without an entity": document(
        b"<dict/>", doctype=b"<!DOCTYPE plist [<!ELEMENT plist ANY>]>"
    ),
    "empty internal subset": document(b"<dict/>", doctype=b"<!DOCTYPE plist []>"),
    "subset after a quoted bracket": document(
        b"<dict/>", doctype=b'<!DOCTYPE plist SYSTEM "a>b" [<!ATTLIST plist a CDATA "b">]>'
    ),
    "a DOCTYPE in a comment hides another": document(
        b"<dict/>", doctype=b"<!-- " + DOCTYPE + b' --><!DOCTYPE plist [<!ENTITY a "b">]>'
    ),
    "another document type": document(b"<dict/>", doctype=b"<!DOCTYPE html>"),
    "two document types": document(b"<dict/>", doctype=DOCTYPE + DOCTYPE),
    "undeclared entity": document(b"<dict><key>a</key><string>x&foo;y</string></dict>"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_entity_and_no_document_type_but_apples(name: str) -> None:
    with pytest.raises(PlistError):
        read(BOMBS[name])


def nested(depth: int) -> bytes:
    arrays = depth - 1
    return document(b"<dict><key>K</key>" + b"<array>" * arrays + b"</array>" * arrays + b"</dict>")


def test_depth() -> None:
    assert read(nested(32))
    with pytest.raises(PlistError, match="deeper"):
        read(nested(33))
    dictionaries = b"<dict><key>K</key>" * 33 + b"<true/>" + b"</dict>" * 33
    with pytest.raises(PlistError, match="deeper"):
        read(document(dictionaries))


def test_a_megabyte_of_nesting_is_cheap() -> None:
    bomb = document(b"<dict><key>K</key>" + b"<array>" * 120_000)
    tracemalloc.start()
    with pytest.raises(PlistError):
        read(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * MIB
    with pytest.raises(PlistError, match="more nodes"):
        read(
            document(b"<dict><key>K</key><array>" + b"<a/>" * 500_000 + b"</array></dict>"), max_size=10 * MIB
        )


@pytest.mark.parametrize(
    "inner",
    [
        b"<integer>9223372036854775808</integer>",
        b"<integer>-9223372036854775809</integer>",
        b"<integer>0x" + b"F" * 2_000 + b"</integer>",
        b"<integer>1_000</integer>",
        "<integer>\u0661</integer>".encode(),
        b"<integer></integer>",
        b"<integer>1.5</integer>",
        b"<real>1e400</real>",
        b"<real>nan</real>",
        b"<real>inf</real>",
        b"<real>1_0.0</real>",
        b"<real/>",
        b"<date>0000-01-01T00:00:00Z</date>",
        b"<date>9999-12-31T00:00:00Z</date>",
        b"<date>1969-12-31T23:59:59Z</date>",
        b"<date>2201-01-01T00:00:00Z</date>",
        b"<date>2023-02-29T00:00:00Z</date>",
        b"<date>2023</date>",
        b"<date/>",
        b"<data>A</data>",
        b"<data>!!!!</data>",
        b"<data>AA=A</data>",
        "<data>\u00e9\u00e9\u00e9\u00e9</data>".encode(),
        b"<string><b/></string>",
        b"<true>yes</true>",
        b"<uid>1</uid>",
        b"<null/>",
        b"<key>K</key>",
        b'<string xmlns="urn:x">a</string>',
    ],
)
def test_values_out_of_range_are_refused(inner: bytes) -> None:
    with pytest.raises(PlistError):
        value(inner)


def test_limits_of_values_themselves_are_taken() -> None:
    assert value(b"<integer>9223372036854775807</integer>") == 2**63 - 1
    assert value(b"<integer>-9223372036854775808</integer>") == -(2**63)
    assert value(b"<date>1970-01-01T00:00:00Z</date>")
    assert value(b"<date>2200-12-31T23:59:59Z</date>")


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"\x00",
            b"\x01",
            b"\x1f",
            b"\x7f",
            b"&#0;",
            b"&#1;",
            b"&#x1F;",
            b"&#127;",
            b"&#xD800;",
            b"&#xFFFF;",
        ),
        *(b"\xed\xa0\x80", b"\xef\xbf\xbf", b"&#x110000;"),
    ],
)
def test_control_characters_and_surrogates_are_refused(text: bytes) -> None:
    with pytest.raises(PlistError):
        value(b"<string>a" + text + b"b</string>")
    with pytest.raises(PlistError):
        read(document(b"<dict><key>" + text + b"</key><true/></dict>"))


def test_white_space_is_text() -> None:
    assert value(b"<string>a\tb\nc&#13;d&#9;&#228;</string>") == "a\tb\nc\rd\t\u00e4"


PLAIN = document(b"<dict><key>K</key><string>v</string></dict>").decode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        PLAIN.encode("utf-16"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-32"),
        PLAIN.replace('version="1.0"?>', 'version="1.0" encoding="UTF-16"?>').encode(),
        PLAIN.replace('version="1.0"?>', 'version="1.0" encoding="UTF-7"?>').encode(),
        PLAIN.replace('version="1.0"?>', 'version="1.0" encoding="idna"?>').encode(),
        PLAIN.replace('version="1.0"?>', 'version="1.0" encoding="zlib"?>').encode(),
        PLAIN.replace('version="1.0"?>', "version='1.0' encoding = 'latin-1'?>").encode(),
        PLAIN.replace(">v<", ">\udcff<").encode(errors="surrogateescape"),
        b"\xef\xbb\xbf\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode() + b"junk",
        PLAIN.encode()[:-3],
        document(b""),
        document(b"<array/>"),
        document(b"<string>a</string>"),
        document(b"<dict/><dict/>"),
        document(b"<dict><string>v</string></dict>"),
        document(b"<dict><key>K</key></dict>"),
        document(b"<dict><key>K</key><key>L</key></dict>"),
        document(b"<dict><key><b/></key><true/></dict>"),
        b"<dict/>",
        b"bplist00",
        plistlib.dumps({"K": "v"}, fmt=plistlib.FMT_BINARY),
    ],
)
def test_what_is_no_xml_property_list_of_a_dictionary(data: bytes) -> None:
    with pytest.raises(PlistError):
        read(data)


def test_a_key_twice_at_the_top_is_refused() -> None:
    twice = b"<key>UDID</key><string>A</string><key>UDID</key><string>B</string>"
    with pytest.raises(PlistError, match="twice"):
        read(document(b"<dict>" + twice + b"</dict>"))
    assert read(document(b"<dict><key>K</key><dict>" + twice + b"</dict></dict>")) == {"K": {"UDID": "B"}}


def test_size() -> None:
    data = document(b"<dict/>")
    assert read(data, max_size=len(data)) == {}
    with pytest.raises(PlistError, match="larger"):
        read(data, max_size=len(data) - 1)


def test_errors_do_not_repeat_the_content() -> None:
    for inner in (
        b"<integer>CANARY</integer>",
        b"<CANARY/>",
        b"<data>CANARY!</data>",
        b"<date>CANARY</date>",
    ):
        with pytest.raises(PlistError) as caught:
            value(inner)
        assert "CANARY" not in str(caught.value)
        assert caught.value.__cause__ is None


# Hypothesis: read and write are inverses; plistlib agrees; nothing but PlistError

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff")
    | st.sampled_from("\t\n\r"),
    max_size=20,
)
SCALAR = (
    TEXT
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.binary(max_size=100)
    | st.datetimes(datetime(1970, 1, 1), datetime(2200, 12, 31), timezones=st.just(UTC)).map(  # noqa: DTZ001
        lambda moment: moment.replace(microsecond=0)
    )
)
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)
TOP = st.dictionaries(TEXT, VALUE, max_size=5)


@CALM
@given(TOP)
def test_what_is_written_is_read_again(top: dict[str, Any]) -> None:
    assert same(read(plist.write(top)), top)


@CALM
@given(TOP)
def test_plistlib_agrees(top: dict[str, Any]) -> None:
    assert same(top, plistlib.loads(plist.write(top)))


@CALM
@given(TOP)
def test_what_plistlib_writes_is_read(top: dict[str, Any]) -> None:
    # plistlib writes a carriage return as it is, and every parser makes a line feed of it.
    naive = plistlib.loads(plist.write(top).replace(b"&#13;", b""))
    assert same(read(plistlib.dumps(naive, sort_keys=False)), naive)
    assert same(read(plistlib.dumps(naive, fmt=plistlib.FMT_BINARY, sort_keys=False), binary=True), naive)


@CALM
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, b"bplist00" + data, document(data)):
        with contextlib.suppress(PlistError):
            assert isinstance(read(candidate, binary=True), dict)


@CALM
@given(TOP, st.data())
def test_changed_bytes_are_read_or_refused(top: dict[str, Any], data: st.DataObject) -> None:
    naive = plistlib.loads(plist.write(top))
    for written in (plist.write(top), plistlib.dumps(naive, fmt=plistlib.FMT_BINARY)):
        changed = bytearray(written)
        for _ in range(data.draw(st.integers(1, 4))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        with contextlib.suppress(PlistError):
            read(bytes(changed), binary=True)


# Binary property lists


def binary(
    objects: list[bytes], *, top: int = 0, count: int | None = None, table: int | None = None
) -> bytes:
    body, offsets = b"bplist00", []
    for item in objects:
        offsets.append(len(body))
        body += item
    where = len(body)
    body += b"".join(offset.to_bytes(2, "big") for offset in offsets)
    numbers = (len(objects) if count is None else count, top, where if table is None else table)
    return body + bytes(6) + b"\x02\x01" + b"".join(number.to_bytes(8, "big") for number in numbers)


KEY_A = b"\x51a"


def test_binary_is_read_where_asked() -> None:
    assert read(binary([b"\xd1\x01\x02", KEY_A, b"\x10\x05"]), binary=True) == {"a": 5}


HOSTILE = {
    "itself": [b"\xd1\x01\x00", KEY_A],
    "cycle": [b"\xd1\x01\x02", KEY_A, b"\xa1\x03", b"\xa1\x02"],
    "2^40 by reference": [
        b"\xd1\x01\x02",
        KEY_A,
        *(b"\xa2" + bytes([n + 1] * 2) for n in range(2, 28)),
        b"\x09",
    ],
    "array of 2^63": [b"\xd1\x01\x02", KEY_A, b"\xaf\x13\x7f" + b"\xff" * 7],
    "data of 2^40": [b"\xd1\x01\x02", KEY_A, b"\x4f\x13\x00\x00\x01" + b"\x00" * 5],
    "length that is no integer": [b"\xd1\x01\x02", KEY_A, b"\x4f\x51a"],
    "reference outside": [b"\xd1\x01\x09", KEY_A],
    "key that is an array": [b"\xd1\x01\x02", b"\xa0", b"\x09"],
    "key that is a number": [b"\xd1\x01\x02", b"\x10\x01", b"\x09"],
    "key twice": [b"\xd2\x01\x01\x02\x02", KEY_A, b"\x09"],
    "UID": [b"\xd1\x01\x02", KEY_A, b"\x80\x01"],
    "null": [b"\xd1\x01\x02", KEY_A, b"\x00"],
    "set": [b"\xd1\x01\x02", KEY_A, b"\xc0"],
    "NUL in a text": [b"\xd1\x01\x02", KEY_A, b"\x51\x00"],
    "surrogate": [b"\xd1\x01\x02", KEY_A, b"\x61\xd8\x00"],
    "ASCII that is none": [b"\xd1\x01\x02", KEY_A, b"\x51\xff"],
    "integer of 128 bits": [b"\xd1\x01\x02", KEY_A, b"\x14\x7f" + b"\xff" * 15],
    "not a number": [b"\xd1\x01\x02", KEY_A, b"\x23\x7f\xf8" + bytes(6)],
    "date that is not a number": [b"\xd1\x01\x02", KEY_A, b"\x33\x7f\xf8" + bytes(6)],
    "date of year 9999": [b"\xd1\x01\x02", KEY_A, b"\x33\x42\x4d\x53\xf0\x00\x00\x00\x00"],
    "an array at the top": [b"\xa0"],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_binary_is_refused_cheaply(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(PlistError):
        read(binary(HOSTILE[name]), binary=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * MIB


def test_false_trailers_are_refused() -> None:
    good = [b"\xd1\x01\x02", KEY_A, b"\x10\x05"]
    for data in (
        binary(good, top=7),
        binary(good, count=0),
        binary(good, count=2**63),
        binary(good, table=2**63),
        binary(good, table=3),
        b"bplist00" + bytes(40),
        b"bplist15" + binary(good)[8:],
    ):
        with pytest.raises(PlistError):
            read(data, binary=True)


def test_binary_depth() -> None:
    def arrays(depth: int) -> bytes:
        return binary(
            [b"\xd1\x01\x02", KEY_A, *(b"\xa1" + bytes([n + 3]) for n in range(depth - 2)), b"\xa0"]
        )

    assert read(arrays(32), binary=True)
    with pytest.raises(PlistError, match="deeper"):
        read(arrays(33), binary=True)


# Writing


@pytest.mark.parametrize(
    "wrong",
    [
        {"a": None},
        {"a": object()},
        {"a": {1, 2}},
        {1: "a"},
        {"a": 2**64},
        {"a": -(2**63) - 1},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": "\x00"},
        {"a\x07": 1},
        {"a": "\ud800"},
        {"\ud800": 1},
    ],
)
def test_what_has_no_place_is_not_written(wrong: Any) -> None:
    with pytest.raises(PlistError):
        plist.write(wrong)


def test_too_deep_is_not_written() -> None:
    deep: Any = {}
    for _ in range(31):
        deep = {"K": deep}
    assert read(plist.write(deep)) == deep
    with pytest.raises(PlistError):
        plist.write({"K": deep})
    circle: dict[str, Any] = {}
    circle["K"] = circle
    with pytest.raises(PlistError):
        plist.write(circle)


def test_time_zones_are_turned_into_utc() -> None:
    moment = datetime.fromisoformat("2024-06-01T12:00:00+02:00")
    assert read(plist.write({"at": moment}))["at"] == datetime(2024, 6, 1, 10, tzinfo=UTC)
    assert b"2024-06-01T10:00:00Z" in plist.write({"at": moment + timedelta(microseconds=5)})
