"""The console in a real browser: nothing that the content policy blocks, nothing fetched from elsewhere."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.urls import NoReverseMatch, reverse

from devices.models import Enrollment, EnrollmentState
from renewal.models import RekeyCampaign, RenewalPermit
from tests.console.fleet import Fleet, make_fleet, make_push_certificate, make_records
from tests.console.fleet_campaign import make_campaign
from tests.console.screens import Visitor, chromium, visitor

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]
PASSWORD = "orchard-gate-9"
# What says 64 hexadecimal digits and does not show all of them (lists scroll sideways in a box of their own).
CUT = """
() => [...document.querySelectorAll("#content *")]
    .filter(one => !one.children.length && /(^|[^0-9a-f])[0-9a-f]{64}($|[^0-9a-f])/i.test(one.textContent))
    .filter(one => !one.closest("#result_list"))
    .filter(one => one.getBoundingClientRect().right > window.innerWidth
        || (getComputedStyle(one).overflow !== "visible" && one.scrollWidth > one.clientWidth + 1))
    .map(one => one.outerHTML.slice(0, 200))
"""


@pytest.fixture(autouse=True)
def _database_beside_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    # Playwright runs an event loop in this thread, and Django refuses the database beside one.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.fixture
def administrator() -> User:
    return User.objects.create_superuser("ada", password=PASSWORD)


def pages() -> list[tuple[str, str]]:
    """Name and path of the list, and of one detail page, of every registered model."""
    found = [("home", reverse("admin:index"))]
    for model in admin.site._registry:
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        found.append((f"{name}-list", reverse(f"admin:{name}_changelist")))
        row = model._default_manager.order_by("-pk").first()
        try:
            if row is not None:
                found.append((f"{name}-detail", reverse(f"admin:{name}_change", args=[row.pk])))
        except NoReverseMatch:
            continue
    return found


def forms(fleet: Fleet) -> list[tuple[str, str]]:
    """Pages that ask before they act."""
    device, certificate = fleet.devices[0].pk, fleet.certificates[0].pk
    held = Enrollment.objects.filter(state=EnrollmentState.QUARANTINED).values_list("pk", flat=True)[0]
    campaign = RekeyCampaign.objects.get().pk
    expired = RenewalPermit.objects.get().enrollment.device_id
    return [
        ("make-token", reverse("admin:api_apitoken_add")),
        ("make-challenges", reverse("admin:scep_challenge_add")),
        ("make-issuer", reverse("admin:pki_issuer_add")),
        ("trust-issuer", reverse("admin:pki_issuer_trust")),
        ("make-way-to-enrol", reverse("admin:enrollment_enrollmentprofile_add")),
        ("request-push", reverse("admin:push_pushcertificate_request")),
        ("import-push", reverse("admin:push_pushcertificate_import")),
        ("send-what", f"{reverse('admin:commands_command_send')}?devices={device}"),
        ("send-lock", f"{reverse('admin:commands_command_send')}?devices={device}&request_type=DeviceLock"),
        ("revoke", reverse("admin:pki_certificate_revoke", args=[certificate])),
        ("unenrol", reverse("admin:devices_device_unenrol", args=[device])),
        ("block", reverse("admin:devices_device_block", args=[device])),
        ("held", reverse("admin:devices_enrollment_change", args=[held])),
        ("admit", reverse("admin:devices_enrollment_decide", args=[held, "admit"])),
        ("begin-campaign", reverse("admin:renewal_rekeycampaign_start")),
        ("close-keys", reverse("admin:renewal_rekeycampaign_close", args=[campaign])),
        ("let-in", reverse("admin:renewal_identityrenewal_device", args=[expired])),
        ("search-none", f"{reverse('admin:devices_device_changelist')}?q=nobody"),
    ]


WINDOW, PHONE = (1360, 850), (390, 844)


def look_at(guest: Visitor, name: str, path: str, *, whole: bool = True) -> None:
    """Open a page once; it is seen in both themes, and at the width of a phone."""
    guest.open(path, until="load")
    guest.picture(f"{name}-light", whole=whole)
    guest.emulate(dark=True)
    guest.picture(f"{name}-dark", whole=whole)
    guest.emulate(dark=False)
    guest.resize(*PHONE)
    wider = guest.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wider <= 0, f"{path} is wider than the screen"
    assert guest.page.evaluate(CUT) == [], f"a fingerprint is cut at {path}"
    guest.picture(f"{name}-phone", whole=whole)
    guest.resize(*WINDOW)


def look_around(guest: Visitor, suffix: str) -> None:
    for name, path in pages():
        look_at(guest, f"{name}-{suffix}", path, whole=not name.endswith("-list"))


def test_pages_with_much_data(live_server: object, administrator: User) -> None:
    now = datetime.now(UTC)
    fleet = make_fleet(int(os.environ.get("BRAMLEY_SCREENS_DEVICES", "60")), now)
    make_push_certificate(now)
    make_records(fleet, now)
    make_campaign(fleet, now)
    with visitor(str(live_server)) as guest:
        look_at(guest, "login", "/admin/login/")
        guest.sign_in(administrator.username, PASSWORD)
        look_around(guest, "much")
        for name, path in forms(fleet):
            look_at(guest, f"form-{name}", path)
        guest.open(reverse("admin:api_apitoken_add"))
        guest.page.fill("#id_name", "Inventory sync")
        guest.page.check("input[value='devices:read']")
        guest.page.click("input[type=submit]")
        guest.page.wait_for_selector("code.secret")
        guest.picture("token-made-light")
        assert guest.trouble == []
        assert guest.foreign == []


def test_pages_of_an_empty_server(live_server: object, administrator: User) -> None:
    with visitor(str(live_server)) as guest:
        guest.sign_in(administrator.username, PASSWORD)
        look_around(guest, "empty")
        assert guest.trouble == []
        assert guest.foreign == []


def test_pages_that_a_phone_opens(live_server: object, administrator: User) -> None:
    """Opened at its width, and with a warning over all of them; the menu is folded."""
    make_push_certificate(datetime.now(UTC), days=5)
    with visitor(str(live_server), width=PHONE[0], height=PHONE[1]) as guest:
        guest.sign_in(administrator.username, PASSWORD)
        for path in (reverse("admin:push_pushcertificate_changelist"), reverse("admin:index")):
            guest.open(path)
            wider = guest.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert wider <= 0, f"{path} is wider than the screen"
        guest.page.click(".menu summary")
        guest.page.wait_for_selector(".menu nav a")
        guest.picture("menu-phone", whole=False)
        assert guest.trouble == []
