"""Commands over REST: the queue's own rules, and nothing left behind by what is refused."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from api.models import ApiToken, IdempotencyKey
from api.parsing import MAX_BODY
from audit.models import AuditEvent
from audit.recording import SERVER
from commands import queue
from commands.core.masking import MASK
from commands.models import Command, CommandDelivery, CommandSource, DeliveryState
from devices.models import DeviceGroup, Enrollment, EnrollmentState
from push.models import PushRequest, PushState
from tests.api.conftest import Caller, Unchanged
from tests.console.fleet import Fleet, make_fleet

pytestmark = pytest.mark.django_db

COMMANDS = "/api/v1/commands/"


@pytest.fixture
def fleet(db: None) -> Fleet:
    """Devices, all enrolled, nothing queued."""
    fleet = make_fleet(6)
    Command.objects.all().delete()
    Enrollment.objects.update(state=EnrollmentState.ENROLLED)
    return fleet


def enqueue(client: APIClient, body: Any, **headers: str) -> Any:
    return client.post(COMMANDS, body, format="json", headers=headers)


def wanted(fleet: Fleet, **more: Any) -> dict[str, Any]:
    return {"request_type": "DeviceInformation", "targets": {"devices": [fleet.devices[0].pk]}, **more}


def test_a_command_is_queued_for_a_device(caller: Caller, fleet: Fleet, superuser: User) -> None:
    answer = enqueue(caller("commands:write"), wanted(fleet, payload={"Queries": ["BatteryLevel"]}))
    assert answer.status_code == 201
    command = Command.objects.get()
    assert answer.json() == {
        "command_uuid": str(command.uuid),
        "queued": 1,
        "skipped": [],
        "warnings": [],
    }
    assert command.source == CommandSource.API
    assert queue.open_payload(command) == {"RequestType": "DeviceInformation", "Queries": ["BatteryLevel"]}
    delivery = CommandDelivery.objects.get()
    assert (delivery.enrollment, delivery.state) == (fleet.enrollments[0], DeliveryState.QUEUED)
    assert PushRequest.objects.get(enrollment=fleet.enrollments[0]).state == PushState.DUE
    event = AuditEvent.objects.get(action="command.enqueued")
    assert event.actor == "API token inventory (ada)"
    assert event.user == superuser
    assert event.remote_addr == "127.0.0.1"


def test_it_is_the_same_command_as_the_queue_makes(caller: Caller, fleet: Fleet, now: datetime) -> None:
    payload = {"PIN": "123456", "Message": "Found?"}
    enqueue(caller("commands:write"), wanted(fleet, request_type="DeviceLock", payload=payload))
    by_api = Command.objects.get()
    direct = queue.enqueue_for_devices(
        "DeviceLock",
        payload,
        [fleet.devices[0].pk],
        source=CommandSource.ADMIN,
        actor=SERVER,
        now=now,
    ).command
    same = ("request_type", "at_most_once", "targets", "not_before", "expires_at")
    assert [getattr(by_api, field) for field in same] == [getattr(direct, field) for field in same]
    assert queue.open_payload(by_api) == queue.open_payload(direct)


def test_data_and_dates_in_the_payload(caller: Caller, fleet: Fleet) -> None:
    payload = {
        "Payload": {"$data": base64.b64encode(b"\x00profile\xff").decode()},
        "RequestRequiresNetworkTether": False,
        "When": [{"$date": "2026-11-24T06:40:00+01:00"}],
    }
    answer = enqueue(caller("commands:write"), wanted(fleet, request_type="InstallProfile", payload=payload))
    assert answer.status_code == 201
    stored = queue.open_payload(Command.objects.get())
    assert stored["Payload"] == b"\x00profile\xff"
    assert stored["When"] == [datetime(2026, 11, 24, 5, 40, tzinfo=UTC)]


def test_all_kinds_of_target_together(caller: Caller, fleet: Fleet) -> None:
    a, b, c, d, e, f = fleet.devices
    DeviceGroup.objects.all().delete()
    group = DeviceGroup.objects.create(name="Class 8")
    group.devices.add(d, a)
    Enrollment.objects.filter(device=f).update(state=EnrollmentState.CHECKED_OUT)
    answer = enqueue(
        caller("commands:write"),
        wanted(
            fleet,
            targets={
                "devices": [a.pk, a.pk, 999_999],
                "serial_numbers": [b.serial_number, "NOSUCH", b.serial_number],
                "udids": [c.udid, "no-such-udid"],
                "groups": ["Class 8"],
                "enrollments": [fleet.enrollments[4].pk, 888_888],
            },
        ),
    )
    assert answer.status_code == 201
    assert answer.json()["queued"] == 5
    queued = set(CommandDelivery.objects.values_list("enrollment__device", flat=True))
    assert queued == {a.pk, b.pk, c.pk, d.pk, e.pk}
    skipped = {(row["target"], row["reason"]) for row in answer.json()["skipped"]}
    assert skipped == {
        ("NOSUCH", "unknown target"),
        ("no-such-udid", "unknown target"),
        ("999999", "unknown target"),
        ("888888", "unknown target"),
    }


def test_everybody(caller: Caller, fleet: Fleet) -> None:
    Enrollment.objects.filter(device=fleet.devices[5]).update(state=EnrollmentState.QUARANTINED)
    answer = enqueue(caller("commands:write"), wanted(fleet, targets={"all": True}))
    assert answer.json()["queued"] == 5


def test_a_device_that_is_not_enrolled_is_skipped_with_the_reason(caller: Caller, fleet: Fleet) -> None:
    Enrollment.objects.filter(device=fleet.devices[0]).update(state=EnrollmentState.CHECKED_OUT)
    answer = enqueue(caller("commands:write"), wanted(fleet))
    assert answer.json()["queued"] == 0
    assert answer.json()["skipped"] == [{"target": fleet.devices[0].serial_number, "reason": "not enrolled"}]
    assert not CommandDelivery.objects.exists()


ONE = {"devices": [1]}
REFUSED: list[tuple[str, Any, str]] = [
    ("no body", {}, "request_type"),
    ("no targets", {"request_type": "DeviceLock"}, "targets"),
    ("empty targets", {"request_type": "DeviceLock", "targets": {}}, "targets"),
    ("targets of nothing", {"request_type": "DeviceLock", "targets": {"devices": []}}, "targets"),
    ("all false", {"request_type": "DeviceLock", "targets": {"all": False}}, "targets"),
    ("mistyped kind", {"request_type": "DeviceLock", "targets": {**ONE, "serials": ["x"]}}, "targets"),
    ("unknown group", {"request_type": "DeviceLock", "targets": {"groups": ["Nobody"]}}, "targets"),
    ("ids as text", {"request_type": "DeviceLock", "targets": {"devices": ["x"]}}, "targets"),
    ("targets a list", {"request_type": "DeviceLock", "targets": [1]}, "targets"),
    ("payload a list", {"request_type": "DeviceLock", "targets": ONE, "payload": []}, "payload"),
    ("null", {"request_type": "DeviceLock", "targets": ONE, "payload": {"PIN": None}}, "payload"),
    ("bad data", {"request_type": "DeviceLock", "targets": ONE, "payload": {"a": {"$data": "*"}}}, "payload"),
    (
        "bad date",
        {"request_type": "DeviceLock", "targets": ONE, "payload": {"a": {"$date": "soon"}}},
        "payload",
    ),
    ("dollar key", {"request_type": "DeviceLock", "targets": ONE, "payload": {"$x": 1}}, "payload"),
    ("envelope", {"request_type": "DeviceLock", "targets": ONE, "payload": {"Command": {}}}, "detail"),
    ("other type", {"request_type": "DeviceLock", "targets": ONE, "payload": {"RequestType": "X"}}, "detail"),
    ("huge number", {"request_type": "DeviceLock", "targets": ONE, "payload": {"a": 2**64}}, "detail"),
    ("NUL", {"request_type": "DeviceLock", "targets": ONE, "payload": {"a": "\0"}}, "detail"),
    ("missing key", {"request_type": "InstallProfile", "targets": ONE}, "detail"),
    ("no such name", {"request_type": "Device Lock", "targets": ONE}, "detail"),
    ("long name", {"request_type": "D" * 81, "targets": ONE}, "request_type"),
    ("past", {"request_type": "DeviceLock", "targets": ONE, "expires_at": "2020-01-01T00:00:00Z"}, "detail"),
    ("no date", {"request_type": "DeviceLock", "targets": ONE, "not_before": "tomorrow"}, "not_before"),
]


@pytest.mark.parametrize("row", REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_is_400_and_changes_nothing(
    caller: Caller, fleet: Fleet, unchanged: Unchanged, row: tuple[str, Any, str]
) -> None:
    _what, body, field = row
    client = caller("commands:write")
    with unchanged():
        answer = enqueue(client, body, **{"Idempotency-Key": "again"})
    assert answer.status_code == 400
    assert field in answer.json()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"request_type": "A", "request_type": "B"}',
        b'{"request_type": "DeviceLock", "payload": {"a": NaN}}',
        b'{"request_type": "DeviceLock", "payload": {"a": "\\ud800"}}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
    ids=range(11),
)
def test_what_is_no_json_object_is_400(
    caller: Caller, fleet: Fleet, unchanged: Unchanged, body: bytes
) -> None:
    client = caller("commands:write")
    with unchanged():
        answer = client.post(COMMANDS, body, content_type="application/json")
    assert answer.status_code == 400


def test_deep_payloads_are_400(caller: Caller, fleet: Fleet, unchanged: Unchanged) -> None:
    payload: dict[str, Any] = {}
    for _level in range(200):
        payload = {"a": payload}
    client = caller("commands:write")
    with unchanged():
        assert enqueue(client, wanted(fleet, payload=payload)).status_code == 400


def test_what_is_too_large_is_413(caller: Caller, fleet: Fleet, unchanged: Unchanged) -> None:
    client = caller("commands:write")
    with unchanged():
        body = json.dumps(wanted(fleet, payload={"a": "x" * MAX_BODY}))
        assert client.generic("POST", COMMANDS, body, content_type="application/json").status_code == 413


def test_other_kinds_of_body_are_415(caller: Caller, fleet: Fleet, unchanged: Unchanged) -> None:
    client = caller("commands:write")
    with unchanged():
        answer = client.generic("POST", COMMANDS, "a=1", content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 415


def test_the_same_request_again_queues_nothing_more(caller: Caller, fleet: Fleet) -> None:
    client = caller("commands:write")
    first = enqueue(client, wanted(fleet), **{"Idempotency-Key": "a-1"})
    again = enqueue(client, wanted(fleet), **{"Idempotency-Key": "a-1"})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert Command.objects.count() == 1
    enqueue(client, wanted(fleet), **{"Idempotency-Key": "a-2"})
    assert Command.objects.count() == 2


def test_a_key_stands_for_one_request_of_one_token(
    caller: Caller, fleet: Fleet, unchanged: Unchanged
) -> None:
    client = caller("commands:write")
    enqueue(client, wanted(fleet), **{"Idempotency-Key": "a-1"})
    with unchanged():
        other = enqueue(client, wanted(fleet, targets={"all": True}), **{"Idempotency-Key": "a-1"})
        assert other.status_code == 409
        assert enqueue(client, wanted(fleet), **{"Idempotency-Key": "x" * 101}).status_code == 400
    assert enqueue(caller("commands:write"), wanted(fleet), **{"Idempotency-Key": "a-1"}).status_code == 201
    assert Command.objects.count() == 2


def test_old_keys_are_forgotten(caller: Caller, fleet: Fleet, now: datetime) -> None:
    client = caller("commands:write")
    token = ApiToken.objects.get()
    IdempotencyKey.objects.create(token=token, key="old", created_at=now - timedelta(days=3))
    IdempotencyKey.objects.create(token=token, key="new", created_at=now - timedelta(days=1))
    enqueue(client, wanted(fleet), **{"Idempotency-Key": "a-1"})
    assert set(IdempotencyKey.objects.values_list("key", flat=True)) == {"new", "a-1"}


def test_a_command_is_watched_by_state(caller: Caller, fleet: Fleet) -> None:
    client = caller("commands:write", "commands:read")
    command_uuid = enqueue(client, wanted(fleet, targets={"all": True})).json()["command_uuid"]
    first = CommandDelivery.objects.order_by("pk").first()
    assert first is not None
    CommandDelivery.objects.filter(pk=first.pk).update(state=DeliveryState.NOT_NOW)
    command = client.get(f"{COMMANDS}{command_uuid}/").json()
    assert command["counts"] == {
        **dict.fromkeys(DeliveryState.values, 0),
        "QUEUED": 5,
        "NOT_NOW": 1,
    }
    page = client.get(f"{COMMANDS}{command_uuid}/deliveries/", {"state": "NOT_NOW"}).json()
    assert [row["id"] for row in page["results"]] == [first.pk]
    one = client.get(f"{COMMANDS}{command_uuid}/deliveries/{first.pk}/").json()
    assert (one["state"], one["status"], one["report"]) == ("NOT_NOW", "", None)
    of_device = client.get(f"/api/v1/devices/{first.enrollment.device_id}/commands/").json()
    assert [row["command_uuid"] for row in of_device["results"]] == [command_uuid]


def test_a_command_is_cancelled(caller: Caller, fleet: Fleet) -> None:
    client = caller("commands:write")
    command_uuid = enqueue(client, wanted(fleet, targets={"all": True})).json()["command_uuid"]
    assert client.post(f"{COMMANDS}{command_uuid}/cancel/").json() == {"cancelled": 6}
    assert set(CommandDelivery.objects.values_list("state", flat=True)) == {"CANCELLED"}
    assert client.post(f"{COMMANDS}{command_uuid}/cancel/").json() == {"cancelled": 0}


def test_unknown_commands_are_404(caller: Caller, fleet: Fleet, unchanged: Unchanged) -> None:
    client = caller()
    unknown = uuid.uuid4()
    with unchanged():
        for path in (f"{unknown}/", f"{unknown}/deliveries/", f"{unknown}/deliveries/1/", "no-uuid/"):
            assert client.get(COMMANDS + path).status_code == 404
        assert client.post(f"{COMMANDS}{unknown}/cancel/").status_code == 404


def test_a_delivery_is_found_only_under_its_own_command(caller: Caller, fleet: Fleet) -> None:
    client = caller()
    ours = enqueue(client, wanted(fleet)).json()["command_uuid"]
    theirs = enqueue(client, wanted(fleet)).json()["command_uuid"]
    delivery = CommandDelivery.objects.get(command__uuid=theirs)
    assert client.get(f"{COMMANDS}{ours}/deliveries/{delivery.pk}/").status_code == 404
    assert client.get(f"{COMMANDS}{theirs}/deliveries/{delivery.pk}/").status_code == 200


def test_errors_are_told_and_secrets_of_the_answer_are_not(caller: Caller, db: None) -> None:
    fleet = make_fleet(40)
    client = caller("commands:read")
    failed = next(row for row in fleet.deliveries if row.state == DeliveryState.ERROR)
    answer = client.get(f"{COMMANDS}{failed.command.uuid}/deliveries/{failed.pk}/")
    assert answer.json()["error_chain"][0]["ErrorCode"] == 12021
    assert answer.json()["report"]["Status"] == "Error"
    assert answer.json()["report"]["UnlockToken"] == MASK
    lock = next(command for command in fleet.commands if command.request_type == "DeviceLock")
    for path in ("", f"{lock.uuid}/", f"{lock.uuid}/deliveries/"):
        assert "CANARY" not in client.get(COMMANDS + path).content.decode()
    assert "CANARY" not in answer.content.decode()
