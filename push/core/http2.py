"""HTTP/2 (RFC 9113) as far as a client needs it that sends many small requests over one connection.

No sockets and no clock: bytes go in, events come out, and :meth:`Connection.data_to_send` has what is to be
written. h2 does the same for everybody; here an answer costs a tenth of what it costs there, which checks
every header by several rules, walks all open streams at every request, and keeps a state machine for each.

What the other side does wrong ends the connection (:class:`BadPeer`); nothing is guessed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from push.core.header_blocks import AnswerBlocks, BadBlock, Headers, RequestBlocks

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, WITH_PRIORITY = 0x4, 0x8, 0x20
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, FRAME_SIZE_ERROR = 0, 1, 3, 5, 6
CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 8, 9, 11
REFUSED_STREAM = 7
ERROR_NAMES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT"),
    *("STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR"),
    *("ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)

WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LAST_STREAM = 2**31 - 1
OUR_FRAME_SIZE = 16_384
MAX_BLOCK = 65_536
RETURN_AFTER = 32_768
"""Received bytes after which the other side gets its window back."""


class BadPeer(Exception):
    """The other side broke the protocol; GOAWAY is ready to be sent, and the connection is over."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class UsedUp(Exception):
    """No more requests fit on this connection: every stream id was used."""


@dataclass(frozen=True)
class Answered:
    """The answer to one request is complete."""

    stream_id: int
    status: int
    body: bytes


@dataclass(frozen=True)
class WasReset:
    """The other side ended one request with RST_STREAM."""

    stream_id: int
    code: int


@dataclass(frozen=True)
class Leaving:
    """GOAWAY: what lies above ``last_stream_id`` was not processed; what lies below is still answered."""

    last_stream_id: int
    code: int
    data: bytes


@dataclass(frozen=True)
class SettingsChanged:
    """SETTINGS arrived: the limits may be others now."""


Event = Answered | WasReset | Leaving | SettingsChanged


@dataclass
class Stream:
    """One request under way. ``unsent``: what of its body waits for the other side's window."""

    window: int
    unsent: bytes = b""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    received: int = 0


class Connection:
    """The client's side of one connection. ``max_body``: bytes of an answer that are kept."""

    def __init__(self, max_body: int) -> None:
        self.streams: dict[int, Stream] = {}
        self.frames_received = 0
        self.max_concurrent_streams = LAST_STREAM
        self._max_body = max_body
        self._next_id = 1
        self._requests = RequestBlocks()
        self._answers = AnswerBlocks()
        self._out: list[bytes] = []
        self._in = bytearray()
        self._initial_window = WINDOW
        self._window = WINDOW
        self._waiting: dict[int, Stream] = {}  # streams with an unsent rest, in the order of their requests
        self._received = 0
        self._greeted = False
        self._block: tuple[int, int, bytearray] | None = None  # a header block without its end

    # What we do

    def initiate_connection(self) -> None:
        """The preface and our SETTINGS: no server push."""
        self._out.append(PREFACE)
        self._write(SETTINGS, 0, 0, struct.pack(">HL", ENABLE_PUSH, 0))

    def request(self, pseudo: Headers, path: bytes, common: Headers, apns_id: bytes, body: bytes) -> int:
        """Start a request; returns its stream id. Raises :class:`UsedUp`.

        The caller obeys :attr:`max_concurrent_streams`.
        """
        stream_id = self._next_id
        if stream_id > LAST_STREAM:
            raise UsedUp
        self._next_id += 2
        block = self._requests.encode(pseudo, path, common, apns_id)
        self._write_block(stream_id, block)
        stream = self.streams[stream_id] = Stream(self._initial_window)
        size = len(body)
        fits = size <= min(self._window, stream.window, OUR_FRAME_SIZE) and not self._waiting
        if fits or not size:
            self._window -= size
            stream.window -= size
            self._write(DATA, END_STREAM, stream_id, body)
        else:
            stream.unsent = body
            self._waiting[stream_id] = stream
            self._send_waiting()
        return stream_id

    def reset(self, stream_id: int) -> None:
        """Nobody waits for this answer any more."""
        if self._forget(stream_id) is not None:
            self._write(RST_STREAM, 0, stream_id, struct.pack(">L", CANCEL))

    def ping(self, data: bytes) -> None:
        """PING; the answer counts as a frame received."""
        self._write(PING, 0, 0, data)

    def close_connection(self, code: int = NO_ERROR) -> None:
        """Say that we go."""
        self._write(GOAWAY, 0, 0, struct.pack(">LL", 0, code))

    def data_to_send(self) -> bytes:
        """What is to be written now."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    @property
    def open_outbound_streams(self) -> int:
        """Requests under way."""
        return len(self.streams)

    # What the other side does

    def receive_data(self, data: bytes) -> list[Event]:
        """What came over the connection. Raises :class:`BadPeer`; then the connection is over."""
        self._in += data
        events: list[Event] = []
        try:
            for kind, flags, stream_id, payload in self._frames():
                self._on_frame(kind, flags, stream_id, payload, events)
        except BadPeer as error:
            self.close_connection(error.code)
            raise
        return events

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        buffer, at = self._in, 0
        try:
            while len(buffer) - at >= 9:
                size = int.from_bytes(buffer[at : at + 3], "big")
                if size > OUR_FRAME_SIZE:
                    raise BadPeer(FRAME_SIZE_ERROR, "a frame too large")
                end = at + 9 + size
                if end > len(buffer):
                    return
                kind, flags = buffer[at + 3], buffer[at + 4]
                stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big") & LAST_STREAM
                payload = bytes(buffer[at + 9 : end])
                at = end
                yield kind, flags, stream_id, payload
                self.frames_received += 1
        finally:
            del buffer[:at]

    def _on_frame(self, kind: int, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if not self._greeted and kind != SETTINGS:
            raise BadPeer(PROTOCOL_ERROR, "it does not begin with SETTINGS")
        if self._block is not None and (kind != CONTINUATION or stream_id != self._block[0]):
            raise BadPeer(PROTOCOL_ERROR, "a header block without its end")
        match kind:
            case 1:
                self._on_headers(flags, stream_id, payload, events)
            case 0:
                self._on_data(flags, stream_id, payload, events)
            case 9:
                self._on_continuation(flags, stream_id, payload, events)
            case 3:
                self._on_rst_stream(stream_id, payload, events)
            case 4:
                self._on_settings(flags, stream_id, payload, events)
            case 6:
                self._on_ping(flags, stream_id, payload)
            case 7:
                self._on_goaway(stream_id, payload, events)
            case 8:
                self._on_window_update(stream_id, payload)
            case 5:
                raise BadPeer(PROTOCOL_ERROR, "it pushes, which was forbidden")
            case _:
                pass  # PRIORITY, and kinds that are not known (section 5.5)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._verify_used(stream_id)
        if flags & PADDED:
            payload = _unpadded(payload)
        if flags & WITH_PRIORITY:
            if len(payload) < 5:
                raise BadPeer(FRAME_SIZE_ERROR, "HEADERS too short")
            payload = payload[5:]
        if flags & END_HEADERS:
            self._on_block(stream_id, flags, payload, events)
        else:
            self._block = (stream_id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if self._block is None:
            raise BadPeer(PROTOCOL_ERROR, "CONTINUATION of nothing")
        _id, first_flags, block = self._block
        block += payload
        if len(block) > MAX_BLOCK or (not payload and not flags & END_HEADERS):
            raise BadPeer(ENHANCE_YOUR_CALM, "a header block without measure")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, first_flags, bytes(block), events)

    def _on_block(self, stream_id: int, flags: int, block: bytes, events: list[Event]) -> None:
        try:
            status = self._answers.status(block)
        except BadBlock as error:
            raise BadPeer(COMPRESSION_ERROR, str(error)) from None
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        if not 100 <= status < 200 and not stream.status:  # not informational, not a trailer
            stream.status = status
        if flags & END_STREAM:
            self._on_end(stream_id, stream, events)

    def _on_data(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._verify_used(stream_id)
        self._received += len(payload)
        if self._received >= RETURN_AFTER:
            self._write(WINDOW_UPDATE, 0, 0, struct.pack(">L", self._received))
            self._received = 0
        stream = self.streams.get(stream_id)
        if stream is None:
            return
        stream.received += len(payload)
        if flags & PADDED:
            payload = _unpadded(payload)
        if room := self._max_body - len(stream.body):
            stream.body += payload[:room]
        if flags & END_STREAM:
            self._on_end(stream_id, stream, events)
        elif stream.received >= RETURN_AFTER:
            self._write(WINDOW_UPDATE, 0, stream_id, struct.pack(">L", stream.received))
            stream.received = 0

    def _on_end(self, stream_id: int, stream: Stream, events: list[Event]) -> None:
        unfinished = bool(stream.unsent)
        self._forget(stream_id)
        if unfinished:  # answered before it had all of the request (section 8.1)
            self._write(RST_STREAM, 0, stream_id, struct.pack(">L", CANCEL))
        events.append(Answered(stream_id, stream.status, bytes(stream.body)))

    def _on_rst_stream(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        self._verify_used(stream_id)
        if len(payload) != 4:
            raise BadPeer(FRAME_SIZE_ERROR, "RST_STREAM of a wrong size")
        if self._forget(stream_id) is not None:
            events.append(WasReset(stream_id, int.from_bytes(payload, "big")))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise BadPeer(PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            if payload:
                raise BadPeer(FRAME_SIZE_ERROR, "SETTINGS acknowledged with a payload")
            return
        if len(payload) % 6:
            raise BadPeer(FRAME_SIZE_ERROR, "SETTINGS of a wrong size")
        self._greeted = True
        for name, value in struct.iter_unpack(">HL", payload):
            self._on_setting(name, value)
        self._write(SETTINGS, ACK, 0, b"")
        self._send_waiting()
        events.append(SettingsChanged())

    def _on_setting(self, name: int, value: int) -> None:
        if name == MAX_CONCURRENT_STREAMS:
            self.max_concurrent_streams = value
        elif name == HEADER_TABLE_SIZE:
            self._requests.set_table_size(value)
        elif name == INITIAL_WINDOW_SIZE:
            if value > LARGEST_WINDOW:
                raise BadPeer(FLOW_CONTROL_ERROR, "a window too large")
            for stream in self.streams.values():  # section 6.9.2: it may become negative
                stream.window += value - self._initial_window
            self._initial_window = value
        elif name == MAX_FRAME_SIZE and not OUR_FRAME_SIZE <= value < 2**24:
            raise BadPeer(PROTOCOL_ERROR, "a frame size that is not allowed")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise BadPeer(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise BadPeer(FRAME_SIZE_ERROR, "PING of a wrong size")
        if not flags & ACK:
            self._write(PING, ACK, 0, payload)

    def _on_goaway(self, stream_id: int, payload: bytes, events: list[Event]) -> None:
        if stream_id:
            raise BadPeer(PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise BadPeer(FRAME_SIZE_ERROR, "GOAWAY too short")
        last, code = struct.unpack(">LL", payload[:8])
        events.append(Leaving(last & LAST_STREAM, code, payload[8:]))

    def _on_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise BadPeer(FRAME_SIZE_ERROR, "WINDOW_UPDATE of a wrong size")
        more = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if not more:
            raise BadPeer(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        if not stream_id:
            self._window += more
            if self._window > LARGEST_WINDOW:
                raise BadPeer(FLOW_CONTROL_ERROR, "a window too large")
        else:
            self._verify_used(stream_id)
            stream = self.streams.get(stream_id)
            if stream is None:
                return
            stream.window += more
            if stream.window > LARGEST_WINDOW:
                raise BadPeer(FLOW_CONTROL_ERROR, "a window too large")
        self._send_waiting()

    # Inside

    def _send_waiting(self) -> None:
        """Send of the bodies that wait what the windows allow (section 5.2)."""
        for stream_id, stream in list(self._waiting.items()):
            if self._window <= 0:
                return
            while stream.unsent and (room := min(self._window, stream.window, OUR_FRAME_SIZE)) > 0:
                part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
                self._window -= len(part)
                stream.window -= len(part)
                self._write(DATA, 0 if stream.unsent else END_STREAM, stream_id, part)
            if not stream.unsent:
                del self._waiting[stream_id]

    def _forget(self, stream_id: int) -> Stream | None:
        self._waiting.pop(stream_id, None)
        return self.streams.pop(stream_id, None)

    def _verify_used(self, stream_id: int) -> None:
        """Only streams that we opened exist (section 5.1.1)."""
        if not stream_id % 2 or stream_id >= self._next_id:
            raise BadPeer(PROTOCOL_ERROR, "a stream that nobody opened")

    def _write_block(self, stream_id: int, block: bytes) -> None:
        if len(block) <= OUR_FRAME_SIZE:
            self._write(HEADERS, END_HEADERS, stream_id, block)
            return
        self._write(HEADERS, 0, stream_id, block[:OUR_FRAME_SIZE])
        for start in range(OUR_FRAME_SIZE, len(block), OUR_FRAME_SIZE):
            last = start + OUR_FRAME_SIZE >= len(block)
            part = block[start : start + OUR_FRAME_SIZE]
            self._write(CONTINUATION, END_HEADERS if last else 0, stream_id, part)

    def _write(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._out.append(struct.pack(">BHBBL", size >> 16, size & 0xFFFF, kind, flags, stream_id))
        self._out.append(payload)


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise BadPeer(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def error_name(code: int) -> str:
    """Section 7."""
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"error {code}"
