"""What is measured with our own simulator: whole enrolments, connects, commands. On every database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import load
from bench.measuring import Figure, Phase, measured
from bench.push_door import wait_for_pushes
from bench.stand import Stand
from simulator.device import SimulatedDevice

QUIET = 3.0
"""Seconds that pushes and sweeps get to come to rest before the clock starts."""

Tell = Callable[[dict[str, Figure]], None]


@dataclass(frozen=True)
class Size:
    devices: int
    idle_rounds: int
    command_rounds: int
    at_once: int


def measure(stand: Stand, size: Size, keys: Path, tell: Tell) -> None:
    """Enrol all devices; connect with an empty queue; connect with one command each."""
    url = stand.server.url
    fleet = load.devices(size.devices, keys)

    with measured(stand.parts) as phase:
        phase.requests = load.spread(
            lambda device: load.enrol(device, f"{url}/enroll/default/profile"), fleet, size.at_once
        )
        phase.count = size.devices
    tell({"phase": "simulated-enrol", **phase.figures()})
    load.spread(load.settle, fleet, size.at_once)
    time.sleep(QUIET)

    idle = [load.idle_request(device) for device in fleet]
    with measured(stand.parts) as phase:
        sequences = [[request] for _ in range(size.idle_rounds) for request in idle]
        phase.count = phase.requests = load.replay(url, sequences, size.at_once, [False], phase.took)
    tell({"phase": "simulated-idle", **phase.figures()})

    total = Phase()
    for _ in range(size.command_rounds):
        total += command_round(stand, fleet, idle, size.at_once)
    tell({"phase": "simulated-command", **total.figures()})


def command_round(stand: Stand, fleet: list[SimulatedDevice], idle: list[bytes], at_once: int) -> Phase:
    """One command for all; the clock runs while they fetch and answer it, not while they are pushed."""
    pushed = stand.apns.count
    queued = json.loads(stand.server.manage("enqueue", "ProfileList", "--all", "--json").stdout)
    if queued["queued"] != len(fleet):
        raise SystemExit(f"not all devices can be sent commands: {queued}")
    wait_for_pushes(stand.apns, pushed + len(fleet), 60)
    time.sleep(QUIET)
    sequences = [
        [request, load.acknowledgement(device, queued["command_uuid"])]
        for request, device in zip(idle, fleet, strict=True)
    ]
    with measured(stand.parts) as phase:
        phase.requests = load.replay(stand.server.url, sequences, at_once, [True, False], phase.took)
        phase.count = len(fleet)
    return phase
