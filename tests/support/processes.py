"""Looking at processes of this machine, and free ports of the loopback address."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    session: int
    command: str


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def all_processes() -> list[Process]:
    """Every process that is not a zombie."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            state, parent, _group, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found.append(Process(int(folder.name), int(parent), int(session), command))
    return found


def descendants(pid: int) -> list[Process]:
    """All processes below ``pid``, children first."""
    everything = all_processes()
    found: list[Process] = []
    wanted = {pid}
    while wanted:
        layer = [process for process in everything if process.parent in wanted]
        found += layer
        wanted = {process.pid for process in layer}
    return found


def working_folder(pid: int) -> Path | None:
    """Where a process works; ``None`` where it has ended or is somebody else's."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    return any(process.pid == pid for process in all_processes())


def wait_until(
    what: str, condition: Callable[[], bool], *, seconds: float = 30.0, pause: float = 0.05
) -> None:
    """Ask again and again; an AssertionError that names ``what`` when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {seconds:.0f} s: {what}"
        time.sleep(pause)
