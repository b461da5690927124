"""The attributes of a message: what is read, what is refused, and that nothing else is ever raised."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.core import asn1
from scep.core import attributes
from scep.core.attributes import AttributeFault, FailInfo, MessageType, PkiStatus

GOOD = {
    attributes.TRANSACTION_ID: (b"\x13\x03abc",),
    attributes.MESSAGE_TYPE: (b"\x13\x0219",),
    attributes.SENDER_NONCE: (b"\x04\x08" + b"n" * 8,),
}


def test_a_good_header_is_read() -> None:
    header = attributes.decode_header(GOOD)
    assert (header.transaction_id, header.message_type, header.sender_nonce) == ("abc", "19", b"n" * 8)
    assert header.faults == ()


@pytest.mark.parametrize("size", [1, 8, 16, 64])
def test_a_nonce_of_any_usual_size_is_taken(size: int) -> None:
    nonce = bytes(size)
    values = {attributes.SENDER_NONCE: (asn1.encode(asn1.OCTET_STRING, nonce),)}
    assert attributes.decode_nonce(values, attributes.SENDER_NONCE, "senderNonce") == nonce


@pytest.mark.parametrize("size", [0, 65, 1000])
def test_a_nonce_of_another_size_is_refused(size: int) -> None:
    values = {attributes.SENDER_NONCE: (asn1.encode(asn1.OCTET_STRING, bytes(size)),)}
    with pytest.raises(AttributeFault):
        attributes.decode_nonce(values, attributes.SENDER_NONCE, "senderNonce")


@pytest.mark.parametrize("tag", [asn1.PRINTABLE_STRING, asn1.UTF8_STRING, asn1.IA5_STRING])
@pytest.mark.parametrize("text", ["A" * 40, "x", "SSCEP transactionId", "Zm9v+/==", "7" * 78, "~" * 256])
def test_transaction_ids_of_clients_are_taken(tag: int, text: str) -> None:
    values = {attributes.TRANSACTION_ID: (asn1.encode(tag, text.encode()),)}
    assert attributes.decode_transaction_id(values) == text


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"x" * 257,
        b"x" * 10_000,
        b"a\r\nb",
        b"a\0b",
        b"a\x7fb",
        b"a\x1b[2J",
        "ü".encode(),
        b"\xff\xfe",
    ],
)
def test_other_transaction_ids_are_refused_and_never_kept(value: bytes) -> None:
    header = attributes.decode_header(
        {**GOOD, attributes.TRANSACTION_ID: (asn1.encode(asn1.PRINTABLE_STRING, value),)}
    )
    assert header.transaction_id == ""
    assert "transactionID" in header.faults[0]


@pytest.mark.parametrize(
    "values",
    [
        (),
        (b"\x13\x0219", b"\x13\x0219"),
        (b"\x0c\x0219",),
        (b"\x02\x01\x13",),
        (b"\x16\x0219",),
        (b"\x13\x0219\x00",),
        (b"\x13\x0319",),
        (b"\x13\x80190\x00\x00",),
        (b"\x13\x84\x00\x00\x00\x0219",),
        (b"\x13\x00",),
        (b"\x13",),
        (b"",),
    ],
)
def test_message_type_is_one_printable_string(values: tuple[bytes, ...]) -> None:
    header = attributes.decode_header({**GOOD, attributes.MESSAGE_TYPE: values})
    assert header.message_type == ""
    assert any("messageType" in fault for fault in header.faults)


def test_all_faults_are_told() -> None:
    assert len(attributes.decode_header({}).faults) == 3


def test_what_is_written_is_read_again() -> None:
    written = attributes.encode_header(MessageType.PKCS_REQ, "id 1", b"nonce")
    header = attributes.decode_header({attribute.oid: attribute.values for attribute in written})
    assert (header.message_type, header.transaction_id, header.sender_nonce) == ("19", "id 1", b"nonce")


def test_labels_are_the_names_of_the_rfc() -> None:
    assert [kind.label for kind in MessageType] == [
        "CertRep",
        "RenewalReq",
        "PKCSReq",
        "CertPoll",
        "GetCert",
        "GetCRL",
    ]
    assert [info.label for info in FailInfo] == [
        "badAlg",
        "badMessageCheck",
        "badRequest",
        "badTime",
        "badCertId",
    ]
    assert [status.value for status in PkiStatus] == ["0", "2", "3"]


OIDS = st.sampled_from([attributes.TRANSACTION_ID, attributes.MESSAGE_TYPE, attributes.SENDER_NONCE, "1.2.3"])
NEARLY = st.builds(
    lambda tag, body, tail: asn1.encode(tag, body) + tail,
    st.sampled_from([0x04, 0x0C, 0x13, 0x16, 0x30]),
    st.binary(max_size=300),
    st.binary(max_size=2),
)


@given(st.dictionaries(OIDS, st.lists(st.binary(max_size=80) | NEARLY, max_size=3)))
def test_reading_a_header_never_raises(values: dict[str, list[bytes]]) -> None:
    header = attributes.decode_header(values)
    assert len(header.transaction_id) <= 256
    assert header.transaction_id.isprintable()
    assert len(header.sender_nonce) <= 64
    assert header.faults or (header.transaction_id and header.message_type and header.sender_nonce)


@given(
    st.dictionaries(st.just(attributes.FAIL_INFO_TEXT), st.lists(st.binary(max_size=80) | NEARLY, max_size=2))
)
def test_reading_a_fail_info_text_never_raises(values: dict[str, list[bytes]]) -> None:
    assert isinstance(attributes.decode_fail_info_text(values), str)


@given(
    st.one_of(
        st.datetimes().map(lambda at: at.strftime("%y%m%d%H%M%SZ")),
        st.text("0123456789Z", min_size=9, max_size=16),
        st.from_regex(r"[0-9]{10}[0-6][0-9]Z", fullmatch=True),
    )
)
def test_the_time_of_signing_is_what_the_standard_library_makes_of_it(text: str) -> None:
    found = attributes.decode_signing_time({attributes.SIGNING_TIME: (utc_time(text),)})
    try:
        expected = datetime.strptime(f"20{text}", "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        expected = None
    assert found == expected


def utc_time(text: str) -> bytes:
    return asn1.encode(asn1.UTC_TIME, text.encode())
