"""What every request passes before a door."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from pytest_django import Settings

from audit.addresses import CLIENT_ADDRESS
from mdm_project import threshold
from mdm_project.threshold import MAX_CHUNKED_BODY, Threshold

pytestmark = pytest.mark.usefixtures("no_connection")


class Door:
    """Keeps the environment that arrives."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.seen = environ
        start_response("200 OK", [])
        return [b"inside"]


def pass_through(**more: Any) -> tuple[dict[str, Any], list[str]]:
    """Send one request; returns what the door saw and the statuses."""
    environ = {
        "REQUEST_METHOD": "PUT",
        "PATH_INFO": "/mdm/connect",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.url_scheme": "http",
    } | more
    door, statuses = Door(), []
    list(Threshold(door)(environ, lambda status, headers, exc_info=None: statuses.append(status)))
    return door.seen, statuses


def test_variables_of_the_process_do_not_arrive() -> None:
    seen, _ = pass_through(BRAMLEY_ENCRYPTION_KEYS="canary", PATH="/bin", HTTP_X_ONE="1", CONTENT_TYPE="a/b")
    assert "canary" not in repr(seen)
    assert "PATH" not in seen
    assert (seen["HTTP_X_ONE"], seen["CONTENT_TYPE"]) == ("1", "a/b")


def test_a_variable_that_looks_like_a_header_is_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_CLIENT_CERT", "forged")
    threshold.forget_variables_that_look_like_headers()
    assert "HTTP_CLIENT_CERT" not in os.environ
    seen, _ = pass_through(HTTP_PROXY="http://proxy")
    assert "HTTP_PROXY" not in seen


def test_a_chunked_body_arrives_with_its_length() -> None:
    seen, _ = pass_through(**{"wsgi.input": io.BytesIO(b"abc"), "HTTP_TRANSFER_ENCODING": "chunked"})
    assert (seen["CONTENT_LENGTH"], seen["wsgi.input"].read()) == ("3", b"abc")
    assert "HTTP_TRANSFER_ENCODING" not in seen


def test_a_chunked_body_without_end_is_refused_and_no_door_sees_it() -> None:
    body = io.BytesIO(b"x" * (MAX_CHUNKED_BODY + 1))
    seen, statuses = pass_through(**{"wsgi.input": body, "HTTP_TRANSFER_ENCODING": "chunked"})
    assert statuses == ["413 Content Too Large"]
    assert seen == {}


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # nobody believes a stranger
        ("10.0.0.5", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.5", "203.0.113.9, 198.51.100.7", "198.51.100.7"),  # the first is the client's own claim
        ("10.0.0.5", "198.51.100.7, 10.0.0.6", "198.51.100.7"),
        ("10.0.0.5", "nonsense", "10.0.0.5"),
        ("10.0.0.5", "nonsense, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.5", "", "10.0.0.5"),
        ("::ffff:10.0.0.5", "198.51.100.7", "198.51.100.7"),
    ],
)
def test_the_client_behind_proxies(settings: Settings, peer: str, forwarded: str, expected: str) -> None:
    settings.BRAMLEY_TRUSTED_PROXIES = ["10.0.0.0/24"]
    seen, _ = pass_through(REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)
    assert seen[CLIENT_ADDRESS] == expected
    assert seen["REMOTE_ADDR"] == peer


def test_only_a_trusted_proxy_says_that_tls_was_used(settings: Settings) -> None:
    settings.BRAMLEY_TRUSTED_PROXIES = ["10.0.0.5"]
    assert pass_through(HTTP_X_FORWARDED_PROTO="https")[0]["wsgi.url_scheme"] == "http"
    trusted = {"REMOTE_ADDR": "10.0.0.5", "HTTP_X_FORWARDED_PROTO": "https"}
    assert pass_through(**trusted)[0]["wsgi.url_scheme"] == "https"
    assert pass_through(**trusted | {"HTTP_X_FORWARDED_PROTO": "file"})[0]["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("192.0.2.1", None, False),
        ("10.0.0.5", None, True),
        ("10.0.0.5", "198.51.100.7", False),
        ("10.0.0.5", "127.0.0.1", True),
        ("127.0.0.1", "198.51.100.7", False),
        ("127.0.0.1", "127.0.0.1", False),  # a proxy on this machine that nobody declared
        ("", None, False),
    ],
)
def test_who_is_an_operator(settings: Settings, peer: str, forwarded: str | None, expected: bool) -> None:
    settings.BRAMLEY_TRUSTED_PROXIES = ["10.0.0.5"]
    more = {"HTTP_X_FORWARDED_FOR": forwarded} if forwarded else {}
    seen, _ = pass_through(REMOTE_ADDR=peer, **more)
    assert threshold.is_operator(seen) is expected


class SlowBody(io.BytesIO):
    """A body that comes when the test says so."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.asked, self.comes = threading.Event(), threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.asked.set()
        assert self.comes.wait(30)
        return super().read(size)


def reading_door(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return [environ["wsgi.input"].read(3)] if "CONTENT_LENGTH" in environ else [b"no body"]


@pytest.mark.parametrize("length", ["3", "65537"])  # a short body, and one that is read in its turn
def test_who_waits_for_a_slow_body_leaves_the_turn_to_others(length: str) -> None:
    threshold_ = Threshold(reading_door, at_once=1)
    slow = SlowBody(b"abc" if length == "3" else b"abc" + bytes(65_534))
    answers: list[bytes] = []

    def send(**more: Any) -> None:
        environ = {"REMOTE_ADDR": "192.0.2.1", "wsgi.url_scheme": "http", **more}
        answers.extend(threshold_(environ, lambda *_: None))

    waiting = threading.Thread(target=send, kwargs={"CONTENT_LENGTH": length, "wsgi.input": slow})
    waiting.start()
    assert slow.asked.wait(30)
    send()
    assert answers == [b"no body"]
    slow.comes.set()
    waiting.join(30)
    assert answers == [b"no body", b"abc"]


@pytest.mark.parametrize("length", ["3", "65536", "65537", "x", "-1", "²", "9" * 30])
def test_a_body_that_breaks_off_gives_the_turn_back(length: str) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError("broke off")

    threshold_ = Threshold(reading_door, at_once=1)
    environ = {"REMOTE_ADDR": "192.0.2.1", "wsgi.url_scheme": "http"}
    for _ in range(3):
        with pytest.raises(OSError, match="broke off"):
            threshold_({**environ, "CONTENT_LENGTH": length, "wsgi.input": Broken()}, lambda *_: None)
    assert list(threshold_(environ, lambda *_: None)) == [b"no body"]


def test_half_of_a_body_is_none() -> None:
    threshold_ = Threshold(reading_door, at_once=1)
    environ = {"REMOTE_ADDR": "192.0.2.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(b"abcd")}
    with pytest.raises(OSError, match="broke off"):
        threshold_({**environ, "CONTENT_LENGTH": "5"}, lambda *_: None)
    body = io.BytesIO(b"abcd")
    assert list(threshold_({**environ, "CONTENT_LENGTH": "3", "wsgi.input": body}, lambda *_: None)) == [
        b"abc"
    ]
    assert body.read() == b"d"  # of the next request: no more is read than belongs to this one
