"""The supervisor with small processes of our own: order, restarts, leftovers, and its own death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import all_processes, descendants, wait_until

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]

# A part: says when it starts and ends, and has a child of its own that ignores SIGTERM.
PART = """
import signal, subprocess, sys, time
name, log, grace = sys.argv[1], sys.argv[2], float(sys.argv[3])
def write(what):
    with open(log, "a") as file:
        file.write(f"{name} {what}\\n")
def end(*_):
    time.sleep(grace)
    write("ends")
    sys.exit(0)
subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)", log])
signal.signal(signal.SIGTERM, end)
write("starts")
while True:
    time.sleep(0.05)
"""

PARENT = """
import sys
from mdm_project.supervisor import Part, StartError, Supervisor, say
log, grace = sys.argv[1], sys.argv[2]
parts = [Part(name, [sys.executable, "-c", open(log + ".part").read(), name, log, grace], grace=2.0)
         for name in ("first", "second")]
def ready():
    return open(log).read().count("starts") >= 2
try:
    Supervisor(parts, ready=ready, when_ready=lambda: say("ready")).run()
except StartError as error:
    say(str(error))
    sys.exit(1)
say("ended")
"""


class Parent:
    def __init__(self, folder: Path, *, grace: float = 0.0, part: str = PART) -> None:
        self.log = folder / "events"
        self.log.touch()
        (folder / "events.part").write_text(part)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(self.log), str(grace)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def events(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1]

    def wait_for(self, count: int, event: str) -> None:
        wait_until(f"{count} times {event}", lambda: self.events.count(event) >= count)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=30)
        return self.process.returncode, output

    def left(self) -> list[str]:
        """Command lines of all processes that carry this test's folder."""
        return [
            process.command
            for process in all_processes()
            if str(self.log) in process.command and process.pid != self.process.pid
        ]


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    started = Parent(tmp_path)
    started.wait_for(1, "first starts")
    started.wait_for(1, "second starts")
    yield started
    if started.process.poll() is None:
        started.process.kill()
    for process in all_processes():
        if str(started.log) in process.command:
            os.kill(process.pid, signal.SIGKILL)
    started.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_all_parts_in_order_and_leaves_nothing(parent: Parent, number: int) -> None:
    code, output = parent.end(number)
    assert code == 0, output
    assert output.split("\n")[-2] == "ended"
    assert parent.events[-2:] == ["first ends", "second ends"]
    assert parent.left() == []


def test_a_killed_part_is_started_again_and_its_leftovers_are_cleared(parent: Parent) -> None:
    first = next(p for p in descendants(parent.process.pid) if " first " in p.command)
    grandchild = descendants(first.pid)[0]
    os.kill(first.pid, signal.SIGKILL)
    parent.wait_for(2, "first starts")
    assert parent.events.count("second starts") == 1
    assert grandchild.pid not in [process.pid for process in all_processes()]
    code, output = parent.end()
    assert code == 0
    assert "first ended with SIGKILL; starting it again in 1 s" in output
    assert parent.left() == []


def test_kill_9_of_the_parent_ends_the_parts(parent: Parent) -> None:
    parent.process.kill()
    parent.wait_for(1, "first ends")
    parent.wait_for(1, "second ends")


def test_a_part_that_does_not_end_is_killed_after_its_grace(tmp_path: Path) -> None:
    parent = Parent(tmp_path, grace=60.0)
    parent.wait_for(1, "second starts")
    before = time.monotonic()
    code, output = parent.end()
    assert code == 0
    assert "first did not end in time; killed" in output
    assert time.monotonic() - before < 30
    assert parent.left() == []


def test_a_second_signal_ends_the_patience(tmp_path: Path) -> None:
    parent = Parent(tmp_path, grace=60.0)
    parent.wait_for(1, "second starts")
    parent.process.send_signal(signal.SIGINT)
    time.sleep(0.8)
    code, _output = parent.end(signal.SIGINT)
    assert code == 0
    assert parent.left() == []


def test_a_part_that_never_comes_up_ends_the_start_with_a_reason(tmp_path: Path) -> None:
    parent = Parent(tmp_path, part=textwrap.dedent("raise SystemExit(3)"))
    output, _ = parent.process.communicate(timeout=60)
    assert parent.process.returncode == 1
    assert "first ended with exit code 3" in output
    assert "first does not start; its messages are above" in output
