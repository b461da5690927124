"""Pages of devices for administrators: what they show, what they never show, what their buttons do."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import SERVER
from commands import queue
from commands.models import CommandDelivery, CommandSource
from devices.models import Device as DeviceRow
from devices.models import DeviceGroup, Enrollment, EnrollmentState, EscrowedSecret
from push.models import PushRequest, PushState
from tests.mdm.support import CANARY, assert_rejected, enrollment_of
from tests.support.devices import Device, make_device
from tests.support.snapshot import no_change

PASSWORD = "orchard-gate-9"
DEVICES = "/admin/devices/device/"


@pytest.fixture(autouse=True)
def _plain_static(settings: Any) -> None:
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


@pytest.fixture
def ada(issuer: object) -> Client:
    """A superuser, signed in."""
    client = Client()
    client.force_login(User.objects.create_superuser("ada", password=PASSWORD))
    return client


def staff(*permissions: str) -> Client:
    """Somebody with these permissions only."""
    user = User.objects.create_user("grace", password=PASSWORD, is_staff=True)
    for name in permissions:
        app, codename = name.split(".")
        user.user_permissions.add(Permission.objects.get(content_type__app_label=app, codename=codename))
    client = Client()
    client.force_login(user)
    return client


def page_of(device: Device) -> str:
    return reverse("admin:devices_device_change", args=[enrollment_of(device).device_id])


def text(client: Client, path: str, **query: Any) -> str:
    response = client.get(path, query)
    assert response.status_code == 200, path
    return response.content.decode()


# Lists


def test_the_list_shows_filters_and_finds(ada: Client, enrolled_a: Device, enrolled_b: Device) -> None:
    enrolled_a.check_in(enrolled_a.token_update_message(UserID="U1", UserShortName="anna"))
    listed = text(ada, DEVICES)
    assert listed.count('class="action-select"') == 2
    assert "anna" in listed
    assert "macOS 15.4" in listed
    assert "Mac mini (Mac16,10)" in listed
    for query, hits in (
        ({"q": enrolled_a.serial_number}, 1),
        ({"q": enrolled_b.udid[-6:]}, 1),
        ({"q": "anna"}, 2),
        ({"q": "nobody"}, 0),
        ({"platform__exact": "macOS"}, 2),
        ({"platform__exact": "iOS"}, 0),
        ({"enrolment": "ENROLLED"}, 2),
        ({"enrolment": "none"}, 0),
        ({"enrolment": "QUARANTINED"}, 0),
        ({"seen": "day"}, 2),
        ({"seen": "longer"}, 0),
        ({"supervised__isnull": "True"}, 2),
        ({"o": "7"}, 2),
        ({"o": "-8"}, 2),
    ):
        assert text(ada, DEVICES, **query).count('class="action-select"') == hits, query


def test_a_list_costs_the_same_for_one_device_and_for_many(ada: Client, issuer: object) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            text(ada, DEVICES)
        return len(captured)

    make_device("A").enrol()
    statements()
    one = statements()
    for letter in "BCDEFG":
        make_device(letter).enrol()
    assert statements() == one


def test_enrollments_and_secrets_are_listed(ada: Client, enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=CANARY.encode()))
    assert "Anna&#x27;s Mac" in text(ada, "/admin/devices/enrollment/")
    assert "Anna&#x27;s Mac" in text(ada, "/admin/devices/enrollment/", q="F00000000A")
    assert "bootstrap token" in text(ada, "/admin/devices/escrowedsecret/")
    enrollment = enrollment_of(enrolled_a)
    shown = text(ada, reverse("admin:devices_enrollment_change", args=[enrollment.pk]))
    assert enrolled_a.certificate.serial_number in shown


# The page of one device


def test_the_page_of_a_device_shows_it_whole(ada: Client, enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.token_update_message(b"\x02" * 32, "m2", UnlockToken=CANARY.encode()))
    enrolled_a.answer(
        re.findall(r"<string>([0-9a-fA-F-]{36})</string>", enrolled_a.idle().body.decode())[0],
        QueryResponses={"BatteryLevel": 0.5, "OSUpdateSettings": {"AutoCheckEnabled": True}},
    )
    shown = text(ada, page_of(enrolled_a))
    for part in (
        enrolled_a.udid,
        enrolled_a.serial_number,
        enrolled_a.certificate.sha256,
        "unlock token",
        "DeviceInformation",
        "SecurityInfo",
        "BatteryLevel",
        "OSUpdateSettings › AutoCheckEnabled",
        "No push certificate has the topic",
        "Push now",
    ):
        assert part in shown, part


def test_no_secret_is_on_any_page(ada: Client, enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.token_update_message(b"\xca" * 32, CANARY, UnlockToken=CANARY.encode()))
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=CANARY.encode()))
    secrets = (CANARY, base64.b64encode(CANARY.encode()).decode(), "ca" * 32, "\\xca")
    paths = [DEVICES, page_of(enrolled_a), "/admin/devices/enrollment/", "/admin/devices/escrowedsecret/"]
    paths += [reverse("admin:devices_enrollment_change", args=[row.pk]) for row in Enrollment.objects.all()]
    for row in EscrowedSecret.objects.all():
        paths.append(reverse("admin:devices_escrowedsecret_change", args=[row.pk]))
        paths.append(reverse("admin:devices_escrowedsecret_reveal", args=[row.pk]))
    for path in paths:
        shown = text(ada, path)
        assert not [secret for secret in secrets if secret in shown], path


def test_what_devices_say_is_text(ada: Client, issuer: object) -> None:
    nasty = "<script>alert(1)</script>\"'{{7*7}}"
    device = make_device("A")
    device.check_in(device.authenticate_message(DeviceName=nasty, ModelName=nasty, ProductName=nasty))
    device.check_in(device.token_update_message())
    device.check_in(device.token_update_message(UserID="U", UserShortName=nasty, UserLongName=nasty))
    device.answer(
        re.findall(r"<string>([0-9a-fA-F-]{36})</string>", device.idle().body.decode())[0],
        QueryResponses={nasty: nasty, "DeviceName": nasty},
    )
    held = make_device("B", udid=device.udid)
    held.check_in(held.authenticate_message(SerialNumber=nasty))
    paths = [DEVICES, page_of(device), "/admin/devices/enrollment/"]
    paths += [reverse("admin:devices_enrollment_change", args=[row.pk]) for row in Enrollment.objects.all()]
    for path in paths:
        shown = text(ada, path)
        assert "<script>alert" not in shown, path
        assert "49" not in re.findall(r"\{\{7\*7\}\}|>49<", shown), path


def test_pages_obey_the_content_policy(ada: Client, enrolled_a: Device) -> None:
    for path in (DEVICES, page_of(enrolled_a)):
        shown = text(ada, path)
        assert not re.search(r"\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", shown), path


def test_why_nothing_happens(ada: Client, enrolled_a: Device) -> None:
    path, enrollment = page_of(enrolled_a), enrollment_of(enrolled_a)
    assert "2 commands wait for the device." in text(ada, path)
    PushRequest.objects.filter(enrollment=enrollment).update(
        attempts=1, last_sent_at=timezone.now(), last_result="accepted"
    )
    assert "the device has not connected since" in text(ada, path)
    enrolled_a.answer(
        re.findall(r"<string>([0-9a-fA-F-]{36})</string>", enrolled_a.idle().body.decode())[0], "NotNow"
    )
    assert "not now" in text(ada, path)
    CommandDelivery.objects.filter(state="SENT").update(state="UNCERTAIN")
    assert "handed out and never answered" in text(ada, path)
    Enrollment.objects.filter(pk=enrollment.pk).update(token_dead_at=timezone.now())
    assert "no longer takes the push token" in text(ada, path)
    enrolled_a.check_in(enrolled_a.message(MessageType="CheckOut"))
    assert "profile was removed" in text(ada, path)


# Buttons and actions


def test_push_now(ada: Client, enrolled_a: Device, enrolled_b: Device) -> None:
    for device in (enrolled_a, enrolled_b):
        queue.cancel_outstanding(enrollment_of(device), "test", timezone.now())
        device.idle()
    gone = make_device("C")
    gone.enrol()
    gone.check_in(gone.message(MessageType="CheckOut"))
    ids = list(DeviceRow.objects.values_list("pk", flat=True))
    response = ada.post(DEVICES, {"action": "push_now", "_selected_action": ids}, follow=True)
    assert "Pushes are due to 2 devices. 1 cannot be reached" in response.content.decode()
    assert PushRequest.objects.filter(state=PushState.DUE).count() == 2
    assert AuditEvent.objects.get(action="push.requested").details == {"devices": 3, "pushes": 2}
    response = ada.post(page_of(enrolled_a).replace("change/", "push/"), follow=True)
    assert "A push is due to 1 device." in response.content.decode()


def test_refresh_inventory(ada: Client, enrolled_a: Device) -> None:
    path = page_of(enrolled_a).replace("change/", "refresh/")
    response = ada.post(path, follow=True)
    assert "is waiting for that already" in response.content.decode()
    queue.cancel_outstanding(enrollment_of(enrolled_a), "test", timezone.now())
    response = ada.post(path, follow=True)
    assert "1 device is asked for its inventory." in response.content.decode()
    waiting = CommandDelivery.objects.filter(state="QUEUED").select_related("command")
    assert {row.command.created_by for row in waiting} == {"ada"}
    assert {row.command.source for row in waiting} == {CommandSource.ADMIN}


def test_send_command_leads_to_the_page_of_commands(ada: Client, enrolled_a: Device) -> None:
    ids = list(DeviceRow.objects.values_list("pk", flat=True))
    response = ada.post(DEVICES, {"action": "send_command", "_selected_action": ids})
    assert response.status_code == 302
    page = f"{reverse('admin:commands_command_send')}?devices={ids[0]}"
    assert response.headers["Location"] == page
    assert page in text(ada, page_of(enrolled_a))
    assert ada.get(page).status_code == 200


def test_groups(ada: Client, enrolled_a: Device, enrolled_b: Device) -> None:
    group = DeviceGroup.objects.create(name="Library")
    ids = list(DeviceRow.objects.values_list("pk", flat=True))
    data = {"action": "add_to_group", "_selected_action": ids}
    assert "2 devices are chosen" in ada.post(DEVICES, data).content.decode()
    assert not group.devices.exists()
    response = ada.post(DEVICES, {**data, "group": group.pk}, follow=True)
    assert "2 devices were put into Library." in response.content.decode()
    assert group.devices.count() == 2
    assert text(ada, DEVICES, groups__id__exact=group.pk).count('class="action-select"') == 2
    assert ">2<" in text(ada, "/admin/devices/devicegroup/")
    removal = {"action": "remove_from_group", "_selected_action": ids[:1], "group": str(group.pk)}
    ada.post(DEVICES, removal, follow=True)
    assert group.devices.count() == 1
    assert AuditEvent.objects.filter(action__startswith="device_group.devices_").count() == 2
    path = page_of(enrolled_a)
    assert ada.post(path, {"groups": [group.pk]}).status_code == 302
    assert ada.post(path, {"groups": [], "name": "hacked", "udid": "hacked"}).status_code == 302
    assert DeviceRow.objects.get(udid=enrolled_a.udid).name == "Anna's Mac"
    assert AuditEvent.objects.filter(action="device.groups_changed").exists()


def test_who_may_only_look_may_do_nothing(enrolled_a: Device) -> None:
    grace = staff("devices.view_device", "devices.view_enrollment", "devices.view_escrowedsecret")
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"x"))
    path = page_of(enrolled_a)
    shown = text(grace, path)
    assert "Push now" not in shown
    assert "Show…" not in shown
    secret = EscrowedSecret.objects.get()
    reveal = reverse("admin:devices_escrowedsecret_reveal", args=[secret.pk])
    decide = reverse("admin:devices_enrollment_decide", args=[enrollment_of(enrolled_a).pk, "admit"])
    with no_change():
        for button in ("push/", "refresh/"):
            assert grace.post(path.replace("change/", button)).status_code == 403
            assert grace.get(path.replace("change/", button)).status_code == 405
        assert grace.get(reveal).status_code == 403
        assert grace.post(reveal, {"reason": "x", "password": PASSWORD}).status_code == 403
        assert grace.post(decide).status_code == 403
        assert grace.post(path, {"groups": []}).status_code == 403
        ids = [enrollment_of(enrolled_a).device_id]
        for action in ("push_now", "send_command", "refresh_inventory", "add_to_group"):
            grace.post(DEVICES, {"action": action, "_selected_action": ids}, follow=True)
    assert not AuditEvent.objects.filter(action="secret.revealed").exists()
    assert Client().get(reveal).status_code == 302


# Secrets


def test_a_secret_is_shown_once_with_reason_and_password(ada: Client, enrolled_a: Device) -> None:
    enrolled_a.check_in(enrolled_a.message(MessageType="SetBootstrapToken", BootstrapToken=b"boot\x00strap"))
    secret = EscrowedSecret.objects.get()
    path = reverse("admin:devices_escrowedsecret_reveal", args=[secret.pk])
    for wrong in (
        {},
        {"reason": "audit"},
        {"password": PASSWORD},
        {"reason": "audit", "password": "wrong"},
        {"reason": "", "password": PASSWORD},
    ):
        assert "Ym9vdABzdHJhcA==" not in ada.post(path, wrong).content.decode()
    refused = AuditEvent.objects.get(action="secret.revealed", outcome="REFUSED")
    assert refused.reason == "wrong password"
    response = ada.post(path, {"reason": "lost admin password", "password": PASSWORD})
    assert "Ym9vdABzdHJhcA==" in response.content.decode()
    assert "no-store" in response.headers["Cache-Control"]
    event = AuditEvent.objects.get(action="secret.revealed", outcome="DONE")
    assert (event.actor, event.reason) == ("ada", "lost admin password")
    assert "Ym9vdABzdHJhcA==" not in repr(event.details)
    EscrowedSecret.objects.update(value_sealed=b"rubbish")
    assert "cannot be decrypted" in ada.post(path, {"reason": "x", "password": PASSWORD}).content.decode()
    assert ada.get(path.replace(str(secret.pk), "999")).status_code == 404


# Quarantine


def test_an_administrator_admits_or_refuses(ada: Client, enrolled_a: Device) -> None:
    newcomer = make_device("B", udid=enrolled_a.udid)
    newcomer.enrol()
    held = Enrollment.objects.get(state=EnrollmentState.QUARANTINED)
    page = reverse("admin:devices_enrollment_change", args=[held.pk])
    admit = reverse("admin:devices_enrollment_decide", args=[held.pk, "admit"])
    assert admit in text(ada, page)
    assert page in text(ada, page_of(enrolled_a))
    with no_change():
        assert "its waiting commands are cancelled" in text(ada, admit)
    assert "Admitted" in ada.post(admit, follow=True).content.decode()
    assert enrollment_of(newcomer).pk == held.pk
    assert_rejected(enrolled_a.idle, "certificate superseded")
    with no_change():
        assert "not held any more" in ada.post(admit, follow=True).content.decode()
    third = make_device("C", udid=enrolled_a.udid)
    third.enrol()
    held = Enrollment.objects.get(state=EnrollmentState.QUARANTINED)
    refuse = reverse("admin:devices_enrollment_decide", args=[held.pk, "refuse"])
    text(ada, refuse)
    assert "Refused" in ada.post(refuse, {"reason": "unknown to us"}, follow=True).content.decode()
    held.refresh_from_db()
    assert (held.state, held.state_reason) == (EnrollmentState.REFUSED, "unknown to us")
    assert ada.get(refuse.replace("refuse", "other")).status_code == 404
    assert AuditEvent.objects.get(action="enrollment.refused").remote_addr == "127.0.0.1"


def test_the_server_itself_is_named_in_the_record(enrolled_a: Device) -> None:
    assert {event.actor for event in AuditEvent.objects.filter(action="command.enqueued")} == {SERVER.name}


# Unenrolling


def test_a_device_is_unenrolled_with_its_serial_number_typed(
    ada: Client, enrolled_a: Device, enrolled_b: Device
) -> None:
    device = enrollment_of(enrolled_a).device
    page = reverse("admin:devices_device_unenrol", args=[device.pk])
    assert page in text(ada, page_of(enrolled_a))
    asked = {"way": "turn_away", "reason": "sold", "typed": ""}
    with no_change():
        assert f"Type {enrolled_a.serial_number}." in text(ada, page)
        for typed in ("", enrolled_b.serial_number, "yes"):
            assert "errornote" in ada.post(page, {**asked, "typed": typed}).content.decode()
        assert (
            "errornote"
            in ada.post(page, {**asked, "way": "x", "typed": device.serial_number}).content.decode()
        )
        assert ada.get(page.replace(str(device.pk), "0")).status_code == 404
    assert enrolled_a.idle().status == 200
    done = ada.post(page, {**asked, "typed": device.serial_number.lower(), "block": "on"}, follow=True)
    assert "turned away when it next connects" in done.content.decode()
    assert enrolled_a.idle().status == 403
    assert enrolled_b.idle().status == 200
    event = AuditEvent.objects.get(action="enrollment.unenrolled")
    assert (event.actor, event.reason) == ("ada", "sold")
    assert AuditEvent.objects.filter(action="device.blocked").count() == 2
    again = make_device("A")
    assert again.check_in(again.authenticate_message()).status == 400


def test_unenrolling_needs_its_rights(enrolled_a: Device) -> None:
    device = enrollment_of(enrolled_a).device
    page = reverse("admin:devices_device_unenrol", args=[device.pk])
    grace = staff("devices.view_device", "devices.change_enrollment")
    with no_change():
        assert "unenrol/" not in text(grace, page_of(enrolled_a))
        assert grace.get(page).status_code == 403
        answer = grace.post(page, {"way": "turn_away", "typed": device.serial_number})
        assert answer.status_code == 403
    assert enrolled_a.idle().status == 200
