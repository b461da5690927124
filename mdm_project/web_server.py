"""gunicorn, where client certificates decide: with TLS of our own, and behind a proxy that passes them on.

``manage.py start`` starts it with ``--config python:mdm_project.web_server``. It gives a client certificate
to the application, and it drops header names with an underscore, which WSGI cannot tell from those with a
hyphen (threats A12).
"""

from __future__ import annotations

import contextlib
import errno
import resource
import selectors
import threading
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from gunicorn.http import message
from gunicorn.workers.gthread import TConn, ThreadWorker

from mdm_project import environment
from mdm_project.bodies import THREADS

if TYPE_CHECKING:
    import socket
    import ssl

    from mdm_project.tls import Contexts

# gunicorn reads these names; see its settings.
worker_class = "mdm_project.web_server.Worker"
threads = THREADS
backlog = 2048
worker_connections = 4096
keepalive = 75
graceful_timeout = 10
control_socket_disable = True
loglevel = "error"
header_map = "drop"
# What proxies say is for mdm_project.threshold to believe or not.
forwarder_headers = ""
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
# SCEP messages may come in the query.
limit_request_line = message.MAX_REQUEST_LINE = 135_168
limit_request_field_size = 73_728
# That there is one switches TLS on. What is shown comes from ssl_context below.
certfile = __file__ if environment.serving().tls else None

FIRST_BYTE_SECONDS = 20.0
_listener = threading.local()


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """A connection takes a thread only when something has come over it: idle ones hold up nobody."""

    def init_process(self) -> None:
        """As its base, with as many open connections as the system allows."""
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        super().init_process()

    def accept(self, listener: socket.socket) -> None:
        """Take a connection and wait for its first byte beside all others."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(0.1)  # until others have gone
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        connection = TConn(self.cfg, client, address, listener.getsockname())
        connection.timeout = time.monotonic() + FIRST_BYTE_SECONDS
        self.pending_conns.append(connection)
        readable = partial(self.on_pending_socket_readable, connection)
        self.poller.register(client, selectors.EVENT_READ, readable)

    def handle(self, conn: Any) -> Any:
        """As its base; the thread knows on which of our ports the request came."""
        _listener.port = conn.server[1]
        return super().handle(conn)


def post_worker_init(worker: Any) -> None:
    """Tell the application that names of headers are what they seem, and that it cannot close connections.

    gunicorn leaves out what an application says of the connection.
    """
    worker.wsgi.headers_told_apart = True
    worker.wsgi.neighbours = None


def ssl_context(config: Any, default_ssl_context_factory: Any) -> ssl.SSLContext:
    """The context for a new connection: it asks for a client certificate where devices may have one."""
    from mdm_project.tls import asks_at

    return _contexts().context(asking=asks_at(_listener.port))


@lru_cache(maxsize=1)
def _contexts() -> Contexts:
    from mdm_project.tls import Contexts

    return Contexts()
