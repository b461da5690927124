"""Real PostgreSQL and Redis for tests, in temporary folders, on free ports of the loopback address."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import all_processes, free_port, wait_until, working_folder


class Missing(Exception):
    """A program that these tests need is not installed; ``make test`` installs it where it may."""


def postgres_folder() -> Path:
    """The folder of PostgreSQL's server programs, newest version. Raises :class:`Missing`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    raise Missing("PostgreSQL's server is not installed")


def redis_program() -> str:
    """The path of redis-server. Raises :class:`Missing`."""
    found = shutil.which("redis-server")
    if not found:
        raise Missing("redis-server is not installed")
    return found


class Service:
    """A server process with a temporary folder. Its port stays over ``kill`` (-9) and ``start``."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="bramley-service-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        raise NotImplementedError

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """kill -9: whatever it had only in memory is gone."""
        self.stop(signal.SIGKILL)

    def _spawn(self, argv: list[str], user: str | None = None) -> None:
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_as_user(user),
            )

    def _wait_for_port(self) -> None:
        wait_until(f"{type(self).__name__} listens", self._answers)

    def _answers(self) -> bool:
        assert self._process is not None, "not started"
        log = (self.folder / "service.log").read_text(errors="replace")
        assert self._process.poll() is None, f"{type(self).__name__} ended:\n{log[-2000:]}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Postgres(Service):
    """PostgreSQL, trusted on loopback. ``durable``: with fsync, as in production (for measuring)."""

    USER = "bramley"

    def __init__(self, *, durable: bool = False) -> None:
        super().__init__()
        self.programs = postgres_folder()
        self.owner = _unprivileged_user()
        self.data = self.folder / "data"
        self.durable = durable
        if self.owner:
            shutil.chown(self.folder, self.owner)
        self._run("initdb", "-D", str(self.data), "-U", self.USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = {
            "listen_addresses": "'127.0.0.1'",
            "port": str(self.port),
            "unix_socket_directories": f"'{self.folder}'",
            "max_connections": "100",
            "shared_buffers": "'128MB'",
        }
        if not durable:
            options |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in options.items())

    def start(self) -> None:
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self._spawn([str(self.programs / "postgres"), "-D", str(self.data)], self.owner)
        self._wait_for_port()
        wait_until("PostgreSQL accepts connections", self._accepts)

    def stop(self, number: int = signal.SIGINT) -> None:
        super().stop(number)  # SIGINT: fast shutdown, open connections are ended

    def kill(self) -> None:
        """kill -9 of the first process. The others notice a moment later: until then they go on writing."""
        super().kill()
        wait_until("PostgreSQL's processes are gone", lambda: not self._left())

    def _left(self) -> list[int]:
        return [process.pid for process in all_processes() if working_folder(process.pid) == self.data]

    def url(self, name: str = "postgres") -> str:
        return f"postgres://{self.USER}@127.0.0.1:{self.port}/{name}"

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """An empty database, or a copy of one that nobody is connected to; returns its ``DATABASE_URL``."""
        at = ("-h", "127.0.0.1", "-p", str(self.port), "-U", self.USER)
        self._run("createdb", *at, "--template", template, name)
        return self.url(name)

    def _accepts(self) -> bool:
        program = self.programs / "pg_isready"
        argv = [str(program), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.USER]
        return subprocess.run(argv, check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            **_as_user(self.owner),
        )
        assert done.returncode == 0, f"{program}: {done.stdout}\n{done.stderr}"


class Redis(Service):
    """Redis that keeps nothing on disk: after ``kill`` and ``start`` it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.program = redis_program()

    def start(self) -> None:
        self._spawn(
            [
                self.program,
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *("--save", "", "--appendonly", "no"),
            ]
        )
        self._wait_for_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"


def _unprivileged_user() -> str | None:
    """PostgreSQL refuses to run as root: the user to run it as, or ``None`` where we are not root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
