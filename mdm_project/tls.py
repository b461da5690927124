"""TLS that this server ends itself: what it shows, and what it asks of devices.

Certificates and trusted CAs are read anew every few seconds, so that renewals, re-keys and trust count
without a restart. A connection that is open goes on with what it began with; whom it belongs to is looked up
with every request.
"""

from __future__ import annotations

import errno
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

from django.conf import settings
from django.db import Error, close_old_connections
from django.utils import timezone

from mdm.authentication import required_proof
from pki.issuance import IssuanceRefused
from pki.issuers import IssuerMissing
from pki.models import Purpose
from pki.server_tls import server_identity
from pki.trust import authorities
from vault.key_file import key_file

logger = logging.getLogger(__name__)

READ_ANEW_SECONDS = 10.0
HANDSHAKE_SECONDS = 20.0
REQUEST_SECONDS = 120.0
"""How long one request may take to arrive."""


def hosts() -> list[str]:
    """Whom the certificate has to name: the hosts of the public addresses."""
    urls = (settings.BRAMLEY_PUBLIC_URL, settings.BRAMLEY_MDM_URL or settings.BRAMLEY_PUBLIC_URL)
    return list(dict.fromkeys(urlsplit(url).hostname or "localhost" for url in urls))


def asks_at(port: int) -> bool:
    """Whether a client certificate is asked for at this port of ours.

    Only where one counts and no proxy passes it on; with a port for the MDM addresses, only there: Macs are
    said to fail in SCEP where the server asks, and browsers ask the person which certificate to show.
    """
    if required_proof() == "signature" or settings.BRAMLEY_CLIENT_CERT_HEADER:
        return False
    return settings.BRAMLEY_MDM_PORT in (None, port)


class PatientSocket(ssl.SSLSocket):
    """A connection whose other side has to get on with it, because a thread waits for it.

    gunicorn says ``setblocking(True)`` when a request is about to arrive; from then on the time runs.
    """

    _until = 0.0

    def setblocking(self, flag: bool) -> None:
        """As its base; blocking means for as long as a request may take."""
        if flag:
            self._allow(REQUEST_SECONDS)
        else:
            super().setblocking(False)

    def do_handshake(self, block: bool = False) -> None:
        """As its base. Raises :class:`ConnectionResetError` where the time is over; also the others do."""
        self._allow(HANDSHAKE_SECONDS)
        self._in_time(super().do_handshake, block)
        self._allow(REQUEST_SECONDS)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As its base."""
        data: bytes = self._in_time(super().recv, buflen, flags)
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        """As its base. An answer may take its time as long as something of it is taken."""
        self._allow(REQUEST_SECONDS)
        sent: int = self._in_time(super().send, data, flags)
        return sent

    def _allow(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self.settimeout(seconds)

    def _in_time(self, act: Callable[..., Any], *arguments: Any) -> Any:
        left = self._until - time.monotonic()
        if left <= 0:
            _give_up()
        self.settimeout(left)
        try:
            return act(*arguments)
        except TimeoutError:
            _give_up()


def _give_up() -> NoReturn:
    # What gunicorn takes for a client that has gone, without a word in the log.
    raise ConnectionResetError(errno.ECONNRESET, "the other side is too slow") from None


@dataclass(frozen=True)
class _Shown:
    """The contexts, and what they were made from."""

    sources: tuple[object, ...]
    without: ssl.SSLContext
    asking: ssl.SSLContext


class Contexts:
    """The TLS contexts of one process: one that asks for a client certificate, one that does not.

    ``clock``: seconds, only for measuring how old they are.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._shown: _Shown | None = None
        self._read_at = float("-inf")

    def context(self, *, asking: bool) -> ssl.SSLContext:
        """The context for a new connection.

        While the database is away the last one goes on. Raises ``RuntimeError`` where there is none yet.
        """
        shown = self._shown
        stale = shown is None or self._clock() - self._read_at > READ_ANEW_SECONDS
        # One thread reads; the others go on with what there is, or wait for the first.
        if stale and self._lock.acquire(blocking=shown is None):
            try:
                shown = self._refresh()
            finally:
                self._lock.release()
        if shown is None:
            raise RuntimeError("no certificate for TLS")
        return shown.asking if asking else shown.without

    def _refresh(self) -> _Shown | None:
        if self._shown is not None and self._clock() - self._read_at <= READ_ANEW_SECONDS:
            return self._shown
        try:
            self._shown = _read(self._shown, timezone.now())
        except (Error, IssuerMissing, IssuanceRefused):
            logger.exception("the certificate for TLS cannot be read")
        finally:
            close_old_connections()
        self._read_at = self._clock()
        return self._shown


def _read(before: _Shown | None, now: datetime) -> _Shown:
    """New contexts only where something changed: sessions that clients resume stay with theirs."""
    identity = server_identity(hosts(), now=now)
    trusted = authorities(Purpose.MDM_IDENTITY)
    sources = (identity.certificate.sha256, identity.chain, tuple(trusted))
    if before is not None and before.sources == sources:
        return before
    without, asking = _context(identity.pem), _context(identity.pem)
    asking.verify_mode = ssl.CERT_OPTIONAL
    # A CA is trusted as it stands in our record, whether or not the root above it is known here.
    asking.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if trusted:
        asking.load_verify_locations(cadata=b"".join(trusted))
    return _Shown(sources, without, asking)


def _context(pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.sslsocket_class = PatientSocket
    with key_file(pem) as path:
        context.load_cert_chain(path)
    return context
