"""A person in a browser, from the enrolment page to the downloaded profile: by a code, and by signing in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache

from enrollment import openid
from enrollment.models import Access, EnrollmentProfile, EnrollmentSession, IdentityProvider
from enrollment.setup import ensure_default_profile
from pki import issuers
from tests.console.screens import Visitor, chromium, visitor
from tests.enrollment.gates import ADMINISTRATOR, gated, minted
from tests.support.oidc import OpenIdProvider

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, settings: Any, live_server: Any) -> None:
    # Playwright runs an event loop in this thread, and Django refuses the database beside one.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    settings.BRAMLEY_PUBLIC_URL = live_server.url
    settings.BRAMLEY_OPENID_LOOPBACK_HTTP = True
    cache.clear()


@pytest.fixture
def profile(transactional_db: None) -> EnrollmentProfile:
    issuer = issuers.create_issuer("bramley", "Test CA", algorithm="RSA-2048", actor=ADMINISTRATOR)
    made = ensure_default_profile(issuer)
    made.organization = "Orchard Ltd"
    made.save()
    return made


def download(guest: Visitor, tmp_path: Path) -> bytes:
    with guest.page.expect_download() as download:
        guest.page.click("a.button[download]")
    saved = tmp_path / "saved"
    download.value.save_as(saved)
    assert download.value.suggested_filename == "default.mobileconfig"
    return saved.read_bytes()


def test_with_a_code_on_a_phone(live_server: Any, profile: EnrollmentProfile, tmp_path: Path) -> None:
    gated(profile, Access.CODE)
    _code, value = minted(profile)
    with visitor(live_server.url, width=390, height=844) as guest:
        guest.open("/enroll/default/")
        guest.picture("gate-code-phone-light")
        assert guest.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert guest.page.locator("a.button[download]").count() == 0
        guest.page.fill("#id_code", "NOT-THE-CODE")
        guest.page.click("button.button")
        assert "does not work" in guest.page.inner_text(".trouble")
        guest.picture("gate-code-wrong-phone-light")
        guest.page.fill("#id_code", value.lower())
        guest.page.click("button.button")
        guest.page.wait_for_selector("a.button[download]")
        guest.picture("gate-code-right-phone-light")
        assert download(guest, tmp_path)[0] == 0x30
        # Chromium says the refusal of the wrong code in its console, as of any 403.
        assert [said for said in guest.trouble if "403" not in said] == []
        assert guest.foreign == []
    session = EnrollmentSession.objects.get()
    assert session.code_id == _code.pk


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_by_signing_in_with_openid_connect(
    live_server: Any, profile: EnrollmentProfile, tmp_path: Path, theme: str
) -> None:
    address = openid.return_address()
    with OpenIdProvider(redirect_uris={address}) as provider:
        provider.people["anna"] = {"email": "anna@example.com"}
        record = IdentityProvider(name="Orchard", issuer=provider.issuer, client_id=provider.client_id)
        record.client_secret_sealed = openid.seal_secret(record, provider.client_secret)
        record.save()
        gated(profile, Access.LOGIN, identity_provider=record)
        with visitor(live_server.url, width=1280, height=900, dark=theme == "dark") as guest:
            guest.open("/enroll/default/")
            guest.picture(f"gate-login-desk-{theme}")
            guest.page.click("text=Sign in with Orchard")
            guest.page.fill("input[name=person]", "anna")
            guest.page.click("button")
            guest.page.wait_for_selector("a.button[download]")
            assert "anna@example.com" in guest.page.inner_text(".who")
            assert guest.page.locator("svg.qr").count() == 1
            guest.picture(f"gate-signed-in-desk-{theme}")
            assert download(guest, tmp_path)[0] == 0x30
            assert [url for url in guest.foreign if not url.startswith(provider.issuer)] == []
            assert [said for said in guest.trouble if "favicon" not in said and "404" not in said] == []
        assert provider.refused == []
    assert EnrollmentSession.objects.get().person == "anna@example.com"


def test_in_german(live_server: Any, profile: EnrollmentProfile) -> None:
    gated(profile, Access.LOGIN)
    with visitor(live_server.url, width=390, height=844, dark=True) as guest:
        guest.context.set_extra_http_headers({"Accept-Language": "de"})
        guest.open("/enroll/default/")
        guest.picture("gate-login-phone-dark-german")
        assert guest.page.inner_text("h1") == "Geräteverwaltung"
        assert guest.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert guest.trouble == []
