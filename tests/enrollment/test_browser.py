"""The enrolment page in a real browser: on a phone and a desk, light and dark, nothing blocked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from enrollment.models import EnrollmentProfile, EnrollmentSession
from tests.console.screens import chromium, visitor

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]
WIDTHS = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.fixture(autouse=True)
def _database_beside_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    # Playwright runs an event loop in this thread, and Django refuses the database beside one.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("device", sorted(WIDTHS))
def test_the_page_fits_and_downloads(
    live_server: object, profile: EnrollmentProfile, device: str, theme: str, tmp_path: Path
) -> None:
    width, height = WIDTHS[device]
    with visitor(str(live_server), width=width, height=height, dark=theme == "dark") as guest:
        guest.open("/enroll/default/")
        guest.picture(f"enroll-{device}-{theme}")
        assert guest.page.title() == profile.name
        assert guest.page.evaluate("document.documentElement.scrollWidth") <= width
        ground = guest.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(18, 21, 19)") == (theme == "dark")
        with guest.page.expect_download() as download:
            guest.page.click("a.button")
        saved = tmp_path / "saved"
        download.value.save_as(saved)
        assert download.value.suggested_filename == "default.mobileconfig"
        assert saved.read_bytes()[0] == 0x30
        assert (guest.trouble, guest.foreign) == ([], [])
    assert EnrollmentSession.objects.count() == 1
