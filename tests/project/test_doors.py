"""The two doors of the running server: what devices get and never get, and what HTTP must carry."""

from __future__ import annotations

import http.client
import json
import re
import socket
from contextlib import ExitStack

import pytest

from tests.support.server import RunningServer

pytestmark = [pytest.mark.once, pytest.mark.slow]

DEVICE_PATHS = [
    "/mdm/checkin",
    "/mdm/connect",
    "/mdm/nothing",
    "/scep",
    "/scep/bramley/",
    "/scep/nothing/?operation=GetCACaps",
    "/pki/bramley/ca.cer",
    "/pki/nothing",
    "/enroll/default/ota",
    "/healthz",
    "/readyz",
    "/metrics",
]


def ask(
    server: RunningServer,
    path: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def raw(server: RunningServer, request: bytes) -> bytes:
    """Send bytes as they are, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while more := connection.recv(65536):
            received += more
        return received


@pytest.mark.parametrize("path", DEVICE_PATHS)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_devices_get_no_cookie_no_page_and_no_401(
    running_server: RunningServer, path: str, method: str
) -> None:
    status, headers, body = ask(running_server, path, method=method, body=b"x" if method != "GET" else None)
    assert "Set-Cookie" not in headers
    assert headers["Content-Length"] == str(len(body))
    assert status != 401
    assert status < 500, running_server.output[-3000:]
    assert b"<html" not in body.lower()
    assert "no-store" in headers["Cache-Control"] or status == 200


def test_an_unknown_device_path_is_an_empty_404(running_server: RunningServer) -> None:
    status, _headers, body = ask(running_server, "/mdm/nothing")
    assert (status, body) == (404, b"")


def test_people_get_pages_and_a_strict_policy(running_server: RunningServer) -> None:
    status, headers, body = ask(running_server, "/admin/login/")
    assert status == 200
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "csrftoken" in headers["Set-Cookie"]
    style = re.search(rb'href="(/static/[^"]+\.css[^"]*)"', body)
    assert style
    assert ask(running_server, style.group(1).decode())[0] == 200


def test_another_host_name_is_refused_to_people(running_server: RunningServer) -> None:
    assert ask(running_server, "/admin/login/", headers={"Host": "evil.example.com"})[0] == 400


def test_a_request_line_of_8_kb_arrives(running_server: RunningServer) -> None:
    message = "A" * 8192
    status, _headers, _body = ask(running_server, f"/scep/bramley/?operation=PKIOperation&message={message}")
    assert status == 400  # read and refused by scep, not by the web server (414, 431)


def test_a_chunked_body_is_read_as_a_whole(running_server: RunningServer) -> None:
    body = b"not a message"
    plain = raw(
        running_server,
        b"POST /scep/bramley/?operation=PKIOperation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
    )
    chunked = raw(
        running_server,
        b"POST /scep/bramley/?operation=PKIOperation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
        % (body[:3], len(body) - 3, body[3:]),
    )
    assert plain.split(b"\r\n")[0] == chunked.split(b"\r\n")[0]
    assert plain.split(b"\r\n\r\n")[1] == chunked.split(b"\r\n\r\n")[1]
    assert b" 400 " in plain.split(b"\r\n")[0]


def test_both_lengths_at_once_are_one_request(running_server: RunningServer) -> None:
    smuggled = raw(
        running_server,
        b"POST /scep/bramley/?operation=PKIOperation HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    assert smuggled.count(b"HTTP/1.1 ") == 1


def test_ready_names_its_parts(running_server: RunningServer) -> None:
    status, headers, body = ask(running_server, "/readyz")
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"ready": True, "database": "ok", "migrations": "ok", "broker": "ok"}


def test_metrics_are_text_for_this_machine_only(running_server: RunningServer) -> None:
    status, headers, body = ask(running_server, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = body.decode().splitlines()
    assert "bramley_pushes_due 0.0" in lines
    assert any(line.startswith("bramley_certificates_live ") for line in lines)
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert any(
        line.startswith('bramley_issuer_certificate_expiry_timestamp_seconds{name="bramley/1"}')
        for line in lines
    )
    status, _headers, body = ask(running_server, "/metrics", headers={"X-Forwarded-For": "198.51.100.7"})
    assert (status, body) == (403, b"")


def test_slow_senders_do_not_stop_the_server(running_server: RunningServer) -> None:
    head = b"PUT /mdm/connect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
    with ExitStack() as stack:
        for _ in range(40):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", running_server.port)))
            slow.sendall(head)
        assert ask(running_server, "/readyz")[0] == 200
        assert ask(running_server, "/scep/bramley/?operation=GetCACaps")[0] == 200


def test_idle_connections_do_not_stop_the_server(running_server: RunningServer) -> None:
    with ExitStack() as stack:
        for _ in range(500):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", running_server.port)))
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        assert ask(running_server, "/readyz")[0] == 200
