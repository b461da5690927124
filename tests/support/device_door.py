"""A client of the door for devices: WSGI in, WSGI out, nothing of the admin between."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from django.core.signals import request_finished, request_started
from django.db import close_old_connections

from mdm.proxies import CLIENT_CERTIFICATE, HEADERS_TOLD_APART
from mdm_project.doors import DeviceDoor

_switch = threading.Lock()


@dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(repr=False)


class DeviceClient:
    """Sends requests to :class:`mdm_project.doors.DeviceDoor` as a WSGI server would.

    ``certificate``: what the client showed in TLS (DER). ``headers_told_apart``: of the web server.
    """

    def __init__(
        self,
        remote_addr: str = "127.0.0.1",
        *,
        certificate: bytes | None = None,
        headers_told_apart: bool = True,
    ) -> None:
        self.remote_addr = remote_addr
        self.certificate = certificate
        self.headers_told_apart = headers_told_apart
        self.door = DeviceDoor()

    def put(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """PUT, as devices do on /mdm/."""
        return self.request("PUT", path, body, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """GET."""
        return self.request("GET", path, b"", headers)

    def post(self, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        """POST."""
        return self.request("POST", path, body, headers)

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        content_length: str | None = None,
    ) -> Answer:
        """Any method. ``content_length``: what the request claims, where that is not the truth."""
        route, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(route),
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)) if content_length is None else content_length,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": self.remote_addr,
            HEADERS_TOLD_APART: self.headers_told_apart,
            CLIENT_CERTIFICATE: self.certificate,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            environ[key if key in {"CONTENT_TYPE"} else f"HTTP_{key}"] = value
        started: list[Any] = []

        def start_response(
            status: str, pairs: list[tuple[str, str]], _fault: object = None, /
        ) -> Callable[[bytes], object]:
            started.extend((status, pairs))
            return lambda _data: None

        with _connections_kept():
            response = self.door(environ, start_response)
            try:
                content = b"".join(response)
            finally:
                close = getattr(response, "close", None)
                if close is not None:
                    close()
        return Answer(int(started[0].split()[0]), content, dict(started[1]))


@contextmanager
def _connections_kept() -> Iterator[None]:
    """The test's transaction lives in the connection that the request uses: as Django's own client does."""
    kept = (request_started, request_finished)
    with _switch:
        for signal in kept:
            signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        with _switch:
            for signal in kept:
                signal.connect(close_old_connections)
