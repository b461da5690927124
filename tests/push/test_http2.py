"""HTTP/2 of our own against h2 as the server: what is sent is read as meant, what comes is understood."""

from __future__ import annotations

import contextlib
import struct
import uuid
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from push.core import header_blocks, http2
from push.core.notification import common_headers

pytestmark = pytest.mark.once

PSEUDO, COMMON = common_headers("api.example:2197", "com.apple.mgmt.External.test", 1_800_000_000)
IDS = [str(uuid.UUID(int=n)).encode() for n in range(1, 8)]


class Pair:
    """Our client and h2's server, joined without a network."""

    def __init__(self, **settings: int) -> None:
        self.client = http2.Connection(max_body=4096)
        self.server = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        codes = {h2.settings.SettingCodes[name]: value for name, value in settings.items()}
        self.server.local_settings = h2.settings.Settings(client=False, initial_values=codes)
        self.seen: list[h2.events.Event] = []
        self.client.initiate_connection()
        self.server.initiate_connection()
        self.events = self.turn()

    def turn(self, step: int = 1 << 20) -> list[http2.Event]:
        """Carry bytes both ways until nobody has any; ours come in pieces of ``step`` bytes."""
        events: list[http2.Event] = []
        while True:
            ours = self.client.data_to_send()
            if ours:
                self.seen += self.server.receive_data(ours)
            theirs = self.server.data_to_send()
            for start in range(0, len(theirs), step):
                events += self.client.receive_data(theirs[start : start + step])
            if not ours and not theirs:
                return events

    def push(self, number: int = 0, body: bytes = b'{"mdm":"x"}') -> int:
        return self.client.request(PSEUDO, b"/3/device/" + b"ab" * 32, COMMON, IDS[number], body)

    def received(self) -> Iterator[tuple[int, dict[str, str], bytes]]:
        bodies: dict[int, bytes] = {}
        headers: dict[int, dict[str, str]] = {}
        for event in self.seen:
            if isinstance(event, h2.events.RequestReceived):
                headers[event.stream_id] = {str(k): str(v) for k, v in event.headers}
            elif isinstance(event, h2.events.DataReceived):
                bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
            elif isinstance(event, h2.events.StreamEnded):
                yield event.stream_id, headers[event.stream_id], bodies.get(event.stream_id, b"")


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return struct.pack(">L", len(payload))[1:] + struct.pack(">BBL", kind, flags, stream_id) + payload


def greeted() -> http2.Connection:
    """A client that had its SETTINGS, with one request under way (stream 1)."""
    client = http2.Connection(max_body=100)
    client.initiate_connection()
    client.receive_data(frame(http2.SETTINGS, 0, 0, b""))
    client.request(PSEUDO, b"/3/device/ab", COMMON, IDS[0], b"{}")
    client.data_to_send()
    return client


OK = b"\x88"
"""Of the static table: ``:status: 200``."""


@pytest.mark.parametrize("table", [0, 60, 100, 4096, 65536])
def test_requests_are_read_as_they_are_meant(table: int) -> None:
    pair = Pair(HEADER_TABLE_SIZE=table)
    for number in range(5):
        pair.push(number)
    pair.turn()
    found = list(pair.received())
    assert [stream_id for stream_id, _headers, _body in found] == [1, 3, 5, 7, 9]
    for number, (_stream_id, headers, body) in enumerate(found):
        assert headers == {
            ":method": "POST",
            ":scheme": "https",
            ":authority": "api.example:2197",
            ":path": "/3/device/" + "ab" * 32,
            "apns-topic": "com.apple.mgmt.External.test",
            "apns-push-type": "mdm",
            "apns-priority": "10",
            "apns-expiration": "1800000000",
            "apns-id": IDS[number].decode(),
        }
        assert body == b'{"mdm":"x"}'


def test_what_repeats_is_sent_once() -> None:
    pair = Pair()
    sizes = []
    for number in range(3):
        pair.push(number)
        data = pair.client.data_to_send()
        sizes.append(len(data))
        pair.seen += pair.server.receive_data(data)
    assert sizes[0] > sizes[1] == sizes[2] < 170
    assert len(list(pair.received())) == 3


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_answers_are_read_in_whatever_pieces_they_come(step: int) -> None:
    pair = Pair()
    assert pair.events[0] == http2.SettingsChanged()
    for number in range(4):
        pair.push(number)
    pair.turn()
    bodies = {1: b"", 3: b'{"reason":"BadDeviceToken"}', 5: b"x" * 9000, 7: b""}
    statuses = {1: "200", 3: "400", 5: "503", 7: "418"}
    for stream_id in (7, 1, 5, 3):
        headers = [(":status", statuses[stream_id]), ("apns-id", IDS[0].decode()), ("x-y", "z")]
        pair.server.send_headers(stream_id, headers, end_stream=not bodies[stream_id])
        if bodies[stream_id]:
            pair.server.send_data(stream_id, bodies[stream_id], end_stream=True)
    assert pair.turn(step) == [
        http2.Answered(7, 418, b""),
        http2.Answered(1, 200, b""),
        http2.Answered(5, 503, b"x" * 4096),
        http2.Answered(3, 400, bodies[3]),
    ]
    assert pair.client.open_outbound_streams == 0


@pytest.mark.parametrize("window", [0, 1, 5])
def test_bodies_obey_the_window(window: int) -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=window)
    stream_ids = [pair.push(number) for number in range(3)]
    pair.turn()
    assert list(pair.received()) == []
    for stream_id in stream_ids:
        for _step in range(11):
            pair.server.increment_flow_control_window(1, stream_id)
            pair.turn()
    assert [body for _stream_id, _headers, body in pair.received()] == [b'{"mdm":"x"}'] * 3


def test_a_window_that_grows_by_settings_lets_bodies_go() -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=0)
    pair.push()
    pair.turn()
    pair.server.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100})
    pair.turn()
    assert [body for _stream_id, _headers, body in pair.received()] == [b'{"mdm":"x"}']


def test_megabytes_of_answers_stall_nothing() -> None:
    pair = Pair()
    for _round in range(40):
        stream_id = pair.push()
        pair.turn()
        pair.server.send_headers(stream_id, [(":status", "500")])
        for part in range(4):
            pair.server.send_data(stream_id, b"x" * 16384, end_stream=part == 3)
            events = pair.turn()
        assert events == [http2.Answered(stream_id, 500, b"x" * 4096)]


def test_an_answer_before_the_body_was_sent_ends_the_request() -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=0)
    stream_id = pair.push()
    pair.turn()
    pair.server.send_headers(stream_id, [(":status", "429")], end_stream=True)
    assert pair.turn() == [http2.Answered(stream_id, 429, b"")]
    assert any(isinstance(event, h2.events.StreamReset) for event in pair.seen)


def test_informational_answers_trailers_padding_and_continuation_are_no_obstacle() -> None:
    client = greeted()
    blocks = [b"\x48\x03103", b"\x88\x00\x01a\x01b"]  # 103 of the table's name 8; 200 and a literal
    data = frame(http2.HEADERS, http2.END_HEADERS, 1, blocks[0])
    data += frame(http2.HEADERS, http2.PADDED | http2.WITH_PRIORITY, 1, b"\x02" + bytes(5) + OK + b"\0\0")
    data += frame(http2.CONTINUATION, http2.END_HEADERS, 1, b"\x00\x01a\x01b")
    data += frame(http2.DATA, http2.PADDED, 1, b"\x03hey" + bytes(3))
    data += frame(http2.PRIORITY, 0, 1, bytes(5)) + frame(0x20, 0, 1, b"what")
    data += frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, 1, b"\x00\x01t\x01u")
    assert client.receive_data(data) == [http2.Answered(1, 200, b"hey")]


def test_ping_settings_goaway_and_reset() -> None:
    client = greeted()
    client.request(PSEUDO, b"/3/device/cd", COMMON, IDS[1], b"{}")
    client.data_to_send()
    settings = struct.pack(">HL", http2.MAX_CONCURRENT_STREAMS, 7)
    data = frame(http2.PING, 0, 0, b"12345678") + frame(http2.SETTINGS, 0, 0, settings)
    data += frame(http2.RST_STREAM, 0, 3, struct.pack(">L", http2.REFUSED_STREAM))
    data += frame(http2.GOAWAY, 0, 0, struct.pack(">LL", 1, 0) + b"why")
    assert client.receive_data(data) == [
        http2.SettingsChanged(),
        http2.WasReset(3, http2.REFUSED_STREAM),
        http2.Leaving(1, 0, b"why"),
    ]
    assert client.max_concurrent_streams == 7
    assert client.data_to_send() == frame(http2.PING, http2.ACK, 0, b"12345678") + frame(
        http2.SETTINGS, http2.ACK, 0, b""
    )
    assert client.receive_data(frame(http2.HEADERS, 5, 1, OK)) == [http2.Answered(1, 200, b"")]


def test_what_comes_for_a_request_that_was_abandoned_is_dropped() -> None:
    client = greeted()
    client.reset(1)
    assert client.data_to_send() == frame(http2.RST_STREAM, 0, 1, struct.pack(">L", http2.CANCEL))
    data = frame(http2.HEADERS, 4, 1, OK) + frame(http2.DATA, 1, 1, b"late")
    assert client.receive_data(data + frame(http2.WINDOW_UPDATE, 0, 1, b"\0\0\0\1")) == []
    client.reset(1)
    assert client.data_to_send() == b""


def test_stream_ids_run_out() -> None:
    client = greeted()
    client._next_id = http2.LAST_STREAM
    client.request(PSEUDO, b"/3/device/ab", COMMON, IDS[0], b"{}")
    with pytest.raises(http2.UsedUp):
        client.request(PSEUDO, b"/3/device/ab", COMMON, IDS[0], b"{}")
    assert client.open_outbound_streams == 2


WRONG = {
    "not-http2": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "frame-too-large": frame(http2.DATA, 0, 1, bytes(16385)),
    "headers-on-stream-0": frame(http2.HEADERS, 4, 0, OK),
    "headers-on-an-even-stream": frame(http2.HEADERS, 4, 2, OK),
    "data-on-a-stream-to-come": frame(http2.DATA, 1, 3, b""),
    "reset-on-a-stream-to-come": frame(http2.RST_STREAM, 0, 3, bytes(4)),
    "reset-of-a-wrong-size": frame(http2.RST_STREAM, 0, 1, bytes(3)),
    "settings-on-a-stream": frame(http2.SETTINGS, 0, 1, b""),
    "settings-of-a-wrong-size": frame(http2.SETTINGS, 0, 0, bytes(5)),
    "acknowledgement-with-settings": frame(http2.SETTINGS, 1, 0, bytes(6)),
    "window-beyond-measure": frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 4, 1 << 31)),
    "frame-size-beyond-measure": frame(http2.SETTINGS, 0, 0, struct.pack(">HL", 5, 1)),
    "ping-of-a-wrong-size": frame(http2.PING, 0, 0, bytes(7)),
    "ping-on-a-stream": frame(http2.PING, 0, 1, bytes(8)),
    "goaway-too-short": frame(http2.GOAWAY, 0, 0, bytes(7)),
    "goaway-on-a-stream": frame(http2.GOAWAY, 0, 1, bytes(8)),
    "window-update-of-nothing": frame(http2.WINDOW_UPDATE, 0, 0, bytes(4)),
    "window-update-too-large": frame(http2.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "window-update-of-a-wrong-size": frame(http2.WINDOW_UPDATE, 0, 0, bytes(3)),
    "server-push": frame(http2.PUSH_PROMISE, 4, 1, b"\0\0\0\2" + OK),
    "continuation-of-nothing": frame(http2.CONTINUATION, 4, 1, OK),
    "block-interrupted": frame(http2.HEADERS, 0, 1, OK) + frame(http2.PING, 0, 0, bytes(8)),
    "block-without-measure": frame(http2.HEADERS, 0, 1, OK)
    + frame(http2.CONTINUATION, 0, 1, bytes(16384)) * 5,
    "empty-continuations": frame(http2.HEADERS, 0, 1, OK) + frame(http2.CONTINUATION, 0, 1, b""),
    "padding-beyond-the-frame": frame(http2.DATA, http2.PADDED, 1, b"\x05abc"),
    "no-such-index": frame(http2.HEADERS, 4, 1, b"\xbe"),
    "index-0": frame(http2.HEADERS, 4, 1, b"\x80"),
    "literal-cut-short": frame(http2.HEADERS, 4, 1, b"\x40\x05ab"),
    "number-without-end": frame(http2.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    "table-too-large": frame(http2.HEADERS, 4, 1, b"\x3f\xff\xff\x03"),
    "status-that-is-no-huffman-code": frame(http2.HEADERS, 4, 1, b"\x48\x84\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", WRONG)
def test_whoever_breaks_the_protocol_is_told_and_left(name: str) -> None:
    client = greeted()
    with pytest.raises(http2.BadPeer) as found:
        client.receive_data(WRONG[name])
    farewell = client.data_to_send()
    assert frame(http2.GOAWAY, 0, 0, struct.pack(">LL", 0, found.value.code)) == farewell[-17:]
    assert client.open_outbound_streams == 1, "the request has no answer"


def test_the_first_frame_is_settings() -> None:
    client = http2.Connection(max_body=1)
    client.initiate_connection()
    with pytest.raises(http2.BadPeer, match="SETTINGS"):
        client.receive_data(frame(http2.PING, 0, 0, bytes(8)))


@given(
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 4), st.binary(max_size=40)))
)
def test_any_frames_end_in_events_or_in_bad_peer(frames: list[tuple[int, int, int, bytes]]) -> None:
    client = greeted()
    try:
        events = client.receive_data(b"".join(frame(*parts) for parts in frames))
    except http2.BadPeer:
        return
    assert len([e for e in events if isinstance(e, http2.Answered | http2.WasReset)]) <= 1


NAMES = st.sampled_from([b"apns-id", b"x", b"content-type", b":status", b"server"])
VALUES = st.one_of(st.sampled_from([b"200", b"410", b"503"]), st.binary(max_size=60))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"200", b"400", b"410", b"429"]),
            st.lists(st.tuples(NAMES.filter(lambda name: name != b":status"), VALUES, st.booleans())),
        ),
        max_size=30,
    ),
    st.booleans(),
)
def test_statuses_are_found_whatever_else_fills_the_table(
    answers: list[tuple[bytes, list[tuple[bytes, bytes, bool]]]], huffman: bool
) -> None:
    """Against hpack's encoder, which evicts what its 4,096 bytes cannot hold."""
    encoder, blocks = Encoder(), header_blocks.AnswerBlocks()
    for status, others in answers:
        block = encoder.encode([(b":status", status, False), *others], huffman=huffman)
        assert blocks.status(block) == int(status)


@given(st.binary(max_size=80))
def test_any_block_is_a_status_or_a_bad_block(block: bytes) -> None:
    with contextlib.suppress(header_blocks.BadBlock):
        assert 0 <= header_blocks.AnswerBlocks().status(block) <= 999
