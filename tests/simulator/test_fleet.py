"""A fleet against a server of the test: patience, and what counts as an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from simulator.exchange import Request, Response
from simulator.fleet import Fleet, Plan
from simulator.transport import Transport


class Answers(Transport):
    """A transport that sends nothing."""

    def __init__(self, responses: Iterator[Response]) -> None:
        super().__init__()
        self.responses = responses

    def send(self, request: Request) -> Response:
        return next(self.responses)


def fleet(**options: Any) -> tuple[Fleet, list[float]]:
    slept: list[float] = []
    plan = Plan(**{"profile_url": "http://127.0.0.1:1/enroll/default/profile", "devices": 1, **options})
    return Fleet(plan, sleep=slept.append), slept


@pytest.mark.parametrize(
    ("refusals", "waits"),
    [
        ([Response(503)], [0.5]),
        ([Response(503), Response(500), Response(502)], [0.5, 1.0, 2.0]),
        ([Response(429, headers={"retry-after": "7"})], [7.0]),
        ([Response(429, headers={"retry-after": "86400"})], [60.0]),
        ([Response(429, headers={"retry-after": "soon"})], [0.5]),
    ],
)
def test_devices_are_patient(refusals: list[Response], waits: list[float]) -> None:
    made, slept = fleet()
    transport = Answers(iter([*refusals, Response(200, b"at last")]))
    assert made._patiently(transport, Request("GET", "http://h/")).body == b"at last"
    assert slept == waits
    assert made.report.passing == len(refusals)


@pytest.mark.parametrize("status", [200, 400, 401, 404])
def test_other_answers_are_final(status: int) -> None:
    made, slept = fleet()
    transport = Answers(iter([Response(status)]))
    assert made._patiently(transport, Request("GET", "http://h/")).status == status
    assert slept == []


def test_a_fleet_without_a_server_ends_with_one_error_a_device() -> None:
    made, slept = fleet(devices=3, retries=2, rounds=2)
    report = made.run()
    assert (report.devices, report.enrolled, report.error_count, report.passing) == (3, 0, 3, 6)
    assert all("refused" in error for error in report.errors)
    assert report.as_json()["errors"] == 3
    assert sorted(slept) == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_a_broken_file_of_a_device_is_an_error_of_that_device(tmp_path: Path) -> None:
    (tmp_path / "device-00001.json").write_text("{")
    made, _slept = fleet(state=tmp_path)
    report = made.run()
    assert report.error_count == 1
    assert "device-00001.json" in report.errors[0]
    assert (tmp_path / "device-00001.json").read_text() == "{"
