"""The real product, started as an administrator starts it, in a home of its own on a free port."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.processes import Process, descendants, free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]
OURS = re.compile(r"BRAMLEY_|DATABASE_URL$|REDIS_URL$|DJANGO_SETTINGS_MODULE$|PYTEST_|GRANIAN_|CELERY_")

NARROW = {"BRAMLEY_WEB_PROCESSES": "1", "BRAMLEY_WORKER_PROCESSES": "1"}
WIDE = {"BRAMLEY_WEB_PROCESSES": "3", "BRAMLEY_WORKER_PROCESSES": "2"}
"""On PostgreSQL and Redis, which are for several processes: no test may depend on which one it meets."""


class RunningServer:
    """``with RunningServer(folder) as server:`` runs ``manage.py start`` and waits until it is ready.

    ``home``: a folder, made if absent; start again with the same one to meet a second start.
    ``database_url``, ``redis_url``: ``None`` for the embedded SQLite and broker.
    ``apns_url``, ``apns_ca``: the stand-in for APNs and its root certificate (path).
    ``environment``: further variables, among them how many processes (else :data:`WIDE` on PostgreSQL with
    Redis, :data:`NARROW` otherwise). ``tls``: HTTPS with a certificate of its own issuer. ``root``: another
    tree of the product, with a ``.venv`` of its own.
    """

    def __init__(
        self,
        home: Path,
        *,
        database_url: str | None = None,
        redis_url: str | None = None,
        apns_url: str | None = None,
        apns_ca: Path | str | None = None,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        tls: bool = False,
        root: Path = ROOT,
    ) -> None:
        self.home = home
        self.root = root
        self._python = sys.executable if root == ROOT else str(root / ".venv" / "bin" / "python")
        self.port = port or free_port()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.arguments = ("--tls", *arguments) if tls else arguments
        given = {
            "BRAMLEY_HOME": str(home),
            "BRAMLEY_BIND": f"127.0.0.1:{self.port}",
            **(WIDE if database_url and redis_url else NARROW),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "BRAMLEY_APNS_URL": apns_url,
            "BRAMLEY_APNS_CA": str(apns_ca) if apns_ca else None,
            "PYTHONUNBUFFERED": "1",
        }
        inherited = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        self.environment = inherited | {name: value for name, value in given.items() if value is not None}
        self.environment |= environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = home / "output.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def launch(self, log: Path | None = None) -> None:
        """Start the process and return at once. ``log``: where it prints to, if not ``home/output.log``."""
        self._log = log or self._log
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._python, "manage.py", "start", *self.arguments],
                cwd=self.root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def start(self, *, seconds: float = 180.0) -> None:
        """Start and wait for the line ``Bramley is ready at …``."""
        self.launch()
        try:
            wait_until(
                "the server is ready",
                lambda: "Bramley is ready at" in self.output or self.process.poll() is not None,
                seconds=seconds,
            )
            assert self.process.poll() is None, "the server ended"
        except AssertionError as error:
            self.end(expect_clean=False)
            raise AssertionError(f"{error}\n{self.output[-6000:]}") from None

    def end(self, number: int = signal.SIGTERM, *, seconds: float = 60.0, expect_clean: bool = True) -> int:
        """Send a signal, wait, and return the exit code. Nothing happens where it does not run."""
        if self._process is None or self._process.poll() is not None:
            return self._process.returncode if self._process is not None else 0
        self._process.send_signal(number)
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            left = self.processes
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the server did not end; left: {left}\n{self.output[-3000:]}") from None
        if expect_clean:
            assert code == 0, f"exit code {code}\n{self.output[-3000:]}"
        return code

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "not started"
        return self._process

    @property
    def output(self) -> str:
        """Everything that it and its children printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def password(self) -> str:
        """The first administrator's password (name: ``admin``), printed at the first start only."""
        found = re.search(r"^  password  (\S+)$", self.output, re.MULTILINE)
        assert found, f"no password was printed\n{self.output[-3000:]}"
        return found.group(1)

    @property
    def processes(self) -> list[Process]:
        """All processes below the parent."""
        return descendants(self.process.pid)

    @property
    def pids(self) -> dict[str, list[int]]:
        """Process ids by part: ``web`` (the first is the web server's main process), ``worker``, ``beat``."""
        parts: dict[str, list[int]] = {"web": [], "worker": [], "beat": []}
        names = {
            "granian": "web",
            "gunicorn": "web",
            "mdm_project worker": "worker",
            "mdm_project beat": "beat",
        }
        by_session = {
            process.pid: next((part for word, part in names.items() if word in process.command), None)
            for process in self.processes
            if process.parent == self.process.pid
        }
        for process in self.processes:
            if part := by_session.get(process.session):
                parts[part].append(process.pid)
        return parts

    def manage(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` in the server's environment; with ``check`` a failure is an AssertionError."""
        done = subprocess.run(
            [self._python, "manage.py", *arguments],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        if check:
            assert done.returncode == 0, (
                f"manage.py {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done
