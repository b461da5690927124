"""The workers and Redis are killed, on PostgreSQL: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.killing import KILLS, Killing, pairs
from tests.support.apns import ApnsStandIn
from tests.support.server import RunningServer
from tests.support.services import Postgres, Redis
from tests.support.woken import sleeping_fleet

pytestmark = [pytest.mark.once, pytest.mark.slow]


def test_the_workers_and_redis_on_postgres(tmp_path: Path, postgres: Postgres, redis_server: Redis) -> None:
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
        for number, two in enumerate(pairs(fleet.devices)):
            if number == 2:
                killing.kill_workers_around_the_push(two)
            elif number % 2:
                killing.kill_redis_before_the_enqueue(two[0], redis_server)
                killing.kill_redis_after_the_enqueue(two[1], redis_server)
            else:
                killing.kill_workers_before_they_look(two)
        killing.verify()
