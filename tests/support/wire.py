"""HTTP by hand: bytes as they are, over TLS or without, from an address of one's choice."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from simulator.exchange import Request


@dataclass(frozen=True)
class Said:
    """What the server answered; ``status`` 0 where it closed the connection without an answer."""

    status: int
    head: str = ""
    body: bytes = b""


def message(request: Request, headers: Sequence[str] = (), *, close: bool = True) -> bytes:
    """The request as bytes, with further header lines put first. Host and length are set."""
    parts = urlsplit(request.url)
    lines = [f"{request.method} {parts.path}{'?' + parts.query if parts.query else ''} HTTP/1.1"]
    lines += [f"Host: {parts.netloc}", *headers]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if close and not any(line.lower().startswith("connection:") for line in headers):
        lines.append("Connection: close")
    lines.append(f"Content-Length: {len(request.body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + request.body


def send(
    port: int,
    data: bytes,
    *,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    source: str = "127.0.0.1",
) -> Said:
    """Send ``data`` to a port of 127.0.0.1 and read one answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0)) as plain:
        connection = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        try:
            return exchange(connection, data)
        except (ConnectionError, ssl.SSLError):
            return Said(0)
        finally:
            connection.close()


def exchange(connection: socket.socket, data: bytes) -> Said:
    """Send ``data`` over an open connection and read one answer."""
    connection.sendall(data)
    received = b""
    while not _is_whole(received) and (more := connection.recv(65536)):
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head.startswith(b"HTTP/") else 0
    return Said(status, head.decode("latin-1"), body)


def _is_whole(received: bytes) -> bool:
    """The head has come, and as much of a body as it says."""
    head, end, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return bool(end and length and len(body) >= int(length[1]))
