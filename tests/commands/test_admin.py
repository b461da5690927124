"""The admin of commands: lists, pages, cancelling, deciding, and sending step by step."""

from __future__ import annotations

import html
import plistlib
import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import AuditEvent
from commands import admin_send, queue
from commands.core.catalogue import REQUEST_TYPES
from commands.forms import form_for, has_own_form
from commands.models import Command, CommandDelivery
from devices import escrow
from devices.models import DeviceGroup, EnrollmentState, Platform, SecretKind
from tests.commands.fleet import NOW, connect, delivery, enqueue, enrolled, one, state
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db

COMMANDS = "/admin/commands/command/"
DELIVERIES = "/admin/commands/commanddelivery/"
SEND = f"{COMMANDS}send/"


@pytest.fixture(autouse=True)
def _at_noon() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def alice() -> Client:
    """An administrator who may do everything."""
    client = Client()
    client.force_login(User.objects.create_superuser("alice", password="correct horse battery"))
    return client


def person(*permissions: str) -> Client:
    """Somebody with these permissions only."""
    user = User.objects.create_user("bob", password="correct horse battery", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(user)
    return client


class Policy(HTMLParser):
    """What the content security policy would block, found in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        inline_script = tag == "script" and "src" not in names and names.get("type") != "application/json"
        address = (names.get("href") or names.get("src") or names.get("action") or "").strip().lower()
        if tag == "style" or inline_script or address.startswith("javascript:"):
            self.found.append(tag)
        self.found += [name for name in names if name == "style" or name.startswith("on")]


def page(response: Any) -> str:
    assert response.status_code == 200
    text: str = response.content.decode()
    assert Policy(text).found == []
    return text


# Lists and pages


def test_the_list_shows_progress_in_a_fixed_number_of_queries(alice: Client) -> None:
    fleet = enrolled(4)
    first = enqueue(fleet, "DeviceLock", {"PIN": "918273"})
    connect(fleet[0])
    connect(fleet[0], "Acknowledged", first)
    connect(fleet[1])

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            page(alice.get(COMMANDS))
        return len(captured)

    text = page(alice.get(COMMANDS))
    assert "Lock the device" in text
    assert f"{DELIVERIES}?command__id__exact={first.pk}&amp;state__exact=ACKNOWLEDGED" in text
    assert "918273" not in text
    few = queries()
    for _ in range(10):
        enqueue(fleet)
    assert queries() == few


def test_the_page_of_a_command(alice: Client) -> None:
    target = one()
    command = enqueue(target, "DeviceLock", {"PIN": "918273", "Message": "Return <to> us"})
    text = page(alice.get(f"{COMMANDS}{command.pk}/change/"))
    assert "Lock the device" in text
    assert "Return &amp;amp;lt;to" not in text
    assert "Return &amp;lt;to&amp;gt; us" in text
    assert "918273" not in text
    assert "••••••" in text
    assert str(command.uuid) in text
    assert f"{COMMANDS}{command.pk}/cancel/" in text


def test_hostile_answers_stay_text(alice: Client) -> None:
    target = one()
    target.device.name = "<script>alert(1)</script>"
    target.device.save()
    command = enqueue(target)
    connect(target)
    chain = [
        {"ErrorCode": 1, "ErrorDomain": "<img src=x onerror=alert(2)>", "LocalizedDescription": "<b>bad</b>"}
    ]
    connect(target, "Error", command, ErrorChain=chain, Name="<script>alert(3)</script>", PushMagic="CANARY")
    for address in (
        DELIVERIES,
        f"{DELIVERIES}{delivery(command, target).pk}/change/",
        f"{SEND}?devices={target.device_id}&command=ProfileList",
    ):
        text = page(alice.get(address))
        for raw in ("<script>alert", "<img src=x", "<b>bad", "CANARY"):
            assert raw not in text


def test_the_page_of_a_delivery(alice: Client) -> None:
    target = one()
    command = enqueue(target, "SecurityInfo")
    connect(target)
    connect(target, "Acknowledged", command, SecurityInfo={"PasscodePresent": True}, UnlockToken=b"CANARY")
    text = page(alice.get(f"{DELIVERIES}{delivery(command, target).pk}/change/"))
    assert "PasscodePresent" in text
    assert "CANARY" not in text
    failed = enqueue(target)
    connect(target)
    connect(
        target, "Error", failed, ErrorChain=[{"ErrorCode": 12021, "LocalizedDescription": "No such command"}]
    )
    text = page(alice.get(f"{DELIVERIES}{delivery(failed, target).pk}/change/"))
    assert "No such command" in text
    assert "12021" in text


def test_what_cannot_be_decrypted_is_said(alice: Client) -> None:
    target = one()
    command, other = enqueue(target), enqueue(target)
    Command.objects.filter(pk=command.pk).update(payload_sealed=other.payload_sealed)
    text = page(alice.get(f"{COMMANDS}{command.pk}/change/"))
    assert "cannot be decrypted" in text


def test_deliveries_are_filtered_and_searched(alice: Client) -> None:
    fleet = enrolled(3)
    command = enqueue(fleet)
    enqueue(fleet, "SecurityInfo")
    connect(fleet[0])

    def count(query: str) -> int:
        return page(alice.get(f"{DELIVERIES}?{query}")).count('class="field-what"')

    assert count("") == 6
    assert count(f"command__id__exact={command.pk}") == 3
    assert count(f"command__id__exact={command.pk}&state__exact=SENT") == 1
    assert count("request_type=SecurityInfo") == 3
    assert count("state__in=SENT,NOT_NOW") == 1
    assert count(f"enrollment__device__id__exact={fleet[0].device_id}") == 2
    assert count(f"q={fleet[1].device.serial_number}") == 2
    assert count(f"q={command.uuid}") == 3
    assert count("q=nobody") == 0
    assert page(alice.get(f"{COMMANDS}?q={command.uuid}")).count('class="field-what"') == 1
    assert page(alice.get(f"{COMMANDS}?q=SecurityInfo")).count('class="field-what"') == 1


def test_nobody_adds_changes_or_deletes(alice: Client) -> None:
    command = enqueue(one())
    row = CommandDelivery.objects.get()
    with no_change():
        for address in (
            f"{COMMANDS}add/",
            f"{COMMANDS}{command.pk}/delete/",
            f"{DELIVERIES}{row.pk}/delete/",
        ):
            assert alice.get(address).status_code == 403
        assert alice.post(f"{COMMANDS}{command.pk}/change/", {"request_type": "x"}).status_code == 403


def test_permissions() -> None:
    target = one()
    command = enqueue(target, "EraseDevice")
    connect(target)
    connect(target)
    row = delivery(command, target)
    viewer = person("view_command", "view_commanddelivery")
    assert "Send a command" not in page(viewer.get(COMMANDS))
    assert "Send it again" not in page(viewer.get(f"{DELIVERIES}{row.pk}/change/"))
    with no_change():
        assert viewer.get(f"{SEND}?all=1").status_code == 403
        assert viewer.post(SEND, {"step": "confirm", "draft": "x"}).status_code == 403
        assert viewer.get(f"{COMMANDS}{command.pk}/cancel/").status_code == 403
        assert viewer.post(f"{COMMANDS}{command.pk}/cancel/").status_code == 403
        assert viewer.post(f"{DELIVERIES}{row.pk}/decide/", {"resend": "1"}).status_code == 403
        viewer.post(DELIVERIES, {"action": "let_go_again", "_selected_action": [row.pk]})
        anonymous = Client()
        for address in (SEND, f"{COMMANDS}{command.pk}/cancel/", f"{DELIVERIES}{row.pk}/decide/"):
            assert anonymous.post(address).status_code == 302


def test_posts_need_the_token_of_the_form() -> None:
    target = one()
    command = enqueue(target)
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("carol", password="correct horse battery"))
    with no_change():
        for address in (SEND, f"{COMMANDS}{command.pk}/cancel/"):
            assert client.post(address, {"step": "confirm"}).status_code == 403


# Cancelling and deciding


def test_cancelling_asks_first(alice: Client) -> None:
    target = one()
    command = enqueue(target)
    with no_change():
        assert "taken back from 1 device" in page(alice.get(f"{COMMANDS}{command.pk}/cancel/"))
    response = alice.post(f"{COMMANDS}{command.pk}/cancel/", follow=True)
    assert "Taken back from 1 device." in page(response)
    assert state(command, target) == "CANCELLED"
    assert AuditEvent.objects.get(action="command.cancelled").actor == "alice"
    assert "/cancel/" not in page(alice.get(f"{COMMANDS}{command.pk}/change/"))
    assert alice.get(f"{COMMANDS}999999/cancel/").status_code == 404


@pytest.mark.parametrize(("decision", "expected"), [("resend", "QUEUED"), ("give_up", "CANCELLED")])
def test_doubts_are_decided_on_the_page_of_the_delivery(alice: Client, decision: str, expected: str) -> None:
    target = one()
    command = enqueue(target, "EraseDevice")
    connect(target)
    connect(target)
    row = delivery(command, target)
    assert "never answered" in page(alice.get(f"{COMMANDS}{command.pk}/change/"))
    text = page(alice.get(f"{DELIVERIES}{row.pk}/change/"))
    assert "Send it again" in text
    assert "Give it up" in text
    with no_change():
        assert alice.get(f"{DELIVERIES}{row.pk}/decide/").status_code == 405
        assert alice.post(f"{DELIVERIES}{row.pk}/decide/", {"resend": 1, "give_up": 1}).status_code == 404
    alice.post(f"{DELIVERIES}{row.pk}/decide/", {decision: "1"})
    assert state(command, target) == expected
    with no_change():
        again = alice.post(f"{DELIVERIES}{row.pk}/decide/", {decision: "1"}, follow=True)
    assert "Not changed" in page(again)


def test_doubts_are_decided_in_bulk(alice: Client) -> None:
    fleet = enrolled(3)
    command = enqueue(fleet, "RestartDevice")
    for enrollment in fleet[:2]:
        connect(enrollment)
        connect(enrollment)
    rows = [delivery(command, enrollment).pk for enrollment in fleet]
    response = alice.post(DELIVERIES, {"action": "give_up", "_selected_action": rows}, follow=True)
    assert "2 were given up." in page(response)
    assert [state(command, enrollment) for enrollment in fleet] == ["CANCELLED", "CANCELLED", "QUEUED"]


# Sending


def step_to_confirm(
    client: Client, targets: dict[str, Any], request_type: str, fields: dict[str, Any]
) -> str:
    """Fill the form in; the page that asks for confirmation."""
    with no_change():
        response = client.post(SEND, {**targets, "command": request_type, "step": "what", **fields})
    return page(response)


def draft_in(text: str) -> str:
    found = re.search(r'name="draft" value="([^"]+)"', text)
    assert found, text
    return html.unescape(found[1])


def send(
    client: Client, targets: dict[str, Any], request_type: str, fields: dict[str, Any], **confirm: Any
) -> Command | None:
    """All steps. The command that came of it, or None."""
    draft = draft_in(step_to_confirm(client, targets, request_type, fields))
    client.post(SEND, {"step": "confirm", "draft": draft, **confirm})
    return Command.objects.order_by("pk").last()


def test_sending_step_by_step(alice: Client) -> None:
    first, second, third = enrolled(3)
    gone = one(state=EnrollmentState.CHECKED_OUT)
    devices = ",".join(str(row.device_id) for row in (first, second, gone))
    with no_change():
        assert "Every enrolled device" in page(alice.get(SEND))
        which = page(alice.get(f"{SEND}?devices={devices}"))
        assert "Send a command to 3 devices" in which
        assert "<optgroup" in which
        what = page(alice.post(SEND, {"step": "which", "devices": devices, "command": "DeviceLock"}))
        assert 'name="PIN"' in what
    text = step_to_confirm(
        alice, {"devices": devices}, "DeviceLock", {"PIN": "918273", "Message": "Call us", "PhoneNumber": ""}
    )
    assert "2 devices get it" in text
    assert first.device.name in text
    assert f"1 is skipped: not enrolled ({gone.device.serial_number})" in text
    assert "918273" not in text
    assert "Call us" in text
    response = alice.post(SEND, {"step": "confirm", "draft": draft_in(text)})
    command = Command.objects.get()
    assert response["Location"] == f"{COMMANDS}{command.pk}/change/"
    assert (command.request_type, command.targets, command.source) == ("DeviceLock", 2, "ADMIN")
    assert command.created_by == "alice"
    assert queue.open_payload(command) == {
        "RequestType": "DeviceLock",
        "PIN": "918273",
        "Message": "Call us",
    }
    assert not CommandDelivery.objects.filter(enrollment=third).exists()
    said = page(alice.get(response["Location"]))
    assert "Queued for 2 devices." in said
    assert "1 was skipped: not enrolled." in said
    assert AuditEvent.objects.get(action="command.enqueued").user_id is not None


def test_a_form_sent_twice_is_one_command(alice: Client) -> None:
    target = one()
    text = step_to_confirm(alice, {"devices": target.device_id}, "RestartDevice", {})
    for _ in range(3):
        response = alice.post(SEND, {"step": "confirm", "draft": draft_in(text)})
        assert response["Location"] == f"{COMMANDS}{Command.objects.get().pk}/change/"
    assert CommandDelivery.objects.count() == 1


def test_erasing_is_confirmed_by_typing_the_number(alice: Client) -> None:
    fleet = enrolled(2)
    devices = ",".join(str(row.device_id) for row in fleet)
    text = step_to_confirm(alice, {"devices": devices}, "EraseDevice", {"PIN": "123456"})
    assert "Type 2 to confirm." in text
    for typed in ("", "1", "two", "22"):
        with no_change():
            response = alice.post(SEND, {"step": "confirm", "draft": draft_in(text), "count": typed})
        assert "Type the number of devices, 2, to confirm." in page(response)
    alice.post(SEND, {"step": "confirm", "draft": draft_in(text), "count": " 2 "})
    assert Command.objects.get().targets == 2


def test_other_dangerous_commands_are_typed_for_many(alice: Client) -> None:
    enrolled(11)
    text = step_to_confirm(alice, {"all": 1}, "ShutDownDevice", {})
    assert "Type 11 to confirm." in text
    assert "cannot be taken back" in text
    assert "Type" not in step_to_confirm(alice, {"all": 1}, "ProfileList", {}).replace("RequestType", "")


def test_a_draft_is_for_one_person_one_hour_and_not_to_be_changed(alice: Client) -> None:
    target = one()
    draft = draft_in(step_to_confirm(alice, {"devices": target.device_id}, "ProfileList", {}))
    other = person("add_command")
    changed = draft[:-6] + ("AAAA" if draft[-6:-2] != "AAAA" else "BBBB") + draft[-2:]
    with no_change():
        for client, text in ((other, draft), (alice, changed), (alice, ""), (alice, "é"), (alice, "QUJD")):
            response = client.post(SEND, {"step": "confirm", "draft": text})
            assert response["Location"] == SEND
    with time_machine.travel(NOW + timedelta(minutes=61), tick=False):
        alice.force_login(User.objects.get(username="alice"))
        with no_change():
            assert alice.post(SEND, {"step": "confirm", "draft": draft})["Location"] == SEND


def test_for_a_group_and_for_all(alice: Client) -> None:
    fleet = enrolled(3)
    group = DeviceGroup.objects.create(name="Class 4b")
    group.devices.add(fleet[0].device, fleet[1].device)
    assert "Class 4b" in page(alice.get(f"{SEND}?group={group.pk}"))
    command = send(alice, {"group": group.pk}, "ProfileList", {"ManagedOnly": "on"})
    assert command is not None
    assert command.targets == 2
    assert queue.open_payload(command)["ManagedOnly"] is True
    everybody = send(alice, {"all": 1}, "SecurityInfo", {})
    assert everybody is not None
    assert everybody.targets == 3


@pytest.mark.parametrize(
    "query",
    [
        *("", "devices=", "devices=x", "devices=1,,2", "devices=-1", "devices=" + "9" * 30, "group=x"),
        *("group=0", "group=999999", "group=" + "9" * 30, "devices=1;2", "devices=%00", "all="),
    ],
)
def test_addresses_that_name_nobody(alice: Client, query: str) -> None:
    with no_change():
        assert "For whom?" in page(alice.get(f"{SEND}?{query}"))


def test_a_selection_too_large_for_an_address(alice: Client, rf: RequestFactory) -> None:
    fleet = enrolled(201)
    ids = [row.device_id for row in fleet]
    request = rf.get("/")
    request.session = alice.session
    assert admin_send.address_for(request, ids[:2]) == f"{SEND}?devices={ids[0]},{ids[1]}"
    address = admin_send.address_for(request, ids)
    request.session.save()
    assert len(address) < 100
    which = page(alice.get(address))
    assert "Send a command to 201 devices" in which
    assert "For whom?" in page(alice.get(f"{SEND}?selection=another"))
    assert "For whom?" in page(person("add_command").get(address))
    found = re.search(r'name="devices" value="([0-9,]+)"', which)
    assert found
    command = send(alice, {"devices": found[1]}, "ProfileList", {})
    assert command is not None
    assert command.targets == 201


def test_devices_that_are_gone_are_said_to_be(alice: Client) -> None:
    text = step_to_confirm(alice, {"devices": "999999"}, "ProfileList", {})
    assert "no such device (999999)" in text
    assert "Send to" not in text


def test_warnings_before_it_goes_out(alice: Client) -> None:
    enrolled(2, platform=Platform.TVOS)
    phone = one()
    phone.device.supervised = False
    phone.device.save()
    assert "2 devices run a system that does not know" in step_to_confirm(alice, {"all": 1}, "DeviceLock", {})
    assert "1 device is not supervised" in step_to_confirm(alice, {"all": 1}, "RestartDevice", {})
    assert "tone-wait" not in step_to_confirm(alice, {"all": 1}, "ProfileList", {})


def test_any_command_by_its_name(alice: Client) -> None:
    target = one()
    targets = {"devices": target.device_id}
    with no_change():
        text = page(alice.post(SEND, {**targets, "step": "which", "other": "BrandNewCommand"}))
        assert 'name="content"' in text
        bad = page(alice.post(SEND, {**targets, "step": "which", "other": "not a <name>"}))
        assert "Letters, digits" in bad
        neither = page(alice.post(SEND, {**targets, "step": "which"}))
        assert "Choose a command." in neither
    text = step_to_confirm(alice, targets, "BrandNewCommand", {"content": '{"Level": 3}'})
    assert "is not a command that is known here" in text
    alice.post(SEND, {"step": "confirm", "draft": draft_in(text)})
    assert queue.open_payload(Command.objects.get()) == {"RequestType": "BrandNewCommand", "Level": 3}


def test_a_property_list_instead_of_the_form(alice: Client) -> None:
    target = one()
    fields = {"raw": "1", "content": plistlib.dumps({"Message": "Hello"}).decode()}
    command = send(alice, {"devices": target.device_id}, "DeviceLock", fields)
    assert command is not None
    assert queue.open_payload(command)["Message"] == "Hello"
    upload = SimpleUploadedFile("x.plist", plistlib.dumps({"PIN": "123456"}, fmt=plistlib.FMT_BINARY))
    command = send(alice, {"devices": target.device_id}, "DeviceLock", {"raw": "1", "file": upload})
    assert command is not None
    assert queue.open_payload(command)["PIN"] == "123456"


PROFILE = plistlib.dumps(
    {"PayloadType": "Configuration", "PayloadIdentifier": "org.example", "PayloadContent": []}
)


def test_installing_a_profile(alice: Client) -> None:
    target = one()
    for content in (PROFILE, b"\x30\x82\x01\x00 a signed profile"):
        upload = SimpleUploadedFile("x.mobileconfig", content)
        command = send(alice, {"devices": target.device_id}, "InstallProfile", {"Payload": upload})
        assert command is not None
        assert queue.open_payload(command)["Payload"] == content


def test_times(alice: Client) -> None:
    target = one()
    fields = {"when-not_before": "2026-11-24T18:00", "when-expires_after": "24"}
    command = send(alice, {"devices": target.device_id}, "ProfileList", fields)
    assert command is not None
    assert command.not_before == NOW + timedelta(hours=6)
    assert command.expires_at == NOW + timedelta(hours=30)
    past = {"when-not_before": "2020-01-01T00:00", "when-expires_after": "1"}
    command = send(alice, {"devices": target.device_id}, "ProfileList", past)
    assert command is not None
    assert (command.not_before, command.expires_at) == (None, NOW + timedelta(hours=1))


def test_clear_passcode_asks_for_no_token(alice: Client) -> None:
    with_token, without = one(), one()
    escrow.deposit(with_token, SecretKind.UNLOCK_TOKEN, b"CANARY", NOW)
    what = page(alice.get(f"{SEND}?all=1&command=ClearPasscode"))
    assert "UnlockToken" not in what
    assert "filled in by the server" in what
    text = step_to_confirm(alice, {"all": 1}, "ClearPasscode", {})
    assert f"it has not given us an unlock token ({without.device.serial_number})" in text
    assert "CANARY" not in text


FILLED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("DeviceInformation", {"Queries": ["OSVersion", "DeviceName"]}, {"Queries": ["OSVersion", "DeviceName"]}),
    ("RestartDevice", {"NotifyUser": "on"}, {"NotifyUser": True}),
    ("RemoveProfile", {"Identifier": "org.example"}, {"Identifier": "org.example"}),
    ("InstalledApplicationList", {}, {}),
    (
        "InstallApplication",
        {"iTunesStoreID": "361309726", "licence": "1", "remove_with_management": "on", "no_backup": "on"},
        {"iTunesStoreID": 361309726, "Options": {"PurchaseMethod": 1}, "ManagementFlags": 5},
    ),
    (
        "InstallApplication",
        {"ManifestURL": "https://example.org/app.plist", "licence": "1"},
        {"ManifestURL": "https://example.org/app.plist"},
    ),
    (
        "Settings",
        {"DeviceName": "Reception", "Bluetooth": "off", "DataRoaming": "on"},
        {
            "Settings": [
                {"Item": "DeviceName", "DeviceName": "Reception"},
                {"Item": "Bluetooth", "Enabled": False},
                {"Item": "DataRoaming", "Enabled": True},
            ]
        },
    ),
    ("EnableLostMode", {"Message": "Call", "PhoneNumber": "+44"}, {"Message": "Call", "PhoneNumber": "+44"}),
    ("DeleteUser", {"DeleteAllUsers": "on"}, {"DeleteAllUsers": True}),
    ("SetRecoveryLock", {"NewPassword": " s p "}, {"NewPassword": " s p "}),
    (
        "EraseDevice",
        {"PIN": "123456", "PreserveDataPlan": "on", "ObliterationBehavior": "DoNotObliterate"},
        {"PIN": "123456", "PreserveDataPlan": True, "ObliterationBehavior": "DoNotObliterate"},
    ),
    ("ShutDownDevice", {}, {}),
]


@pytest.mark.parametrize(("request_type", "fields", "expected"), FILLED)
def test_what_is_filled_in_is_what_is_sent(
    alice: Client, request_type: str, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    target = one()
    command = send(alice, {"devices": target.device_id}, request_type, fields, count="1")
    assert command is not None
    assert queue.open_payload(command) == {"RequestType": request_type, **expected}


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("DeviceLock", {"PIN": "12345"}, "A PIN is six digits."),
    ("DeviceLock", {"PIN": "١٢٣٤٥٦"}, "A PIN is six digits."),
    ("DeviceLock", {"Message": "bell \x07"}, "control character"),
    ("DeviceInformation", {}, "This field is required."),
    ("DeviceInformation", {"Queries": ["Nonsense"]}, "Select a valid choice."),
    ("RemoveProfile", {}, "This field is required."),
    ("InstallApplication", {"licence": "1"}, "Give the App Store number"),
    (
        "InstallApplication",
        {"licence": "1", "iTunesStoreID": "1", "ManifestURL": "https://a.example"},
        "Give the App Store number",
    ),
    ("InstallEnterpriseApplication", {"ManifestURL": "javascript:alert(1)"}, "Enter a valid URL."),
    ("Settings", {}, "Change at least one setting."),
    ("EnableLostMode", {"Footnote": "x"}, "needs a message or a phone number"),
    ("DeleteUser", {}, "Name a user, or delete all."),
    ("DeleteUser", {"UserName": "ada", "DeleteAllUsers": "on"}, "Name a user, or delete all."),
    ("InstallProfile", {}, "This field is required."),
    ("RotateFileVaultKey", {"content": "{}"}, "needs KeyType, FileVaultUnlock"),
    ("RotateFileVaultKey", {"content": "not json"}, "This cannot be sent"),
    ("ScheduleOSUpdate", {"content": '{"RequestType": "EraseDevice"}'}, "for another command"),
    ("ProfileList", {"when-not_before": "soon"}, "Enter a valid date/time."),
    ("ProfileList", {"when-expires_after": "5"}, "Select a valid choice."),
]


@pytest.mark.parametrize(("request_type", "fields", "message"), WRONG)
def test_what_is_wrong_is_said_and_goes_nowhere(
    alice: Client, request_type: str, fields: dict[str, Any], message: str
) -> None:
    target = one()
    text = step_to_confirm(alice, {"devices": target.device_id}, request_type, fields)
    assert message in text
    assert 'name="draft"' not in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        plistlib.dumps({"PayloadType": "com.apple.wifi.managed"}),
        plistlib.dumps([1]),
        PROFILE.replace(b"<plist", b'<!DOCTYPE plist [<!ENTITY a "b">]><plist'),
        bytes(4 * 1024 * 1024 + 1),
    ],
)
def test_what_is_no_profile_is_refused(alice: Client, content: bytes) -> None:
    target = one()
    upload = SimpleUploadedFile("x.mobileconfig", content)
    text = step_to_confirm(alice, {"devices": target.device_id}, "InstallProfile", {"Payload": upload})
    assert 'name="draft"' not in text
    assert "errorlist" in text


@pytest.mark.parametrize("request_type", sorted(REQUEST_TYPES))
def test_every_command_has_a_page(alice: Client, request_type: str) -> None:
    target = one()
    with no_change():
        text = page(alice.get(f"{SEND}?devices={target.device_id}&command={request_type}"))
        assert 'name="step" value="what"' in text
        if has_own_form(request_type):
            raw = page(alice.get(f"{SEND}?devices={target.device_id}&command={request_type}&raw=1"))
            assert 'name="content"' in raw


def test_fields_bear_the_names_of_keys() -> None:
    for name, known in REQUEST_TYPES.items():
        fields = {
            field
            for field in form_for(name).base_fields
            if field[0].isupper() or field.startswith(("iT", "eS"))
        }
        if name != "Settings":
            assert fields <= {*known.required, *known.optional}, name


def test_links_from_other_pages_have_names() -> None:
    assert reverse("admin:commands_command_send") == SEND
