"""The load generators in Go (``scepload``, ``mdmload``), where their source and Go itself are at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BESIDE_US = Path(__file__).resolve().parents[2] / "shared" / "bench"
GO_FOLDER = "/usr/local/go/bin"

Line = dict[str, Any]


def found(source: Path) -> bool:
    """Whether the generators can be built."""
    return (source / "scepload").is_dir() and go_program() is not None


def go_program() -> str | None:
    """The path of Go's command, if it is installed."""
    return shutil.which("go") or shutil.which("go", path=GO_FOLDER)


class Generators:
    """``scepload`` and ``mdmload``, built from ``source`` into ``folder``; keys and devices are kept there.

    ``watched``: the process whose CPU counts, with all below it, by name. ``topic``: to which the devices
    subscribe; without a push certificate for it they would not be woken.
    """

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        self.watched: dict[str, int] = {}
        self.topic = ""
        go = go_program()
        if go is None:
            raise SystemExit("Go is not installed")
        for name in ("mdmload", "scepload"):
            argv = [go, "build", "-o", str(folder / name), "."]
            subprocess.run(argv, cwd=source / name, env=os.environ | {"GOFLAGS": "-mod=mod"}, check=True)

    def scep(self, url: str, challenges: Sequence[str], at_once: int) -> Line:
        """Whole enrolments, one for each challenge; the messages are made before the clock starts."""
        file = self.folder / "challenges"
        file.write_text("".join(f"{challenge}\n" for challenge in challenges))
        line = self._lines(
            "scepload",
            *("-url", url, "-challenges", str(file), "-n", str(len(challenges)), "-c", str(at_once)),
            *("-enc", "aes128", "-digest", "sha256"),
        )[-1]
        return _figures(line, line["n"], "enrol_per_s")

    def anchor(self) -> Path:
        """The certificate of the CA of ``mdmload``'s devices, as PEM."""
        self._lines("mdmload", "-devices", "1", "-state", str(self.folder / "state"), "-do", "prep")
        return self.folder / "state" / "ca.pem"

    def udids(self, seed: str, devices: int) -> list[str]:
        """Of the devices of a seed, in their order."""
        out = self.folder / f"ids-{seed}"
        options = ("-devices", str(devices), "-seed", seed, "-state", str(self.folder / "state"))
        self._lines("mdmload", *options, "-do", "ids", "-ids-out", str(out))
        return out.read_text().split()

    def mdm(self, url: str, phase: str, seed: str, devices: int, at_once: int, *options: str) -> Line:
        """One phase of ``mdmload``: ``enrol``, ``idle`` or ``cmd2``; requests are signed before the clock."""
        line = self._lines(
            "mdmload",
            *("-checkin-url", f"{url}/mdm/checkin", "-mdm-url", f"{url}/mdm/connect", "-noattr"),
            *("-state", str(self.folder / "state"), "-seed", seed, "-devices", str(devices)),
            *("-c", str(at_once), "-do", phase, *(("-topic", self.topic) if self.topic else ()), *options),
        )[-1]
        count = {"enrol": "enrolled", "cmd2": "acked"}.get(phase, "requests")
        rate = {"enrol": "enrol_per_s", "cmd2": "cmd_per_s"}.get(phase, "req_per_s")
        return _figures(line, line[count], rate) | {"commands": line["commands"]}

    def _lines(self, program: str, *arguments: str) -> list[Line]:
        pids = ",".join(f"{name}={pid}" for name, pid in self.watched.items())
        done = subprocess.run(
            [str(self.folder / program), *arguments, *(("-pid", pids) if pids else ())],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        if done.returncode:
            raise SystemExit(f"{program} {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _figures(line: Line, count: int, rate: str) -> Line:
    """In the words of our own lines: CPU in milliseconds for each thing counted, memory in MiB."""
    told: Line = {
        "count": count,
        "requests": line.get("requests", count),
        "seconds": line["wall_s"],
        "per_second": line[rate],
        **{name: line[name] for name in ("p50_ms", "p95_ms", "p99_ms", "max_ms")},
    }
    for name, process in line["proc"].items():
        told[f"{name}_cpu_ms"] = round(1000 * process["cpu_s"] / max(count, 1), 3)
        told[f"{name}_mib"] = process["rss_mib"]
    told["generator_cpu_ms"] = round(1000 * line["gen_cpu_s"] / max(count, 1), 3)
    told["other_cores"] = line["other_cores"]
    return told
