"""Our use of HTTP/2 against h2 as the server: what is sent is read as meant, what comes is understood."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from push.core import http2
from push.core.notification import common_headers

pytestmark = pytest.mark.once

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
MAX_CONCURRENT_STREAMS, CANCEL = 3, 8
PSEUDO, COMMON = common_headers("api.example:2197", "com.apple.mgmt.External.test", 1_800_000_000)
IDS = [str(uuid.UUID(int=n)) for n in range(1, 8)]


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
        return self.client.request(PSEUDO, "/3/device/" + "ab" * 32, COMMON, IDS[number], body)

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
    client.receive_data(frame(SETTINGS, 0, 0, b""))
    client.request(PSEUDO, "/3/device/ab", COMMON, IDS[0], b"{}")
    client.data_to_send()
    return client


OK = b"\x88"
"""Of the static table: ``:status: 200``."""


@pytest.mark.parametrize("table", [0, 60, 100, 4096])
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
            "apns-id": IDS[number],
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
    assert sizes[0] > 170 > max(sizes[1:])
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
        headers = [(":status", statuses[stream_id]), ("apns-id", IDS[0]), ("x-y", "z")]
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
    data = frame(HEADERS, END_HEADERS, 1, blocks[0])
    data += frame(HEADERS, PADDED | WITH_PRIORITY, 1, b"\x02" + bytes(5) + OK + b"\0\0")
    data += frame(CONTINUATION, END_HEADERS, 1, b"\x00\x01a\x01b")
    data += frame(DATA, PADDED, 1, b"\x03hey" + bytes(3))
    data += frame(PRIORITY, 0, 1, bytes(5)) + frame(0x20, 0, 1, b"what")
    data += frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x01t\x01u")
    assert client.receive_data(data) == [http2.Answered(1, 200, b"hey")]


def test_ping_settings_goaway_and_reset() -> None:
    client = greeted()
    client.request(PSEUDO, "/3/device/cd", COMMON, IDS[1], b"{}")
    client.data_to_send()
    settings = struct.pack(">HL", MAX_CONCURRENT_STREAMS, 7)
    data = frame(PING, 0, 0, b"12345678") + frame(SETTINGS, 0, 0, settings)
    data += frame(RST_STREAM, 0, 3, struct.pack(">L", http2.REFUSED_STREAM))
    data += frame(GOAWAY, 0, 0, struct.pack(">LL", 1, 0) + b"why")
    assert client.receive_data(data) == [
        http2.SettingsChanged(),
        http2.WasReset(3, http2.REFUSED_STREAM),
        http2.Leaving(1, 0, b"why"),
    ]
    assert client.max_concurrent_streams == 7
    assert client.data_to_send() == frame(PING, ACK, 0, b"12345678") + frame(SETTINGS, ACK, 0, b"")
    assert client.receive_data(frame(HEADERS, 5, 1, OK)) == [http2.Answered(1, 200, b"")]


def test_what_comes_for_a_request_that_was_abandoned_is_dropped() -> None:
    client = greeted()
    client.reset(1)
    assert client.data_to_send() == frame(RST_STREAM, 0, 1, struct.pack(">L", CANCEL))
    data = frame(HEADERS, 4, 1, OK) + frame(DATA, 1, 1, b"late")
    assert client.receive_data(data + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")) == []
    client.data_to_send()
    client.reset(1)
    assert client.data_to_send() == b"", "it is abandoned once"


def test_stream_ids_run_out() -> None:
    client = greeted()
    client._h2.highest_outbound_stream_id = 2**31 - 3
    client.request(PSEUDO, "/3/device/ab", COMMON, IDS[0], b"{}")
    with pytest.raises(http2.UsedUp):
        client.request(PSEUDO, "/3/device/ab", COMMON, IDS[0], b"{}")
    assert client.open_outbound_streams == 2


WRONG = {
    "frame-too-large": frame(DATA, 0, 1, bytes(16385)),
    "headers-on-stream-0": frame(HEADERS, 4, 0, OK),
    "headers-on-an-even-stream": frame(HEADERS, 4, 2, OK),
    "data-on-a-stream-to-come": frame(DATA, 1, 3, b""),
    "reset-of-a-wrong-size": frame(RST_STREAM, 0, 1, bytes(3)),
    "settings-on-a-stream": frame(SETTINGS, 0, 1, b""),
    "settings-of-a-wrong-size": frame(SETTINGS, 0, 0, bytes(5)),
    "acknowledgement-with-settings": frame(SETTINGS, 1, 0, bytes(6)),
    "window-beyond-measure": frame(SETTINGS, 0, 0, struct.pack(">HL", 4, 1 << 31)),
    "frame-size-beyond-measure": frame(SETTINGS, 0, 0, struct.pack(">HL", 5, 1)),
    "ping-of-a-wrong-size": frame(PING, 0, 0, bytes(7)),
    "ping-on-a-stream": frame(PING, 0, 1, bytes(8)),
    "goaway-too-short": frame(GOAWAY, 0, 0, bytes(7)),
    "goaway-on-a-stream": frame(GOAWAY, 0, 1, bytes(8)),
    "window-update-of-nothing": frame(WINDOW_UPDATE, 0, 0, bytes(4)),
    "window-update-too-large": frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"),
    "window-update-of-a-wrong-size": frame(WINDOW_UPDATE, 0, 0, bytes(3)),
    "server-push": frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + OK),
    "continuation-of-nothing": frame(CONTINUATION, 4, 1, OK),
    "block-interrupted": frame(HEADERS, 0, 1, OK) + frame(PING, 0, 0, bytes(8)),
    "padding-beyond-the-frame": frame(DATA, PADDED, 1, b"\x05abc"),
    "no-such-index": frame(HEADERS, 4, 1, b"\xbe"),
    "index-0": frame(HEADERS, 4, 1, b"\x80"),
    "literal-cut-short": frame(HEADERS, 4, 1, b"\x40\x05ab"),
    "number-without-end": frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    "table-too-large": frame(HEADERS, 4, 1, b"\x3f\xff\xff\x03"),
    "status-that-is-no-huffman-code": frame(HEADERS, 4, 1, b"\x48\x84\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", WRONG)
def test_whoever_breaks_the_protocol_is_told_and_left(name: str) -> None:
    client = greeted()
    with pytest.raises(http2.BadPeer) as found:
        client.receive_data(WRONG[name])
    assert client.data_to_send()[-17:-8] == frame(GOAWAY, 0, 0, bytes(8))[:9], "it is told"
    assert str(found.value)
    assert list(client._streams) == [1], "the request has no answer"


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
