"""Simulated devices that sleep until APNs wakes them: a device connects only when a push for it arrived."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from simulator.device import SimulatedDevice
from simulator.exchange import SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.support.apns import ApnsStandIn, Authority, Push
from tests.support.server import RunningServer

TOPIC = "com.apple.mgmt.External.woken"


class CarefulDevice(SimulatedDevice):
    """Counts how often each command was handed to it, before and after its answer."""

    handed: Counter[str]

    def _report(self, uuid: str, *rest: object) -> dict[str, object]:
        self.handed[uuid] += 1
        return super()._report(uuid, *rest)  # type: ignore[arg-type]


@dataclass
class SleepingFleet:
    """Devices by push token, and the pushes that have not been followed yet."""

    devices: list[CarefulDevice]
    problems: list[str] = field(default_factory=list)
    _by_token: dict[bytes, CarefulDevice] = field(default_factory=dict)
    _pushes: SimpleQueue[Push] = field(default_factory=SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)

    def note(self, push: Push) -> None:
        """Called by the stand-in, in its thread."""
        self._pushes.put(push)

    def follow(self) -> None:
        """Connect whenever a push asks for it, until :meth:`stop`."""
        while not self._done.is_set():
            try:
                push = self._pushes.get(timeout=0.1)
            except Empty:
                continue
            device = self._by_token.get(push.token)
            if device is None or device.enrolled is None or push.magic != device.enrolled.push_magic:
                self.problems.append(f"a push for nobody: {push.path}")
                continue
            try:
                with Transport() as transport:
                    converse(device.connect(), transport.send)
            except SimulationError as error:
                self.problems.append(str(error))

    def stop(self) -> None:
        self._done.set()

    def enrol(self, server: RunningServer) -> None:
        for device in self.devices:
            with Transport() as transport:
                converse(device.enrol(f"{server.url}/enroll/default/profile"), transport.send)
            assert device.enrolled is not None
            self._by_token[device.enrolled.token] = device


class HasAuthority(Protocol):
    """A stand-in for APNs, whichever."""

    authority: Authority


def import_push_certificate(server: RunningServer, apns: HasAuthority) -> None:
    """Give the server a push certificate that the stand-in accepts."""
    certificate, key = apns.authority.push_certificate(TOPIC)
    path = server.home / "push.pem"
    path.write_bytes(certificate + key)
    program = (
        "import sys; from pathlib import Path; from django.utils import timezone\n"
        "from audit.recording import SERVER; from push.certificates import import_certificate\n"
        f"import_certificate(Path({str(path)!r}).read_bytes(), actor=SERVER, now=timezone.now())"
    )
    server.manage("shell", "--no-imports", "--command", program)


@contextmanager
def sleeping_fleet(server: RunningServer, apns: ApnsStandIn, count: int) -> Iterator[SleepingFleet]:
    """``count`` enrolled devices that follow pushes until the block ends."""
    import_push_certificate(server, apns)
    devices = [CarefulDevice(make_hardware("woken", number), new_key()) for number in range(1, count + 1)]
    for device in devices:
        device.handed = Counter()
    fleet = SleepingFleet(devices)
    apns.on_push = fleet.note
    fleet.enrol(server)
    follower = threading.Thread(target=fleet.follow)
    follower.start()
    try:
        yield fleet
    finally:
        fleet.stop()
        follower.join()
