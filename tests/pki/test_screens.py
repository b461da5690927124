"""The pages of issuers and certificate profiles in a real browser: nothing blocked, nothing too wide."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from django.utils import timezone

from pki import issuers, profiles, revocation, rollover
from pki.core.certificates import build_root, encode_pem
from pki.models import Certificate, Issuer, Purpose, RevocationReason
from pki.subordinate import create_external, create_subordinate, import_certificate, request_certificate
from pki.trust import trust_issuer
from tests.console.screens import Visitor, chromium, visitor
from tests.pki.conftest import ACTOR
from tests.pki.external_ca import YEAR, ExternalCa
from tests.pki.test_subordinate import leaf

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(chromium() is None, reason="Chromium is not installed"),
]
PASSWORD = "orchard-gate-9"
DEVICES = int(os.environ.get("BRAMLEY_SCREENS_DEVICES", "12"))


@pytest.fixture(autouse=True)
def _database_beside_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    # Playwright runs an event loop in this thread, and Django refuses the database beside one.
    monkeypatch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")


def make_root() -> Issuer:
    """Two generations with certificates, a third that waits, and a CA below."""
    now = timezone.now()
    root = issuers.create_issuer("acme", "Acme CA", organization="Acme", algorithm="RSA-2048", actor=ACTOR)
    made = [leaf(root, f"ipad-{number}.acme.example", now) for number in range(DEVICES)]
    for place, certificate in enumerate(made):
        end = now + timedelta(days=15 + 37 * place % 700)
        Certificate.objects.filter(pk=certificate.pk).update(not_after=end)
    for _generation in range(2):
        rollover.rekey(root, actor=ACTOR, now=now)
        if _generation == 0:
            rollover.activate(root, actor=ACTOR, now=now)
    leaf(root, "mac-1.acme.example", now)
    revoked = leaf(root, "lost-iphone.acme.example", now)
    revocation.revoke(revoked, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=now)
    create_subordinate("below", "Acme Devices", parent=root, algorithm="EC-P256", actor=ACTOR, now=now)
    return root


def make_external() -> Issuer:
    """In force, with a second request that waits."""
    now = timezone.now()
    corp = ExternalCa(not_before=now - YEAR, not_after=now + 9 * YEAR)
    issuer = create_external(
        "corp", "Acme Issuing CA 7 of the Group", algorithm="RSA-2048", actor=ACTOR, now=now
    )
    answer = corp.answer(
        request_certificate(issuer, actor=ACTOR, now=now),
        not_before=now - timedelta(days=1),
        not_after=now + YEAR,
    )
    import_certificate(issuer, answer, corp.der, actor=ACTOR, now=now)
    issuer.refresh_from_db()
    request_certificate(issuer, actor=ACTOR, now=now)
    return issuer


def make_trusted() -> Issuer:
    now = timezone.now()
    key = issuers.make_private_key("", "EC-P256")
    der = build_root(
        (("CN", "Old MDM CA"),),
        private_key=key,
        serial_number=7,
        not_before=now - YEAR,
        not_after=now + YEAR,
    )
    return trust_issuer(encode_pem(der).encode(), purpose=Purpose.MDM_IDENTITY, actor=ACTOR)


def addresses() -> dict[str, str]:
    """Name and path of every page."""
    root, external, trusted = make_root(), make_external(), make_trusted()
    draft = create_external("draft", "Draft CA", algorithm="EC-P256", actor=ACTOR, now=timezone.now())
    profile = profiles.new_profile(Purpose.MDM_IDENTITY)
    profile.organization = "Acme"
    profile.save()

    def of(issuer: Issuer, name: str, *more: object) -> str:
        return reverse(f"admin:pki_issuer_{name}", args=[issuer.pk, *more])

    return {
        "issuers": reverse("admin:pki_issuer_changelist"),
        "issuer-add": reverse("admin:pki_issuer_add"),
        "issuer-trust": reverse("admin:pki_issuer_trust"),
        **{
            f"issuer-{name}": of(root, name)
            for name in ("change", "decide", "renew", "activate", "retire", "revoke")
        },
        "issuer-rekey": of(external, "rekey"),
        "issuer-close": of(root, "close", 1),
        "issuer-discard": of(root, "close", 3),
        "external": of(external, "change"),
        "external-import": of(external, "import"),
        "external-decide": of(external, "decide"),
        "draft": of(draft, "change"),
        "draft-request": of(draft, "request"),
        "trusted": of(trusted, "change"),
        "trusted-revoke": of(trusted, "revoke"),
        "profiles": reverse("admin:pki_certificateprofile_changelist"),
        "profile-add": f"{reverse('admin:pki_certificateprofile_add')}?purpose=SERVER_TLS",
        "profile": reverse("admin:pki_certificateprofile_change", args=[profile.pk]),
        "profile-built-in": reverse("admin:pki_certificateprofile_built_in", args=["OCSP_SIGNING"]),
        "certificates": reverse("admin:pki_certificate_changelist"),
        "certificate": reverse("admin:pki_certificate_change", args=[Certificate.objects.latest("pk").pk]),
    }


def look(guest: Visitor, pages: dict[str, str], suffix: str) -> list[str]:
    """Open each; returns those that are wider than the screen."""
    wide = []
    for name, path in pages.items():
        guest.open(path)
        if guest.page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            wide.append(name)
        guest.picture(f"pki-{name}-{suffix}")
    return wide


def test_pages(live_server: object) -> None:
    """On a phone in the dark; wide and light for pictures only: it is the narrow ones that break.

    A preview of rules that are not saved, and a form with an error beside its field.
    """
    User.objects.create_superuser("ada", password=PASSWORD)
    pages = addresses()
    with visitor(str(live_server)) as guest:
        guest.sign_in("ada", PASSWORD)
        if "BRAMLEY_SCREENS" in os.environ:
            assert look(guest, pages, "light-wide") == []
        guest.open(pages["profile-add"])
        guest.page.fill("#id_validity_days", "90")
        guest.page.click("input[name=_preview]")
        assert guest.page.input_value("#id_validity_days") == "90"
        guest.page.click("#sample summary")
        assert "TLS Web Server Authentication" in guest.page.inner_text("#sample pre")
        guest.picture("pki-profile-preview-light-wide")
        guest.page.uncheck("input[name=extended_key_usage][value=serverAuth]")
        guest.page.click("input[name=_save]")
        assert "need serverAuth" in guest.page.inner_text(".field-extended_key_usage .errorlist")
        guest.picture("pki-profile-error-light-wide")
        guest.page.set_viewport_size({"width": 390, "height": 800})
        guest.page.emulate_media(color_scheme="dark")
        assert look(guest, pages, "dark-narrow") == []
        assert guest.trouble == []
        assert guest.foreign == []
