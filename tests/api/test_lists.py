"""Lists: filtered, in pages by cursor, ordered by what is allowed, in few queries."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from rest_framework.test import APIClient

from devices.models import Device, DeviceGroup, Enrollment, EnrollmentState
from tests.api.conftest import Caller
from tests.console.fleet import Fleet, make_fleet

pytestmark = pytest.mark.django_db

LISTS = ("devices", "enrollments", "commands", "certificates")


@pytest.fixture
def fleet(db: None, now: datetime) -> Fleet:
    return make_fleet(30, now)


def results(client: APIClient, path: str, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1/{path}/", query)
    assert answer.status_code == 200, answer.content
    rows: list[dict[str, Any]] = answer.json()["results"]
    return rows


@pytest.mark.parametrize("path", LISTS)
def test_newest_first_in_pages_without_gaps(caller: Caller, fleet: Fleet, path: str) -> None:
    client = caller()
    seen: list[int] = []
    url: str | None = f"/api/v1/{path}/?page_size=4"
    while url:
        page = client.get(url).json()
        assert len(page["results"]) <= 4
        seen += [row["id"] for row in page["results"]]
        parts = urlsplit(page["next"] or "")
        url = f"{parts.path}?{parts.query}" if page["next"] else None
    assert seen == sorted(set(seen), reverse=True)
    assert len(seen) == len(results(client, path, page_size=500))


@pytest.mark.parametrize("path", LISTS)
def test_a_longer_list_costs_no_more_queries(caller: Caller, fleet: Fleet, path: str) -> None:
    client = caller()
    client.get(f"/api/v1/{path}/")  # the token's use is noted

    def cost(size: int) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            results(client, path, page_size=size)
        return len(queries)

    assert cost(30) == cost(2) <= 5


@pytest.mark.parametrize("path", [*LISTS, "devices/{device}/commands", "commands/{command}/deliveries"])
def test_what_a_list_does_not_know_is_400(caller: Caller, fleet: Fleet, path: str) -> None:
    client = caller()
    path = path.format(device=fleet.devices[0].pk, command=fleet.commands[0].uuid)
    for query in ({"serial": "X"}, {"ordering": "push_magic"}, {"ordering": "-enrollments__push_token"}):
        answer = client.get(f"/api/v1/{path}/", query)
        assert answer.status_code == 400, query
        assert set(answer.json()) == set(query)


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "nonsense"},
        {"cursor": base64.b64encode(b"p=abc").decode()},
        {"cursor": base64.b64encode(b"p=' OR 1=1 --").decode()},
        {"cursor": base64.b64encode(b"p=" + b"9" * 40).decode()},
        {"cursor": base64.b64encode(b"o=-5").decode()},
        {"page_size": "-1"},
        {"page_size": "99999999"},
        {"page_size": "x"},
        {"ordering": ""},
    ],
    ids=range(9),
)
@pytest.mark.parametrize("path", LISTS)
def test_odd_pages_are_no_faults(caller: Caller, fleet: Fleet, path: str, query: dict[str, str]) -> None:
    assert caller().get(f"/api/v1/{path}/", query).status_code in {200, 404}


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("devices", {"platform": "windows"}),
        ("devices", {"last_seen_after": "yesterday"}),
        ("devices", {"name": "a\x00b"}),
        ("enrollments", {"state": "GONE"}),
        ("enrollments", {"device": "x"}),
        ("commands", {"created_after": "2026-13-01"}),
        ("certificates", {"purpose": "ALL"}),
    ],
)
def test_wrong_values_of_filters_are_400(
    caller: Caller, fleet: Fleet, path: str, query: dict[str, str]
) -> None:
    assert caller().get(f"/api/v1/{path}/", query).status_code == 400


INJECTIONS = (
    "' OR '1'='1",
    '" OR ""="',
    "1; DROP TABLE devices_device",
    "%27%20OR%201%3D1",
    "\\'; --",
    "${jndi:x}",
    "{{7*7}}",
    "\N{GRINNING FACE}",
    "x" * 5000,
    "9" * 400,
)


@pytest.mark.parametrize("value", INJECTIONS, ids=range(len(INJECTIONS)))
def test_values_never_become_sql(caller: Caller, fleet: Fleet, value: str) -> None:
    client = caller()
    with CaptureQueriesContext(connection) as queries:
        for path, names in (
            ("devices", ("serial_number", "udid", "name", "search", "group", "ordering", "cursor")),
            ("enrollments", ("serial_number", "device", "ordering")),
            ("certificates", ("subject", "serial_number", "issuer", "ordering")),
        ):
            for name in names:
                answer = client.get(f"/api/v1/{path}/", {name: value})
                assert answer.status_code in {200, 400, 404}, (path, name)
                if answer.status_code == 200 and name != "cursor":
                    assert answer.json()["results"] == []
    assert len(queries) > 0
    assert Device.objects.count() == 30


def test_filters_of_devices(caller: Caller, fleet: Fleet, now: datetime) -> None:
    client = caller("devices:read")
    device = fleet.devices[3]
    Device.objects.filter(pk=device.pk).update(name="The “odd” one", imei="35 1234")
    ids = [row["id"] for row in results(client, "devices", serial_number=device.serial_number.lower())]
    assert ids == [device.pk]
    assert [row["id"] for row in results(client, "devices", udid=device.udid)] == [device.pk]
    assert [row["id"] for row in results(client, "devices", name="“ODD”")] == [device.pk]
    assert [row["id"] for row in results(client, "devices", search="35 1234")] == [device.pk]
    macs = {row["id"] for row in results(client, "devices", platform="macOS")}
    assert macs == {row.pk for row in fleet.devices if row.platform == "macOS"}
    group = DeviceGroup.objects.create(name="Class 8")
    group.devices.add(device)
    assert [row["id"] for row in results(client, "devices", group="Class 8")] == [device.pk]
    assert results(client, "devices", group="Class 9") == []


def test_filters_by_last_contact(caller: Caller, fleet: Fleet, now: datetime) -> None:
    client = caller("devices:read")
    Enrollment.objects.update(last_seen_at=now)
    Enrollment.objects.filter(device=fleet.devices[0]).update(last_seen_at=now - timedelta(days=9))
    limit = (now - timedelta(days=7)).isoformat()
    silent = results(client, "devices", last_seen_before=limit)
    assert [row["id"] for row in silent] == [fleet.devices[0].pk]
    assert len(results(client, "devices", last_seen_after=limit)) == 29


def test_enrolled_or_not(caller: Caller, fleet: Fleet) -> None:
    client = caller("devices:read")
    Enrollment.objects.update(state=EnrollmentState.ENROLLED)
    Enrollment.objects.filter(device=fleet.devices[0]).update(state=EnrollmentState.CHECKED_OUT)
    assert len(results(client, "devices", enrolled="true")) == 29
    assert [row["id"] for row in results(client, "devices", enrolled="false")] == [fleet.devices[0].pk]


def test_ordering_of_devices(caller: Caller, fleet: Fleet) -> None:
    client = caller("devices:read")
    names = [row["serial_number"] for row in results(client, "devices", ordering="serial_number")]
    assert names == sorted(names)
    ids = [row["id"] for row in results(client, "devices", ordering="id")]
    assert ids == sorted(ids)


def test_a_device_with_its_inventory(caller: Caller, fleet: Fleet) -> None:
    device, enrollment = fleet.devices[0], fleet.enrollments[0]
    answer = caller("devices:read").get(f"/api/v1/devices/{device.pk}/").json()
    assert answer["information"]["DeviceCapacity"] == 128
    assert answer["security"]["PasscodePresent"] is True
    assert answer["enrollment"]["id"] == enrollment.pk
    assert answer["groups"] == [group.name for group in device.groups.all()]


def test_the_live_enrolment_stands_for_the_device(caller: Caller, fleet: Fleet) -> None:
    device = fleet.devices[0]
    Enrollment.objects.filter(device=device).update(state=EnrollmentState.ENROLLED)
    Enrollment.objects.create(device=device, state=EnrollmentState.QUARANTINED)
    answer = caller("devices:read").get(f"/api/v1/devices/{device.pk}/").json()
    assert answer["enrollment"]["state"] == "ENROLLED"


def test_an_enrolment_with_its_identity(caller: Caller, fleet: Fleet) -> None:
    enrollment, certificate = fleet.enrollments[0], fleet.certificates[0]
    answer = caller("enrollments:read").get(f"/api/v1/enrollments/{enrollment.pk}/").json()
    assert answer["serial_number"] == fleet.devices[0].serial_number
    assert answer["identities"][0]["sha256"] == certificate.sha256
    assert "push_token" not in answer
    assert "push_magic" not in answer


@pytest.mark.parametrize("path", ["devices", "enrollments", "certificates"])
@pytest.mark.parametrize("key", ["0", "999999", "99999999999999999999999999", "x"])
def test_unknown_objects_are_404(caller: Caller, fleet: Fleet, path: str, key: str) -> None:
    assert caller().get(f"/api/v1/{path}/{key}/").status_code == 404


def test_no_answer_holds_a_secret(caller: Caller, fleet: Fleet) -> None:
    client = caller()
    paths = [f"{path}/" for path in LISTS]
    paths += [f"devices/{row.pk}/" for row in fleet.devices[:5]]
    paths += [f"devices/{row.pk}/commands/" for row in fleet.devices[:5]]
    paths += [f"enrollments/{row.pk}/" for row in fleet.enrollments[:5]]
    paths += [f"commands/{row.uuid}/" for row in fleet.commands]
    paths += [f"commands/{row.command.uuid}/deliveries/{row.pk}/" for row in fleet.deliveries[:40]]
    for path in paths:
        answer = client.get(f"/api/v1/{path}")
        assert answer.status_code == 200
        assert "CANARY" not in answer.content.decode(), path


def test_times_are_in_utc_whatever_the_browser_says(caller: Caller, fleet: Fleet) -> None:
    client = caller("devices:read")
    client.cookies["bramley_timezone"] = "Asia/Tokyo"
    assert results(client, "devices")[0]["created_at"].endswith("Z")
