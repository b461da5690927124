"""One look at a TLS server: the chain that it shows, and one page of it. Nothing is verified here.

No proxies, no redirects, a few seconds, 64 KiB. The addresses come from the settings or the command line,
never from a request.
"""

from __future__ import annotations

import io
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
MAX_ANSWER = 64 * 1024
R = TypeVar("R")


class NotReached(Exception):
    """There was no TLS connection; ``step`` is ``address``, ``connect`` or ``handshake``."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason


@dataclass(frozen=True)
class Shown:
    """What a server showed: certificates (DER) as they came, its own first; the version of TLS.

    ``page``: the body of the page that was asked for; None where none was, or no good answer came.
    """

    chain: tuple[bytes, ...]
    protocol: str
    page: bytes | None = None


def look(url: str, *, page: str = "") -> Shown:
    """Connect to the host and port of an https ``url``; ask for the path ``page`` if one is given.

    Raises :class:`NotReached`.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    with _connected(host, port) as plain:
        connection = SSL.Connection(_context(), plain)
        if not _is_address(host):
            connection.set_tlsext_host_name(host.encode("idna"))
        connection.set_connect_state()
        deadline = time.monotonic() + CONNECT_SECONDS
        try:
            _patiently(connection.do_handshake, plain, deadline)
        except (SSL.Error, OSError) as error:
            raise NotReached("handshake", _reason(error)) from None
        chain = connection.get_peer_cert_chain(as_cryptography=True) or []
        return Shown(
            tuple(certificate.public_bytes(Encoding.DER) for certificate in chain),
            connection.get_protocol_version_name(),
            _page(connection, plain, parts.netloc.rpartition("@")[2], page) if page else None,
        )


def _connected(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout=CONNECT_SECONDS)
    except (socket.gaierror, UnicodeError) as error:
        raise NotReached("address", _reason(error)) from None
    except OSError as error:
        raise NotReached("connect", _reason(error)) from None


def _context() -> SSL.Context:
    """Takes whatever is shown: to look at it is the point."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE, lambda *_arguments: True)
    return context


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _patiently(act: Callable[[], R], plain: socket.socket, deadline: float) -> R:
    while True:
        try:
            return act()
        except SSL.WantReadError:
            waiting: tuple[list[Any], list[Any]] = ([plain], [])
        except SSL.WantWriteError:
            waiting = ([], [plain])
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(*waiting, [], left)):
            raise TimeoutError("no answer in time")


def _page(connection: SSL.Connection, plain: socket.socket, authority: str, path: str) -> bytes | None:
    """The body of an answer 200. Its absence is no fault of TLS."""
    deadline = time.monotonic() + ANSWER_SECONDS
    request = f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n".encode()
    answer = bytearray()
    try:
        _patiently(lambda: connection.sendall(request), plain, deadline)
        while len(answer) < MAX_ANSWER:
            answer += _patiently(lambda: connection.recv(16384), plain, deadline)
    except (SSL.ZeroReturnError, SSL.SysCallError):
        pass  # the end, as it should be or not
    except (SSL.Error, OSError):
        return None
    return _body(bytes(answer))


def _body(answer: bytes) -> bytes | None:
    response = HTTPResponse(cast("socket.socket", _Answer(answer)))
    try:
        response.begin()
        body = response.read()
    except (HTTPException, ValueError, OSError):
        return None
    return body if response.status == 200 else None


class _Answer:
    """As much of a socket as an HTTP response reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def _reason(error: Exception) -> str:
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list) and error.args[0]:
        return str(error.args[0][0][-1])[:200]
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (str(getattr(error, "strerror", None) or error) or type(error).__name__)[:200]
