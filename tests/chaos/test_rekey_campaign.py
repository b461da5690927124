"""The show: a fleet goes through a re-key campaign while web and worker are killed three times.

Everything runs for real, on PostgreSQL and Redis: devices sleep until APNs wakes them, get the new root, ask
for their certificates by SCEP, and answer what else they are told. At the end all are on the new key, none
was unenrolled, and no command was lost.

``make test`` does it with 60 devices, ``make test-campaign`` with 1,000 (``BRAMLEY_CAMPAIGN_DEVICES``).

What is simulated: the devices (their own code, in this process, over real HTTP) and APNs (a stand-in that
speaks its protocol). Devices share a few RSA keys, because making one for each would be most of the time;
each has a certificate of its own. The server, PostgreSQL, Redis and the kills are real.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.chaos.crowd import Crowd, crowd
from tests.support.apns import ApnsStandIn
from tests.support.processes import wait_until
from tests.support.server import RunningServer
from tests.support.services import Postgres, Redis
from tests.support.woken import import_push_certificate

pytestmark = [pytest.mark.once, pytest.mark.slow]

DEVICES = int(os.environ.get("BRAMLEY_CAMPAIGN_DEVICES", "60"))
RATE = DEVICES * (2 if DEVICES >= 500 else 4)
"""Devices a minute: many are asked in several waves, few in one, to spare time."""
NEVER = datetime(2000, 1, 1, tzinfo=UTC)
PATIENCE = 600.0
"""Seconds that one step may take on a busy machine."""

ON_KEY = """
    SELECT count(*) FROM devices_identity i
      JOIN pki_certificate c ON c.id = i.certificate_id
      JOIN pki_issuerkey k ON k.id = c.issuer_key_id
      JOIN devices_enrollment e ON e.id = i.enrollment_id
     WHERE i.state = 'ACTIVE' AND e.state = 'ENROLLED' AND k.generation = %s
"""
OUTSTANDING = """
    SELECT count(*) FROM commands_commanddelivery WHERE state IN ('QUEUED', 'SENT', 'NOT_NOW', 'UNCERTAIN')
"""
ROOTS = """
    SELECT count(DISTINCT d.enrollment_id) FROM commands_commanddelivery d
      JOIN renewal_campaignwave w ON w.command_id = d.command_id
     WHERE w.kind = 'ROOT' AND d.state = 'ACKNOWLEDGED'
"""
FAILED = "SELECT count(*) FROM renewal_identityrenewal WHERE state = 'FAILED' AND finished_at > %s"
PINNED = """
    SELECT c.sha256 FROM devices_identity i JOIN pki_certificate c ON c.id = i.certificate_id
     WHERE i.state = 'ACTIVE'
"""
STATES_OF = """
    SELECT d.state, count(*) FROM commands_commanddelivery d JOIN commands_command c ON c.id = d.command_id
     WHERE c.uuid = ANY(%s::uuid[]) GROUP BY d.state
"""
LIVES = "SELECT id, epoch, state, binding FROM devices_enrollment ORDER BY id"
SECRETS = (
    "SELECT enrollment_id, kind, value_sealed FROM devices_escrowedsecret WHERE kind = 'BOOTSTRAP_TOKEN'"
)


@dataclass
class Show:
    """The server, its database, and the devices."""

    server: RunningServer
    url: str
    devices: Crowd
    began: float
    kills: int = 0
    moments: dict[str, int] = field(default_factory=dict)
    retried_at: datetime = NEVER

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(sql, values).fetchall()

    def count(self, sql: str, *values: Any) -> int:
        return int(self.rows(sql, *values)[0][0])

    def manage(self, *arguments: str) -> Any:
        return json.loads(self.server.manage(*arguments, "--json").stdout)

    def campaign(self, *arguments: str) -> Any:
        return self.manage("rekey_campaign", arguments[0], "bramley", *arguments[1:])

    def state(self) -> str:
        return str(self.rows("SELECT state FROM renewal_rekeycampaign")[0][0])

    def enqueue(self, request_type: str) -> str:
        """Queue a command for every device; its UUID."""
        queued = self.manage("enqueue", request_type, "--all")
        assert (queued["queued"], queued["skipped"]) == (DEVICES, [])
        return str(queued["command_uuid"])

    def wait(self, what: str, condition: Any) -> None:
        wait_until(what, condition, seconds=PATIENCE, pause=0.5)
        self.moments[what] = round(time.monotonic() - self.began)

    def kill(self) -> None:
        """kill -9: all processes of the web server and the worker, wherever they are."""
        pids = self.server.pids
        for pid in [*pids["web"], *pids["worker"]]:
            os.kill(pid, signal.SIGKILL)
        self.kills += 1
        self.wait("they are there again", lambda: self._is_there_again(pids))

    def _is_there_again(self, before: dict[str, list[int]]) -> bool:
        now = self.server.pids
        return all(now[part] and not set(now[part]) & set(before[part]) for part in ("web", "worker"))

    def retry(self) -> None:
        """What a killed server cost a device is tried again at once, as an administrator would."""
        if self.count(FAILED, self.retried_at):
            self.retried_at = datetime.now(UTC)
            self.campaign("retry")


def is_over(show: Show) -> bool:
    show.retry()
    return show.count(ON_KEY, 2) == DEVICES


@pytest.fixture
def show(tmp_path: Path, postgres: Postgres, redis_server: Redis) -> Iterator[Show]:
    url = postgres.create_database("campaign")
    with (
        ApnsStandIn() as apns,
        RunningServer(
            tmp_path / "home",
            database_url=url,
            redis_url=redis_server.url,
            apns_url=apns.url,
            apns_ca=apns.ca_file,
        ) as server,
    ):
        import_push_certificate(server, apns)
        began = time.monotonic()
        with crowd(server, apns, DEVICES) as devices:
            yield Show(server, url, devices, began)


def test_a_fleet_goes_over_to_a_new_key_through_three_kills(show: Show) -> None:
    began = time.monotonic()
    assert show.devices.problems == []
    assert show.count(ON_KEY, 1) == DEVICES
    show.wait("what the server asks at first is answered", lambda: show.count(OUTSTANDING) == 0)
    before, secrets = show.rows(LIVES), show.rows(SECRETS)

    show.manage("issuer", "rekey", "bramley")
    started = show.campaign("start", "--rate", str(RATE), "--activate", "--enough", "95")
    assert started["on_old_key"] == DEVICES
    commands = [show.enqueue("ProfileList")]

    # 1. While devices get the new root.
    show.wait("some have the new root", lambda: show.count(ROOTS) > DEVICES // 10)
    show.kill()
    commands.append(show.enqueue("SecurityInfo"))

    # 2. Around the moment when the new key takes over.
    show.wait("most have the new root", lambda: show.count(ROOTS) > DEVICES * 9 // 10)
    show.kill()

    # 3. While devices get their new certificates.
    show.wait("some are on the new key", lambda: show.count(ON_KEY, 2) > DEVICES // 5)
    show.kill()
    commands.append(show.enqueue("DeviceInformation"))

    show.wait("all are on the new key", lambda: is_over(show))
    show.wait("nothing is left on the old one", lambda: show.state() == "DRAINED")
    show.wait("every command is answered", lambda: show.count(OUTSTANDING) == 0)

    assert show.kills == 3
    assert show.devices.problems == []
    assert (show.count(ON_KEY, 1), show.count(ON_KEY, 2)) == (0, DEVICES)
    # Each uses the certificate that the server has pinned, and no two use the same.
    pinned = {row[0] for row in show.rows(PINNED)}
    assert len(pinned) == DEVICES
    assert pinned == show.devices.fingerprints
    # None was unenrolled, and each is in the life in which it was.
    assert show.rows(LIVES) == before
    assert {row[2] for row in before} == {"ENROLLED"}
    assert all(device.enrolled is not None for device in show.devices.devices)
    # No queue was lost, nor what devices had deposited.
    assert dict(show.rows(STATES_OF, commands)) == {"ACKNOWLEDGED": DEVICES * len(commands)}
    assert set(secrets) <= set(show.rows(SECRETS))

    # The old key is closed, and every device works on without it.
    assert show.campaign("close")["state"] == "CLOSED"
    last = show.enqueue("ProfileList")
    show.wait("the last command is answered", lambda: show.count(OUTSTANDING) == 0)
    assert dict(show.rows(STATES_OF, [last])) == {"ACKNOWLEDGED": DEVICES}
    assert show.devices.problems == []
    seconds = {"enrol": began - show.began, "campaign": time.monotonic() - began}
    facts = {
        "devices": DEVICES,
        "on_new_key": show.count(ON_KEY, 2),
        "enrolled": show.count("SELECT count(*) FROM devices_enrollment WHERE state = 'ENROLLED'"),
        "commands_answered": DEVICES * (len(commands) + 1),
        "waves": show.count("SELECT count(*) FROM renewal_campaignwave"),
        "kills": show.kills,
        "requests_repeated": show.devices.repeated,
        "seconds": {name: round(value) for name, value in seconds.items()},
        "moments": show.moments,
    }
    print(json.dumps(facts))
