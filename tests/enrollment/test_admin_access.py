"""Who may enrol, in the admin: codes shown once, providers with sealed secrets, blocked devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from audit.models import AuditEvent
from devices.models import DeviceGroup
from enrollment import blocking, openid
from enrollment.models import (
    Access,
    BlockedDevice,
    EnrollmentCode,
    EnrollmentProfile,
    IdentityProvider,
    ListedDevice,
)
from pki.models import Issuer
from tests.enrollment.gates import ADMINISTRATOR, minted
from tests.enrollment.test_admin import PROFILES, form
from tests.support.oidc import OpenIdProvider
from tests.support.snapshot import no_change

CODES = "/admin/enrollment/enrollmentcode/"
PROVIDERS = "/admin/enrollment/identityprovider/"
BLOCKED = "/admin/enrollment/blockeddevice/"
CODE = re.compile(r"<code>([0-9A-Z]{4}(?:-[0-9A-Z]{4}){2})</code>")
INLINE = re.compile(r"<style|\sstyle=|\son\w+=|javascript:", re.IGNORECASE)
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


# --- Codes -----------------------------------------------------------------------------------------------


def test_codes_are_made_and_shown_once(admin_client: Client, profile: EnrollmentProfile) -> None:
    asked = admin_client.get(f"{CODES}add/?profile={profile.pk}").content.decode()
    assert f'value="{profile.pk}" selected' in asked
    assert not INLINE.search(asked)
    answer = admin_client.post(
        f"{CODES}add/",
        {"profile": profile.pk, "count": "3", "max_uses": "1", "label": "class 4b", "chosen": ""},
    )
    text = answer.content.decode()
    values = CODE.findall(text)
    assert len(values) == len(set(values)) == 3
    assert not INLINE.search(text)
    assert "does not ask for a code yet" in text
    assert "no-store" in answer["Cache-Control"]
    assert list(EnrollmentCode.objects.order_by("pk").values_list("label", "max_uses")) == [
        (f"class 4b {number}", 1) for number in (1, 2, 3)
    ]
    later = admin_client.get(CODES).content.decode()
    first = EnrollmentCode.objects.first()
    assert first is not None
    later += admin_client.get(f"{CODES}{first.pk}/change/").content.decode()
    event = AuditEvent.objects.get(action="enrollment_code.created")
    for value in values:
        assert value not in later + repr(event.__dict__)
    cache.clear()
    guest = Client()
    EnrollmentProfile.objects.filter(pk=profile.pk).update(access=Access.CODE)
    assert guest.post("/enroll/default/code", {"code": values[1]}).status_code == 303


def test_a_code_of_ones_own(admin_client: Client, profile: EnrollmentProfile) -> None:
    data = {"profile": profile.pk, "count": "1", "max_uses": "", "chosen": "Summer School", "label": ""}
    assert "Summer School" in admin_client.post(f"{CODES}add/", data).content.decode()
    assert EnrollmentCode.objects.get().max_uses is None
    for wrong in (
        data,
        {**data, "chosen": "short"},
        {**data, "count": "2", "chosen": "Winter School"},
        {**data, "count": "0", "chosen": ""},
        {**data, "count": "501", "chosen": ""},
        {**data, "profile": "0"},
        {**data, "expires_at_0": "2001-01-01", "expires_at_1": "00:00:00", "chosen": "Winter School"},
    ):
        with no_change():
            assert "errornote" in admin_client.post(f"{CODES}add/", wrong).content.decode()


def test_codes_are_withdrawn(admin_client: Client, profile: EnrollmentProfile) -> None:
    code, _value = minted(profile)
    for text in ("1 code withdrawn", "0 codes withdrawn"):
        answer = admin_client.post(CODES, {"action": "withdraw", "_selected_action": [code.pk]}, follow=True)
        assert text in answer.content.decode()
    assert AuditEvent.objects.filter(action="enrollment_code.withdrawn").count() == 1
    for state, shown in (("works", 0), ("withdrawn", 1), ("used", 0), ("expired", 0)):
        assert admin_client.get(f"{CODES}?state={state}").context["cl"].result_count == shown


def test_who_may_only_look_makes_nothing(reader: Client, profile: EnrollmentProfile) -> None:
    code, _value = minted(profile)
    assert reader.get(CODES).status_code == 200
    with no_change():
        assert reader.get(f"{CODES}add/").status_code == 403
        assert reader.post(f"{CODES}add/", {"profile": profile.pk, "count": "1"}).status_code == 403
        reader.post(CODES, {"action": "withdraw", "_selected_action": [code.pk]})
        assert reader.post(f"{BLOCKED}add/", {"identifiers": "C02XK1Y9JGH5"}).status_code == 403


# --- Profiles --------------------------------------------------------------------------------------------


def test_a_profile_says_who_may_enrol(admin_client: Client, issuer: Issuer) -> None:
    group = DeviceGroup.objects.create(name="Tills")
    data = form(
        issuer,
        access="LOGIN",
        allow_accounts="on",
        people_groups="Shop\r\nIT",
        max_enrollments="40",
        closes_at_0="2031-01-01",
        closes_at_1="00:00:00",
        only_listed="on",
        serial_numbers="C02XK1Y9JGH5\r\n c02x k1y9 jgh5 \r\nF9FXY",
        groups=[str(group.pk)],
    )
    answer = admin_client.post(f"{PROFILES}add/", data)
    assert answer.status_code == 302, answer.content.decode()
    made = EnrollmentProfile.objects.get(slug="tills")
    assert (made.access, made.max_enrollments, made.only_listed) == (Access.LOGIN, 40, True)
    assert list(made.groups.all()) == [group]
    assert [row.serial_number for row in ListedDevice.objects.all()] == ["c02xk1y9jgh5", "f9fxy"]
    page = admin_client.get(f"{PROFILES}{made.pk}/change/").content.decode()
    assert "C02XK1Y9JGH5\nF9FXY" in page
    changed = {**data, "serial_numbers": "F9FXY\nNEW12345"}
    assert admin_client.post(f"{PROFILES}{made.pk}/change/", changed).status_code == 302
    assert [row.serial_number for row in ListedDevice.objects.all()] == ["f9fxy", "new12345"]
    event = AuditEvent.objects.filter(action="enrollment_profile.devices_listed").first()
    assert event is not None
    assert event.details == {"added": ["new12345"], "removed": ["c02xk1y9jgh5"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"access": "LOGIN"},
        {"access": "OTHER"},
        {"max_enrollments": "-1"},
        {"closes_at_0": "yesterday", "closes_at_1": "00:00"},
        {"serial_numbers": "x" * 65},
        {"groups": ["999"]},
        {"identity_provider": "999"},
    ],
)
def test_what_cannot_be_meant_is_refused(
    admin_client: Client, issuer: Issuer, changes: dict[str, Any]
) -> None:
    with no_change():
        answer = admin_client.post(f"{PROFILES}add/", form(issuer, **changes))
    assert answer.status_code == 200
    assert "errornote" in answer.content.decode()


# --- Sign-in providers -----------------------------------------------------------------------------------


@pytest.fixture
def provider(settings: Any) -> Iterator[OpenIdProvider]:
    settings.BRAMLEY_OPENID_LOOPBACK_HTTP = True
    with OpenIdProvider() as running:
        yield running


def provider_form(issuer: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": "Orchard",
        "issuer": issuer,
        "client_id": "bramley",
        "client_secret": "hush-hush-hush",
        "groups_claim": "groups",
        "enabled": "on",
        **changes,
    }


def test_a_provider_is_set_up_and_tested(admin_client: Client, provider: OpenIdProvider) -> None:
    answer = admin_client.post(f"{PROVIDERS}add/", provider_form(provider.issuer))
    assert answer.status_code == 302, answer.content.decode()
    made = IdentityProvider.objects.get()
    page = admin_client.get(f"{PROVIDERS}{made.pk}/change/").content.decode()
    assert "/enroll/openid/return" in page
    assert "hush-hush" not in page
    assert b"hush" not in bytes(made.client_secret_sealed)
    assert "hush" not in repr(list(AuditEvent.objects.values()))
    tested = admin_client.post(f"{PROVIDERS}{made.pk}/test/", follow=True).content.decode()
    assert f"It answers. People are sent to {provider.issuer}/authorize." in tested
    # Saved again without a secret, it keeps the one it has.
    before = bytes(made.client_secret_sealed)
    admin_client.post(f"{PROVIDERS}{made.pk}/change/", provider_form(provider.issuer, client_secret=""))
    made.refresh_from_db()
    assert bytes(made.client_secret_sealed) == before
    provider.twist_metadata = lambda document: {**document, "issuer": "https://evil.example"}
    tested = admin_client.post(f"{PROVIDERS}{made.pk}/test/", follow=True).content.decode()
    assert "It does not answer as it should" in tested


@pytest.mark.parametrize(
    "issuer",
    ["http://login.example.com", "javascript:alert(1)", "https://user:pw@login.example.com", "login", ""],
)
def test_an_issuer_is_an_https_address(admin_client: Client, issuer: str) -> None:
    with no_change():
        answer = admin_client.post(f"{PROVIDERS}add/", provider_form(issuer))
    assert "errornote" in answer.content.decode()


def test_a_provider_in_use_stays(admin_client: Client, profile: EnrollmentProfile) -> None:
    used = IdentityProvider.objects.create(name="Orchard", issuer="https://login.example.com", client_id="x")
    EnrollmentProfile.objects.filter(pk=profile.pk).update(identity_provider=used)
    with no_change():
        admin_client.post(f"{PROVIDERS}{used.pk}/delete/", {"post": "yes"})
    assert "Device management" in admin_client.get(PROVIDERS).content.decode()


def test_who_may_only_look_tests_nothing(reader: Client) -> None:
    made = IdentityProvider.objects.create(name="Orchard", issuer="https://login.example.com", client_id="x")
    with no_change():
        assert reader.post(f"{PROVIDERS}{made.pk}/test/").status_code == 403
        assert reader.get(f"{PROVIDERS}{made.pk}/test/").status_code == 403


def test_a_client_secret_is_never_in_a_page_of_errors(admin_client: Client) -> None:
    answer = admin_client.post(f"{PROVIDERS}add/", provider_form("nonsense"))
    assert "hush-hush" not in answer.content.decode()


# --- Blocked devices -------------------------------------------------------------------------------------


def test_devices_are_blocked_and_let_in_again(admin_client: Client) -> None:
    assert "No device is blocked" in admin_client.get(BLOCKED).content.decode()
    answer = admin_client.post(
        f"{BLOCKED}add/",
        {"identifiers": "C02XK1Y9JGH5\n c02x-k1y9-jgh5 \nF9FXY", "reason": "stolen"},
        follow=True,
    )
    assert "3 devices stay out" in answer.content.decode()
    assert [(row.identifier, row.reason, row.created_by) for row in BlockedDevice.objects.order_by("pk")] == [
        ("C02XK1Y9JGH5", "stolen", "admin"),
        ("F9FXY", "stolen", "admin"),
    ]
    assert AuditEvent.objects.filter(action="device.blocked").count() == 2
    row = BlockedDevice.objects.get(identifier="F9FXY")
    admin_client.post(BLOCKED, {"action": "unblock", "_selected_action": [row.pk]})
    assert BlockedDevice.objects.count() == 1
    assert AuditEvent.objects.get(action="device.unblocked").target_label == "F9FXY"


@pytest.mark.parametrize(
    "text", ["", "  ", "abc", "x" * 65, "C02XK1Y9JGH5\n---", "C02XK1Y9JGH5\n" + "y" * 200]
)
def test_blocking_is_all_or_nothing(admin_client: Client, text: str) -> None:
    with no_change():
        answer = admin_client.post(f"{BLOCKED}add/", {"identifiers": text})
    assert "errornote" in answer.content.decode()


def test_unblocking_needs_its_right(reader: Client) -> None:
    row = blocking.block("C02XK1Y9JGH5", reason="", actor=ADMINISTRATOR, now=timezone.now())
    with no_change():
        reader.post(BLOCKED, {"action": "unblock", "_selected_action": [row.pk]})


def test_the_return_address_is_the_public_one(settings: Any) -> None:
    settings.BRAMLEY_PUBLIC_URL = "https://mdm.example.com"
    assert openid.return_address() == "https://mdm.example.com/enroll/openid/return"
