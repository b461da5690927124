"""Many devices at once: enrol all, let all connect, count, and say what went wrong."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator import store
from simulator.device import Behaviour, SimulatedDevice
from simulator.device_ca import DeviceCa
from simulator.exchange import Conversation, Request, Response, SimulationError, converse
from simulator.gate import Gate
from simulator.hardware import dice, make_hardware
from simulator.keys import kept_key
from simulator.over_the_air import Misbehaviour, enrol_over_the_air
from simulator.transport import Transport
from simulator.trust import DeviceTls, Trust

MAX_ERRORS_KEPT = 1000
LONGEST_WAIT = 10.0
LONGEST_ASKED_WAIT = 60.0


@dataclass(frozen=True)
class Plan:
    """What to simulate. Times in seconds.

    ``signatures``: ``plain``, ``attributes``, ``mixed`` or ``none``. ``retries``: tries after a refused
    connection, a 429 or a 5xx. ``poll``: how long to go on connecting after the rounds, every ``interval``.
    ``device_ca``: with one the devices enrol over the air, at ``profile_url``; without one directly.
    ``codes``: one for all, or one for each device in turn. ``login``: name and password of an account.
    """

    profile_url: str
    devices: int
    device_ca: DeviceCa | None = None
    misbehaviour: Misbehaviour = Misbehaviour.NONE
    rounds: int = 1
    pause: float = 1.0
    poll: float = 0.0
    interval: float = 2.0
    not_now: float = 0.0
    errors: float = 0.0
    signatures: str = "mixed"
    seed: str = "0"
    keys: Path | None = None
    state: Path | None = None
    leave: bool = False
    at_once: int = 16
    retries: int = 4
    trust: Trust = field(default_factory=Trust)
    mutual_tls: bool = False
    stay_at: str = ""
    codes: tuple[str, ...] = field(default=(), repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)

    def gate(self, number: int) -> Gate | None:
        """What the person with device ``number`` (from 1) shows; None: nothing is asked for."""
        if self.codes:
            return Gate(code=self.codes[(number - 1) % len(self.codes)])
        return Gate(name=self.login[0], password=self.login[1]) if self.login else None


@dataclass
class Report:
    """What came of it. ``passing``: tries that failed and were repeated."""

    devices: int = 0
    enrolled: int = 0
    connects: int = 0
    commands: int = 0
    errors: list[str] = field(default_factory=list)
    error_count: int = 0
    passing: int = 0
    twice: list[str] = field(default_factory=list)
    request_types: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    enrol_seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The last line of ``manage.py simulate``."""
        return {
            "devices": self.devices,
            "enrolled": self.enrolled,
            "connects": self.connects,
            "commands": self.commands,
            "errors": self.error_count,
            "seconds": round(self.seconds, 3),
            "enrol_seconds": round(self.enrol_seconds, 3),
            "retries": self.passing,
            "twice": len(self.twice),
            "request_types": dict(sorted(self.request_types.items())),
        }


class Fleet:
    """Runs a :class:`Plan`. ``sleep`` and ``now`` are arguments for tests."""

    def __init__(
        self,
        plan: Plan,
        *,
        say: Callable[[str], None] = lambda _text: None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self.say = say
        self.sleep = sleep
        self.now = now
        self.report = Report(devices=plan.devices)
        self.devices: dict[int, SimulatedDevice] = {}
        self._lock = threading.Lock()

    def run(self) -> Report:
        """Enrol, connect, poll, leave. What the server does wrong is counted, not raised."""
        started = self.now()
        try:
            with ThreadPoolExecutor(self.plan.at_once, thread_name_prefix="device") as pool:
                self._run(pool, started)
        finally:
            self._count(started)
        return self.report

    def _run(self, pool: ThreadPoolExecutor, started: float) -> None:
        _all(pool, self._enrol, range(1, self.plan.devices + 1))
        self.report.enrol_seconds = self.now() - started
        self.say(f"{self._enrolled()} of {self.plan.devices} devices are enrolled")
        for number in range(1, self.plan.rounds + 1):
            if number > 1:
                self.sleep(self.plan.pause)
            _all(pool, self._connect, list(self.devices))
            self.say(f"round {number} of {self.plan.rounds} is done")
        if self.plan.poll > 0:
            _all(pool, self._poll, _shares(list(self.devices), self.plan.at_once))
        if self.plan.leave:
            _all(pool, self._leave, list(self.devices))

    # One device

    def _enrol(self, number: int) -> None:
        try:
            device = self._device(number)
        except store.StoreError as error:
            self._failed(f"device {number}: {error}")
            return
        if device.enrolled is None:
            problem = self._carry(number, device, lambda: self._way_in(number, device))
            if problem is not None:
                device.enrolled = None
                self._failed(problem)
                return
        with self._lock:
            self.devices[number] = device

    def _way_in(self, number: int, device: SimulatedDevice) -> Conversation[None]:
        """Over the air where the plan has a device CA, which made the device; else the direct profile."""
        plan = self.plan
        if plan.device_ca is None:
            return device.enrol(plan.profile_url, plan.gate(number))
        if device.manufactured is None:
            name = str(uuid.uuid5(uuid.NAMESPACE_OID, device.hardware.udid)).upper()
            # It belongs to the hardware: a server that knows it takes it for no other serial number.
            key = kept_key(plan.keys, number, f"made-{device.hardware.serial_number}")
            device.manufactured = plan.device_ca.manufacture(name, key, now=device.clock())
        return enrol_over_the_air(
            device,
            device.manufactured,
            plan.profile_url,
            private_key=kept_key(plan.keys, number, "enrolment"),
            misbehaviour=plan.misbehaviour,
            gate=plan.gate(number),
        )

    def _device(self, number: int) -> SimulatedDevice:
        plan = self.plan
        behaviour = Behaviour(
            not_now=plan.not_now,
            errors=plan.errors,
            signed_attributes=self._signs_attributes(number),
            mutual_tls=plan.mutual_tls,
            signs=plan.signatures != "none",
        )
        if plan.state is not None and (device := store.load(plan.state, number, behaviour)):
            return device
        return SimulatedDevice(
            make_hardware(plan.seed, number), kept_key(plan.keys, number), behaviour=behaviour
        )

    def _signs_attributes(self, number: int) -> bool:
        if self.plan.signatures == "mixed":
            return dice(f"{self.plan.seed}/{number}/signature").random() < 0.5
        return self.plan.signatures == "attributes"

    def _connect(self, number: int) -> None:
        device = self.devices[number]
        problem = self._carry(number, device, device.connect)
        if problem is not None:
            self._failed(problem)

    def _poll(self, numbers: list[int]) -> None:
        """One thread's share of the devices, each in turn, until the time is over.

        What passes while the server is down is no error: the device comes back. Only the last try counts.
        """
        end = self.now() + self.plan.poll
        problems: dict[int, str] = {}
        while (start := self.now()) < end:
            for number in numbers:
                device = self.devices[number]
                problem = self._carry(number, device, device.connect)
                if problem is None:
                    problems.pop(number, None)
                else:
                    problems[number] = problem
            self.sleep(max(0.0, min(self.plan.interval - (self.now() - start), end - self.now())))
        for problem in problems.values():
            self._failed(problem)

    def _leave(self, number: int) -> None:
        device = self.devices[number]
        if device.enrolled is not None:
            problem = self._carry(number, device, device.check_out)
            if problem is not None:
                self._failed(problem)

    def _carry(
        self, number: int, device: SimulatedDevice, conversation: Callable[[], Conversation[Any]]
    ) -> str | None:
        """Carry one conversation through; the problem in words where it failed."""
        try:
            tls = DeviceTls(self.plan.trust, device)
            with Transport(tls=tls, stay_at=self.plan.stay_at) as transport:
                converse(conversation(), lambda request: self._patiently(transport, request))
        except SimulationError as error:
            return f"device {number} ({device.hardware.serial_number}): {error}"
        finally:
            if self.plan.state is not None:
                store.save(self.plan.state, number, device)
        return None

    def _patiently(self, transport: Transport, request: Request) -> Response:
        """The answer, tried again where the server is not there or asks for patience, as devices do."""
        for retry in range(self.plan.retries):
            wait = min(0.5 * 2**retry, LONGEST_WAIT)
            try:
                response = transport.send(request)
            except SimulationError as error:
                if not error.passing:
                    raise
            else:
                if response.status != 429 and response.status < 500:
                    return response
                wait = max(wait, _asked_to_wait(response))
            with self._lock:
                self.report.passing += 1
            self.sleep(wait)
        return transport.send(request)

    # Counting

    def _failed(self, problem: str) -> None:
        with self._lock:
            self.report.error_count += 1
            if len(self.report.errors) < MAX_ERRORS_KEPT:
                self.report.errors.append(problem)

    def _enrolled(self) -> int:
        return sum(device.enrolled is not None for device in self.devices.values())

    def _count(self, started: float) -> None:
        report = self.report
        report.enrolled = len(self.devices)
        tallies = [device.tally for device in self.devices.values()]
        report.connects = sum(tally.connects for tally in tallies)
        report.commands = sum(tally.commands for tally in tallies)
        report.twice = [what for tally in tallies for what in tally.twice]
        for tally in tallies:
            report.request_types += tally.request_types
        report.seconds = self.now() - started


def _asked_to_wait(response: Response) -> float:
    """Seconds of Retry-After, within reason."""
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_ASKED_WAIT) if text.isascii() and text.isdigit() else 0.0


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do it for every item; the first exception that is none of the server's ends the run."""
    for future in [pool.submit(work, item) for item in items]:
        future.result()


def _shares(numbers: list[int], count: int) -> list[list[int]]:
    return [share for share in (numbers[start::count] for start in range(count)) if share]
