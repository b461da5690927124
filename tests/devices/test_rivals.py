"""Two enrolments that say to be one device: what an administrator sees of both, and decides."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from devices.models import Enrollment, EnrollmentState
from enrollment.models import EnrollmentProfile, EnrollmentSession, PersonSource, SessionState
from mdm import rivals
from pki.models import Issuer
from tests.devices.conftest import staff
from tests.support.devices import Device, make_device
from tests.support.snapshot import no_change

LIST = "/admin/devices/enrollment/"
MADE = "ab" * 32


def session(issuer: Issuer, person: str, address: str, made: str = "") -> EnrollmentSession:
    """An attempt by somebody, from somewhere."""
    profile, _new = EnrollmentProfile.objects.get_or_create(
        slug="default", defaults={"name": "Pupils", "issuer": issuer}
    )
    now = timezone.now()
    return EnrollmentSession.objects.create(
        profile=profile,
        state=SessionState.DELIVERED,
        person=person,
        person_source=PersonSource.ACCOUNT,
        remote_addr=address,
        user_agent="Profile/1.0",
        device_certificate_sha256=made,  # as if it came over the air
        created_at=now,
        expires_at=now,
    )


@pytest.fixture
def held(issuer: Issuer) -> Enrollment:
    """Of somebody with another serial number and another model who says to have A's UDID."""
    device = make_device("A", binding=session(issuer, "anna", "192.0.2.1", MADE).uuid)
    device.enrol()
    rival = make_device("B", udid=device.udid, binding=session(issuer, "mallory", "198.51.100.9", MADE).uuid)
    rival.serial_number = "F00000000Z"
    said = rival.authenticate_message(ProductName="iPhone17,1", ModelName="iPhone", OSVersion="26.1")
    assert rival.check_in(said).status == 200
    return Enrollment.objects.get(state=EnrollmentState.QUARANTINED)


def by_name(comparison: rivals.Comparison) -> dict[str, rivals.Row]:
    return {row.name: row for row in comparison.rows}


def test_both_are_shown_side_by_side(held: Enrollment, ada: Client) -> None:
    rows = by_name(rivals.compare(held))
    seen = {name: (row.live, row.asking, row.differs) for name, row in rows.items()}
    assert seen["Serial number"] == ("F00000000A", "F00000000Z", True)
    assert seen["UDID"] == (held.device.udid, held.device.udid, False)
    assert seen["Model"] == ("Mac mini (Mac16,10)", "iPhone (iPhone17,1)", True)
    assert seen["System"] == ("15.4 (24E263)", "26.1 (24E263)", True)
    assert seen["Person"] == ("anna", "mallory", True)
    assert seen["From address"] == ("192.0.2.1", "198.51.100.9", True)
    assert rows["Enrolled"].is_moment
    assert not rows["Enrolled"].differs
    page = ada.get(reverse("admin:devices_enrollment_change", args=[held.pk])).content.decode()
    live = Enrollment.objects.get(state=EnrollmentState.ENROLLED)
    for side in (held, live):
        certificate = side.identities.get().certificate
        assert certificate.serial_number in page
        assert certificate.sha256 in page
    for text in ("F00000000Z", "iPhone (iPhone17,1)", "mallory", "198.51.100.9", "anna", "192.0.2.1"):
        assert text in page
    assert "two devices" in page
    assert "If you admit it" in page
    assert "If you refuse it" in page


def test_what_both_together_say(held: Enrollment, issuer: Issuer) -> None:
    def signs() -> list[str]:
        return [tone for _text, tone in rivals.compare(held).signs]

    assert signs() == ["bad", "good"]  # other serial number; but made with the same certificate
    assert held.binding is not None
    EnrollmentSession.objects.filter(uuid=held.binding).update(device_certificate_sha256="cd" * 32)
    assert signs() == ["bad", "bad"]
    live = Enrollment.objects.get(state=EnrollmentState.ENROLLED)
    certificate = held.identities.get().certificate
    certificate.public_key_sha256 = live.identities.get().certificate.public_key_sha256
    certificate.save()
    assert signs() == ["bad", "bad", "good"]
    live.state = EnrollmentState.CHECKED_OUT
    live.save()
    assert signs() == ["info"]


def test_without_what_it_said_nothing_is_made_up(held: Enrollment) -> None:
    """A row of before, and one that no session asked for."""
    held.said, held.binding = None, uuid.uuid4()
    held.save()
    rows = by_name(rivals.compare(held))
    assert (rows["Serial number"].asking, rows["Serial number"].differs) == (None, False)
    assert (rows["Person"].live, rows["Person"].asking, rows["Person"].differs) == ("anna", None, False)


def test_the_costs_do_not_depend_on_the_history(held: Enrollment) -> None:
    def statements() -> int:
        with CaptureQueriesContext(connection) as captured:
            rivals.compare(held)
        return len(captured)

    statements()
    before = statements()
    for letter in "CDE":
        rival = make_device(letter, udid=held.device.udid)
        assert rival.check_in(rival.authenticate_message()).status == 200
    assert statements() == before


def test_the_list_finds_them(held: Enrollment, ada: Client) -> None:
    home = ada.get("/admin/").content.decode()
    assert "Waiting for admission" in home
    query = {"channel__exact": "DEVICE", "state__exact": "QUARANTINED"}
    page = ada.get(LIST, query).content.decode()
    assert page.count('class="action-checkbox') <= 1
    assert "F00000000Z, iPhone17,1, 26.1</td>" in page
    assert "mallory" in page
    assert "mallory" in ada.get(LIST, {"q": "MALL"}).content.decode()
    assert "mallory" not in ada.get(LIST, {"q": "malice"}).content.decode()


@pytest.mark.parametrize(
    ("decision", "held_after", "live_after"),
    [
        ("admit", EnrollmentState.AUTHENTICATED, EnrollmentState.REPLACED),
        ("refuse", EnrollmentState.REFUSED, EnrollmentState.ENROLLED),
    ],
)
def test_each_decision_is_asked_for_and_done(
    held: Enrollment, ada: Client, decision: str, held_after: str, live_after: str
) -> None:
    live = Enrollment.objects.get(state=EnrollmentState.ENROLLED)
    path = reverse("admin:devices_enrollment_decide", args=[held.pk, decision])
    with no_change():
        assert "F00000000Z" in ada.get(path).content.decode()
    assert ada.post(path, {"reason": "seen on the table"}).status_code == 302
    held.refresh_from_db()
    live.refresh_from_db()
    assert (held.state, live.state) == (held_after, live_after)
    page: Any = ada.get(path, follow=True)
    assert "not held any more" in page.content.decode()
    assert page.redirect_chain[-1][0] == reverse("admin:devices_enrollment_change", args=[held.pk])


def test_who_may_only_look_decides_nothing(held: Enrollment, ada: Client) -> None:
    grace = staff("devices.view_enrollment")
    page = grace.get(reverse("admin:devices_enrollment_change", args=[held.pk])).content.decode()
    assert "mallory" in page
    assert "/decide/" not in page
    path = reverse("admin:devices_enrollment_decide", args=[held.pk, "admit"])
    with no_change():
        assert (grace.get(path).status_code, grace.post(path).status_code) == (403, 403)


def test_a_user_of_a_held_device_is_not_decided_alone(held: Enrollment, ada: Client, issuer: Issuer) -> None:
    device = Device(held.identities.get().certificate, make_device("B").key, held.device.udid)
    device.check_in(device.token_update_message())
    device.check_in(device.token_update_message(b"\x09" * 32, "u", UserID="U", UserShortName="u"))
    user = Enrollment.objects.get(channel="USER")
    assert user.state == EnrollmentState.QUARANTINED
    page = ada.get(reverse("admin:devices_enrollment_change", args=[user.pk])).content.decode()
    assert "Held with the enrolment of its device" in page
    assert "/decide/" not in page
