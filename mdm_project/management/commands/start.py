"""``manage.py start``: everything that one machine runs, under one parent."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, connections

from mdm_project import embedded_broker, environment, first_start
from mdm_project.supervisor import Part, StartError, Supervisor, exclusive, say

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

    def handle(self, *args: Any, only: str | None = None, **options: Any) -> None:
        names = [name for name in PARTS if only in (None, name)]
        bind = environment.address(settings.BRAMLEY_BIND)
        try:
            with contextlib.ExitStack() as locks:
                folder = environment.private_folder(settings.BRAMLEY_HOME)
                for name in names:
                    refusal = f"Bramley already runs ({name}) with BRAMLEY_HOME={folder}"
                    locks.enter_context(exclusive(folder / f"{name}.lock", refusal))
                if "web" in names:
                    verify_free(bind)
                if os.geteuid() == 0:
                    say("running as root; in production give Bramley a user of its own")
                set_up()
                if "worker" in names and not settings.REDIS_URL:
                    embedded_broker.remove_leftovers(settings.BROKER_FOLDER)
                Supervisor(
                    [part for name in names for part in parts(name, bind)],
                    ready=(lambda: is_ready(bind)) if "web" in names else (lambda: True),
                    when_ready=lambda: greet(only),
                ).run()
        except StartError as error:
            raise CommandError(str(error)) from error


def verify_free(bind: environment.Address) -> None:
    """The address can be listened on. Raises :class:`StartError`."""
    family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind.host, bind.port))
            probe.listen(1)
        except OSError as error:
            raise StartError(
                f"cannot listen on {settings.BRAMLEY_BIND}: {error.strerror}. Set BRAMLEY_BIND."
            ) from None


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


def parts(name: str, bind: environment.Address) -> list[Part]:
    """The processes of one part."""
    cores = len(os.sched_getaffinity(0))
    if name == "web":
        workers = environment.count("BRAMLEY_WEB_PROCESSES", min(cores, 8))
        return [Part("web", web_command(bind, workers), grace=15)]
    if name == "worker":
        processes = environment.count("BRAMLEY_WORKER_PROCESSES", max(1, min(cores // 4, 4)))
        return [Part(f"worker {n}", worker_command(n), grace=25) for n in range(1, processes + 1)]
    return [Part("beat", beat_command(), grace=5)]


def web_command(bind: environment.Address, workers: int) -> list[str]:
    # Threads wait for slow senders; how many run at once is decided by mdm_project.threshold.
    return [
        sys.executable,
        *("-m", "granian", "mdm_project.wsgi:application", "--interface", "wsgi", "--http", "1"),
        *("--host", bind.host, "--port", str(bind.port)),
        *("--workers", str(workers), "--blocking-threads", "64", "--backlog", "2048"),
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
    try:
        with urllib.request.urlopen(f"{bind.url}/readyz", timeout=2) as answer:  # noqa: S310
            return bool(json.load(answer)["ready"])
    except (OSError, ValueError):
        return False


def greet(only: str | None) -> None:
    """Say where things are; at the first start, who may sign in."""
    if only not in (None, "web"):
        say(f"Bramley {only} started")
        return
    credentials = first_start.ensure_administrator()
    connections.close_all()
    if credentials is not None:
        say("\nThe first administrator, shown this once:")
        say(f"  name      {credentials.name}")
        say(f"  password  {credentials.password}\n")
    url = settings.BRAMLEY_PUBLIC_URL
    say(f"  administration  {url}/admin/")
    say(f"  enrolment       {url}/enroll/default/")
    say(f"  SCEP            {url}/scep/{first_start.ISSUER_SLUG}/")
    say(f"Bramley is ready at {url}")
