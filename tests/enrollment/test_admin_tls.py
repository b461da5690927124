"""Roots for TLS in the admin: what is added, what it does, and what is asked before one goes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import SERVER
from enrollment.models import EnrollmentProfile
from pki import issuers, server_tls
from pki.core.certificates import encode_pem
from pki.models import TlsAnchor
from tests.enrollment.test_server_trust import Party, at_home, leaf, make, page, serving
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
LIST = "/admin/pki/tlsanchor/"


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture(scope="module")
def root() -> Party:
    return make("Orchard <b>Root</b>", days=(-10, 3000), now=timezone.now())


def pem(*parties: Party) -> str:
    return "".join(encode_pem(one.der) for one in parties)


def add(root: Party) -> TlsAnchor:
    return server_tls.add_anchor(pem(root).encode(), actor=SERVER, now=timezone.now())


def test_a_root_is_added_from_file_text_or_issuer(
    browser: Client, profile: EnrollmentProfile, root: Party
) -> None:
    file = SimpleUploadedFile("root.cer", root.der)
    answer = browser.post(f"{LIST}add-root/", {"file": file, "name": "Proxy"}, follow=True)
    assert "Enrolment profiles carry Proxy from now on." in answer.content.decode()
    assert "<b>Root" not in answer.content.decode()
    browser.post(f"{LIST}add-root/", {"text": pem(root)})
    browser.post(f"{LIST}add-root/", {"issuer": profile.issuer.pk})
    assert [bytes(row.der) for row in TlsAnchor.objects.order_by("pk")] == [
        root.der,
        issuers.chain(profile.issuer)[-1],
    ]
    assert AuditEvent.objects.filter(action="tls_root.added", actor="ada").count() == 2
    shown = browser.get(LIST).content.decode()
    assert "Will devices trust this server?" in shown
    assert browser.get(f"{LIST}{TlsAnchor.objects.first().pk}/change/").status_code == 200  # type: ignore[union-attr]


@pytest.mark.parametrize("case", ["server", "two", "nothing", "both", "junk", "ended"])
def test_what_is_no_root_is_refused(browser: Client, issuer: Any, root: Party, case: str) -> None:
    given = {
        "server": {"text": pem(leaf(root, now=timezone.now()))},
        "two": {"text": pem(root) * 2},
        "nothing": {},
        "both": {"text": pem(root), "issuer": issuer.pk},
        "junk": {"text": "-----BEGIN CERTIFICATE-----\n????\n-----END CERTIFICATE-----"},
        "ended": {"text": pem(make("Ended", days=(-10, -1), now=timezone.now()))},
    }[case]
    with no_change():
        answer = browser.post(f"{LIST}add-root/", given)
    assert answer.status_code == 200
    assert "errornote" in answer.content.decode()


def test_the_page_connects_only_when_asked(
    browser: Client, profile: EnrollmentProfile, root: Party, tmp_path: Path, settings: Any
) -> None:
    with serving(tmp_path, at_home(root), root, answer=page(issuers.chain(profile.issuer)[0])) as url:
        settings.BRAMLEY_PUBLIC_URL = url
        settings.BRAMLEY_MDM_URL = ""
        with no_change():
            quiet = browser.get(f"{LIST}check/").content.decode()
            told = browser.post(f"{LIST}check/", {"url": "https://192.0.2.1/"}).content.decode()
        assert url in quiet
        assert "devices will" not in quiet
        assert "devices will not trust it" in told
        assert "192.0.2.1" not in told
        assert "<b>Root" not in told
        add(root)
        assert "devices will trust it" in browser.post(f"{LIST}check/").content.decode()


def test_before_a_root_goes_it_is_said_what_needs_it(
    browser: Client, profile: EnrollmentProfile, root: Party, tmp_path: Path, settings: Any
) -> None:
    row = add(root)
    profile.pin_tls = True
    profile.save()
    settings.BRAMLEY_MDM_URL = ""
    with serving(tmp_path, at_home(root)) as url, no_change():
        settings.BRAMLEY_PUBLIC_URL = url
        asked = browser.get(f"{LIST}{row.pk}/remove/").content.decode()
        assert f"The certificate at {url} ends in this root." in asked
        assert "lets only listed roots count" in asked
        assert "errornote" in browser.post(f"{LIST}{row.pk}/remove/").content.decode()
    with no_change():
        assert "could not be looked at" in browser.get(f"{LIST}{row.pk}/remove/").content.decode()
    browser.post(f"{LIST}{row.pk}/remove/", {"understood": "on"})
    assert not TlsAnchor.objects.exists()
    assert AuditEvent.objects.filter(action="tls_root.removed", actor="ada").exists()


def test_who_may_look_may_not_change(client: Client, root: Party) -> None:
    row = add(root)
    user = User.objects.create_user("grace", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_tlsanchor"))
    client.force_login(user)
    assert client.get(LIST).status_code == 200
    assert client.get(f"{LIST}check/").status_code == 200
    assert client.get(f"{LIST}{row.pk}/download.pem").content.decode() == pem(root)
    with no_change():
        for path in ("add-root/", f"{row.pk}/remove/"):
            assert client.get(LIST + path).status_code == 403
            assert client.post(LIST + path, {"text": pem(root), "understood": "on"}).status_code == 403
        assert client.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    user.user_permissions.clear()
    with no_change():
        assert client.get(f"{LIST}{row.pk}/download.pem").status_code == 403
        assert client.post(f"{LIST}check/").status_code == 403


def test_home_leads_to_the_check(browser: Client, settings: Any) -> None:
    settings.BRAMLEY_PUBLIC_URL = "https://mdm.example.org"
    assert f"{LIST}check/" in browser.get("/admin/").content.decode()


def test_a_root_that_ends_soon_is_still_taken(issuer: Any) -> None:
    soon = make("Soon", days=(-10, 5), now=timezone.now())
    assert add(soon).not_after - timezone.now() < timedelta(days=6)
