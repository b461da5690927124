"""``manage.py start``: everything that one machine runs, under one parent."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import socket
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connections

from mdm_project import embedded_broker, environment, first_start, neighbours
from mdm_project.bodies import THREADS
from mdm_project.supervisor import Part, StartError, Supervisor, exclusive, say
from pki import issuers, server_tls
from pki.core.certificates import describe
from pki.records import grouped

CONNECTIONS = 8192
"""Of each web process, if it may open so many files. One that is idle for 30 seconds is closed."""
OPEN_FILES = 65_536
PARTS = ("beat", "web", "worker")
"""In the order in which they end: first what makes work, last what does it."""


class Command(BaseCommand):
    help = "Start Bramley: web server, workers and the clock of the sweeps. Ends on SIGTERM or Ctrl-C."
    requires_system_checks = []

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--only",
            choices=PARTS,
            help="run one part here, for several machines on one database (run exactly one beat)",
        )
        parser.add_argument(
            "--tls",
            action="store_true",
            help="serve HTTPS with a certificate of our own issuer, renewed by itself (or set BRAMLEY_TLS=1)",
        )
        parser.add_argument(
            "--mdm-port",
            type=int,
            metavar="PORT",
            help="with --tls: a port of its own for the addresses of devices under management, the only one "
            "where client certificates are asked for (or set BRAMLEY_MDM_PORT)",
        )

    def handle(self, *args: Any, only: str | None = None, **options: Any) -> None:
        names = [name for name in PARTS if only in (None, name)]
        try:
            serve_as(wanted(tls=options["tls"], mdm_port=options["mdm_port"]))
            binds = listen_at()
            bind = binds[0]
            verify_settings()
            with contextlib.ExitStack() as locks:
                folder = environment.private_folder(settings.BRAMLEY_HOME)
                for name in names:
                    refusal = f"Bramley already runs ({name}) with BRAMLEY_HOME={folder}"
                    locks.enter_context(exclusive(folder / f"{name}.lock", refusal))
                environment.remember_serving(environment.serving())
                if "web" in names:
                    for address in binds:
                        verify_free(address)
                    locks.callback(neighbours.forget, environment.home())
                if os.geteuid() == 0:
                    say("running as root; in production give Bramley a user of its own")
                set_up()
                if "worker" in names and not settings.REDIS_URL:
                    embedded_broker.remove_leftovers(settings.BROKER_FOLDER)
                allow_open_files()
                Supervisor(
                    [part for name in names for part in parts(name, binds)],
                    ready=(lambda: is_ready(bind)) if "web" in names else (lambda: True),
                    when_ready=lambda: greet(only),
                ).run()
        except (StartError, ImproperlyConfigured) as error:
            raise CommandError(str(error)) from error


def wanted(*, tls: bool, mdm_port: int | None) -> environment.Serving:
    """How to serve: as options and variables say, not as it was the last time. Raises StartError."""
    tls = tls or environment.switch("BRAMLEY_TLS")
    port = environment.port_number("BRAMLEY_MDM_PORT", os.environ.get("BRAMLEY_MDM_PORT", ""))
    if mdm_port is not None:
        port = environment.port_number("--mdm-port", str(mdm_port))
    if port is not None and not tls:
        raise StartError("a port for the MDM addresses goes with --tls; behind a proxy, it has that port")
    return environment.Serving(tls, port)


def serve_as(how: environment.Serving) -> None:
    """Go on as this process where its settings say so; else begin again with variables that do.

    Everything that is started afterwards, and the settings of this very process, have to agree.
    """
    if environment.Serving(settings.BRAMLEY_TLS, settings.BRAMLEY_MDM_PORT) != how:
        os.environ["BRAMLEY_TLS"] = "1" if how.tls else "0"
        os.environ["BRAMLEY_MDM_PORT"] = str(how.mdm_port or "")
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def allow_open_files() -> None:
    """Let the processes started here hold as many connections as the system allows."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    with contextlib.suppress(ValueError):  # what the system has forbidden meanwhile
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, _soft), hard))


def listen_at() -> list[environment.Address]:
    """Where the web server listens: the address for all, and that for devices, if it is another."""
    bind = environment.address(settings.BRAMLEY_BIND)
    if settings.BRAMLEY_MDM_PORT in (None, bind.port):
        return [bind]
    return [bind, environment.Address(bind.host, settings.BRAMLEY_MDM_PORT)]


def verify_settings() -> None:
    """No start with settings by which devices could be impersonated. Raises :class:`StartError`."""
    for found in checks.run_checks(tags=[checks.Tags.security]):
        if found.id and found.id.startswith("mdm."):
            if found.is_serious():
                raise StartError(" ".join(filter(None, (str(found.msg), found.hint))))
            say(f"{found.msg} {found.hint or ''}".strip())


def verify_free(bind: environment.Address) -> None:
    """The address can be listened on. Raises :class:`StartError`."""
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind.host, bind.port))
            probe.listen(1)
        except OSError as error:
            raise StartError(f"cannot listen on {bind.name}: {error.strerror}. Set BRAMLEY_BIND.") from None


def set_up() -> None:
    """The first set-up, or none. Afterwards this process, which forks the others, has no connection open."""
    # A pool would keep threads in this process, and wait where an error can be told at once.
    connections.settings["default"]["OPTIONS"].pop("pool", None)
    try:
        first_start.set_up()
    except OperationalError as error:
        raise StartError(f"the database does not answer: {str(error).splitlines()[0]}") from error
    finally:
        connections.close_all()


def parts(name: str, binds: Sequence[environment.Address]) -> list[Part]:
    """The processes of one part."""
    cores = len(os.sched_getaffinity(0))
    if name == "web":
        workers = environment.count("BRAMLEY_WEB_PROCESSES", min(cores, 8))
        command = certificates_command if certificates_decide() else web_command
        return [Part("web", command(binds, workers), grace=15)]
    if name == "worker":
        processes = environment.count("BRAMLEY_WORKER_PROCESSES", max(1, min(cores // 4, 4)))
        return [Part(f"worker {n}", worker_command(n), grace=25) for n in range(1, processes + 1)]
    return [Part("beat", beat_command(), grace=5)]


def certificates_decide() -> bool:
    """Whether the web server has to hand over certificates, or tell headers apart that pass them on."""
    return bool(settings.BRAMLEY_TLS or settings.BRAMLEY_CLIENT_CERT_HEADER)


def certificates_command(binds: Sequence[environment.Address], workers: int) -> list[str]:
    return [
        sys.executable,
        *("-m", "gunicorn", "mdm_project.wsgi:application", "--config", "python:mdm_project.web_server"),
        *(word for bind in binds for word in ("--bind", bind.name)),
        *("--workers", str(workers)),
    ]


def web_command(binds: Sequence[environment.Address], workers: int) -> list[str]:
    (bind,) = binds
    # Threads wait for slow senders; how many run at once is decided by mdm_project.threshold.
    return [
        sys.executable,
        *("-m", "granian", "mdm_project.wsgi:application", "--interface", "wsgi", "--http", "1"),
        *("--host", bind.host, "--port", str(bind.port)),
        *("--workers", str(workers), "--blocking-threads", str(THREADS), "--backlog", "2048"),
        # Connections of one process, idle ones among them: without it, 2,048 for all processes together.
        *("--backpressure", str(CONNECTIONS)),
        *("--respawn-failed-workers", "--workers-kill-timeout", "10", "--log-level", "error"),
    ]


def worker_command(number: int) -> list[str]:
    return [
        sys.executable,
        # Messages are JSON, so what Celery warns of at length cannot happen; one line of ours says it.
        *("-W", "ignore:You're running the worker with superuser privileges"),
        *("-m", "celery", "--quiet", "--app", "mdm_project", "worker", "--hostname", f"worker{number}@%h"),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"),
    ]


def beat_command() -> list[str]:
    return [
        sys.executable,
        *("-m", "celery", "--quiet", "--app", "mdm_project", "beat", "--loglevel", "WARNING", "--pidfile="),
        *("--schedule", str(settings.BRAMLEY_HOME / "beat.schedule")),
    ]


def is_ready(bind: environment.Address) -> bool:
    """Whether our own web server says that it can work."""
    url = f"{bind.url('https' if settings.BRAMLEY_TLS else 'http')}/readyz"
    # To ourselves, over the loopback: which certificate we show is not the question here.
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=2, context=unverified) as answer:  # noqa: S310
            return bool(json.load(answer)["ready"])
    except (OSError, ValueError):
        return False


def greet(only: str | None) -> None:
    """Say where things are; at the first start, who may sign in."""
    if only not in (None, "web"):
        say(f"Bramley {only} started")
        return
    credentials = first_start.ensure_administrator()
    root = tls_root() if settings.BRAMLEY_TLS else []
    connections.close_all()
    if credentials is not None:
        say("\nThe first administrator, shown this once:")
        say(f"  name      {credentials.name}")
        say(f"  password  {credentials.password}\n")
    url = settings.BRAMLEY_PUBLIC_URL
    say(f"  administration  {url}/admin/")
    say(f"  enrolment       {url}/enroll/default/")
    say(f"  SCEP            {url}/scep/{first_start.ISSUER_SLUG}/")
    for line in root:
        say(line)
    say(f"Bramley is ready at {url}")


def tls_root() -> list[str]:
    """What to compare before a root is trusted by hand."""
    return [
        f"  root for TLS    {issuers.certificate_url(issuers.default_issuer())}",
        f"                  SHA-256 {grouped(describe(server_tls.anchor()).sha256)}",
    ]
