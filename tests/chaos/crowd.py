"""Many simulated devices that sleep until APNs wakes them, and have patience with a server that is away."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from simulator.device import SimulatedDevice
from simulator.exchange import Conversation, Request, Response, SimulationError, converse
from simulator.hardware import make_hardware
from simulator.keys import new_key
from simulator.transport import Transport
from tests.support.apns import ApnsStandIn, Push
from tests.support.server import RunningServer

PATIENCE = 60.0
"""Seconds for which a device repeats a request that nobody answers."""


@dataclass
class Crowd:
    """Devices by push token. Each connects when a push for it has arrived, one conversation at a time."""

    devices: list[SimulatedDevice]
    threads: int = 6
    problems: list[str] = field(default_factory=list)
    repeated: int = 0
    _by_token: dict[bytes, SimulatedDevice] = field(default_factory=dict)
    _locks: dict[bytes, threading.Lock] = field(default_factory=dict)
    _pushes: SimpleQueue[bytes] = field(default_factory=SimpleQueue)
    _done: threading.Event = field(default_factory=threading.Event)

    def note(self, push: Push) -> None:
        """Called by the stand-in, in its thread."""
        self._pushes.put(push.token)

    def enrol(self, server: RunningServer) -> None:
        """All of them, by the direct profile."""
        url = f"{server.url}/enroll/default/profile"
        with ThreadPoolExecutor(self.threads) as pool:
            for device in self.devices:
                pool.submit(self._enrol, device, url)

    def _enrol(self, device: SimulatedDevice, url: str) -> None:
        if self.carry(device, lambda: device.enrol(url)) and device.enrolled is not None:
            token = device.enrolled.token
            self._locks[token] = threading.Lock()
            self._by_token[token] = device
        else:
            self.problems.append(f"not enrolled: {device.hardware.serial_number}")

    def carry(self, device: SimulatedDevice, conversation: Callable[[], Conversation[Any]]) -> bool:
        """Carry one conversation through. What fails for good is a problem."""
        try:
            with Transport() as transport:
                converse(conversation(), lambda request: self._patiently(transport, request))
        except SimulationError as error:
            self.problems.append(f"{device.hardware.serial_number}: {error}")
            return False
        return True

    def _patiently(self, transport: Transport, request: Request) -> Response:
        """Where the server is away, the same request again, as devices do."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                response = transport.send(request)
                if response.status < 500 and response.status != 429:
                    return response
            except SimulationError as error:
                if not error.passing or time.monotonic() > deadline:
                    raise
            else:
                if time.monotonic() > deadline:
                    return response
            self.repeated += 1
            time.sleep(0.3)

    def follow(self) -> None:
        """One thread's work: connect whenever a push asks for it, until the crowd goes home."""
        while not self._done.is_set():
            try:
                token = self._pushes.get(timeout=0.1)
            except Empty:
                continue
            device = self._by_token.get(token)
            if device is None:
                # It was woken while it was still enrolling: a little later then.
                time.sleep(0.01)
                self._pushes.put(token)
                continue
            with self._locks[token]:
                self.carry(device, device.connect)

    @property
    def fingerprints(self) -> set[str]:
        """SHA-256 of the certificates that the devices sign with."""
        return {
            hashlib.sha256(device.enrolled.certificate).hexdigest()
            for device in self.devices
            if device.enrolled is not None
        }

    def stop(self) -> None:
        self._done.set()


@contextmanager
def crowd(server: RunningServer, apns: ApnsStandIn, count: int, *, keys: int = 64) -> Iterator[Crowd]:
    """``count`` enrolled devices that follow pushes until the block ends.

    ``keys``: so many RSA keys are made, and shared out: making one for each device would be most of the time.
    """
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _number: new_key(), range(min(count, keys))))
    devices = [
        SimulatedDevice(make_hardware("crowd", number), made[number % len(made)])
        for number in range(1, count + 1)
    ]
    gathered = Crowd(devices)
    apns.on_push = gathered.note
    followers = [threading.Thread(target=gathered.follow) for _ in range(gathered.threads)]
    for follower in followers:
        follower.start()
    try:
        gathered.enrol(server)
        yield gathered
    finally:
        gathered.stop()
        for follower in followers:
            follower.join()
