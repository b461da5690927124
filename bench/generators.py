"""Optional: load generators of other people's making (Go), where their source and Go itself are at hand."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.measuring import Figure
from tests.support.server import RunningServer

Parts = dict[str, list[int]]


class Generators:
    """``mdmload`` and ``scepload``, built from ``source`` into ``folder``."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.folder = folder
        for name in ("mdmload", "scepload"):
            subprocess.run(
                ["go", "build", "-o", str(folder / name), "."],
                cwd=source / name,
                env=os.environ | {"GOFLAGS": "-mod=mod"},
                check=True,
            )

    def run(
        self, server: RunningServer, parts: Parts, devices: int, at_once: int
    ) -> Iterator[dict[str, Figure]]:
        """The JSON lines of both, for one running server."""
        pids = ",".join(f"{name}={ids[0]}" for name, ids in parts.items() if ids)
        yield from self._scep(server, devices, at_once, pids)
        yield from self._mdm(server, devices, at_once, pids)

    def _scep(
        self, server: RunningServer, devices: int, at_once: int, pids: str
    ) -> Iterator[dict[str, Figure]]:
        minted = json.loads(server.manage("scep_challenge", "--count", str(devices), "--json").stdout)
        challenges = self.folder / "challenges"
        challenges.write_text("".join(f"{one['challenge']}\n" for one in minted))
        yield from self._lines(
            "scepload",
            *("-url", f"{server.url}/scep/", "-challenges", str(challenges), "-n", str(devices)),
            *("-c", str(at_once), "-enc", "aes128", "-digest", "sha256", "-pid", pids),
        )

    def _mdm(
        self, server: RunningServer, devices: int, at_once: int, pids: str
    ) -> Iterator[dict[str, Figure]]:
        common = [
            *("-checkin-url", f"{server.url}/mdm/checkin", "-mdm-url", f"{server.url}/mdm/connect"),
            *("-devices", str(devices), "-c", str(at_once), "-noattr", "-state", str(self.folder / "state")),
            *("-pid", pids),
        ]
        list(self._lines("mdmload", *common, "-do", "prep"))
        anchor = next((self.folder / "state").glob("*ca*.pem"))
        server.manage("trust_issuer", str(anchor), "--purpose", "mdm_identity")
        yield from self._lines("mdmload", *common, "-do", "enrol,idle")

    def _lines(self, program: str, *arguments: str) -> Iterator[dict[str, Figure]]:
        done = subprocess.run(
            [str(self.folder / program), *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=600,
        )
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                yield {"generator": program, **json.loads(line)}
