"""The load: devices whose requests are signed before the clock starts, sent over kept-alive connections.

The generator shares the cores with what it measures, so it does as little as it can: bytes out, bytes in.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from simulator.device import CONNECT_TYPE, SimulatedDevice
from simulator.exchange import converse
from simulator.hardware import make_hardware
from simulator.keys import kept_key
from simulator.transport import Transport

T = TypeVar("T")


class WrongAnswer(Exception):
    """The server answered something else than the load expects."""


class Line:
    """One kept-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, request: bytes) -> tuple[int, bytes]:
        """Send one request; status and body of its answer."""
        self._socket.sendall(request)
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        length = _content_length(head)
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return int(head[9:12]), body

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        more = self._socket.recv(65536)
        if not more:
            raise ConnectionError("the server closed the connection")
        self._received += more


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def devices(count: int, keys: Path) -> list[SimulatedDevice]:
    """Devices that are not enrolled. Making their keys takes long: they are kept in ``keys``."""
    return [SimulatedDevice(make_hardware("bench", n), kept_key(keys, n)) for n in range(1, count + 1)]


def spread(work: Callable[[T], int], items: Sequence[T], at_once: int) -> int:
    """Do it for every item, ``at_once`` at a time; the sum of what came of it."""
    with ThreadPoolExecutor(at_once) as pool:
        return sum(pool.map(work, items))


def enrol(device: SimulatedDevice, profile_url: str) -> int:
    """The whole way in: profile, SCEP, Authenticate, TokenUpdate. How many requests that took."""
    requests = 0

    with Transport() as transport:

        def send(request: object) -> object:
            nonlocal requests
            requests += 1
            return transport.send(request)  # type: ignore[arg-type]

        converse(device.enrol(profile_url), send)  # type: ignore[arg-type]
    return requests


def settle(device: SimulatedDevice) -> int:
    """Connect until nothing is queued; how many commands there were."""
    with Transport() as transport:
        return converse(device.connect(), transport.send)


def idle_request(device: SimulatedDevice) -> bytes:
    """A signed Idle as bytes; the same ones every time, as those of real devices are."""
    return report_request(device, {"Status": "Idle", "UDID": device.hardware.udid})


def acknowledgement(device: SimulatedDevice, command_uuid: str) -> bytes:
    """A signed answer of 2 kB to a command."""
    entries = [{"PayloadIdentifier": f"com.example.{n}", "PayloadUUID": "0" * 36} for n in range(12)]
    report = {"Status": "Acknowledged", "UDID": device.hardware.udid, "CommandUUID": command_uuid}
    return report_request(device, {**report, "ProfileList": entries})


def report_request(device: SimulatedDevice, report: dict[str, object]) -> bytes:
    if device.enrolled is None:
        raise ValueError("the device is not enrolled")
    request = device.request(device.enrolled.mdm.server_url, report, CONNECT_TYPE)
    parts = urlsplit(request.url)
    lines = [f"PUT {parts.path} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines += [f"Content-Length: {len(request.body)}", "", ""]
    return "\r\n".join(lines).encode() + request.body


def replay(
    url: str,
    sequences: Sequence[Sequence[bytes]],
    at_once: int,
    expected: Sequence[bool],
    took: list[float],
) -> int:
    """Send each sequence in order on one connection; ``expected``: whether each answer has a body.

    Returns the number of requests, and adds to ``took`` the seconds of each. An answer of another kind is a
    :class:`WrongAnswer`: only what is right is measured.
    """

    def share(number: int) -> int:
        line = Line(url)
        sent = 0
        for sequence in sequences[number::at_once]:
            for request, has_body in zip(sequence, expected, strict=True):
                began = time.perf_counter()
                status, body = line.send(request)
                took.append(time.perf_counter() - began)
                if (status, bool(body)) != (200, has_body):
                    raise WrongAnswer(f"{status} {body[:200]!r}")
                sent += 1
        line.close()
        return sent

    return spread(share, range(at_once), at_once)
