"""The admin's pages of an issuer's life: what they say, what they do, and who may."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from audit.models import AuditEvent
from pki import expiries, issuers, outlook, revocation, rollover
from pki.core.certificates import encode_pem
from pki.models import (
    Certificate,
    Issuer,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    RevocationReason,
)
from pki.subordinate import create_external, request_certificate
from tests.pki.conftest import ACTOR
from tests.pki.external_ca import YEAR, ExternalCa
from tests.pki.test_subordinate import leaf
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
ACTS = ["renew", "rekey", "retire", "resume", "revoke", "request", "import", "activate"]


@pytest.fixture
def acme() -> Issuer:
    """Made now: the pages look at the clock."""
    return issuers.create_issuer("acme", "Acme CA", algorithm="RSA-2048", years=5, actor=ACTOR)


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


def to(name: str, issuer: Issuer, *more: object) -> str:
    return reverse(f"admin:pki_issuer_{name}", args=[issuer.pk, *more])


def text(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, address
    return answer.content.decode()


def device(issuer: Issuer, name: str = "device") -> Certificate:
    return leaf(issuer, name, timezone.now())


def test_the_page_of_a_ca(root: Client, acme: Issuer) -> None:
    address = to("change", acme)
    page = text(root, address)
    assert "No certificate is in force" in page
    for number in range(3):
        device(acme, f"d{number}")
    page = text(root, address)
    for wanted in ("Key 1, RSA-2048", "Renew or re-key…", "Retire…", "Revoke…", "3 certificates in force"):
        assert wanted in page
    assert "<svg" in page
    assert "style=" not in page.split("<main", 1)[1].split("<svg", 1)[1][:3000]
    rollover.rekey(acme, actor=ACTOR, now=timezone.now())
    page = text(root, address)
    assert "Key 2 is ready, and waits to be activated by hand." in page
    assert "Activate the next key…" in page
    rollover.activate(acme, actor=ACTOR, now=timezone.now())
    assert "3 certificates in force still hang on key 1." in text(root, address)
    Certificate.objects.update(status="SUPERSEDED")
    assert "Nothing in force hangs on key 1 any more: it can be closed." in text(root, address)


def test_the_decision_is_computed_from_this_ca(root: Client, acme: Issuer) -> None:
    page = text(root, to("decide", acme))
    assert "No certificate in force depends on this key yet." in page
    for number in range(2):
        device(acme, f"d{number}")
    found = outlook.outlook(acme, timezone.now())
    assert (found.current.live, found.current.devices, found.outliving) == (2, 2, 0)
    assert (found.trial.tried, found.trial.fitting) == (2, 2)
    page = text(root, to("decide", acme))
    assert "All 2 certificates in force go on validating" in page
    assert "Tried with 2 of them" in page
    assert "do not validate with the new CA certificate alone" in page
    assert "2 devices hold identities of this key" in page
    assert to("renew", acme) in page
    assert to("rekey", acme) in page


def test_what_would_not_survive_is_named(acme: Issuer) -> None:
    """A leaf of another key does not fit; one that outlives the CA certificate is counted."""
    stranger = issuers.create_issuer("other", "Other", algorithm="EC-P256", actor=ACTOR)
    good, bad = device(acme, "good"), device(stranger, "bad")
    Certificate.objects.filter(pk=bad.pk).update(issuer_key=good.issuer_key)
    Certificate.objects.filter(pk=good.pk).update(not_after=timezone.now() + 9 * YEAR)
    found = outlook.outlook(acme, timezone.now())
    assert (found.trial.tried, found.trial.fitting, found.outliving) == (2, 1, 1)
    assert found.trial.misfits[0][0] == bad
    words = [str(statement.text) for statement in found.renewal]
    assert any(word.startswith("1 of 2 certificates that were tried would not") for word in words)
    assert any("The renewal rescues it." in word for word in words)


def test_advice(acme: Issuer) -> None:
    now = timezone.now()
    assert "a longer one is usual" in str(outlook.outlook(acme, now).advice.text)
    acme.keys.update(algorithm="RSA-4096")
    assert "nothing is pressing" in str(outlook.outlook(acme, now).advice.text)
    late = outlook.outlook(acme, now + 4 * YEAR).advice
    assert "speaks for a renewal" in str(late.text)


def test_renewing(root: Client, acme: Issuer) -> None:
    before = issuers.current_certificate(issuers.current_key(acme))
    assert f'name="replaces" value="{before.pk}"' in text(root, to("renew", acme))
    with no_change():
        page = root.post(to("renew", acme), {"years": 1, "replaces": before.pk}).content.decode()
    assert "The one in use ends later" in page
    done = root.post(to("renew", acme), {"years": 8, "replaces": before.pk}, follow=True).content.decode()
    assert "Renewed: the new certificate is valid until" in done
    assert issuers.current_certificate(issuers.current_key(acme)) != before
    with no_change():  # the same form again: somebody was faster
        page = root.post(to("renew", acme), {"years": 9, "replaces": before.pk}).content.decode()
    assert "renewed in the meantime" in page
    assert AuditEvent.objects.get(action="issuer.renewed").actor == "root"


def test_re_keying_and_activating(root: Client, acme: Issuer) -> None:
    assert "RSA-2048" in text(root, to("rekey", acme))
    wanted = {"algorithm": "RSA-2048", "years": 6, "key_location": "", "when": "at", "activate_at": ""}
    with no_change():
        assert "Say at what time." in root.post(to("rekey", acme), wanted).content.decode()
    with no_change():
        answer = root.post(to("rekey", acme), wanted | {"algorithm": "EC-P256", "when": "by hand"})
    assert "need an RSA key" in answer.content.decode()
    root.post(to("rekey", acme), wanted | {"activate_at": "2099-01-31T06:00"})
    made = issuers.next_key(acme)
    assert made is not None
    assert made.activate_at is not None
    page = text(root, to("activate", acme))
    assert "2099-01-31T06:00" in page
    root.post(to("activate", acme), {"when": "by hand", "activate_at": ""})
    assert IssuerKey.objects.get(pk=made.pk).activate_at is None
    root.post(to("activate", acme), {"when": "now", "activate_at": ""})
    assert issuers.current_key(acme) == made
    assert root.get(to("activate", acme)).status_code == 404


def test_re_keying_at_once(root: Client, acme: Issuer) -> None:
    wanted = {"algorithm": "RSA-2048", "years": 6, "key_location": "", "when": "now", "activate_at": ""}
    root.post(to("rekey", acme), wanted)
    assert issuers.current_key(acme).generation == 2


def test_closing(root: Client, acme: Issuer) -> None:
    one = device(acme)
    rollover.rekey(acme, actor=ACTOR, now=timezone.now())
    rollover.activate(acme, actor=ACTOR, now=timezone.now())
    address = to("close", acme, 1)
    page = text(root, address)
    assert "1 certificate in force hangs on this key" in page
    assert "1 device has to enrol again" in page
    with no_change():
        assert "not the short name" in root.post(address, {"confirm": "yes"}).content.decode()
    root.post(address, {"confirm": "acme"})
    assert acme.keys.get(generation=1).state == IssuerKeyState.CLOSED
    assert root.get(address).status_code == 404
    assert root.get(to("close", acme, 2)).status_code == 404
    one.refresh_from_db()
    assert one.status == "ISSUED"


def test_an_empty_generation_closes_without_typing(root: Client, acme: Issuer) -> None:
    rollover.rekey(acme, actor=ACTOR, now=timezone.now())
    assert "Discard key 2" in text(root, to("close", acme, 2))
    root.post(to("close", acme, 2), {})
    assert issuers.next_key(acme) is None


def test_retiring_resuming_revoking(root: Client, acme: Issuer) -> None:
    device(acme)
    assert "The 1 certificate in force stays valid" in text(root, to("retire", acme))
    root.post(to("retire", acme), {})
    assert Issuer.objects.get().state == IssuerState.RETIRED
    assert "Take into use again…" in text(root, to("change", acme))
    root.post(to("resume", acme), {})
    assert Issuer.objects.get().state == IssuerState.ACTIVE
    page = text(root, to("revoke", acme))
    assert "1 device has to enrol again: it cannot be managed until then." in page
    for confirm in ("", "Acme CA"):
        with no_change():
            root.post(to("revoke", acme), {"reason": "keyCompromise", "confirm": confirm})
    done = root.post(to("revoke", acme), {"reason": "keyCompromise", "confirm": "acme"}, follow=True)
    assert "Revoked, and 1 certificate with it." in done.content.decode()
    assert Issuer.objects.get().state == IssuerState.REVOKED
    page = text(root, to("change", acme))
    assert "nothing that it issued is accepted" in page
    assert "Revoke…" not in page


def test_below_an_external_ca(root: Client) -> None:
    now = timezone.now()
    corp = ExternalCa(not_before=now - YEAR, not_after=now + 9 * YEAR)
    wanted = {
        "kind": "EXTERNAL",
        "name": "Acme Issuing CA",
        "slug": "ext",
        "organization": "Acme",
        "algorithm": "RSA-2048",
        "years": 5,
        "key_location": "",
    }
    assert root.post(reverse("admin:pki_issuer_add"), wanted).status_code == 302
    issuer = Issuer.objects.get(slug="ext")
    assert (issuer.kind, issuer.state) == (IssuerKind.EXTERNAL, IssuerState.DRAFT)
    page = text(root, to("change", issuer))
    assert "It has no certificate yet." in page
    assert root.get(to("csr", issuer)).status_code == 404
    assert root.get(to("decide", issuer)).status_code == 404
    root.post(to("request", issuer), {})
    assert "Import the certificate…" in text(root, to("change", issuer))
    csr = root.get(to("csr", issuer))
    assert csr.content.startswith(b"-----BEGIN CERTIFICATE REQUEST-----")
    request = request_certificate(issuer, actor=ACTOR, now=now)
    times = {"not_before": now - DAY, "not_after": now + YEAR}
    bad = corp.answer(request, ca=False, with_usage=False, **times)  # type: ignore[arg-type]
    with no_change():
        page = root.post(to("import", issuer), {"certificate": upload(bad, corp.der)}).content.decode()
    assert escape("It is not a CA certificate (CA:FALSE).") in page
    assert "It has no key usage: Apple devices then do not enrol." in page
    good = corp.answer(request, **times)  # type: ignore[arg-type]
    posted = {"certificate": upload(good), "chain": upload(corp.der)}
    done = root.post(to("import", issuer), posted, follow=True).content.decode()
    assert "Imported: valid until" in done
    issuer.refresh_from_db()
    assert issuer.state == IssuerState.ACTIVE
    chain = root.get(to("chain", issuer, "chain")).content.decode()
    assert chain == encode_pem(good) + encode_pem(corp.der)


def upload(*certificates: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile("x.pem", "".join(map(encode_pem, certificates)).encode())


def test_a_subordinate_is_made(root: Client, acme: Issuer) -> None:
    wanted = {
        "kind": "SUBORDINATE",
        "parent": "",
        "name": "Below",
        "slug": "below",
        "organization": "",
        "algorithm": "EC-P256",
        "years": 2,
        "key_location": "",
    }
    with no_change():
        page = root.post(reverse("admin:pki_issuer_add"), wanted).content.decode()
    assert "Choose the issuer that signs its certificate." in page
    root.post(reverse("admin:pki_issuer_add"), wanted | {"parent": acme.pk})
    assert Issuer.objects.get(slug="below").parent == acme
    assert "Below" in text(root, to("change", acme))
    # What the form cannot know is said, not a fault: a CA below it may have none below itself.
    under = wanted | {"slug": "deeper", "parent": Issuer.objects.get(slug="below").pk}
    done = root.post(reverse("admin:pki_issuer_add"), under, follow=True).content.decode()
    assert "path length 0" in done
    assert not Issuer.objects.filter(slug="deeper").exists()


def test_downloads(root: Client, acme: Issuer) -> None:
    assert root.get(to("chain", acme, "bundle")).content.count(b"BEGIN CERTIFICATE") == 1
    assert root.get(to("chain", acme, "nothing")).status_code == 404


def test_who_may_only_look(acme: Issuer) -> None:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="pki", codename__startswith="view_")
    )
    viewer = Client()
    viewer.force_login(user)
    assert "Renew…" not in text(viewer, to("decide", acme))
    assert "Retire…" not in text(viewer, to("change", acme))
    with no_change():
        for act in ACTS:
            assert viewer.get(to(act, acme)).status_code == 403
            assert viewer.post(to(act, acme), {"confirm": "acme", "years": 9}).status_code == 403
        assert viewer.post(to("close", acme, 1), {"confirm": "acme"}).status_code == 403


def test_strangers(acme: Issuer) -> None:
    for act in (*ACTS, "decide"):
        assert Client().get(to(act, acme)).headers["Location"].startswith("/admin/login/")


def test_expiries(acme: Issuer) -> None:
    now = timezone.now()
    one, two, three = (device(acme, f"d{number}") for number in range(3))
    for certificate, days in ((one, 10), (two, 400), (three, 1500)):
        Certificate.objects.filter(pk=certificate.pk).update(not_after=now + timedelta(days=days))
    months = expiries.months(acme, now)
    assert len(months) == expiries.MONTHS + 1
    assert sum(month.count for month in months) == 3
    assert months[-1].count == 1
    counted = expiries.figures(acme, now)
    assert (counted.issued, counted.live, counted.revoked, counted.expiring) == (3, 3, 0, 1)
    drawn = expiries.draw(months)
    assert drawn.count("<title>") == expiries.MONTHS + 1
    assert "style" not in drawn
    assert expiries.draw(
        expiries.months(issuers.create_issuer("o", "O", algorithm="EC-P256", actor=ACTOR), now)
    )


def test_history(acme: Issuer) -> None:
    """Made now: the months of what is issued are those of the rows."""
    now = timezone.now()
    old, older, lost = (device(acme, f"d{number}") for number in range(3))
    Certificate.objects.filter(pk=old.pk).update(created_at=now - timedelta(days=400))
    Certificate.objects.filter(pk=older.pk).update(created_at=now - timedelta(days=900))
    revocation.revoke(lost, reason=RevocationReason.SUPERSEDED, actor=ACTOR, now=now)
    past = expiries.history(acme, now)
    assert len(past) == expiries.MONTHS
    assert (past[-1].issued, past[-1].revoked) == (1, 1)
    assert (sum(month.issued for month in past), sum(month.revoked for month in past)) == (2, 1)
    drawn = expiries.draw_history(past)
    assert drawn.count("<title>") == 2 * expiries.MONTHS
    assert f"{past[-1].label}, revoked: 1" in drawn


def test_a_draft_has_a_page(root: Client) -> None:
    issuer = create_external("ext", "Ext", algorithm="EC-P256", actor=ACTOR, now=timezone.now())
    assert "not in use yet" in text(root, to("change", issuer))
