"""The connections to APNs of this process: a client for each topic, in an event loop of their own.

They outlive the task that opened them, for Apple asks for connections that stay open for hours. A new
certificate for a topic gets a new client, and the old one is closed. Opened at the first push, so that a
process that forks before that takes nothing over.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from django.conf import settings

from push import certificates
from push.client import ApnsClient, SendResult
from push.core.notification import Answer, Failure, Notification
from push.models import PushCertificate
from vault.sealed import SealError

logger = logging.getLogger(__name__)


class Connections:
    """One event loop in a daemon thread, and the clients in it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients: dict[str, tuple[tuple[object, ...], ApnsClient]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="apns", daemon=True)
        self._thread.start()

    def send(
        self, certificate: PushCertificate, notifications: Sequence[Notification]
    ) -> Future[list[SendResult]]:
        """Send in the background. The future is done within :data:`push.client.SEND_DEADLINE` seconds."""
        try:
            client = self._client(certificate)
        except (SealError, ValueError) as error:
            logger.error("push certificate %s cannot be opened: %s", certificate.pk, type(error).__name__)
            answer = Answer(
                reason="the private key cannot be opened with the encryption keys of this server",
                failure=Failure.UNUSABLE_CERTIFICATE,
            )
            failed: Future[list[SendResult]] = Future()
            failed.set_result([SendResult(notification, answer) for notification in notifications])
            return failed
        return asyncio.run_coroutine_threadsafe(client.send(notifications), self._loop)

    def _client(self, certificate: PushCertificate) -> ApnsClient:
        url, ca_file = settings.BRAMLEY_APNS_URL, settings.BRAMLEY_APNS_CA
        key = (certificate.pk, certificate.serial_number, url, ca_file)
        with self._lock:
            known = self._clients.get(certificate.topic)
            if known is not None and known[0] == key:
                return known[1]
            opened = certificates.credentials(certificate)
            client = ApnsClient(opened.certificate_pem, opened.key_pem, url, ca_file)
            self._clients[certificate.topic] = (key, client)
        if known is not None:
            asyncio.run_coroutine_threadsafe(known[1].close(), self._loop)
        return client

    def close(self) -> None:
        """Close every connection and end the thread."""
        with self._lock:
            clients = [client for _key, client in self._clients.values()]
            self._clients.clear()
        asyncio.run_coroutine_threadsafe(self._close_all(clients), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @staticmethod
    async def _close_all(clients: Sequence[ApnsClient]) -> None:
        await asyncio.gather(*(client.close() for client in clients))


class _Process:
    """The connections of this process, if it has opened any."""

    lock = threading.Lock()
    pid: int | None = None
    connections: Connections | None = None


def of_this_process() -> Connections:
    """Open at the first use; a forked child opens its own."""
    with _Process.lock:
        if _Process.connections is None or _Process.pid != os.getpid():
            _Process.connections, _Process.pid = Connections(), os.getpid()
        return _Process.connections


def close() -> None:
    """Close the connections of this process; the next push opens new ones."""
    with _Process.lock:
        connections, _Process.connections = _Process.connections, None
    if connections is not None and _Process.pid == os.getpid():
        connections.close()
