"""What every request passes before a door: a clean environment, a turn to run, and who is behind a proxy."""

from __future__ import annotations

import io
import ipaddress
import os
import random
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

from audit.addresses import CLIENT_ADDRESS
from mdm.proxies import CLIENT_CERTIFICATE, HEADERS_TOLD_APART, is_trusted
from mdm_project import at_hand, pressure
from mdm_project.bodies import Bodies, TooMany
from mdm_project.neighbours import Neighbours
from mdm_project.turns import AT_ONCE, TOO_LONG, Turns

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

LOOPBACK = ("127.0.0.0/8", "::1")

MAX_CHUNKED_BODY = 10 * 1024 * 1024
"""Bytes; the largest body that any surface accepts. The surfaces' own limits are lower."""

SHORT_BODY = 65_536
"""Bytes; up to so many are read before a request takes its turn."""

_CGI = frozenset(
    {
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "QUERY_STRING",
        "CONTENT_TYPE",
        "CONTENT_LENGTH",
        "SERVER_NAME",
        "SERVER_PORT",
        "SERVER_PROTOCOL",
        "SERVER_SOFTWARE",
        "REMOTE_ADDR",
    }
)


OWN_TLS = "bramley.own_tls"
"""Key of the request's META: whether the connection has TLS of our own."""

TURNS = "bramley.turns"
"""Key of the request's META: what a view releases while it waits for somebody else, and takes again."""

ASKED_BY_OPERATORS = frozenset({"/healthz", "/readyz", "/metrics"})
"""A few of these always get their turn: a load balancer must not take a busy server for a dead one."""

MOVE_ON_EVERY = 0.02
"""Seconds; at most so often a connection is closed for its client to come back to another process."""

COME_BACK_AFTER = (5, 20)
"""Seconds, least and most, for those who find no place."""


class Threshold:
    """WSGI middleware in front of both doors.

    The web server has many threads, but only :data:`AT_ONCE` of them run Python for a request. A short body
    is read before its request takes a turn, which is then not given away in between; a thread that waits for
    a long one gives its turn and its connection to the database to others meanwhile. So slow devices, or
    strangers who mean it, do not stop the server; and there are always threads that wait for no body
    (:mod:`mdm_project.bodies`). Whom the server cannot serve in time is sent away with 503 and
    ``Retry-After`` (:mod:`mdm_project.turns`), and devices are woken more slowly then (:mod:`push.pace`).
    Where requests wait here while a process beside this one has nothing to do, some connections are closed
    after their answers, so that their clients come back to the other (:mod:`mdm_project.neighbours`).

    ``headers_told_apart``: set by a web server for which ``X_Name`` is not ``X-Name``.
    """

    headers_told_apart = False

    def __init__(
        self, application: Application, at_once: int = AT_ONCE, neighbours: Neighbours | None = None
    ) -> None:
        self.application = application
        self.neighbours = neighbours
        self.turns = Turns(at_once, tell=neighbours.tell) if neighbours else Turns(at_once)
        self.bodies = Bodies()
        self._moved_on = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        certificate = client_certificate(environ)
        environ = request_only(environ)
        environ[CLIENT_CERTIFICATE] = certificate
        environ[HEADERS_TOLD_APART] = self.headers_told_apart
        environ[OWN_TLS] = environ.get("wsgi.url_scheme") == "https"  # a proxy's is told afterwards
        name_client(environ)
        environ[TURNS] = self.turns
        chunked, claimed = "HTTP_TRANSFER_ENCODING" in environ, environ.get("CONTENT_LENGTH", "0")
        try:
            if not chunked and _is_short(claimed):
                environ["wsgi.input"] = self._short_body(environ, int(claimed))
                return self._serve(environ, start_response)
            with self.bodies.place(long=True):
                return self._with_long_body(environ, start_response, chunked=chunked)
        except TooMany:
            return send_away(start_response)

    def _short_body(self, environ: dict[str, Any], length: int) -> Any:
        """All of it. Raises :class:`mdm_project.bodies.TooMany`."""
        if not length:
            return io.BytesIO()
        try:
            with self.bodies.place(long=False):
                came = environ["wsgi.input"].read(length)
        except OSError:
            return CutOff()
        return io.BytesIO(came) if len(came) == length else CutOff()

    def _with_long_body(
        self, environ: dict[str, Any], start_response: Callable[..., Any], *, chunked: bool
    ) -> Iterable[bytes]:
        """With a long body, or one without a proper length, as it comes. One in chunks is read at once, and
        has a length afterwards."""
        if not chunked:
            environ["wsgi.input"] = PatientBody(environ["wsgi.input"], self.turns)
            return self._serve(environ, start_response)
        body = environ["wsgi.input"].read(MAX_CHUNKED_BODY + 1)
        if len(body) > MAX_CHUNKED_BODY:
            start_response("413 Content Too Large", [("Content-Length", "0"), ("Connection", "close")])
            return [b""]
        del environ["HTTP_TRANSFER_ENCODING"]
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        return self._serve(environ, start_response)

    def _serve(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        waited = self.turns.admit(always=environ.get("PATH_INFO") in ASKED_BY_OPERATORS)
        if waited is None:
            return send_away(start_response)
        try:
            if waited > TOO_LONG:
                pressure.note()
            if waited and self._may_move_on(environ):
                start_response = _and_close(start_response)
            return self.application(environ, start_response)
        finally:
            self.turns.release()

    def _may_move_on(self, environ: dict[str, Any]) -> bool:
        """Whether the client of a request that waited shall come back by another connection.

        Not one of a TLS of our own: a handshake costs more than the wait.
        """
        now = time.monotonic()
        if self.neighbours is None or environ[OWN_TLS] or now - self._moved_on < MOVE_ON_EVERY:
            return False
        if not self.neighbours.have_time():
            return False
        self._moved_on = now
        return True


def _and_close(start_response: Callable[..., Any]) -> Callable[..., Any]:
    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, ("Connection", "close")], *error)

    return start


def _is_short(claimed: str) -> bool:
    """Whether a body with this Content-Length is read before its request takes a turn."""
    return claimed.isascii() and claimed.isdigit() and len(claimed) <= 12 and int(claimed) <= SHORT_BODY


def send_away(start_response: Callable[..., Any]) -> Iterable[bytes]:
    """503 with a time to come back, not the same for all. Never 401: a device would take it as "unenrol"."""
    seconds = random.randint(*COME_BACK_AFTER)  # noqa: S311 - no secret
    body = b"This server is busy. Please try again in a moment.\n"
    headers = [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Retry-After", str(seconds)),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    start_response("503 Service Unavailable", headers)
    return [body]


class CutOff:
    """A body that broke off: whoever reads it learns that, whatever of it had come."""

    def read(self, size: int = -1) -> bytes:
        """As of any binary stream that fails."""
        raise OSError("the body broke off")

    readline = read


class PatientBody:
    """The body of a request: whoever waits for it leaves to others what they need meanwhile.

    That is the turn, and a connection to the database outside a transaction.
    """

    def __init__(self, body: Any, turns: Turns) -> None:
        self._body = body
        self._turns = turns

    def read(self, size: int = -1) -> bytes:
        """As of any binary stream."""
        return self._away(self._body.read, size)

    def readline(self, size: int = -1) -> bytes:
        """As of any binary stream."""
        return self._away(self._body.readline, size)

    def _away(self, read: Callable[[int], bytes], size: int) -> bytes:
        at_hand.put_back()
        self._turns.release()
        try:
            return read(size)
        finally:
            self._turns.acquire()


def client_certificate(environ: dict[str, Any]) -> bytes | None:
    """The certificate (DER) whose key the client proved to hold in our own TLS; ``None`` without one."""
    connection = environ.get("gunicorn.socket")
    return connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None


def request_only(environ: dict[str, Any]) -> dict[str, Any]:
    """The request without the variables of the process, which granian copies into it (secrets among them)."""
    return {
        name: value
        for name, value in environ.items()
        if name in _CGI or (name.startswith(("HTTP_", "wsgi.")) and name != "HTTP_PROXY")
    }


def forget_variables_that_look_like_headers() -> None:
    """Remove ``HTTP_…`` from the environment of this process, so that none of them arrives as a header."""
    for name in [name for name in os.environ if name.startswith("HTTP_")]:
        del os.environ[name]


def name_client(environ: dict[str, Any]) -> None:
    """Set :data:`CLIENT_ADDRESS`, and the scheme where a trusted proxy ended TLS.

    ``REMOTE_ADDR`` stays the peer: it decides whether headers are believed. Of ``X-Forwarded-For`` the last
    address counts that is not itself a trusted proxy; what stands before it is the client's own claim.
    """
    peer = environ.get("REMOTE_ADDR", "")
    environ[CLIENT_ADDRESS] = peer
    if not is_trusted_proxy(peer):
        return
    for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        if not _is_address(hop.strip()):
            break
        environ[CLIENT_ADDRESS] = hop.strip()
        if not is_trusted_proxy(hop.strip()):
            break
    if environ.get("HTTP_X_FORWARDED_PROTO") in {"http", "https"}:
        environ["wsgi.url_scheme"] = environ["HTTP_X_FORWARDED_PROTO"]


def is_trusted_proxy(address: str) -> bool:
    """Whether ``address`` is one of ``BRAMLEY_TRUSTED_PROXIES`` (addresses or networks)."""
    return is_trusted(address, settings.BRAMLEY_TRUSTED_PROXIES)


def is_operator(environ: dict[str, Any]) -> bool:
    """Whether a request comes from this machine or from a trusted address, by whatever proxies."""
    address = environ.get(CLIENT_ADDRESS) or environ.get("REMOTE_ADDR", "")
    if "HTTP_X_FORWARDED_FOR" in environ and not is_trusted_proxy(environ.get("REMOTE_ADDR", "")):
        return False  # a proxy that nobody declared: who is behind it is unknown
    return is_trusted(address, LOOPBACK) or is_trusted_proxy(address)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
