"""The workers are killed on SQLite and the embedded broker: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.killing import KILLS, WORKERS, Killing, pairs
from tests.support.apns import ApnsStandIn
from tests.support.server import RunningServer
from tests.support.woken import sleeping_fleet

pytestmark = [pytest.mark.once, pytest.mark.slow]


def test_the_workers_on_sqlite_and_the_embedded_broker(tmp_path: Path) -> None:
    with (
        ApnsStandIn() as apns,
        RunningServer(
            tmp_path / "home", apns_url=apns.url, apns_ca=apns.ca_file, environment=WORKERS
        ) as server,
        sleeping_fleet(server, apns, KILLS) as fleet,
    ):
        killing = Killing(server, apns, fleet)
        for number, two in enumerate(pairs(fleet.devices)):
            if number % 2:
                killing.kill_workers_around_the_push(two)
            else:
                killing.kill_workers_before_they_look(two)
        killing.verify()
