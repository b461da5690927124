"""Devices on their pages: blocked, let in again, unenrolled; who enrolled them; what happened to them."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import AuditEvent, Refusal
from audit.recording import Actor
from commands.models import CommandDelivery
from devices.models import Device as DeviceRow
from devices.models import Enrollment, EnrollmentState
from enrollment import codes
from enrollment.models import (
    BlockedDevice,
    EnrollmentProfile,
    EnrollmentSession,
    PersonSource,
    SessionState,
)
from mdm import admin_leaving
from pki.models import Issuer
from tests.devices.conftest import staff
from tests.support.devices import Device, make_device
from tests.support.snapshot import no_change

LIST = "/admin/devices/device/"
ADA = Actor("ada")


def session(issuer: Issuer, **more: Any) -> EnrollmentSession:
    profile, _new = EnrollmentProfile.objects.get_or_create(
        slug="default", defaults={"name": "Pupils", "issuer": issuer}
    )
    now = timezone.now()
    return EnrollmentSession.objects.create(
        profile=profile, state=SessionState.DELIVERED, created_at=now, expires_at=now, **more
    )


def enrolled(issuer: Issuer, letter: str, **more: Any) -> Device:
    device = make_device(letter, binding=session(issuer, **more).uuid)
    device.enrol()
    return device


def row(device: Device) -> DeviceRow:
    return DeviceRow.objects.get(udid=device.udid)


def page(client: Client, name: str, device: Device) -> str:
    response = client.get(reverse(f"admin:devices_device_{name}", args=[row(device).pk]))
    assert response.status_code == 200
    return response.content.decode()


def post(client: Client, name: str, device: Device, **data: str) -> Any:
    return client.post(reverse(f"admin:devices_device_{name}", args=[row(device).pk]), data)


# --- Blocking --------------------------------------------------------------------------------------------


def test_a_device_is_blocked_and_let_in_again(issuer: Issuer, ada: Client) -> None:
    device = enrolled(issuer, "A")
    assert "Block…" in page(ada, "change", device)
    with no_change():
        asked = page(ada, "block", device)
    assert device.serial_number in asked
    assert device.udid in asked
    assert "goes on taking commands" in asked
    assert post(ada, "block", device, reason="stolen").status_code == 302
    blocked = BlockedDevice.objects.order_by("pk")
    assert [(one.normal, one.reason, one.created_by) for one in blocked] == [
        ("f00000000a", "stolen", "ada"),
        (device.udid.casefold().replace("-", ""), "stolen", "ada"),
    ]
    shown = page(ada, "change", device)
    assert "Blocked as F00000000A by ada" in shown
    assert "stolen" in shown
    assert "Unblock…" in shown
    # It goes on as it is, but does not come in anew, however it writes its serial number.
    assert device.idle().status == 200
    again = make_device("C", udid="00008030-0000000000000FFF")
    again.serial_number = "f0000-0000a"
    with no_change():
        assert again.check_in(again.authenticate_message()).status == 400
    assert Refusal.objects.filter(surface="mdm").exists()
    with no_change():
        assert "stolen" in page(ada, "unblock", device)
    assert post(ada, "unblock", device).status_code == 302
    assert not BlockedDevice.objects.exists()
    assert again.check_in(again.authenticate_message()).status == 200
    actions = AuditEvent.objects.filter(action__startswith="device.").values_list("action", flat=True)
    assert list(actions.order_by("pk")) == ["device.blocked"] * 2 + ["device.unblocked"] * 2


def test_a_block_that_was_typed_otherwise_is_found(issuer: Issuer, ada: Client) -> None:
    device = enrolled(issuer, "A")
    BlockedDevice.objects.create(
        identifier="f0000 0000 a", normal="f00000000a", created_at=timezone.now(), created_by="bob"
    )
    assert "Blocked as f0000 0000 a by bob" in page(ada, "change", device)
    post(ada, "unblock", device)
    assert not BlockedDevice.objects.exists()
    response = ada.post(reverse("admin:devices_device_unblock", args=[row(device).pk]), follow=True)
    assert "It was not blocked." in response.content.decode()


def test_only_names_that_mean_one_device_are_blocked(issuer: Issuer, ada: Client) -> None:
    device = enrolled(issuer, "A")
    DeviceRow.objects.update(serial_number="0")
    post(ada, "block", device)
    assert BlockedDevice.objects.get().identifier == device.udid


@pytest.mark.parametrize("name", ["block", "unblock", "unenrol"])
def test_each_needs_its_right(issuer: Issuer, ada: Client, name: str) -> None:
    device = enrolled(issuer, "A")
    grace = staff("devices.view_device")
    shown = page(grace, "change", device)
    for button in ("Block…", "Unblock…", "Unenrol…"):
        assert button not in shown
    path = reverse(f"admin:devices_device_{name}", args=[row(device).pk])
    with no_change():
        assert (grace.get(path).status_code, grace.post(path).status_code) == (403, 403)
        listed = grace.post(LIST, {"action": "unenrol", "_selected_action": str(row(device).pk)})
        assert "to confirm" not in listed.content.decode()
        assert grace.post(reverse("admin:devices_device_unenrol_many")).status_code == 403


@pytest.mark.parametrize("may", [True, False], ids=["may-block", "may-not-block"])
def test_only_who_may_block_blocks_while_unenrolling(issuer: Issuer, ada: Client, may: bool) -> None:
    one, other = enrolled(issuer, "A"), enrolled(issuer, "B")
    rights = ["devices.view_device", "devices.change_enrollment", "commands.add_command"]
    grace = staff(*rights, *["enrollment.add_blockeddevice"] * may)
    sent = {"way": "turn_away", "block": "on"}
    for asked in (page(grace, "unenrol", one), choose(grace, [other]).content.decode()):
        assert ('name="block"' in asked) == may
    assert post(grace, "unenrol", one, typed=one.serial_number, **sent).status_code == 302
    assert confirm(grace, [other], "1", "turn_away", block="on").status_code == 302
    assert set(Enrollment.objects.values_list("state", flat=True)) == {EnrollmentState.TURN_AWAY}
    assert BlockedDevice.objects.exists() == may
    assert AuditEvent.objects.filter(action="device.blocked").exists() == may


def test_what_a_device_calls_itself_is_text(issuer: Issuer, ada: Client) -> None:
    device = enrolled(issuer, "A")
    DeviceRow.objects.update(serial_number="<b>A</b>", name="<i>tablet</i>")
    for name in ("unenrol", "block", "unblock", "change"):
        shown = page(ada, name, device)
        assert "&lt;i&gt;tablet" in shown
        assert "<i>tablet" not in shown
        assert "<b>A" not in shown
    assert "Type &lt;b&gt;A&lt;/b&gt;." in page(ada, "unenrol", device)
    assert post(ada, "unenrol", device, typed="<b>a</b>", way="turn_away").status_code == 302


# --- Who enrolled it -------------------------------------------------------------------------------------


def test_who_enrolled_it_is_shown_and_found(issuer: Issuer, ada: Client) -> None:
    anna = enrolled(issuer, "A", person="anna@example.org", person_source=PersonSource.OPENID)
    profile = EnrollmentProfile.objects.get()
    ((code, _value),) = codes.mint(profile, count=1, label="Class 7b", actor=ADA, now=timezone.now())
    bert = enrolled(issuer, "B", code=code, remote_addr="192.0.2.4")
    nobody = enrolled(issuer, "C")
    shown = page(ada, "change", anna)
    assert "anna@example.org</a>" in shown
    assert "sign-in provider" in shown
    shown = page(ada, "change", bert)
    assert "Class 7b</a>" in shown
    assert "192.0.2.4" in shown
    assert "Pupils</a>" in page(ada, "change", nobody)
    for query, found in (
        ("anna@example", [anna]),
        ("7B", [bert]),
        ("Class 7b", [bert]),
        ("F00000000", [anna, bert, nobody]),
        ("pupils", []),
    ):
        listed = ada.get(LIST, {"q": query}).content.decode()
        assert listed.count('class="action-select"') == len(found), query
        for device in found:
            assert device.serial_number in listed
    listed = ada.get(LIST).content.decode()
    assert "anna@example.org" in listed
    assert "Class 7b" in listed
    # Who asks to be that device has not enrolled it.
    rival = make_device("D", udid=nobody.udid, binding=session(issuer, person="mallory").uuid)
    rival.check_in(rival.authenticate_message())
    assert "mallory" not in ada.get(LIST).content.decode()
    assert 'class="action-select"' not in ada.get(LIST, {"q": "mallory"}).content.decode()


def test_what_happened_is_on_the_page(issuer: Issuer, ada: Client) -> None:
    device = enrolled(issuer, "A")
    device.check_in(device.message(MessageType="CheckOut", Topic="x"))
    post(ada, "block", device, reason="lost")
    shown = page(ada, "change", device)
    for text in ("Enrolment authenticated", "Enrolment enrolled", "Enrolment checked out"):
        assert text in shown
    grace = staff("devices.view_device")
    assert "What happened" not in page(grace, "change", device)


# --- Many ------------------------------------------------------------------------------------------------


@pytest.fixture
def three(issuer: Issuer) -> list[Device]:
    return [enrolled(issuer, letter) for letter in "ABC"]


def choose(client: Client, devices: list[Device]) -> Any:
    chosen = [row(device).pk for device in devices]
    return client.post(LIST, {"action": "unenrol", "_selected_action": chosen})


def confirm(client: Client, devices: list[Device], typed: str, way: str, **more: str) -> Any:
    ids = ",".join(str(row(device).pk) for device in devices)
    data = {"devices": ids, "typed": typed, "way": way, **more}
    return client.post(reverse("admin:devices_device_unenrol_many"), data)


def test_many_are_named_and_counted_before_they_leave(three: list[Device], ada: Client) -> None:
    gone = three[2]
    gone.check_in(gone.message(MessageType="CheckOut", Topic="x"))
    with no_change():
        asked = choose(ada, three).content.decode()
    assert "Unenrol 2 devices" in asked
    assert "not enrolled" in asked
    assert "Type 2 to confirm." in asked
    for device in three:
        assert device.serial_number in asked
    assert f'value="{row(three[0]).pk},{row(three[1]).pk}"' in asked
    with no_change():
        refused = confirm(ada, three[:2], "3", "turn_away")
    assert "That is not the number of devices." in refused.content.decode()
    assert confirm(ada, three[:2], "2", "turn_away", reason="sold", block="on").status_code == 302
    states = {device.udid: row(device).enrollments.get().state for device in three}
    assert list(states.values()) == [
        EnrollmentState.TURN_AWAY,
        EnrollmentState.TURN_AWAY,
        EnrollmentState.CHECKED_OUT,
    ]
    assert BlockedDevice.objects.count() == 4
    assert AuditEvent.objects.filter(action="enrollment.unenrolled", reason="sold").count() == 2


def test_many_are_told_to_remove_their_profiles(three: list[Device], ada: Client) -> None:
    assert confirm(ada, three, "3", "remove").status_code == 302
    assert CommandDelivery.objects.filter(command__request_type="RemoveProfile").count() == 3
    assert set(Enrollment.objects.values_list("state", flat=True)) == {EnrollmentState.ENROLLED}


def test_who_left_meanwhile_is_named(three: list[Device], ada: Client) -> None:
    three[0].check_in(three[0].message(MessageType="CheckOut", Topic="x"))
    confirm(ada, three, "3", "turn_away")
    text = ada.get(LIST).content.decode()
    assert "2 devices are turned away" in text
    assert "not possible, not enrolled" in text


def test_more_than_a_page_does_are_not_taken(
    three: list[Device], ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_leaving, "MOST_AT_ONCE", 2)
    with no_change():
        assert choose(ada, three).status_code == 302
        assert confirm(ada, three, "3", "remove").status_code == 404
    assert "at most 2 are unenrolled at once" in ada.get(LIST).content.decode()


@pytest.mark.parametrize("devices", ["", "x", ",,", "-1", "²", "9" * 19, "9" * 5000])
def test_nonsense_is_not_found(three: list[Device], ada: Client, devices: str) -> None:
    with no_change():
        data = {"devices": devices, "typed": "0", "way": "remove"}
        assert ada.post(reverse("admin:devices_device_unenrol_many"), data).status_code == 404
        assert ada.get(reverse("admin:devices_device_unenrol_many")).status_code == 405


def test_a_block_leads_to_the_device(issuer: Issuer, ada: Client) -> None:
    device = enrolled(issuer, "A")
    post(ada, "block", device)
    link = f'href="/admin/devices/device/{row(device).pk}/change/"'
    for blocked in BlockedDevice.objects.all():
        shown = ada.get(reverse("admin:enrollment_blockeddevice_change", args=[blocked.pk]))
        assert link in shown.content.decode()


@pytest.mark.parametrize("name", ["devices/device", "devices/enrollment", "enrollment/enrollmentsession"])
def test_what_only_looks_like_a_number_is_no_row(ada: Client, name: str) -> None:
    assert ada.get(f"/admin/{name}/²/change/").status_code == 302
