"""HTTP/2 (RFC 9113) by h2, as far as a client needs it that sends many small requests over one connection.

No sockets and no clock: bytes go in, events come out, and :meth:`Connection.data_to_send` has what is to be
written. What the other side does wrong ends the connection (:class:`BadPeer`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.events import Event as H2Event
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hpack import HeaderTuple, NeverIndexedHeaderTuple

Headers = tuple[tuple[str, str], ...]

REFUSED_STREAM = ErrorCodes.REFUSED_STREAM


class BadPeer(Exception):
    """The other side broke the protocol; GOAWAY is ready to be sent, and the connection is over."""


class UsedUp(Exception):
    """No more requests fit on this connection: every stream id was used, or it is closed."""


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


class _H2(H2Connection):
    """h2 takes GOAWAY for the end; by RFC 9113 section 6.8 earlier streams are still answered after it."""

    def _receive_goaway_frame(self, frame: Any) -> tuple[list[Any], list[H2Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        event.last_stream_id = frame.last_stream_id
        event.additional_data = frame.additional_data or None
        return [], [event]


@dataclass
class _Stream:
    """One request under way. ``unsent``: what of its body waits for the other side's window."""

    unsent: bytes = b""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)


class Connection:
    """The client's side of one connection. ``max_body``: bytes of an answer that are kept."""

    def __init__(self, max_body: int) -> None:
        # What we send is made by push.core.notification, lower case and complete: h2 need not look at it.
        self._h2 = _H2(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._h2.local_settings = Settings(client=True, initial_values={SettingCodes.ENABLE_PUSH: 0})
        self._max_body = max_body
        self._streams: dict[int, _Stream] = {}
        self._waiting: dict[int, _Stream] = {}  # streams with an unsent rest, in the order of their requests
        self.events_received = 0

    @property
    def max_concurrent_streams(self) -> int:
        """How many requests the other side takes at once."""
        return int(self._h2.remote_settings.max_concurrent_streams)

    @property
    def open_outbound_streams(self) -> int:
        """Requests under way."""
        return int(self._h2.open_outbound_streams)

    # What we do

    def initiate_connection(self) -> None:
        """The preface and our SETTINGS: no server push."""
        self._h2.initiate_connection()

    def request(self, pseudo: Headers, path: str, common: Headers, apns_id: str, body: bytes) -> int:
        """Start a request; returns its stream id. Raises :class:`UsedUp`.

        The caller obeys :attr:`max_concurrent_streams`. ``path`` and ``apns_id`` differ in every request: in
        the compression table they would only push out what repeats.
        """
        headers: list[HeaderTuple] = [HeaderTuple(name, value) for name, value in pseudo]
        headers.append(NeverIndexedHeaderTuple(":path", path))
        headers += [HeaderTuple(name, value) for name, value in common]
        headers.append(NeverIndexedHeaderTuple("apns-id", apns_id))
        try:
            stream_id: int = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream_id, headers)
        except H2Error as error:
            raise UsedUp(type(error).__name__) from error
        self._streams[stream_id] = self._waiting[stream_id] = _Stream(body)
        self._send_waiting()
        return stream_id

    def reset(self, stream_id: int) -> None:
        """Nobody waits for this answer any more."""
        if self._forget(stream_id):
            self._cancel(stream_id)

    def ping(self, data: bytes) -> None:
        """PING (8 bytes); the answer counts as an event received."""
        self._h2.ping(data)

    def close_connection(self) -> None:
        """Say that we go."""
        try:
            self._h2.close_connection()
        except H2Error:
            return  # it is closed already

    def data_to_send(self) -> bytes:
        """What is to be written now."""
        return self._h2.data_to_send()

    # What the other side does

    def receive_data(self, data: bytes) -> list[Event]:
        """What came over the connection. Raises :class:`BadPeer`; then the connection is over."""
        try:
            received = self._h2.receive_data(data)
        except H2Error as error:
            raise BadPeer(type(error).__name__) from error
        self.events_received += len(received)
        events: list[Event] = []
        for event in received:
            self._on_event(event, events)
        self._send_waiting()
        return events

    def _on_event(self, event: H2Event, events: list[Event]) -> None:
        match event:
            case ResponseReceived():
                self._on_response(event)
            case DataReceived():
                self._on_data(event)
            case StreamEnded():
                self._on_end(event.stream_id, events)
            case StreamReset():
                if self._forget(event.stream_id):
                    events.append(WasReset(event.stream_id, int(event.error_code)))
            case ConnectionTerminated():
                last = event.last_stream_id or 0
                events.append(Leaving(last, int(event.error_code or 0), event.additional_data or b""))
            case RemoteSettingsChanged():
                events.append(SettingsChanged())
            case _:
                pass  # PING, windows, acknowledgements, informational answers, trailers

    def _on_response(self, event: ResponseReceived) -> None:
        if stream := self._streams.get(event.stream_id):
            status = dict(event.headers).get(b":status", b"")
            stream.status = int(status) if status.isdigit() else 0

    def _on_data(self, event: DataReceived) -> None:
        try:
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        except H2Error as error:
            raise BadPeer(type(error).__name__) from error
        if stream := self._streams.get(event.stream_id):
            stream.body += event.data[: self._max_body - len(stream.body)]

    def _on_end(self, stream_id: int, events: list[Event]) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        self._forget(stream_id)
        if stream.unsent:  # answered before it had all of the request (section 8.1)
            self._cancel(stream_id)
        events.append(Answered(stream_id, stream.status, bytes(stream.body)))

    # Inside

    def _send_waiting(self) -> None:
        """Send of the bodies that wait what the windows allow (section 5.2)."""
        for stream_id, stream in list(self._waiting.items()):
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                continue
            part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            self._h2.send_data(stream_id, part, end_stream=not stream.unsent)
            if not stream.unsent:
                del self._waiting[stream_id]

    def _forget(self, stream_id: int) -> bool:
        self._waiting.pop(stream_id, None)
        return self._streams.pop(stream_id, None) is not None

    def _cancel(self, stream_id: int) -> None:
        try:
            self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        except H2Error:
            return  # it is closed already


def error_name(code: int) -> str:
    """Section 7."""
    try:
        return ErrorCodes(code).name
    except ValueError:
        return f"error {code}"
