"""A stand-in for APNs: real TLS that demands a client certificate, real HTTP/2, scriptable misbehaviour.

In tests::

    with ApnsStandIn() as apns:
        certificate, key = apns.authority.push_certificate("com.apple.mgmt.test")
        apns.script(token, refusal(429, "TooManyRequests"), Reply())
        ...
        assert apns.pushes[0].magic == "…"

By hand, and as a process of its own for tests that kill things::

    python -m tests.support.apns --port 8443 --directory /tmp/apns --record pushes.jsonl

prints one JSON line (url, ca, push certificate, a wrong one) when it listens, appends one line for each push
to ``--record`` (written through to the disk), and reads JSON lines that change its behaviour from stdin:
``{"status": 503}``, ``{"status": 410, "reason": "Unregistered", "timestamp": 1700000000000}``,
``{"do": "silence"}`` (or freeze, reset, drop, goaway, garbage), ``{"delay": 10}``, ``{}``.

Its rules are Apple's, from "Sending notification requests to APNs" and the MDM protocol: a push that breaks
one is refused as APNs would and kept in :attr:`ApnsStandIn.violations`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import os
import re
import shutil
import ssl
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hyperframe.frame import GoAwayFrame

HOST = "127.0.0.1"


# --- behaviours ---


@dataclass(frozen=True)
class Reply:
    """An answer. ``split``: the body in two DATA frames; ``delay``: seconds before it."""

    status: int = 200
    body: bytes = b""
    apns_id: bool = True
    split: bool = False
    delay: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Silence:
    """The request is never answered; the connection lives on and answers PINGs."""


@dataclass(frozen=True)
class Freeze:
    """The connection goes dead: nothing is read or written any more, nor is it closed."""


@dataclass(frozen=True)
class Reset:
    """RST_STREAM. 2 = INTERNAL_ERROR, 7 = REFUSED_STREAM."""

    code: int = 2


@dataclass(frozen=True)
class GoAway:
    """GOAWAY with a JSON reason. ``answered``: whether this request still counts as processed.

    Then it is answered. ``close``: whether the connection is closed at once.
    """

    reason: str = "Shutdown"
    answered: bool = False
    code: int = 0
    close: bool = False


@dataclass(frozen=True)
class Drop:
    """The TCP connection is cut, without a TLS close."""


@dataclass(frozen=True)
class Garbage:
    """Bytes that are not HTTP/2."""


Behaviour = Reply | Silence | Freeze | Reset | GoAway | Drop | Garbage
Decide = Callable[["Push"], Behaviour]


def refusal(
    status: int,
    reason: str,
    *,
    timestamp: datetime | int | None = None,
    split: bool = False,
    delay: float = 0.0,
    apns_id: bool = True,
) -> Reply:
    """An error answer as APNs gives it: JSON with ``reason``, and ``timestamp`` in milliseconds."""
    body: dict[str, object] = {"reason": reason}
    if isinstance(timestamp, datetime):
        body["timestamp"] = int(timestamp.timestamp() * 1000)
    elif timestamp is not None:
        body["timestamp"] = timestamp
    return Reply(status, json.dumps(body).encode(), apns_id=apns_id, split=split, delay=delay)


# --- what arrived ---


@dataclass(frozen=True)
class Push:
    """One request as it came. ``connection`` counts from 1; ``violation``: the rule that it broke, if any."""

    at: float
    connection: int
    stream_id: int
    client_topic: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    violation: str = ""

    @property
    def token(self) -> bytes:
        return bytes.fromhex(self.path.rpartition("/")[2])

    @property
    def topic(self) -> str:
        return self.headers.get("apns-topic", "")

    @property
    def magic(self) -> str:
        return str(json.loads(self.body)["mdm"])


# --- certificates ---


class Authority:
    """A CA of the test: for the stand-in's own certificate and for what looks like push certificates."""

    def __init__(self, name: str = "APNs stand-in CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._build(self._name, self._key.public_key(), ca=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server_certificate(self) -> tuple[bytes, bytes]:
        """PEM certificate and key for 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        return _pem(self._build(name, key.public_key(), server=True)), _key_pem(key)

    def push_certificate(
        self,
        topic: str | None = "com.apple.mgmt.External.test",
        *,
        public_key: rsa.RSAPublicKey | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        bits: int = 2048,
        common_name: str = "APSP:test",
    ) -> tuple[bytes, bytes]:
        """PEM certificate and key (empty for a given ``public_key``); the topic is the subject's user id."""
        key = None if public_key is not None else rsa.generate_private_key(65537, bits)
        names = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if topic is not None:
            names.insert(0, x509.NameAttribute(NameOID.USER_ID, topic))
        subject_key = public_key if public_key is not None else key.public_key() if key else None
        assert subject_key is not None
        built = self._build(x509.Name(names), subject_key, not_before=not_before, not_after=not_after)
        return _pem(built), _key_pem(key) if key is not None else b""

    def quick_push_certificate(self, topic: str) -> tuple[bytes, bytes]:
        """The same with one key for the whole process, where its making would only cost time."""
        key = _shared_key()
        return self.push_certificate(topic, public_key=key.public_key())[0], _key_pem(key)

    def sign_request(self, request: bytes, topic: str, *, not_after: datetime | None = None) -> bytes:
        """What Apple's portal does: a certificate (PEM) for the key in a request (PEM or DER)."""
        pem = b"-----BEGIN" in request
        loaded = x509.load_pem_x509_csr(request) if pem else x509.load_der_x509_csr(request)
        assert loaded.is_signature_valid
        key = loaded.public_key()
        assert isinstance(key, rsa.RSAPublicKey)
        return self.push_certificate(topic, public_key=key, not_after=not_after)[0]

    def _build(
        self,
        subject: x509.Name,
        public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
        *,
        ca: bool = False,
        server: bool = False,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - timedelta(hours=1))
            .not_valid_after(not_after or now + timedelta(days=365))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if server:
            names = x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(HOST))]
            )
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())


@lru_cache(maxsize=1)
def _shared_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# --- the server ---


class ApnsStandIn:
    """The server, in a thread of its own. A context manager; also :meth:`start` and :meth:`stop`.

    ``max_streams``: SETTINGS_MAX_CONCURRENT_STREAMS. ``window``: SETTINGS_INITIAL_WINDOW_SIZE.
    ``acknowledge``: whether received bodies are acknowledged (without, the sender's window runs out).
    ``tokens``: when given, any other token is a 400 BadDeviceToken.
    """

    def __init__(
        self,
        *,
        authority: Authority | None = None,
        port: int = 0,
        directory: Path | None = None,
        max_streams: int = 1000,
        window: int | None = None,
        acknowledge: bool = True,
        alpn: bool = True,
        tls: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        tokens: set[bytes] | None = None,
    ) -> None:
        self.authority = authority or Authority()
        self.default: Behaviour | Decide = Reply()
        self.tokens = tokens
        self.max_streams, self.window, self.acknowledge = max_streams, window, acknowledge
        self.accepted = 0
        """TLS handshakes that were completed."""
        self.refused_handshakes: list[str] = []
        self.pings = 0
        self.on_push: Callable[[Push], None] | None = None
        self._port = port
        self._scripts: dict[bytes, deque[Behaviour]] = defaultdict(deque)
        self._pushes: list[Push] = []
        self._lock = threading.Lock()
        self._connections: set[_Connection] = set()
        self._own_directory = directory is None
        self._directory = directory or Path(tempfile.mkdtemp(prefix="apns-stand-in-"))
        self.context = self._make_context(alpn, tls)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._serve, name="apns-stand-in", daemon=True)

    def _make_context(self, alpn: bool, tls: ssl.TLSVersion) -> ssl.SSLContext:
        self._directory.mkdir(parents=True, exist_ok=True)
        certificate, key = self.authority.server_certificate()
        (self._directory / "ca.pem").write_bytes(self.authority.pem)
        (self._directory / "server.pem").write_bytes(certificate + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = tls
        context.load_cert_chain(self._directory / "server.pem")
        context.load_verify_locations(self._directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        if alpn:
            context.set_alpn_protocols(["h2"])
        return context

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    @property
    def ca_file(self) -> str:
        return str(self._directory / "ca.pem")

    @property
    def pushes(self) -> list[Push]:
        with self._lock:
            return list(self._pushes)

    @property
    def violations(self) -> list[str]:
        return [push.violation for push in self.pushes if push.violation]

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def pushes_to(self, token: bytes) -> list[Push]:
        return [push for push in self.pushes if push.token == token]

    def script(self, token: bytes, *behaviours: Behaviour) -> None:
        """What the next pushes to this token meet, one after the other; then :attr:`default` again."""
        with self._lock:
            self._scripts[token].extend(behaviours)

    def wait_for_pushes(self, count: int, seconds: float = 10.0) -> list[Push]:
        """The pushes, when there are at least ``count`` of them."""
        deadline = time.monotonic() + seconds
        while len(self.pushes) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(self.pushes)} of {count} pushes after {seconds} s")
            time.sleep(0.01)
        return self.pushes

    def cut_connections(self) -> None:
        """Cut every connection, as a failing network would."""

        def cut() -> None:
            for connection in list(self._connections):
                connection.transport.abort()

        self._call(cut)

    def start(self) -> Self:
        self._server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self, self._loop), HOST, self._port)
        )
        self._port = self._server.sockets[0].getsockname()[1]
        self._thread.start()
        return self

    def stop(self) -> None:
        """Close everything; the port refuses connections from then on."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._shut)
            self._thread.join(10)
        if not self._loop.is_closed():
            self._loop.close()
        if self._own_directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.transport.abort()
        self._loop.call_soon(self._loop.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def call() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(call)
        done.wait(5)

    def next_connection_number(self) -> int:
        self.accepted += 1
        return self.accepted

    def decide(self, push: Push) -> Behaviour:
        """Record the push and say how it is met."""
        with self._lock:
            self._pushes.append(push)
            scripted = self._scripts.get(push.token) if not push.violation else None
            behaviour = scripted.popleft() if scripted else None
        if self.on_push is not None:
            self.on_push(push)
        if push.violation:
            status = 403 if push.violation == "BadCertificate" else 400
            return refusal(status, push.violation)
        if behaviour is not None:
            return behaviour
        return self.default(push) if callable(self.default) else self.default


@dataclass
class _Request:
    headers: dict[str, str]
    body: bytearray = field(default_factory=bytearray)


class _Connection(asyncio.Protocol):
    """One client. TLS is done here with memory buffers, so that a refusal's alert really goes out."""

    transport: asyncio.Transport

    def __init__(self, server: ApnsStandIn, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._conn: h2.connection.H2Connection | None = None
        self._requests: dict[int, _Request] = {}
        self._bodies: dict[int, deque[bytes]] = {}
        self._number = 0
        self._frozen = False
        self._topic = ""

    # TLS

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server._connections.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._frozen:
            return
        self._incoming.write(data)
        if self._conn is None and not self._handshake():
            return
        try:
            for chunk in self._decrypted():
                self._http(chunk)
        except (ssl.SSLError, h2.exceptions.ProtocolError):
            self.transport.close()
        self._flush()

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._write_tls()
            return False
        except ssl.SSLError as error:
            self.server.refused_handshakes.append(error.reason or str(error))
            self._write_tls()  # the alert
            self._frozen = True
            self.transport.write_eof()  # what the client still sends must not turn into a reset
            self.loop.call_later(2.0, self.transport.abort)
            return False
        self._write_tls()
        self._topic = _topic_of(self._tls.getpeercert(binary_form=True))
        self._number = self.server.next_connection_number()
        self._start_http()
        return True

    def _decrypted(self) -> Iterator[bytes]:
        while True:
            try:
                chunk = self._tls.read(65536)
            except ssl.SSLWantReadError:
                return
            if not chunk:
                self.transport.close()
                return
            yield chunk

    def _write_tls(self) -> None:
        if (data := self._outgoing.read()) and not self.transport.is_closing():
            self.transport.write(data)

    # HTTP/2

    def _start_http(self) -> None:
        conn = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        changes = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.server.max_streams}
        if self.server.window is not None:
            changes[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE] = self.server.window
        conn.local_settings = h2.settings.Settings(client=False, initial_values=changes)
        conn.initiate_connection()
        self._conn = conn
        self._flush()

    def _flush(self) -> None:
        if self._conn is None or self._frozen or self.transport.is_closing():
            return
        if data := self._conn.data_to_send():
            self._tls.write(data)
        self._write_tls()

    def _http(self, data: bytes) -> None:
        assert self._conn is not None
        for event in self._conn.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._requests[event.stream_id] = _Request({str(k): str(v) for k, v in event.headers})
            elif isinstance(event, h2.events.DataReceived):
                self._requests[event.stream_id].body += event.data
                if self.server.acknowledge:
                    self._conn.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                self._answer(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self._requests.pop(event.stream_id, None)
                self._bodies.pop(event.stream_id, None)
            elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                self._send_bodies()
            elif isinstance(event, h2.events.PingReceived):
                self.server.pings += 1

    def _answer(self, stream_id: int) -> None:
        request = self._requests.pop(stream_id, None)
        if request is None:
            return
        push = Push(
            at=time.time(),
            connection=self._number,
            stream_id=stream_id,
            client_topic=self._topic,
            method=request.headers.get(":method", ""),
            path=request.headers.get(":path", ""),
            headers=request.headers,
            body=bytes(request.body),
            violation=violation_of(request.headers, bytes(request.body), self._topic, self.server.tokens),
        )
        self._behave(push, self.server.decide(push))

    def _behave(self, push: Push, behaviour: Behaviour) -> None:
        assert self._conn is not None
        match behaviour:
            case Reply(delay=delay) if delay > 0:
                self.loop.call_later(delay, self._late, push, behaviour)
            case Reply():
                self._reply(push, behaviour)
            case Reset(code=code):
                self._conn.reset_stream(push.stream_id, error_code=code)
            case GoAway():
                self._go_away(push, behaviour)
            case Freeze():
                self._frozen = True
            case Drop():
                self.transport.abort()
            case Garbage():
                self._flush()
                self._tls.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"\xff" * 64)
            case Silence():
                pass

    def _late(self, push: Push, reply: Reply) -> None:
        if not self.transport.is_closing():
            with contextlib.suppress(h2.exceptions.ProtocolError):  # the client gave up on the stream
                self._reply(push, reply)
            self._flush()

    def _reply(self, push: Push, reply: Reply) -> None:
        assert self._conn is not None
        headers = [(":status", str(reply.status)), *reply.headers]
        if reply.apns_id:
            headers.append(("apns-id", push.headers.get("apns-id") or str(uuid.uuid4())))
        self._conn.send_headers(push.stream_id, headers, end_stream=not reply.body)
        if reply.body:
            size = -(-len(reply.body) // 2) if reply.split else 16384
            parts = (reply.body[start : start + size] for start in range(0, len(reply.body), size))
            self._bodies[push.stream_id] = deque(parts)
            self._send_bodies()

    def _send_bodies(self) -> None:
        """Bodies go out as the client's windows allow (RFC 9113 section 5.2)."""
        assert self._conn is not None
        for stream_id, parts in list(self._bodies.items()):
            while parts:
                if self._conn.local_flow_control_window(stream_id) < len(parts[0]):
                    return
                part = parts.popleft()
                self._conn.send_data(stream_id, part, end_stream=not parts)
            del self._bodies[stream_id]

    def _go_away(self, push: Push, behaviour: GoAway) -> None:
        last = push.stream_id if behaviour.answered else max(push.stream_id - 2, 0)
        self._flush()
        frame = GoAwayFrame(0)
        frame.last_stream_id, frame.error_code = last, behaviour.code
        frame.additional_data = json.dumps({"reason": behaviour.reason}).encode()
        self._tls.write(frame.serialize())
        self._write_tls()
        if behaviour.answered:
            self._reply(push, Reply())
        self._flush()
        if behaviour.close:
            self.transport.close()


def _topic_of(certificate: bytes | None) -> str:
    if certificate is None:
        return ""
    subject = x509.load_der_x509_certificate(certificate).subject
    names = subject.get_attributes_for_oid(NameOID.USER_ID)
    return str(names[0].value) if names else ""


_PATH = re.compile(r"/3/device/(?:[0-9a-f]{2})+")
_NEEDED = ("apns-topic", "apns-push-type", "apns-priority", "apns-expiration", "apns-id")


def violation_of(
    headers: Mapping[str, str], body: bytes, client_topic: str, tokens: set[bytes] | None = None
) -> str:
    """The reason by which APNs would refuse this request; empty if it keeps every rule."""
    if headers.get(":method") != "POST":
        return "MethodNotAllowed"
    if not _PATH.fullmatch(headers.get(":path", "")):
        return "BadPath"
    if missing := [name for name in _NEEDED if name not in headers]:
        return f"Missing {missing[0]}"
    if headers["apns-topic"] != client_topic:
        return "BadCertificate"
    if headers["apns-push-type"] != "mdm":
        return "InvalidPushType"
    if headers["apns-priority"] not in {"10", "5"}:
        return "BadPriority"
    if not headers["apns-expiration"].isdigit():
        return "BadExpirationDate"
    try:
        uuid.UUID(headers["apns-id"])
        value = json.loads(body)
    except ValueError:
        return "BadMessageId"
    if not body or len(body) > 4096:
        return "PayloadTooLarge" if body else "PayloadEmpty"
    if not isinstance(value, dict) or list(value) != ["mdm"] or not isinstance(value["mdm"], str):
        return "BadPayload"
    if tokens is not None and bytes.fromhex(headers[":path"].rpartition("/")[2]) not in tokens:
        return "BadDeviceToken"
    return ""


# --- by hand ---


def main(arguments: list[str] | None = None) -> int:
    """Run the stand-in until stdin ends or SIGTERM comes. See the module's description."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.apns", description="A stand-in for APNs.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--directory", type=Path, default=Path("apns-stand-in"), help="certificates go here")
    parser.add_argument("--topic", default="com.apple.mgmt.External.test")
    parser.add_argument("--record", type=Path, help="append one JSON line for each push")
    parser.add_argument("--forever", action="store_true", help="do not end with stdin")
    options = parser.parse_args(arguments)
    stand_in = ApnsStandIn(
        port=options.port, directory=options.directory, authority=_kept_authority(options.directory)
    )
    files = _certificates(stand_in.authority, options.directory, options.topic)
    if options.record is not None:
        stand_in.on_push = _recorder(options.record)
    with stand_in:
        print(json.dumps({"url": stand_in.url, "ca": stand_in.ca_file, "topic": options.topic, **files}))
        sys.stdout.flush()
        for line in sys.stdin:
            if line.strip():
                stand_in.default = behaviour_of(json.loads(line))
                print(json.dumps({"now": repr(stand_in.default)}))
                sys.stdout.flush()
        while options.forever:
            time.sleep(3600)
    return 0


def behaviour_of(order: Mapping[str, object]) -> Behaviour:
    """A behaviour from a JSON object (see the module's description)."""
    named: dict[str, Behaviour] = {
        "silence": Silence(),
        "freeze": Freeze(),
        "reset": Reset(),
        "drop": Drop(),
        "goaway": GoAway(),
        "garbage": Garbage(),
    }
    if "do" in order:
        return named[str(order["do"])]
    status, delay = int(str(order.get("status", 200))), float(str(order.get("delay", 0)))
    if "reason" not in order:
        return Reply(status, delay=delay)
    timestamp = order.get("timestamp")
    return refusal(
        status, str(order["reason"]), delay=delay, timestamp=int(str(timestamp)) if timestamp else None
    )


def _kept_authority(directory: Path) -> Authority:
    """The same CA after a restart in the same directory: a certificate that was imported stays good."""
    kept = directory / "authority.pem"
    authority = Authority()
    if kept.exists():
        key = serialization.load_pem_private_key(kept.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        authority._key = key
        authority.certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        return authority
    directory.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(_key_pem(authority._key))
    return authority


def _certificates(authority: Authority, directory: Path, topic: str) -> dict[str, str]:
    """A push certificate of this CA, and one of another CA for the same topic."""
    files = {}
    for name, signer in (("push", authority), ("wrong", Authority("Somebody else"))):
        path = directory / f"{name}.pem"
        if not path.exists():
            path.write_bytes(b"".join(signer.push_certificate(topic)))
            path.chmod(0o600)
        files[name] = str(path)
    return files


def _recorder(path: Path) -> Callable[[Push], None]:
    file = path.open("ab", buffering=0)

    def write(push: Push) -> None:
        line = {
            "at": push.at,
            "token": push.path.rpartition("/")[2],
            "topic": push.topic,
            "body": push.body.decode("utf-8", "replace"),
            "apns_id": push.headers.get("apns-id", ""),
            "violation": push.violation,
        }
        file.write(json.dumps(line).encode() + b"\n")
        os.fsync(file.fileno())

    return write


if __name__ == "__main__":
    raise SystemExit(main())
