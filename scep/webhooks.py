"""Asking another system about a challenge that it made: outside any transaction, at one pinned address.

The name is resolved here, every address that it has is looked at, and the connection goes to one of those:
what a name server says a moment later changes nothing (threats I1). Redirects are not followed.
"""

from __future__ import annotations

import http.client
import secrets
import socket
import ssl
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import closing, suppress
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.db import connection

from scep.core import webhook
from scep.core.webhook import AddressRefused, AnswerRefused, Permission, Question, Target
from scep.models import ScepService
from vault.sealed import seal, unseal

SECONDS = 5.0
AT_ONCE = 4
"""A slow receiver may hold so many threads of a web process and no more."""

_SECRET_BYTES = 32
_places = threading.BoundedSemaphore(AT_ONCE)


class Denied(Exception):
    """The other system did not agree, or could not be asked; ``reason`` is for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Busy(Exception):
    """Too many questions are waiting for their answers: the client may come again."""


def ask(service: ScepService, question: Question) -> Permission:
    """Put the question and return what was allowed. Raises :class:`Denied` and :class:`Busy`."""
    if connection.in_atomic_block:
        raise AssertionError("no network inside a transaction")
    if not _places.acquire(blocking=False):
        raise Busy
    try:
        return webhook.decode_answer(_call(service, webhook.encode_question(question)), question)
    except AddressRefused as refused:
        raise Denied(f"the webhook was not called: {refused}") from None
    except AnswerRefused as refused:
        raise Denied(str(refused)) from None
    except (OSError, http.client.HTTPException) as failure:
        raise Denied(f"the webhook could not be asked: {_in_words(failure)}") from None
    finally:
        _places.release()


def give_secret(service: ScepService) -> str:
    """A new secret for the service, which has to be saved; the value, as the receiver has to have it."""
    key = secrets.token_bytes(_SECRET_BYTES)
    service.webhook_secret_sealed = seal(key, context=_context(service))
    return webhook.encode_secret(key)


def secret(service: ScepService) -> str:
    """The secret as the receiver has to have it; empty where the service has none."""
    if service.webhook_secret_sealed is None:
        return ""
    return webhook.encode_secret(unseal(bytes(service.webhook_secret_sealed), context=_context(service)))


def _context(service: ScepService) -> str:
    return f"scep.scepservice.webhook_secret:{service.uuid}"


def _call(service: ScepService, body: bytes) -> bytes:
    """POST the body; the body of an answer 200, read as far as it may be long."""
    deadline = time.monotonic() + SECONDS
    target = webhook.decode_address(service.webhook_url)
    address = webhook.verify_reachable(_resolve(target, deadline), allowed=settings.BRAMLEY_WEBHOOK_NETWORKS)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "Bramley",
        **webhook.sign(
            body,
            secret=secret(service),
            identifier=f"msg_{uuid.uuid4().hex}",
            timestamp=int(time.time()),
        ),
    }
    with closing(_Exchange(target, address, deadline)) as exchange:
        exchange.request("POST", target.path, body, headers)
        # A receiver that answers drop by drop has no more time than any other.
        alarm = threading.Timer(_left(deadline), exchange.cut)
        alarm.daemon = True
        alarm.start()
        try:
            return _answer(exchange)
        finally:
            alarm.cancel()
            if exchange.is_cut:
                raise TimeoutError


def _answer(exchange: _Exchange) -> bytes:
    response = exchange.getresponse()
    if response.status != http.client.OK:
        raise AnswerRefused(f"the webhook answered with status {response.status}")
    return response.read(webhook.MAX_ANSWER + 1)


class _Exchange(http.client.HTTPConnection):
    """One request to a host whose address was chosen before; TLS names and verifies the host."""

    def __init__(self, target: Target, address: str, deadline: float) -> None:
        super().__init__(target.host, target.port)
        self._target, self._address, self._deadline = target, address, deadline
        self._connected: socket.socket | None = None
        self.is_cut = False

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self._target.port), _left(self._deadline))
        self.sock = self._connected = plain
        if self._target.scheme == "https":
            plain.settimeout(_left(self._deadline))
            self.sock = self._connected = _tls().wrap_socket(plain, server_hostname=self._target.host)
        self._connected.settimeout(_left(self._deadline))

    def cut(self) -> None:
        """End it from another thread: who reads is woken."""
        self.is_cut = True
        if self._connected is not None:
            with suppress(OSError):
                self._connected.shutdown(socket.SHUT_RDWR)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The system's roots, or those that ``SSL_CERT_FILE`` names."""
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@lru_cache(maxsize=1)
def _resolver() -> ThreadPoolExecutor:
    """The system's resolver knows no deadline: it is waited for aside."""
    return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook-names")


def _resolve(target: Target, deadline: float) -> list[str]:
    """Every address of the host, in the resolver's order."""
    found: Future[list[Any]] = _resolver().submit(
        socket.getaddrinfo, target.host, target.port, type=socket.SOCK_STREAM
    )
    try:
        rows = found.result(_left(deadline))
    except TookTooLong:
        found.cancel()
        raise TimeoutError from None
    except UnicodeError:
        raise AddressRefused("that is not the name of a host") from None
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


def _in_words(failure: Exception) -> str:
    if isinstance(failure, TimeoutError):
        return f"no answer within {SECONDS:.0f} seconds"
    if isinstance(failure, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({failure.verify_message})"
    if isinstance(failure, socket.gaierror):
        return "its name is not known"
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    return type(failure).__name__
