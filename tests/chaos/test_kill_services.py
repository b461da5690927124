"""The worker and Redis are killed, on PostgreSQL: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.killing import KILLS, Killing
from tests.support.apns import ApnsStandIn
from tests.support.server import RunningServer
from tests.support.services import Postgres, Redis
from tests.support.woken import sleeping_fleet

pytestmark = [pytest.mark.once, pytest.mark.slow]


def test_the_worker_and_redis_on_postgres(tmp_path: Path, postgres: Postgres, redis_server: Redis) -> None:
    url = postgres.create_database("kill")
    with (
        ApnsStandIn() as apns,
        RunningServer(
            tmp_path / "home",
            database_url=url,
            redis_url=redis_server.url,
            apns_url=apns.url,
            apns_ca=apns.ca_file,
        ) as server,
        sleeping_fleet(server, apns, KILLS) as fleet,
    ):
        killing = Killing(server, apns, fleet)
        for number, device in enumerate(fleet.devices):
            if number % 4 == 0:
                killing.kill_worker_before_it_looks(device)
            elif number % 4 == 1:
                killing.kill_redis_before_the_enqueue(device, redis_server)
            elif number % 4 == 2:
                killing.kill_worker_around_the_push(device)
            else:
                killing.kill_redis_after_the_enqueue(device, redis_server)
        killing.verify()
