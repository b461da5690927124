"""``kill -9`` between a command's enqueue and its push: every command still arrives, none twice.

The broker only wakes; what is due is in the database, and the sweep finds it. Moments that are tried in turn:
both workers stand still while commands are queued and are killed before they look; both are killed at a
random moment around their pushes; Redis is gone while a command is queued, or dies right after. Both
together, because one that lives would do the work of the other.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.apns import ApnsStandIn, Reply
from tests.support.processes import wait_until
from tests.support.server import RunningServer
from tests.support.services import Redis
from tests.support.woken import CarefulDevice, SleepingFleet

WORKERS = {"BRAMLEY_WORKER_PROCESSES": "2"}
KILLS = 10
"""On each of the two set-ups."""
STEADY = 5.5
"""Seconds that a worker has to live so that the supervisor starts the next one without a longer pause."""
ARRIVES_WITHIN = 45.0
"""Seconds: the next sweep, and a busy machine."""


class Killing:
    """One server, a device for each kill, and what was queued for it."""

    def __init__(self, server: RunningServer, apns: ApnsStandIn, fleet: SleepingFleet) -> None:
        self.server = server
        self.apns = apns
        self.fleet = fleet
        self.kills = 0
        self.queued: dict[str, CarefulDevice] = {}
        self.chance = random.Random(3)

    def enqueue(self, device: CarefulDevice) -> None:
        """``manage.py enqueue``: answers with success although a worker or Redis is away."""
        serial = device.hardware.serial_number
        done = self.server.manage("enqueue", "ProfileList", "--serial", serial, "--json")
        answer = json.loads(done.stdout)
        assert (answer["queued"], answer["skipped"]) == (1, [])
        self.queued[answer["command_uuid"]] = device

    def wait_for_workers(self) -> list[int]:
        """The ids of both, when they have lived for a while."""
        wait_until("both workers run", lambda: len(self.server.pids["worker"]) == 2)
        pids = self.server.pids["worker"]
        time.sleep(max(0.0, STEADY - min(map(_age, pids))))
        return pids

    def kill_workers_before_they_look(self, devices: Iterable[CarefulDevice]) -> None:
        pids = self.wait_for_workers()
        _signal(pids, signal.SIGSTOP)
        self._enqueue_all(devices)
        self._kill(pids)

    def kill_workers_around_the_push(self, devices: Sequence[CarefulDevice]) -> None:
        pids = self.wait_for_workers()
        # The answer takes its time, so that the kill finds pushes on their way.
        for device in devices:
            assert device.enrolled is not None
            self.apns.script(device.enrolled.token, Reply(delay=0.3))
        self._enqueue_all(devices)
        time.sleep(self.chance.uniform(0.0, 0.4))
        self._kill(pids)

    def kill_redis_before_the_enqueue(self, device: CarefulDevice, redis: Redis) -> None:
        redis.kill()
        self.kills += 1
        self.enqueue(device)
        redis.start()

    def kill_redis_after_the_enqueue(self, device: CarefulDevice, redis: Redis) -> None:
        # The workers stand still, so that their wake-up is still in Redis when Redis dies.
        wait_until("both workers run", lambda: len(self.server.pids["worker"]) == 2)
        pids = self.server.pids["worker"]
        _signal(pids, signal.SIGSTOP)
        self.enqueue(device)
        redis.kill()
        self.kills += 1
        redis.start()
        _signal(pids, signal.SIGCONT)

    def _enqueue_all(self, devices: Iterable[CarefulDevice]) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.enqueue, devices))

    def _kill(self, pids: list[int]) -> None:
        _signal(pids, signal.SIGKILL)
        self.kills += len(pids)
        wait_until("the workers are gone", lambda: not set(pids) & set(self.server.pids["worker"]))

    def verify(self) -> None:
        """Every command arrived, was answered, and was handed out once."""
        assert self.kills == KILLS
        assert len(self.queued) == KILLS
        self.end_leases()
        wait_until("every command arrived", lambda: not self.missing(), seconds=ARRIVES_WITHIN)
        assert self.fleet.problems == []
        assert [device.tally.twice for device in self.fleet.devices if device.tally.twice] == []
        handed = {uuid: device.handed[uuid] for uuid, device in self.queued.items()}
        assert set(handed.values()) == {1}, handed
        assert self.deliveries() == {uuid: ["ACKNOWLEDGED", 1] for uuid in self.queued}

    def end_leases(self) -> None:
        """The half minute is over for which killed workers hold what they were about to push."""
        program = (
            "from django.utils import timezone; from push.models import PushRequest\n"
            "now = timezone.now()\n"
            "PushRequest.objects.filter(lease_until__gt=now).update(lease_until=now)"
        )
        self.server.manage("shell", "--no-imports", "--command", program)

    def missing(self) -> list[str]:
        return [uuid for uuid, device in self.queued.items() if uuid not in device.answered]

    def deliveries(self) -> dict[str, list[object]]:
        """State and times sent, as the server has them."""
        program = (
            "import json\n"
            "from commands.models import CommandDelivery\n"
            "rows = CommandDelivery.objects.filter(command__request_type='ProfileList')\n"
            "print(json.dumps({str(row.command.uuid): [row.state, row.sent_count] for row in rows}))"
        )
        found: dict[str, list[object]] = json.loads(
            self.server.manage("shell", "--no-imports", "--command", program).stdout
        )
        return found


def pairs(devices: Sequence[CarefulDevice]) -> Iterator[Sequence[CarefulDevice]]:
    """Two at a time: a command for each worker that is killed."""
    return (devices[start : start + 2] for start in range(0, len(devices), 2))


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def _age(pid: int) -> float:
    """Seconds since a process started."""
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return uptime - started / os.sysconf("SC_CLK_TCK")
