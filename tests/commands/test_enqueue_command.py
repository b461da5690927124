"""``manage.py enqueue``."""

from __future__ import annotations

import io
import json
import plistlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from commands import queue
from commands.models import Command, CommandDelivery
from devices.models import DeviceGroup, EnrollmentState
from tests.commands.fleet import enrolled, one, user_on
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def run(*arguments: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("enqueue", *arguments, stdout=out, stderr=io.StringIO(), **options)
    return out.getvalue()


def run_json(*arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(*arguments, "--json"))
    assert set(document) == {"command_uuid", "queued", "skipped"}
    return document


def test_by_serial_number_and_udid() -> None:
    first, second, third = enrolled(3)
    document = run_json(
        "ProfileList",
        *("--serial", first.device.serial_number, "--serial", "NOBODY"),
        *("--udid", second.device.udid, "--udid", first.device.udid),
    )
    assert document["queued"] == 2
    assert document["skipped"] == [{"target": "NOBODY", "reason": "unknown target"}]
    command = Command.objects.get(uuid=document["command_uuid"])
    assert (command.source, command.created_by) == ("CLI", "command line")
    assert {row.enrollment_id for row in CommandDelivery.objects.all()} == {first.pk, second.pk}
    assert third.pk not in {row.enrollment_id for row in CommandDelivery.objects.all()}


def test_for_all_and_for_a_group() -> None:
    fleet = enrolled(4)
    gone = one(state=EnrollmentState.CHECKED_OUT)
    group = DeviceGroup.objects.create(name="Class 4b")
    group.devices.add(fleet[0].device, gone.device)
    assert run_json("SecurityInfo", "--all") | {"command_uuid": ""} == {
        "command_uuid": "",
        "queued": 4,
        "skipped": [],
    }
    document = run_json("SecurityInfo", "--group", "Class 4b")
    assert document["queued"] == 1
    assert document["skipped"] == [{"target": gone.device.serial_number, "reason": "not enrolled"}]


def test_user_channels_where_asked_for() -> None:
    device = one()
    user = user_on(device)
    assert run_json("ProfileList", "--all")["queued"] == 1
    assert run_json("ProfileList", "--all", "--user-channel", "also")["queued"] == 2
    only = run_json("ProfileList", "--all", "--user-channel", "only")
    assert CommandDelivery.objects.get(command__uuid=only["command_uuid"]).enrollment_id == user.pk


@pytest.mark.parametrize(
    "content",
    [
        json.dumps({"Identifier": "org.example"}).encode(),
        b" \n" + json.dumps({"RequestType": "RemoveProfile", "Identifier": "org.example"}).encode(),
        plistlib.dumps({"Identifier": "org.example"}),
        plistlib.dumps({"Identifier": "org.example"}, fmt=plistlib.FMT_BINARY),
        plistlib.dumps({"Command": {"Identifier": "org.example"}, "CommandUUID": "x"}),
    ],
)
def test_a_payload_is_a_property_list_or_json(tmp_path: Path, content: bytes) -> None:
    one()
    file = tmp_path / "payload"
    file.write_bytes(content)
    document = run_json("RemoveProfile", "--all", "--payload", str(file))
    command = Command.objects.get(uuid=document["command_uuid"])
    assert queue.open_payload(command) == {"RequestType": "RemoveProfile", "Identifier": "org.example"}


def test_times() -> None:
    one()
    document = run_json("ProfileList", "--all", "--not-before", "2h", "--expires", "2099-01-01T00:00")
    command = Command.objects.get(uuid=document["command_uuid"])
    assert command.not_before == command.created_at + timedelta(hours=2)
    assert command.expires_at is not None
    assert command.expires_at.isoformat() == "2099-01-01T00:00:00+00:00"


def test_for_people() -> None:
    one()
    assert "queued for 1, skipped 7." in (
        text := run("ProfileList", "--all", *[part for n in range(7) for part in ("--serial", f"NOBODY{n}")])
    )
    assert "unknown target: NOBODY0, NOBODY1, NOBODY2, NOBODY3, NOBODY4 and 2 more" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ProfileList"], "Say for which devices"),
        (["ProfileList", "--group", "nobody"], "no device group"),
        (["ProfileList", "--all", "--payload", "/no/such/file"], "cannot be read"),
        (["ProfileList", "--all", "--expires", "soon"], "is not a time"),
        (["ProfileList", "--all", "--expires", "2001-01-01"], "would expire before it is queued"),
        (["InstallProfile", "--all"], "needs Payload"),
        (["Erase Device", "--all"], "Nothing was queued"),
    ],
)
def test_a_failure_is_one_clear_line_and_changes_nothing(arguments: list[str], message: str) -> None:
    one()
    with no_change(), pytest.raises(CommandError) as caught:
        run(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"{", b"[1]", b"{" * 100_000, plistlib.dumps([1]), b"{}" + bytes(5_000_000)]
)
def test_a_payload_that_is_none(tmp_path: Path, content: bytes) -> None:
    one()
    file = tmp_path / "payload"
    file.write_bytes(content)
    with no_change(), pytest.raises(CommandError, match="Nothing was queued"):
        run("RemoveProfile", "--all", "--payload", str(file))
