"""The admin's pages of certificate profiles: every rule a field, and a sample that is not stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
import time_machine
from cryptography import x509
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import AuditEvent
from pki import issuance, issuers, profiles, retirement
from pki.core.certificates import load_certificate, public_key_of
from pki.core.path import PathError, verify_issued_by
from pki.core.profile import BUILT_IN
from pki.issuance import Grant, IssuanceRefused, issue
from pki.keys import public_key_der
from pki.models import Certificate, CertificateProfile, Issuer, Purpose
from pki.profile_forms import ProfileForm
from pki.profile_preview import (
    SAMPLE_NAMES,
    SAMPLE_SUBJECT,
    PreviewRefused,
    sample,
    sample_fields,
    throw_away_key,
)
from tests.pki.conftest import ACTOR, NOW
from tests.support.snapshot import no_change, snapshot

pytestmark = pytest.mark.django_db
MDM, TLS = Purpose.MDM_IDENTITY, Purpose.SERVER_TLS
LIST = reverse("admin:pki_certificateprofile_changelist")
ADD = reverse("admin:pki_certificateprofile_add")


@pytest.fixture(autouse=True)
def _noon() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


def posted(purpose: Purpose = MDM, /, **changes: Any) -> dict[str, Any]:
    """The form as it comes for a new profile, and what is filled in otherwise."""
    start = profiles.new_profile(purpose)
    data = {name: getattr(start, name) for name in ProfileForm.Meta.fields}
    data = {name: "" if value is None else value for name, value in (data | changes).items()}
    return {name: value for name, value in data.items() if value is not False}


def change_page(profile: CertificateProfile) -> str:
    return reverse("admin:pki_certificateprofile_change", args=[profile.pk])


@contextmanager
def nothing_stored() -> Iterator[None]:
    with no_change():
        before = AuditEvent.objects.count()
        yield
        assert AuditEvent.objects.count() == before


def test_a_profile_is_made_changed_and_removed(root: Client, issuer: Issuer) -> None:
    page = root.get(LIST).content.decode()
    assert page.count("Make other rules…") == len(Purpose)
    form = root.get(f"{ADD}?purpose=MDM_IDENTITY").content.decode()
    assert "textarea" not in form
    assert 'value="clientAuth"' in form
    done = root.post(ADD, posted(validity_days=90, organization="Orchard", subject_attributes=["CN"]))
    assert done.status_code == 302, done.context["errors"]
    profile = CertificateProfile.objects.get()
    rules = profiles.rules_for(MDM, issuer)
    assert (rules.validity_days, rules.fixed) == (90, (("O", "Orchard"),))
    assert rules.subject_attributes == {"CN"}
    page = root.get(LIST).content.decode()
    assert page.count("Make other rules…") == len(Purpose) - 1
    assert "90 days" in page
    page = root.get(change_page(profile)).content.decode()
    assert "O=Orchard,CN=sample.example.com" in page
    assert "TLS Web Client Authentication" in page
    root.post(change_page(profile), posted(validity_days=30, ec_allowed=False, country="gb"))
    profile.refresh_from_db()
    assert (profile.validity_days, profile.ec_allowed, profile.country) == (30, False, "GB")
    with nothing_stored():
        root.post(change_page(profile), posted(validity_days=30, ec_allowed=False, country="GB"))
    root.post(reverse("admin:pki_certificateprofile_delete", args=[profile.pk]), {"post": "yes"})
    assert profiles.rules_for(MDM, issuer) == BUILT_IN[MDM]
    events = AuditEvent.objects.filter(action__startswith="certificate_profile.").order_by("pk")
    assert [(event.action[20:], event.actor) for event in events] == [
        ("added", "root"),
        ("changed", "root"),
        ("removed", "root"),
    ]
    assert events[1].details["validity_days"] == {"before": 90, "after": 30}


@pytest.mark.parametrize(
    ("purpose", "changes", "field", "text"),
    [
        (MDM, {"extended_key_usage": []}, "extended_key_usage", "need clientAuth"),
        (MDM, {"extended_key_usage": ["clientAuth", "serverAuth"]}, "extended_key_usage", "may not have"),
        (MDM, {"extended_key_usage": ["anything"]}, "extended_key_usage", "not one of the available"),
        (MDM, {"key_usage": ["keyEncipherment"]}, "key_usage", "usable for signatures"),
        (MDM, {"key_usage": ["digitalSignature", "keyCertSign"]}, "key_usage", "not one of the available"),
        (Purpose.SCEP_RECIPIENT, {"key_usage": ["digitalSignature"]}, "key_usage", "needs keyEncipherment"),
        (MDM, {"validity_days": 0}, "validity_days", "greater than or equal to 1"),
        (MDM, {"validity_days": 4000}, "validity_days", "less than or equal to 3653"),
        (MDM, {"min_rsa_bits": 1024}, "min_rsa_bits", "not one of the available"),
        (MDM, {"min_rsa_bits": 4096}, "min_rsa_bits", "nothing could be issued"),
        (MDM, {"country": "Britain"}, "country", "at most 2 characters"),
        (MDM, {"country": "1x"}, "country", "has two letters"),
        (MDM, {"organization": "a\u202eb"}, "organization", "control characters"),
        (MDM, {"subject_attributes": [], "alternative_names": []}, "subject_attributes", "name nobody"),
        (MDM, {"purpose": "CA"}, "purpose", "not one of the available"),
    ],
    ids=[
        "no EKU",
        "EKU of a server",
        "unknown EKU",
        "no signatures",
        "signs certificates",
        "recipient without encryption",
        "no day",
        "too many days",
        "weak keys",
        "keys that nobody makes",
        "long country",
        "no country",
        "reordered text",
        "nameless",
        "unknown purpose",
    ],
)
def test_what_does_not_do_is_said_beside_the_field(
    root: Client, purpose: Purpose, changes: dict[str, Any], field: str, text: str
) -> None:
    for button in ("_save", "_preview"):
        with nothing_stored():
            page = root.post(ADD, posted(purpose, **changes) | {button: "x"})
        assert page.status_code == 200
        assert list(page.context["adminform"].form.errors) == [field]
        assert text in str(page.context["adminform"].form.errors[field])
        assert "sample" not in page.context


def test_one_profile_for_a_purpose_at_an_issuer(root: Client, issuer: Issuer) -> None:
    for where in ("", issuer.pk):
        assert root.post(ADD, posted(issuer=where)).status_code == 302
        with nothing_stored():
            page = root.post(ADD, posted(issuer=where))
        assert "There are such rules already" in page.content.decode()
    assert CertificateProfile.objects.count() == 2
    # What it is for stays.
    profile = CertificateProfile.objects.get(issuer=issuer)
    root.post(change_page(profile), posted(TLS, issuer="", extended_key_usage=["clientAuth"]))
    profile.refresh_from_db()
    assert (profile.purpose, profile.issuer) == (MDM, issuer)


def test_a_preview_stores_nothing_and_keeps_the_form(root: Client, issuer: Issuer) -> None:
    profile = profiles.new_profile(MDM)
    profile.save()
    wanted = posted(validity_days=41, organization="Orchard", crl_address=False) | {"_preview": "x"}
    for address in (ADD, change_page(profile)):
        sent = wanted if address == change_page(profile) else wanted | {"issuer": issuer.pk}
        with nothing_stored():
            page = root.post(address, sent)
        shown = page.content.decode()
        assert page.status_code == 200
        assert "which are not saved yet" in shown
        assert 'value="41"' in shown
        assert "O=Orchard" in shown
        assert "/pki/bramley/1.crl" not in shown.split('id="sample"')[1]
        assert "/pki/bramley/ocsp" in shown.split('id="sample"')[1]
        assert "2027-01-04 12:00 UTC" in shown
    assert not Certificate.objects.exists()


def test_the_sample_is_what_would_be_issued(issuer: Issuer) -> None:
    """The same fields as of the real thing, for every purpose, by built-in and by other rules."""
    profile = profiles.new_profile(MDM, issuer)
    profile.validity_days, profile.organization, profile.alternative_names = 9999, "Orchard", ["DNS"]
    profile.save()
    key = public_key_der(throw_away_key("RSA-2048"))
    for purpose in Purpose:
        rules = profiles.rules_for(purpose, issuer)
        grant = Grant(issuer, purpose, SAMPLE_SUBJECT, SAMPLE_NAMES)
        issuer_key = issuers.current_key(issuer)
        made = sample_fields(rules, issuer_key, issuers.current_certificate(issuer_key), NOW)
        assert made == issuance.preview(grant, key, now=NOW)
        real = issue(grant, key, actor=ACTOR, now=NOW)
        shown, issued = (
            load_certificate(sample(rules, issuer, now=NOW).der),
            load_certificate(bytes(real.der)),
        )
        assert shown.subject == issued.subject
        assert shown.issuer == issued.issuer
        assert list(shown.extensions) == list(issued.extensions)
        assert shown.public_key() == issued.public_key()
        assert shown.not_valid_after_utc == issued.not_valid_after_utc
        assert shown.serial_number != issued.serial_number


def test_nobody_can_use_the_sample(issuer: Issuer) -> None:
    der = sample(BUILT_IN[MDM], issuer, now=NOW).der
    with pytest.raises(PathError):
        verify_issued_by(der, issuers.chain(issuer)[0])
    assert not Certificate.objects.filter(serial_number=f"{load_certificate(der).serial_number:X}").exists()
    assert isinstance(load_certificate(der), x509.Certificate)
    assert public_key_of(load_certificate(der)) == throw_away_key("RSA-2048").public_key()


def test_where_nothing_is_issued_there_is_no_sample(root: Client, issuer: Issuer) -> None:
    with pytest.raises(PreviewRefused, match="not valid now"):
        sample(BUILT_IN[MDM], issuer, now=datetime(2099, 1, 1, tzinfo=NOW.tzinfo))
    issuer = retirement.retire(issuer, actor=ACTOR, now=NOW)
    with pytest.raises(PreviewRefused, match="is not active"):
        sample(BUILT_IN[MDM], issuer, now=NOW)
    with pytest.raises(IssuanceRefused):
        issue(
            Grant(issuer, MDM, SAMPLE_SUBJECT),
            public_key_der(throw_away_key("RSA-2048")),
            actor=ACTOR,
            now=NOW,
        )
    page = root.post(ADD, posted() | {"_preview": "x"}).content.decode()
    assert "there is no active issuer" in page


def test_built_in_rules_have_a_sample(root: Client, issuer: Issuer) -> None:
    for purpose in Purpose:
        page = root.get(reverse("admin:pki_certificateprofile_built_in", args=[purpose]))
        assert page.status_code == 200
        assert "Subject Public Key Info" in page.content.decode()
    assert root.get(reverse("admin:pki_certificateprofile_built_in", args=["CA"])).status_code == 404


def test_who_may_look_and_who_may_change(issuer: Issuer) -> None:
    profile = profiles.new_profile(MDM)
    profile.save()
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="pki", codename__startswith="view_")
    )
    viewer, stranger = Client(), Client()
    viewer.force_login(user)
    assert "Make other rules…" not in viewer.get(LIST).content.decode()
    page = viewer.get(change_page(profile)).content.decode()
    assert "sample.example.com" in page
    assert "_preview" not in page
    delete = reverse("admin:pki_certificateprofile_delete", args=[profile.pk])
    before = snapshot()
    for address in (ADD, change_page(profile), delete):
        for data in (posted(), posted() | {"_preview": "x"}, {"post": "yes"}):
            assert viewer.post(address, data).status_code == 403
            assert stranger.post(address, data).status_code == 302
    assert stranger.get(LIST).status_code == 302
    assert snapshot() == before
    assert timezone.now() == NOW
