"""A device's side of HTTP without any: conversations yield requests and are sent responses.

That way the same device speaks over a socket (:mod:`simulator.transport`), to a server in the same process,
or to a test that answers by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One HTTP request with an absolute URL."""

    method: str
    url: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """Its answer; names of headers in lower case. ``cookies``: the Set-Cookie headers, each for itself."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: tuple[str, ...] = ()


Conversation = Generator[Request, Response, T]


class SimulationError(Exception):
    """The server did not do what a device needs; ``step`` says where. ``passing``: worth another try."""

    def __init__(self, step: str, problem: str, *, passing: bool = False) -> None:
        super().__init__(f"{step}: {problem}")
        self.step = step
        self.problem = problem
        self.passing = passing


def converse(conversation: Conversation[T], send: Callable[[Request], Response]) -> T:
    """Carry a conversation through to its end: ``send`` answers every request."""
    try:
        request = next(conversation)
        while True:
            try:
                response = send(request)
            except SimulationError as error:
                request = conversation.throw(error)
            else:
                request = conversation.send(response)
    except StopIteration as end:
        value: T = end.value
        return value


def expect_ok(step: str, response: Response) -> bytes:
    """The body of a 200; anything else ends the conversation."""
    if response.status != 200:
        said = response.body[:120].decode("utf-8", "replace").strip() if _is_plain(response) else ""
        passing = response.status == 429 or response.status >= 500
        raise SimulationError(
            step, f"HTTP {response.status}" + (f" ({said})" if said else ""), passing=passing
        )
    return response.body


def _is_plain(response: Response) -> bool:
    return response.headers.get("content-type", "").startswith("text/plain")
