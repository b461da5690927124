"""The connection to APNs: HTTP/2 with a client certificate.

aioapns 4.0 brings the pool, the TLS set-up and the protocol class. Where its protocol fails (it was measured
against a stand-in: tests/push/test_client.py has a test for each point) it is replaced here; HTTP/2 itself is
h2, behind :mod:`push.core.http2`:

* an answer belongs to the stream that it comes on, not to an ``apns-id`` that may be missing;
* it is complete when the stream ends: bodies may come in pieces, be empty, or be anything but JSON;
* received data is acknowledged, or the connection stalls after about 1,200 error answers;
* every request has a time-out, every connection a watchdog (PING), so that nothing waits for ever;
* RST_STREAM, GOAWAY, a cut connection and bytes that are not HTTP/2 end the requests that they concern, no
  others; what APNs cannot have processed is sent again on another connection;
* nothing is kept of a request that ended, and a cancelled wait does not hurt its neighbours;
* connections stay open (Apple asks for that), kept alive by the kernel; they are tried with a PING after an
  hour of silence, and together with the first push after half a minute of it;
* the number of streams is the server's SETTINGS, the body obeys its flow control.

:class:`ApnsClient` promises: every push ends in a result within :data:`SEND_DEADLINE` seconds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import cast
from urllib.parse import urlsplit

from aioapns.connection import APNsBaseClientProtocol, APNsCertConnectionPool, APNsTLSClientProtocol

from push.core import http2
from push.core.notification import (
    MAX_BODY,
    Answer,
    Failure,
    Notification,
    Verdict,
    clean_reason,
    common_headers,
    decode_answer,
    decode_goaway,
    encode_path,
    encode_payload,
    judge,
)
from vault.key_file import key_file

SEND_DEADLINE = 25.0
"""Seconds after which a batch is over, whatever APNs does."""
CONNECT_TIME_OUT = 8.0
REPLY_TIME_OUT = 15.0
SILENCE_BEFORE_PING = 5.0
PING_TIME_OUT = 5.0
IDLE_BEFORE_PING = 3600.0
STALE = 30.0
"""Seconds of silence after which the first request goes with a PING: a dead connection is found at once."""
WATCH_INTERVAL = 1.0
ATTEMPTS = 3
"""How often one push is sent within a batch, when connections break under it."""
MAX_STREAMS = 100
"""Requests at once on one connection. h2 walks through all of them at every request: more cost more each."""

_CERTIFICATE_ALERTS = (
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REQUIRED",
    "ALERT_UNKNOWN_CA",
    "ALERT_ACCESS_DENIED",
)


@dataclass(frozen=True)
class SendResult:
    """One push and what came of it."""

    notification: Notification
    answer: Answer


class Broken(Exception):
    """No connection, or it ended. ``again``: another attempt may help; ``free``: this one does not count."""

    def __init__(self, answer: Answer, *, again: bool, free: bool = False) -> None:
        super().__init__(str(answer))
        self.answer = answer
        self.again = again
        self.free = free


class ApnsClient:
    """Connections to APNs with one client certificate. To be used within one running event loop.

    ``certificate_pem``: the certificate and its chain; ``key_pem``: its key, not encrypted; ``url``:
    ``https://host[:port]``; ``ca_file``: roots to trust in place of the system's; ``connections``: at most.
    """

    def __init__(
        self, certificate_pem: bytes, key_pem: bytes, url: str, ca_file: str = "", connections: int = 4
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("the address of APNs starts with https://")
        self._host, self._port = parts.hostname, parts.port or 443
        self._credentials: tuple[bytes, bytes] | None = (certificate_pem, key_pem)
        self._ca_file, self._connections = ca_file, connections
        self._pool: _Pool | None = None

    async def __aenter__(self) -> ApnsClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(self, notifications: Sequence[Notification]) -> list[SendResult]:
        """Send; the results stand in the order of the notifications. Raises nothing for what APNs does."""
        batch = _Batch(notifications)
        try:
            pool = self._open_pool()
        except ssl.SSLError as error:
            batch.fail_waiting(Answer(reason=_words(error), failure=Failure.UNUSABLE_CERTIFICATE))
            return batch.results()
        try:
            async with asyncio.timeout(SEND_DEADLINE):
                await batch.run(pool)
        except TimeoutError:
            batch.give_up()
        except BaseException:
            batch.give_up()
            raise
        return batch.results()

    async def close(self) -> None:
        """Close every connection."""
        if self._pool is not None:
            await self._pool.shut()

    @property
    def open_connections(self) -> int:
        """How many connections are up."""
        return len(self._pool.connections) if self._pool is not None else 0

    def _open_pool(self) -> _Pool:
        if self._pool is None:
            assert self._credentials is not None  # noqa: S101 - set until the pool is there
            self._pool = _Pool.with_key(
                b"\n".join(self._credentials),
                _context(self._ca_file),
                self._host,
                self._port,
                self._connections,
            )
            self._credentials = None  # the key is in the TLS context now, and nowhere else
        return self._pool


def _context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    return context


class _Batch:
    """The pushes of one :meth:`ApnsClient.send`: which wait, which are on their way, which are answered."""

    def __init__(self, notifications: Sequence[Notification]) -> None:
        self._notifications = notifications
        self._answers: list[Answer | None] = [None] * len(notifications)
        self._attempts = [0] * len(notifications)
        self._waiting = deque(range(len(notifications)))
        self._under_way: dict[int, tuple[ApnsProtocol, int]] = {}
        self._changed = asyncio.Event()

    async def run(self, pool: _Pool) -> None:
        while self._waiting or self._under_way:
            self._changed.clear()
            if not self._waiting:
                await self._changed.wait()
                continue
            try:
                connection = await pool.acquire()
            except Broken as broken:
                self.fail_waiting(broken.answer)
                continue
            self._fill(connection)

    def _fill(self, connection: ApnsProtocol) -> None:
        while self._waiting and connection.has_room:
            index = self._waiting.popleft()
            self._attempts[index] += 1
            stream_id = connection.start(self._notifications[index], partial(self._ended, index))
            if stream_id is not None:
                self._under_way[index] = (connection, stream_id)

    def _ended(self, index: int, outcome: Answer | Broken) -> None:
        self._under_way.pop(index, None)
        if isinstance(outcome, Answer):
            self._answers[index] = outcome
        else:
            if outcome.free:
                self._attempts[index] -= 1
            if outcome.again and self._attempts[index] < ATTEMPTS:
                self._waiting.append(index)
            else:
                self._answers[index] = outcome.answer
        self._changed.set()

    def fail_waiting(self, answer: Answer) -> None:
        """Nothing more can be sent: what waits has its answer."""
        while self._waiting:
            self._answers[self._waiting.popleft()] = answer

    def give_up(self) -> None:
        """The time is over: what is under way is abandoned, what waits was never sent."""
        for index, (connection, stream_id) in self._under_way.items():
            self._answers[index] = Answer(reason="no answer in time", failure=Failure.TIME_OUT)
            connection.abandon(stream_id)
        self._under_way.clear()
        self.fail_waiting(Answer(reason="not sent in time", failure=Failure.CONNECTION))

    def results(self) -> list[SendResult]:
        lost = Answer(failure=Failure.CONNECTION)
        return [
            SendResult(notification, answer or lost)
            for notification, answer in zip(self._notifications, self._answers, strict=True)
        ]


class _Pool(APNsCertConnectionPool):
    """aioapns's pool without its polling, its fixed retries and its loss of the reason of a failure."""

    connections: list[ApnsProtocol]  # type: ignore[assignment] # of our class, not of its base
    ssl_context: ssl.SSLContext

    def __init__(self, path: str, context: ssl.SSLContext, host: str, port: int, connections: int) -> None:
        # A topic that is not empty keeps aioapns from reading the file a second time.
        super().__init__(path, topic="-", max_connections=connections, ssl_context=context)
        self._host, self._port = host, port
        self._changed = asyncio.Event()
        self._closed = False

    @classmethod
    def with_key(cls, pem: bytes, context: ssl.SSLContext, host: str, port: int, connections: int) -> _Pool:
        """Raises :class:`ssl.SSLError` where OpenSSL does not take the certificate and key."""
        with key_file(pem) as path:
            return cls(path, context, host, port, connections)

    async def acquire(self) -> ApnsProtocol:
        """A connection with room for a request. Raises :class:`Broken` when there can be none."""
        while True:
            if connection := self._least_busy():
                return connection
            async with self._lock:
                if connection := self._least_busy():
                    return connection
                usable = [c for c in self.connections if not c.retired]
                if len(usable) < self.max_connections:
                    try:
                        return await self.create_connection()
                    except Broken:
                        if not usable:
                            raise
            self._changed.clear()
            await self._changed.wait()

    def _least_busy(self) -> ApnsProtocol | None:
        with_room = [connection for connection in self.connections if connection.has_room]
        return min(with_room, key=lambda connection: connection.busy, default=None)

    async def create_connection(self) -> ApnsProtocol:
        """Connect, and wait for the server's SETTINGS: under TLS 1.3 our certificate is refused so late.

        Raises :class:`Broken`.
        """
        if self._closed:
            raise Broken(Answer(reason="the client is closed", failure=Failure.CONNECTION), again=False)
        protocol = self._new_protocol()
        try:
            async with asyncio.timeout(CONNECT_TIME_OUT):
                await self.loop.create_connection(
                    lambda: protocol,
                    self._host,
                    self._port,
                    ssl=self.ssl_context,
                    ssl_handshake_timeout=CONNECT_TIME_OUT,
                    ssl_shutdown_timeout=1.0,
                )
                await protocol.ready
        except TimeoutError as error:
            protocol.abort()
            raise Broken(
                Answer(reason="no connection in time", failure=Failure.CONNECTION), again=True
            ) from error
        except (OSError, UnicodeError) as error:  # ssl.SSLError is an OSError
            raise Broken(_failure_of(error), again=False) from error
        except BaseException:
            protocol.abort()
            raise
        if protocol.end is not None:
            raise protocol.end
        if protocol.retired:
            raise Broken(Answer(reason="APNs takes no requests", failure=Failure.CONNECTION), again=True)
        self.connections.append(protocol)
        self._changed.set()
        return protocol

    def _new_protocol(self) -> ApnsProtocol:
        authority = self._host if self._port == 443 else f"{self._host}:{self._port}"
        return ApnsProtocol(
            authority, self.loop, on_change=self._changed.set, on_lost=self.discard_connection
        )

    def discard_connection(self, connection: APNsBaseClientProtocol) -> None:
        """A connection ended: also one that was never added, which aioapns would not survive."""
        with suppress(ValueError):
            self.connections.remove(cast(ApnsProtocol, connection))
        self._changed.set()

    async def shut(self) -> None:
        self._closed = True
        ends = [connection.shut() for connection in list(self.connections)]
        if ends:
            await asyncio.wait(ends, timeout=2.0)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request under way."""

    on_end: Callable[[Answer | Broken], object]
    sent_at: float


class ApnsProtocol(APNsTLSClientProtocol):
    """One connection. See the module's description for what differs from aioapns."""

    transport: asyncio.Transport | None
    loop: asyncio.AbstractEventLoop
    conn: http2.Connection  # type: ignore[assignment] # in front of h2's

    def __init__(
        self,
        authority: str,
        loop: asyncio.AbstractEventLoop,
        *,
        on_change: Callable[[], object],
        on_lost: Callable[[ApnsProtocol], object],
    ) -> None:
        super().__init__("-", loop)
        self._on_lost = on_lost
        self.conn = http2.Connection(MAX_BODY)
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the server's SETTINGS are there, or the connection has ended: see :attr:`end`."""
        self.end: Broken | None = None
        self.retired = False
        self._authority = authority
        self._on_change = on_change
        self._answered = 0
        self._exchanges: dict[int, _Exchange] = {}
        self._heard_at = loop.time()
        self._pinged_at: float | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._flush_planned = False
        self._gone: asyncio.Future[None] = loop.create_future()

    # What the pool asks

    @property
    def busy(self) -> int:
        """Requests under way."""
        return len(self._exchanges)

    @property
    def has_room(self) -> bool:
        """Whether a request can be started now."""
        if self.retired or self.end is not None or not self.ready.done():
            return False
        return self.busy < min(self.conn.max_concurrent_streams, MAX_STREAMS)

    def start(self, notification: Notification, on_end: Callable[[Answer | Broken], object]) -> int | None:
        """Send one push; ``on_end`` is called once, unless it is abandoned. Returns its stream id.

        ``None`` where it ended in this moment: the connection is used up.
        """
        pseudo, common = common_headers(self._authority, notification.topic, notification.expires_at)
        path, apns_id = encode_path(notification), str(notification.apns_id)
        try:
            stream_id = self.conn.request(pseudo, path, common, apns_id, encode_payload(notification))
        except http2.UsedUp:
            self.retire()
            on_end(Broken(Answer(reason="connection used up", failure=Failure.CONNECTION), again=True))
            return None
        now = self.loop.time()
        if not self._exchanges and self._pinged_at is None and now - self._heard_at > STALE:
            self._ping(now)
        self._exchanges[stream_id] = _Exchange(on_end, now)
        self._flush_soon()
        self._plan_watch(WATCH_INTERVAL)
        return stream_id

    def abandon(self, stream_id: int) -> None:
        """Nobody waits for this answer any more."""
        if self._forget(stream_id):
            self._reset(stream_id)

    def retire(self) -> None:
        """Start nothing more here; close when the last answer is in."""
        self.retired = True
        self._on_change()
        if not self._exchanges:
            self.close()

    def shut(self) -> asyncio.Future[None]:
        """Close now. The future is done when the connection is gone."""
        self.retired = True
        self.conn.close_connection()
        self.flush()
        self.close()
        return self._gone

    def abort(self) -> None:
        """Close at once, without a farewell: the other side does not listen."""
        if self.transport is not None:
            self.transport.abort()

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._heard_at = self.loop.time()
        keep_alive(transport.get_extra_info("socket"))
        tls = transport.get_extra_info("ssl_object")
        super().connection_made(transport)
        if tls is not None and tls.selected_alpn_protocol() not in {None, "h2"}:
            self._break("the server does not speak HTTP/2")
        self._plan_watch(WATCH_INTERVAL)

    def data_received(self, data: bytes) -> None:
        before = self.conn.events_received
        try:
            events = self.conn.receive_data(data)
        except http2.BadPeer as error:
            self.flush()  # the GOAWAY
            self._break(f"not HTTP/2 as it should be: {error}")
            return
        if self.conn.events_received > before:  # bytes that make no frame are not a sign of life
            self._heard_at, self._pinged_at = self.loop.time(), None
        for event in events:
            self._on_event(event)
        self.flush()
        if self.retired and not self._exchanges:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        if self.end is None:
            self.end = Broken(self._end_of(exc), again=not isinstance(exc, ssl.SSLError))
        if not self.ready.done():
            self.ready.set_result(None)
        if not self._gone.done():
            self._gone.set_result(None)
        for stream_id in list(self._exchanges):
            self._fail(stream_id, self.end)
        self._on_lost(self)

    def _end_of(self, exc: Exception | None) -> Answer:
        if exc is not None:
            return _failure_of(exc)
        if self.ready.done():
            return Answer(reason="connection closed", failure=Failure.CONNECTION)
        return Answer(
            reason="connection closed before it was used; the certificate may be refused",
            failure=Failure.CONNECTION,
        )

    # What HTTP/2 tells

    def _on_event(self, event: http2.Event) -> None:
        match event:
            case http2.Answered():
                self._answered += 1
                self._resolve(event.stream_id, decode_answer(event.status, event.body))
            case http2.WasReset():
                self._on_reset(event)
            case http2.Leaving():
                self._on_goaway(event)
            case http2.SettingsChanged():
                if not self.ready.done():
                    self.ready.set_result(None)
                self._on_change()

    def _on_reset(self, event: http2.WasReset) -> None:
        code = http2.error_name(event.code)
        answer = Answer(reason=f"stream reset: {code}", failure=Failure.CONNECTION)
        if event.code == http2.REFUSED_STREAM:  # not processed: RFC 9113 section 8.7
            self._fail(event.stream_id, Broken(answer, again=True))
        else:
            self._resolve(event.stream_id, answer)

    def _on_goaway(self, event: http2.Leaving) -> None:
        reason = decode_goaway(event.data)
        refused = Answer(403, reason)
        if reason and judge(Answer(400, reason), token_updated_at=None) is Verdict.HOLD:
            self.end = Broken(refused, again=False)
        unprocessed = self.end or Broken(
            Answer(
                reason=f"connection ended: {reason or http2.error_name(event.code)}",
                failure=Failure.CONNECTION,
            ),
            again=True,
            free=self._answered > 0,  # it was not processed, and the connection was good for something
        )
        for stream_id in [i for i in self._exchanges if i > event.last_stream_id]:
            self._fail(stream_id, unprocessed)
        self.retire()

    # The end of one request

    def _resolve(self, stream_id: int, answer: Answer) -> None:
        if exchange := self._forget(stream_id):
            exchange.on_end(answer)

    def _fail(self, stream_id: int, error: Broken) -> None:
        if exchange := self._forget(stream_id):
            exchange.on_end(error)

    def _forget(self, stream_id: int) -> _Exchange | None:
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            self._on_change()
        return exchange

    def _reset(self, stream_id: int) -> None:
        self.conn.reset(stream_id)
        self._flush_soon()

    def _break(self, reason: str) -> None:
        """End the connection because of what the other side does, or does not."""
        self.retired = True
        if self.end is None:
            self.end = Broken(Answer(reason=reason, failure=Failure.CONNECTION), again=True)
        self.abort()

    # Time

    def _plan_watch(self, delay: float) -> None:
        if self._watch_timer is not None:
            if self._watch_timer.when() <= self.loop.time() + delay:
                return
            self._watch_timer.cancel()
        self._watch_timer = self.loop.call_later(delay, self._watch)

    def _watch(self) -> None:
        """The watchdog: requests that are too old, a connection that is too silent."""
        self._watch_timer = None
        if self.end is not None and not self._exchanges:
            return
        now = self.loop.time()
        self._time_out_requests(now)
        if self._pinged_at is not None and now - self._pinged_at >= PING_TIME_OUT:
            self._break("connection dead: no answer to PING")
            return
        if self._pinged_at is None and now - self._quiet_since() >= self._patience():
            self._ping(now)
        waiting = self._exchanges or self._pinged_at is not None
        self._plan_watch(WATCH_INTERVAL if waiting else min(60.0, IDLE_BEFORE_PING))

    def _ping(self, now: float) -> None:
        self._pinged_at = now
        self.conn.ping(b"bramley.")
        self._flush_soon()

    def _time_out_requests(self, now: float) -> None:
        for stream_id, exchange in list(self._exchanges.items()):
            if now - exchange.sent_at < REPLY_TIME_OUT:
                return  # they stand in the order of sending
            self._resolve(stream_id, Answer(reason="no answer in time", failure=Failure.TIME_OUT))
            self._reset(stream_id)
            self.retire()  # a connection that loses answers is not used again

    def _quiet_since(self) -> float:
        oldest = next(iter(self._exchanges.values()), None)
        return max(self._heard_at, oldest.sent_at) if oldest is not None else self._heard_at

    def _patience(self) -> float:
        return SILENCE_BEFORE_PING if self._exchanges else IDLE_BEFORE_PING

    def refresh_inactivity_timer(self) -> None:
        """aioapns closes after ten idle seconds; Apple asks to keep connections open."""

    # Writing

    def _flush_soon(self) -> None:
        """Many requests that start together leave in one write."""
        if not self._flush_planned:
            self._flush_planned = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what is ready."""
        self._flush_planned = False
        if self.transport is None or self.transport.is_closing():
            return
        if data := self.conn.data_to_send():
            self.transport.write(data)


def keep_alive(connection: socket.socket | None) -> None:
    """Let the kernel keep an idle connection alive in routers on the way, and notice when it is dead."""
    if connection is None:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3)):
        if option := getattr(socket, name, None):  # by these names on Linux only
            connection.setsockopt(socket.IPPROTO_TCP, option, seconds)


def _failure_of(error: Exception) -> Answer:
    """Why there is no connection, in words for an administrator."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Answer(
            reason=clean_reason(f"APNs's certificate is not trusted: {error.verify_message}"),
            failure=Failure.SERVER_NOT_TRUSTED,
        )
    if isinstance(error, ssl.SSLError) and any(a in (error.reason or "") for a in _CERTIFICATE_ALERTS):
        return Answer(reason=_words(error), failure=Failure.CERTIFICATE_REFUSED)
    if isinstance(error, ssl.SSLError):
        return Answer(reason=clean_reason(f"TLS failed: {_words(error)}"), failure=Failure.CONNECTION)
    if isinstance(error, socket.gaierror):
        text = "its name cannot be resolved"
    elif isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno)
    else:
        text = str(error) or type(error).__name__
    return Answer(reason=clean_reason(f"no connection: {text}"), failure=Failure.CONNECTION)


def _words(error: ssl.SSLError) -> str:
    """``TLSV1_ALERT_UNKNOWN_CA`` as ``unknown ca``."""
    reason = (error.reason or error.strerror or type(error).__name__).lower()
    for prefix in ("tlsv13_alert_", "tlsv1_alert_", "sslv3_alert_"):
        reason = reason.removeprefix(prefix)
    return clean_reason(reason.replace("_", " "))
