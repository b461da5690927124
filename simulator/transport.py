"""HTTP for simulated devices: one connection for a conversation, kept alive, opened again where it broke."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Callable
from types import TracebackType
from urllib.parse import SplitResult, urlsplit, urlunsplit

from simulator.exchange import Request, Response, SimulationError

TIMEOUT = 60.0
MAX_BODY = 16 * 1024 * 1024


class Transport:
    """Sends requests of one conversation. ``stay_at``: scheme and host that replace those of every URL.

    ``tls``: how https is verified, for all addresses or by the address.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | Callable[[str], ssl.SSLContext] | None = None,
        stay_at: str = "",
        timeout: float = TIMEOUT,
    ) -> None:
        self.tls = tls
        self.stay_at = urlsplit(stay_at) if stay_at else None
        self.timeout = timeout
        self._address: tuple[str, str, ssl.SSLContext | None] | None = None
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(self, request: Request) -> Response:
        """The answer. Raises :class:`SimulationError` (``passing``) where there is no server or no answer."""
        parts = urlsplit(request.url)
        if self.stay_at is not None:
            parts = parts._replace(scheme=self.stay_at.scheme, netloc=self.stay_at.netloc)
        tls = self._tls_for(request.url) if parts.scheme == "https" else None
        reused = self._connection is not None and self._address == (parts.scheme, parts.netloc, tls)
        try:
            return self._exchange(parts, request, tls)
        except (OSError, http.client.HTTPException) as first:
            self.close()
            # A connection that the server closed while it was idle says nothing about the server.
            if not reused or isinstance(first, TimeoutError):
                raise _unreachable(parts, first) from first
        try:
            return self._exchange(parts, request, tls)
        except (OSError, http.client.HTTPException) as second:
            self.close()
            raise _unreachable(parts, second) from second

    def _tls_for(self, url: str) -> ssl.SSLContext | None:
        return self.tls(url) if callable(self.tls) else self.tls

    def _exchange(self, parts: SplitResult, request: Request, tls: ssl.SSLContext | None) -> Response:
        connection = self._connect(parts, tls)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection.request(request.method, target, body=request.body or None, headers=dict(request.headers))
        answer = connection.getresponse()
        body = answer.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            self.close()
            raise SimulationError(parts.path, "the answer is too large")
        if answer.length:  # read() with a limit keeps silent about a body that ends early
            raise http.client.IncompleteRead(body, answer.length)
        headers = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, body, headers, tuple(answer.headers.get_all("Set-Cookie") or ()))

    def _connect(self, parts: SplitResult, tls: ssl.SSLContext | None) -> http.client.HTTPConnection:
        if self._connection is not None and self._address == (parts.scheme, parts.netloc, tls):
            return self._connection
        self.close()
        host = parts.hostname or ""
        if parts.scheme == "https":
            self._connection = http.client.HTTPSConnection(
                host, parts.port, timeout=self.timeout, context=tls
            )
        elif parts.scheme == "http":
            self._connection = http.client.HTTPConnection(host, parts.port, timeout=self.timeout)
        else:
            raise SimulationError("address", f"{parts.geturl()!r} is not an http or https address")
        self._address = (parts.scheme, parts.netloc, tls)
        return self._connection


def _unreachable(parts: SplitResult, error: Exception) -> SimulationError:
    said = str(error) or type(error).__name__
    # A certificate that is not believed is not believed the next time either.
    passing = not isinstance(error, ssl.SSLCertVerificationError)
    return SimulationError(f"{parts.scheme}://{parts.netloc}{parts.path}", said, passing=passing)
