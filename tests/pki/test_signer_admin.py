"""Signers of profiles in the admin: what is said before another one signs, and what is kept to oneself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)
from cryptography.x509 import load_der_x509_certificate
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.utils import timezone

from audit.models import AuditEvent
from pki import issuers, profile_signers, signer_outlook, signing
from pki.core.certificates import encode_pem
from pki.core.cms import verify_signed_data
from pki.core.server_trust import Roots
from pki.models import Issuer, ProfileSigner
from tests.enrollment.test_server_trust import Party, make
from tests.pki.conftest import ACTOR
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
LIST = "/admin/pki/profilesigner/"
NOW = timezone.now()


@pytest.fixture
def issuer(db: None) -> Issuer:
    return issuers.create_issuer("bramley", "Orchard CA", algorithm="EC-P256", actor=ACTOR)


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


@pytest.fixture(scope="module")
def root() -> Party:
    return make("Public Root", days=(-100, 3000), now=NOW)


def server(root: Party, **options: Any) -> Party:
    return make("mdm.example.com", root, is_ca=False, names=("mdm.example.com",), now=NOW, **options)


def p12(one: Party, *above: Party, password: str = "orchard") -> SimpleUploadedFile:
    data = pkcs12.serialize_key_and_certificates(
        b"server",
        one.key,
        load_der_x509_certificate(one.der),
        [load_der_x509_certificate(other.der) for other in above],
        BestAvailableEncryption(password.encode()),
    )
    return SimpleUploadedFile("server.p12", data)


def signed_by() -> bytes:
    return verify_signed_data(signing.sign_profile(b"<plist/>", now=timezone.now())).signer


def test_a_certificate_is_imported_looked_at_and_let_sign(
    browser: Client, issuer: Issuer, root: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, one = signed_by(), server(root)
    answer = browser.post(
        f"{LIST}import/", {"file": p12(one, root), "password": "orchard"}, follow=True
    ).content.decode()
    assert "It does not sign yet." in answer
    assert "It leads to a private root, CN=Public Root" in answer
    assert signed_by() == before
    monkeypatch.setattr(signer_outlook, "public_roots", lambda: Roots([root.der]))
    row = ProfileSigner.objects.get()
    with no_change():
        asked = browser.get(f"{LIST}{row.pk}/use/").content.decode()
        assert "errornote" in browser.post(f"{LIST}{row.pk}/use/").content.decode()
    assert "Now Orchard CA signs every profile" in asked
    assert "which ends management" in asked
    assert "devices show profiles as verified" in asked
    browser.post(f"{LIST}{row.pk}/use/", {"understood": "on"})
    assert signed_by() == one.der
    shown = browser.get(LIST).content.decode()
    assert "Signs now: <b>mdm.example.com</b>" in shown
    assert AuditEvent.objects.filter(action="profile_signer.chosen", actor="ada").exists()
    browser.post(f"{LIST}use-default/", {"understood": "on"})
    assert signed_by() == before


def test_a_renewal_with_the_same_key_is_told_from_another_signer(
    browser: Client, issuer: Issuer, root: Party
) -> None:
    first, second = (server(root, days=days) for days in ((-60, 20), (-1, 90)))
    rows = [
        profile_signers.import_signer(p12(one).read(), password="orchard", actor=ACTOR, now=NOW)
        for one in (first, second)
    ]
    profile_signers.use(rows[0], actor=ACTOR, now=NOW)
    asked = browser.get(f"{LIST}{rows[1].pk}/use/").content.decode()
    assert "Same name and same key" in asked
    assert "which ends management" not in asked
    assert "It expires on" in browser.get(LIST).content.decode()
    assert "It signs already" in browser.get(f"{LIST}{rows[0].pk}/use/").content.decode()


def test_home_tells_when_the_signer_ends(browser: Client, issuer: Issuer, root: Party) -> None:
    one = server(root, days=(-60, 10))
    row = profile_signers.import_signer(p12(one).read(), password="orchard", actor=ACTOR, now=NOW)
    kinds = [expiry.kind for expiry in browser.get("/admin/").context["board"].expiries]
    assert "signer of profiles" not in kinds
    profile_signers.use(row, actor=ACTOR, now=NOW)
    ends = browser.get("/admin/").context["board"].expiries[0]
    assert (ends.name, ends.tone) == ("mdm.example.com", "bad")


def test_an_incomplete_chain_is_told(browser: Client, issuer: Issuer, root: Party) -> None:
    profile_signers.import_signer(p12(server(root)).read(), password="orchard", actor=ACTOR, now=NOW)
    shown = browser.get(f"{LIST}{ProfileSigner.objects.get().pk}/change/").content.decode()
    assert "import the certificate again with its whole chain" in shown


@pytest.mark.parametrize("case", ["wrong password", "a CA", "expired", "no key", "nothing"])
def test_what_cannot_sign_is_not_taken(browser: Client, issuer: Issuer, root: Party, case: str) -> None:
    one = server(root)
    cases: dict[str, dict[str, Any]] = {
        "wrong password": {"file": p12(one), "password": "pear"},
        "a CA": {"file": p12(root), "password": "orchard"},
        "expired": {"file": p12(server(root, days=(-60, -1))), "password": "orchard"},
        "no key": {"file": SimpleUploadedFile("server.pem", encode_pem(one.der).encode())},
        "nothing": {},
    }
    with no_change():
        told = browser.post(f"{LIST}import/", cases[case]).content.decode()
    assert "errornote" in told
    assert "pear" not in told


def test_an_issuer_of_ours_is_chosen(browser: Client, issuer: Issuer) -> None:
    other = issuers.create_issuer("pear", "Pear CA", algorithm="EC-P256", actor=ACTOR)
    with no_change():
        assert "Pear CA" in browser.get(f"{LIST}use-issuer/").content.decode()
        assert (
            "Let Pear CA sign profiles?"
            in browser.get(f"{LIST}use-issuer/?issuer={other.pk}").content.decode()
        )
    browser.post(f"{LIST}use-issuer/?issuer={other.pk}", {"understood": "on"})
    assert profile_signers.in_use() is not None
    assert (
        "made at the first use"
        in browser.get(f"{LIST}{ProfileSigner.objects.get().pk}/change/").content.decode()
    )
    assert "Pear CA Profile Signing" in load_der_x509_certificate(signed_by()).subject.rfc4514_string()


def test_the_one_in_use_stays_and_the_key_of_a_removed_one_goes(
    browser: Client, issuer: Issuer, root: Party
) -> None:
    row = profile_signers.import_signer(p12(server(root)).read(), password="orchard", actor=ACTOR, now=NOW)
    profile_signers.use(row, actor=ACTOR, now=NOW)
    with no_change():
        assert browser.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
        with pytest.raises(profile_signers.SignerRefused, match="signs profiles now"):
            profile_signers.remove(row, actor=ACTOR, now=NOW)
    profile_signers.use_default(actor=ACTOR, now=NOW + timedelta(minutes=1))
    browser.post(f"{LIST}{row.pk}/delete/", {"post": "yes"})
    assert not ProfileSigner.objects.exists()
    assert AuditEvent.objects.filter(action="profile_signer.removed", actor="ada").exists()


def test_one_that_is_chosen_meanwhile_is_not_removed(
    browser: Client, issuer: Issuer, root: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = profile_signers.import_signer(p12(server(root)).read(), password="orchard", actor=ACTOR, now=NOW)
    remove = profile_signers.remove

    def chosen_first(signer: ProfileSigner, **options: Any) -> None:
        profile_signers.use(signer, actor=ACTOR, now=NOW)
        remove(signer, **options)

    monkeypatch.setattr(profile_signers, "remove", chosen_first)
    assert browser.post(f"{LIST}{row.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ProfileSigner.objects.filter(pk=row.pk).exists()


def test_who_may_look_may_not_change_and_nobody_sees_the_key(
    client: Client, issuer: Issuer, root: Party
) -> None:
    one = server(root)
    row = profile_signers.import_signer(p12(one).read(), password="orchard", actor=ACTOR, now=NOW)
    user = User.objects.create_user("grace", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_profilesigner"))
    client.force_login(user)
    key = one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for path in ("", f"{row.pk}/change/", f"{row.pk}/download.pem"):
        answer = client.get(LIST + path)
        assert answer.status_code == 200
        assert key.splitlines()[1] not in answer.content.decode()
    with no_change():
        for path in ("import/", "use-issuer/", "use-default/", f"{row.pk}/use/"):
            assert client.get(LIST + path).status_code == 403
            assert client.post(LIST + path, {"understood": "on"}).status_code == 403


def test_without_an_issuer_there_is_nobody(browser: Client) -> None:
    assert "Nobody can sign profiles yet" in browser.get(LIST).content.decode()
    assert browser.get(f"{LIST}use-default/").status_code == 404
