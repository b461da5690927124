"""The admin's pages of issuers, certificates and CRLs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import AuditEvent
from pki.core.certificates import build_root, encode_pem
from pki.models import Certificate, CertificateStatus, Crl, Issuer, IssuerKind
from pki.records import grouped
from tests.pki.conftest import IssueCertificate, Party

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin_client(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


@pytest.fixture
def viewer(db: None) -> Client:
    """Somebody who may look at everything of pki and change nothing."""
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="pki", codename__startswith="view_")
    )
    client = Client()
    client.force_login(user)
    return client


def test_pages_open_and_show_fingerprints(
    admin_client: Client, issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    certificate = issue_certificate("Anna's iPad")
    authority = issuer.keys.get().certificates.get()
    page = admin_client.get(reverse("admin:pki_issuer_change", args=[issuer.pk]))
    assert page.status_code == 200
    assert grouped(authority.sha256) in page.content.decode()
    assert "/pki/bramley/1.crl" in page.content.decode()
    page = admin_client.get(reverse("admin:pki_certificate_change", args=[certificate.pk]))
    assert grouped(certificate.sha256) in page.content.decode()
    assert certificate.serial_number in page.content.decode()
    for text in ("client in TLS, device in MDM (clientAuth)", "CRL: http", "X509v3 Key Usage: critical"):
        assert text in page.content.decode()
    for name in ("issuer", "certificate", "crl"):
        assert admin_client.get(reverse(f"admin:pki_{name}_changelist")).status_code == 200
    crl = Crl.objects.get()
    assert admin_client.get(reverse("admin:pki_crl_change", args=[crl.pk])).status_code == 200
    download = admin_client.get(reverse("admin:pki_crl_download", args=[crl.pk]))
    assert download.content == bytes(crl.der)


@pytest.mark.parametrize(
    "way", ["subject", "serial", "serial with colons", "fingerprint", "fingerprint with colons"]
)
def test_search(admin_client: Client, issue_certificate: IssueCertificate, way: str) -> None:
    certificate, other = issue_certificate("wanted"), issue_certificate("unrelated")
    term = {
        "subject": "wanted",
        "serial": certificate.serial_number,
        "serial with colons": grouped(certificate.serial_number).lower(),
        "fingerprint": certificate.sha256,
        "fingerprint with colons": grouped(certificate.sha256),
    }[way]
    page = admin_client.get(reverse("admin:pki_certificate_changelist"), {"q": term}).content.decode()
    assert certificate.serial_number in page
    assert other.serial_number not in page


@pytest.mark.parametrize(
    ("expiry", "found"), [("valid", "A"), ("valid", "B"), ("30", "B"), ("90", "B"), ("expired", "C")]
)
def test_expiry_filter(
    admin_client: Client, issue_certificate: IssueCertificate, expiry: str, found: str
) -> None:
    now = timezone.now()
    rows = {name: issue_certificate(f"device {name}") for name in "ABC"}
    for name, days in {"A": 400, "B": 10, "C": -1}.items():
        Certificate.objects.filter(pk=rows[name].pk).update(not_after=now + timedelta(days=days))
    page = admin_client.get(reverse("admin:pki_certificate_changelist"), {"expiry": expiry}).content.decode()
    assert rows[found].serial_number in page
    absent = {"valid": "C", "30": "A", "90": "A", "expired": "B"}[expiry]
    assert rows[absent].serial_number not in page


def test_downloads(admin_client: Client, issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    der = admin_client.get(reverse("admin:pki_certificate_download", args=[certificate.pk, "der"]))
    assert der.content == bytes(certificate.der)
    pem = admin_client.get(reverse("admin:pki_certificate_download", args=[certificate.pk, "pem"]))
    assert x509.load_pem_x509_certificate(pem.content).serial_number == int(certificate.serial_number, 16)
    authority = issuer.keys.get().certificates.get()
    der = admin_client.get(reverse("admin:pki_issuer_download", args=[authority.pk, "der"]))
    assert der.content == bytes(authority.der)
    missing = admin_client.get(reverse("admin:pki_certificate_download", args=[certificate.pk, "p12"]))
    assert missing.status_code == 404


def test_revoking_asks_first_then_revokes_and_records(
    admin_client: Client, issue_certificate: IssueCertificate
) -> None:
    rows = [issue_certificate(f"device {number}") for number in range(3)]
    address = reverse("admin:pki_certificate_changelist")
    chosen = {"action": "revoke", "_selected_action": [rows[0].pk, rows[1].pk]}
    page = admin_client.post(address, chosen)
    assert page.status_code == 200
    assert "Revoke 2 certificates?" in page.content.decode()
    assert not Certificate.objects.filter(status=CertificateStatus.REVOKED).exists()

    done = admin_client.post(address, chosen | {"confirmed": "yes", "reason": "keyCompromise"}, follow=True)
    assert "2 certificates revoked." in done.content.decode()
    assert set(Certificate.objects.filter(status=CertificateStatus.REVOKED)) == set(rows[:2])
    events = AuditEvent.objects.filter(action="certificate.revoked")
    assert [(event.actor, event.reason) for event in events] == [("root", "keyCompromise")] * 2
    crl = x509.load_der_x509_crl(bytes(Crl.objects.order_by("-number")[0].der))
    assert len(list(crl)) == 2


def test_one_certificate_is_revoked_from_its_page(
    admin_client: Client, issue_certificate: IssueCertificate
) -> None:
    certificate = issue_certificate()
    address = reverse("admin:pki_certificate_revoke", args=[certificate.pk])
    assert admin_client.get(address).status_code == 200
    assert admin_client.post(address, {"reason": "no reason of RFC 5280"}).status_code == 200
    certificate.refresh_from_db()
    assert certificate.status == CertificateStatus.ISSUED
    assert admin_client.post(address, {"reason": "superseded"}).status_code == 302
    certificate.refresh_from_db()
    assert (certificate.status, certificate.revocation_reason) == ("REVOKED", "superseded")


def test_facts_cannot_be_changed(
    admin_client: Client, issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    certificate = issue_certificate()
    for name, row in (("certificate", certificate), ("crl", Crl.objects.get())):
        assert admin_client.get(reverse(f"admin:pki_{name}_add")).status_code == 403
        assert admin_client.post(reverse(f"admin:pki_{name}_delete", args=[row.pk])).status_code == 403
        assert admin_client.post(reverse(f"admin:pki_{name}_change", args=[row.pk]), {}).status_code == 403
    assert admin_client.post(reverse("admin:pki_issuer_delete", args=[issuer.pk])).status_code == 403
    before = Issuer.objects.values().get()
    posted = _settings(issuer) | {"slug": "other", "state": "REVOKED", "kind": "TRUST_ONLY"}
    assert admin_client.post(reverse("admin:pki_issuer_change", args=[issuer.pk]), posted).status_code == 302
    assert Issuer.objects.values().get() == before


def _settings(issuer: Issuer) -> dict[str, object]:
    return {
        "name": issuer.name,
        "trusted_for": issuer.trusted_for,
        "leaf_validity_days": issuer.leaf_validity_days,
        "crl_validity_days": issuer.crl_validity_days,
        "keys-TOTAL_FORMS": 0,
        "keys-INITIAL_FORMS": 0,
    }


def test_settings_of_an_issuer_are_changed_and_recorded(admin_client: Client, issuer: Issuer) -> None:
    posted = _settings(issuer) | {"leaf_validity_days": 90, "trusted_for": ["MDM_IDENTITY"]}
    assert admin_client.post(reverse("admin:pki_issuer_change", args=[issuer.pk]), posted).status_code == 302
    issuer.refresh_from_db()
    assert (issuer.leaf_validity_days, issuer.trusted_for) == (90, ["MDM_IDENTITY"])
    event = AuditEvent.objects.get(action="issuer.changed")
    assert event.details["leaf_validity_days"] == {"before": 730, "after": 90}
    refused = admin_client.post(
        reverse("admin:pki_issuer_change", args=[issuer.pk]), posted | {"leaf_validity_days": 0}
    )
    assert refused.status_code == 200
    issuer.refresh_from_db()
    assert issuer.leaf_validity_days == 90


def test_an_issuer_is_made(admin_client: Client) -> None:
    address = reverse("admin:pki_issuer_add")
    assert admin_client.get(address).status_code == 200
    wanted = {"name": "Second CA", "slug": "second", "organization": "", "algorithm": "EC-P256", "years": 5}
    assert admin_client.post(address, wanted | {"name": "a\u202eb"}).status_code == 200
    assert not Issuer.objects.exists()
    assert admin_client.post(address, wanted).status_code == 302
    issuer = Issuer.objects.get(slug="second")
    assert issuer.keys.get().algorithm == "EC-P256"
    assert AuditEvent.objects.get(action="issuer.created").actor == "root"


def test_another_ca_is_trusted(admin_client: Client, rsa_party: Party) -> None:
    now = timezone.now()
    authority = build_root(
        (("CN", "Old MDM"),),
        private_key=rsa_party.key,
        serial_number=1,
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=100),
    )
    address = reverse("admin:pki_issuer_trust")
    assert admin_client.get(address).status_code == 200
    bad = {"file": SimpleUploadedFile("x.pem", b"nothing"), "purpose": "MDM_IDENTITY"}
    assert admin_client.post(address, bad).status_code == 200
    assert not Issuer.objects.exists()
    good = {"file": SimpleUploadedFile("x.pem", encode_pem(authority).encode()), "purpose": "MDM_IDENTITY"}
    assert admin_client.post(address, good).status_code == 302
    assert Issuer.objects.get().kind == IssuerKind.TRUST_ONLY


def test_who_may_only_look_changes_nothing(
    viewer: Client, issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    certificate = issue_certificate()
    page = viewer.get(reverse("admin:pki_certificate_change", args=[certificate.pk]))
    assert page.status_code == 200
    assert "Revoke…" not in page.content.decode()
    revoke = reverse("admin:pki_certificate_revoke", args=[certificate.pk])
    assert viewer.post(revoke, {"reason": "superseded"}).status_code == 403
    viewer.post(
        reverse("admin:pki_certificate_changelist"),
        {
            "action": "revoke",
            "_selected_action": [certificate.pk],
            "confirmed": "yes",
            "reason": "superseded",
        },
    )
    assert viewer.get(reverse("admin:pki_issuer_trust")).status_code == 403
    assert viewer.get(reverse("admin:pki_issuer_add")).status_code == 403
    posted = _settings(issuer) | {"leaf_validity_days": 90}
    assert viewer.post(reverse("admin:pki_issuer_change", args=[issuer.pk]), posted).status_code == 403
    certificate.refresh_from_db()
    issuer.refresh_from_db()
    assert (certificate.status, issuer.leaf_validity_days) == (CertificateStatus.ISSUED, 730)


def test_strangers_get_nothing(issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    for address in (
        reverse("admin:pki_certificate_revoke", args=[certificate.pk]),
        reverse("admin:pki_certificate_download", args=[certificate.pk, "pem"]),
        reverse("admin:pki_issuer_trust"),
    ):
        assert Client().get(address).status_code == 302


def test_private_keys_are_on_no_page(
    admin_client: Client, issuer: Issuer, issue_certificate: IssueCertificate
) -> None:
    issuer_key = issuer.keys.get()
    sealed = bytes(issuer_key.private_key_sealed or b"")
    page = admin_client.get(reverse("admin:pki_issuer_change", args=[issuer.pk])).content.decode()
    assert "PRIVATE KEY" not in page
    assert sealed.hex() not in page.lower()
    assert str(sealed)[2:20] not in page


def test_the_list_costs_the_same_for_few_and_many(
    admin_client: Client, issue_certificate: IssueCertificate, django_assert_max_num_queries: object
) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    counts = []
    for number in (1, 20):
        for position in range(number):
            issue_certificate(f"device {number} {position}")
        with CaptureQueriesContext(
            connection,
        ) as captured:
            admin_client.get(reverse("admin:pki_certificate_changelist"))
        counts.append(len(captured))
    assert counts[0] == counts[1]
