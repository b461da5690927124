"""HTTP of simulated devices against servers that behave badly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from simulator.exchange import Request, SimulationError
from simulator.transport import Transport
from tests.support.processes import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Said: This\r\n\r\nok"


@contextmanager
def server(*connections: Callable[[socket.socket], None]) -> Iterator[str]:
    """Plays one connection after the other; further ones are refused."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with closing(listener):
            for play in connections:
                connection, _peer = listener.accept()
                with connection:
                    play(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    thread.join(10)
    assert not thread.is_alive()


def answers(*texts: bytes) -> Callable[[socket.socket], None]:
    """One text for each request that comes on the connection; then it is closed."""

    def play(connection: socket.socket) -> None:
        for text in texts:
            assert connection.recv(65536)
            connection.sendall(text)

    return play


def test_a_connection_is_kept_for_the_conversation() -> None:
    with server(answers(OK, OK)) as url, Transport() as transport:
        first, second = (transport.send(Request("GET", f"{url}/a?b=c")) for _ in range(2))
    assert (first.status, first.body, first.headers["x-said"]) == (200, b"ok", "This")
    assert second == first


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    with server(answers(OK), answers(OK)) as url, Transport() as transport:
        assert transport.send(Request("PUT", url, b"one")).status == 200
        assert transport.send(Request("PUT", url, b"two")).status == 200


@pytest.mark.parametrize(
    "text", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"]
)
def test_a_broken_answer_is_an_error_that_may_pass(text: bytes) -> None:
    with server(answers(text)) as url, Transport() as transport, pytest.raises(SimulationError) as caught:
        transport.send(Request("GET", url))
    assert caught.value.passing


def test_no_server_is_an_error_that_may_pass() -> None:
    with Transport() as transport, pytest.raises(SimulationError, match="refused") as caught:
        transport.send(Request("GET", f"http://127.0.0.1:{free_port()}/"))
    assert caught.value.passing


def test_another_scheme_is_not_tried() -> None:
    with Transport() as transport, pytest.raises(SimulationError, match="not an http or https") as caught:
        transport.send(Request("GET", "file:///etc/hosts"))
    assert not caught.value.passing


def test_all_requests_may_be_sent_to_one_address() -> None:
    with server(answers(OK)) as url, Transport(stay_at=url) as transport:
        assert (
            transport.send(Request("GET", "https://mdm.example.com/scep/x/?operation=GetCACaps")).status
            == 200
        )
