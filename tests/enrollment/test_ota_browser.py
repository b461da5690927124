"""The admin's pages about enrolment over the air in a real browser, light and dark, wide and narrow."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.utils import timezone

from audit.recording import SERVER
from enrollment import completion
from enrollment.models import EnrollmentSession, SessionState
from enrollment.setup import ensure_default_profile
from pki import issuers
from tests.console.screens import Visitor, chromium, visitor
from tests.enrollment.device_cas import authority
from tests.enrollment.phone import make_phone, trust

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]
SESSIONS = "/admin/enrollment/enrollmentsession/"
AUTHORITIES = "/admin/enrollment/deviceauthority/"


@pytest.fixture(autouse=True)
def _database_beside_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    # Playwright runs an event loop in this thread, and Django refuses the database beside one.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.fixture
def attempts() -> list[EnrollmentSession]:
    """One that is enrolled, one that was refused in the middle, one whose time was over."""
    cache.clear()
    ensure_default_profile(issuers.create_issuer("bramley", "Test CA", algorithm="RSA-2048", actor=SERVER))
    trust(authority())
    enrolled, refused, late = (make_phone(letter) for letter in "ABC")
    enrolled.enrol()
    service, identity = refused.come_so_far()
    refused.post(refused.say(service, identity, challenge=False, SERIAL="OTHER"))
    late.identify(late.fetch_service())
    EnrollmentSession.objects.filter(pk=late.session().pk).update(
        expires_at=timezone.now() - timedelta(minutes=1)
    )
    completion.expire(timezone.now())
    return list(EnrollmentSession.objects.order_by("id"))


def signed_in(guest: Visitor) -> None:
    User.objects.create_superuser("anna", password="a long enough password")
    guest.sign_in("anna", "a long enough password")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_pages_fit_and_nothing_is_blocked(
    live_server: object, attempts: list[EnrollmentSession], theme: str, width: int
) -> None:
    assert [session.state for session in attempts] == [
        SessionState.COMPLETED,
        SessionState.OTA_CERTIFIED,
        SessionState.EXPIRED,
    ]
    profile = attempts[0].profile
    pages = {
        "sessions": SESSIONS,
        **{f"session {session.state}": f"{SESSIONS}{session.pk}/change/" for session in attempts},
        "device cas": AUTHORITIES,
        "trust": f"{AUTHORITIES}trust/",
        "device certificates": "/admin/enrollment/devicesigner/",
        "profile": f"/admin/enrollment/enrollmentprofile/{profile.pk}/change/",
    }
    with visitor(str(live_server), width=width, dark=theme == "dark") as guest:
        signed_in(guest)
        for name, path in pages.items():
            guest.open(path)
            guest.picture(f"ota-{name}-{theme}-{width}")
            assert guest.page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert (guest.trouble, guest.foreign) == ([], [])
