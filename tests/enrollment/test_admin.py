"""Enrolment profiles and sessions in the admin."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.models import AuditEvent
from devices.models import Device, Enrollment, EnrollmentState
from enrollment.models import EnrollmentProfile, EnrollmentSession, SessionState
from pki import issuers
from pki.models import Issuer
from tests.support.devices import device_key, issue_certificate, make_issuer
from tests.support.snapshot import no_change

PROFILES = "/admin/enrollment/enrollmentprofile/"
SESSIONS = "/admin/enrollment/enrollmentsession/"
pytestmark = pytest.mark.django_db


@pytest.fixture
def reader(client: Client) -> Client:
    """Somebody who may look, and no more."""
    user = User.objects.create_user("reader", password="x", is_staff=True)
    user.user_permissions.add(
        *Permission.objects.filter(content_type__app_label="enrollment", codename__startswith="view_")
    )
    client.force_login(user)
    return client


def form(issuer: Issuer, **changes: Any) -> dict[str, Any]:
    return {
        "name": "Tills",
        "slug": "tills",
        "organization": "Orchard Ltd",
        "description": "For tills",
        "enabled": "on",
        "allow_direct": "on",
        "access": "OPEN",
        "session_minutes": "30",
        "renew_at_percent": "33",
        "issuer": str(issuer.pk),
        "topic": "",
        "rights": ["1", "2", "16"],
        "payload_cipher": "aes128_cbc",
        **changes,
    }


def make_session(profile: EnrollmentProfile, **values: Any) -> EnrollmentSession:
    now = timezone.now()
    return EnrollmentSession.objects.create(
        **{"profile": profile, "created_at": now, "expires_at": now + timedelta(hours=1), **values}
    )


def test_a_profile_is_made_and_changed_with_a_record(admin_client: Client, issuer: Issuer) -> None:
    answer = admin_client.post(f"{PROFILES}add/", form(issuer))
    assert answer.status_code == 302, answer.content.decode()
    made = EnrollmentProfile.objects.get(slug="tills")
    assert (made.access_rights, made.session_minutes, made.check_out_when_removed) == (19, 30, False)
    changed = form(issuer, name="Tills and scales", slug="elsewhere", rights=["1", "16"])
    assert admin_client.post(f"{PROFILES}{made.pk}/change/", changed).status_code == 302
    made.refresh_from_db()
    assert (made.name, made.slug, made.access_rights) == ("Tills and scales", "tills", 17)
    event = AuditEvent.objects.get(action="enrollment_profile.changed")
    assert event.actor == "admin"
    assert event.details["access_rights"] == {"before": "19", "after": "17"}
    assert AuditEvent.objects.filter(action="enrollment_profile.created").count() == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rights": []}, "This field is required"),
        ({"rights": ["2"]}, "needs"),
        ({"topic": "com.example.topic"}, "starts with com.apple.mgmt."),
        ({"session_minutes": "0"}, "Between one minute and 30 days"),
        ({"organization": "right\u202eleft"}, "It stands in certificates"),
    ],
)
def test_what_no_device_would_take_is_refused(
    admin_client: Client, issuer: Issuer, changes: dict[str, Any], message: str
) -> None:
    with no_change():
        answer = admin_client.post(f"{PROFILES}add/", form(issuer, **changes))
    assert answer.status_code == 200
    assert message in answer.content.decode()


def test_an_issuer_that_scep_cannot_use_is_refused(admin_client: Client) -> None:
    elliptic = make_issuer("elliptic")
    with no_change():
        answer = admin_client.post(f"{PROFILES}add/", form(elliptic))
    assert "needs an issuer with an RSA key" in answer.content.decode()


def test_the_page_shows_addresses_and_what_is_missing(
    admin_client: Client, profile: EnrollmentProfile
) -> None:
    text = admin_client.get(f"{PROFILES}{profile.pk}/change/").content.decode()
    assert "http://127.0.0.1:8000/enroll/default/profile" in text
    assert "No push certificate yet" in text
    assert f"com.apple.mgmt.Bramley.{profile.payload_uuid}" in text
    assert admin_client.get(PROFILES).status_code == 200
    assert admin_client.get(f"{PROFILES}add/").status_code == 200


def test_deleting_a_profile_is_recorded(admin_client: Client, profile: EnrollmentProfile) -> None:
    answer = admin_client.post(f"{PROFILES}{profile.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302
    assert not EnrollmentProfile.objects.exists()
    assert AuditEvent.objects.get(action="enrollment_profile.deleted").target_label == profile.name


def test_sessions_say_where_they_stopped(admin_client: Client, profile: EnrollmentProfile) -> None:
    make_session(profile)
    certified = make_session(profile)
    issue_certificate(device_key(1), issuer=profile.issuer, binding=certified.uuid)
    make_session(profile, state=SessionState.AUTHENTICATED)
    enrolled = make_session(profile, state=SessionState.COMPLETED)
    device = Device.objects.create(udid="U-1", serial_number="C01", name="Anna’s iPad")
    Enrollment.objects.create(device=device, state=EnrollmentState.ENROLLED, binding=enrolled.uuid)
    text = admin_client.get(SESSIONS).content.decode()
    assert "profile downloaded, waiting for the request for a certificate" in text
    assert "certificate issued, waiting for the device to check in" in text
    assert "device checked in, waiting for its push token" in text
    assert f'href="/admin/devices/device/{device.pk}/change/"' in text
    for session in EnrollmentSession.objects.all():
        assert admin_client.get(f"{SESSIONS}{session.pk}/change/").status_code == 200
    page = admin_client.get(f"{SESSIONS}{certified.pk}/change/").content.decode()
    assert "/admin/pki/certificate/" in page


def test_a_long_list_costs_no_more_queries(admin_client: Client, profile: EnrollmentProfile) -> None:
    admin_client.get(SESSIONS)
    make_session(profile)
    with CaptureQueriesContext(
        connection,
    ) as few:
        admin_client.get(SESSIONS)
    for _ in range(20):
        make_session(profile)
    with CaptureQueriesContext(connection) as many:
        admin_client.get(SESSIONS)
    assert len(many) == len(few)


def test_sessions_are_stopped_by_who_may(admin_client: Client, profile: EnrollmentProfile) -> None:
    session = make_session(profile)
    done = make_session(profile, state=SessionState.COMPLETED)
    chosen = {"action": "stop", "_selected_action": [session.pk, done.pk]}
    text = admin_client.post(SESSIONS, chosen, follow=True).content.decode()
    assert "1 session stopped." in text
    session.refresh_from_db()
    assert (session.state, session.reason) == ("FAILED", "stopped by admin")
    done.refresh_from_db()
    assert done.state == SessionState.COMPLETED


def test_who_may_only_look_changes_nothing(reader: Client, profile: EnrollmentProfile) -> None:
    session = make_session(profile)
    assert reader.get(SESSIONS).status_code == 200
    assert reader.get(f"{PROFILES}{profile.pk}/change/").status_code == 200
    with no_change():
        reader.post(SESSIONS, {"action": "stop", "_selected_action": [session.pk]})
        assert reader.post(f"{PROFILES}{profile.pk}/change/", form(profile.issuer)).status_code == 403
        assert reader.get(f"{PROFILES}add/").status_code == 403
        assert reader.get(f"{SESSIONS}add/").status_code == 403
        assert reader.post(f"{SESSIONS}{session.pk}/delete/", {"post": "yes"}).status_code == 403
    assert issuers.default_issuer() == profile.issuer


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (EnrollmentState.QUARANTINED, "held until an administrator admits or refuses it"),
        (EnrollmentState.REFUSED, "An administrator refused it."),
    ],
)
def test_a_device_that_an_administrator_keeps_out_is_not_said_to_be_waited_for(
    admin_client: Client, profile: EnrollmentProfile, state: EnrollmentState, said: str
) -> None:
    session = make_session(profile, state=SessionState.AUTHENTICATED)
    device = Device.objects.create(udid="U-1", serial_number="C01", name="Anna’s iPad")
    held = Enrollment.objects.create(
        device=device, state=state, binding=session.uuid, authenticated_at=timezone.now()
    )
    for text in (
        admin_client.get(SESSIONS).content.decode(),
        admin_client.get(f"{SESSIONS}{session.pk}/change/").content.decode(),
    ):
        assert said in text
        assert "push token" not in text.split('id="content"')[-1]
    link = f'href="/admin/devices/enrollment/{held.pk}/change/"'
    assert (link in text) == (state == EnrollmentState.QUARANTINED)
