"""The worker is killed on SQLite and the embedded broker: nothing is lost, nothing comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.killing import KILLS, Killing
from tests.support.apns import ApnsStandIn
from tests.support.server import RunningServer
from tests.support.woken import sleeping_fleet

pytestmark = [pytest.mark.once, pytest.mark.slow]


def test_the_worker_on_sqlite_and_the_embedded_broker(tmp_path: Path) -> None:
    with (
        ApnsStandIn() as apns,
        RunningServer(tmp_path / "home", apns_url=apns.url, apns_ca=apns.ca_file) as server,
        sleeping_fleet(server, apns, KILLS) as fleet,
    ):
        killing = Killing(server, apns, fleet)
        for number, device in enumerate(fleet.devices):
            if number % 2:
                killing.kill_worker_around_the_push(device)
            else:
                killing.kill_worker_before_it_looks(device)
        killing.verify()
