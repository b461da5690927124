"""The steps to a push certificate in the admin, its topics, and vendor certificates there."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from pytest_django import Settings

from audit.models import AuditEvent, Outcome
from enrollment.models import EnrollmentProfile
from pki.models import Issuer
from push import certificates, topics, vendors
from push.core import vendor
from push.models import PushCertificate, PushCertificateState, VendorCertificate
from tests.push import vendor_files as files
from tests.push.conftest import ADMIN, TOPIC, MakeEnrollments
from tests.support.apns import Authority

pytestmark = pytest.mark.django_db

OTHER_TOPIC = "com.apple.mgmt.External.other"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def apple_root() -> files.Apple:
    return files.Apple()


@pytest.fixture
def trusted(apple_root: files.Apple, settings: Settings, tmp_path: Path) -> files.Apple:
    path = tmp_path / "root.pem"
    path.write_bytes(files.pem(apple_root.root))
    settings.BRAMLEY_APNS_CA = str(path)
    return apple_root


@pytest.fixture
def admin_client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


@pytest.fixture
def viewer() -> Client:
    user = User.objects.create_user("viewer", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="push", codename__startswith="view_")
    )
    client = Client()
    client.force_login(user)
    return client


def address(name: str, *arguments: Any) -> str:
    return reverse(f"admin:push_{name}", args=arguments)


def upload(data: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile("file", data)


def text(answer: Any) -> str:
    return str(answer.content.decode())


def import_for(authority: Authority, topic: str, now: datetime) -> PushCertificate:
    return certificates.import_certificate(
        b"".join(authority.quick_push_certificate(topic)), confirm_topic_change=True, actor=ADMIN, now=now
    )


def test_all_steps_with_a_vendor_certificate_of_our_own(
    admin_client: Client, trusted: files.Apple, authority: Authority
) -> None:
    page = text(admin_client.get(address("pushcertificate_changelist")))
    assert address("pushcertificate_request") in page
    home = reverse("admin:index")
    assert f'href="{address("pushcertificate_request")}"' in text(admin_client.get(home))

    # The vendor's certificate, once.
    data = files.as_pkcs12(files.rsa_key("vendor"), trusted.vendor(), trusted.relations, password=b"sesame 7")
    page = text(
        admin_client.post(
            address("vendorcertificate_import"), {"file": upload(data), "password": "sesame 7"}, follow=True
        )
    )
    assert "can be signed here now" in page
    signer = VendorCertificate.objects.get()
    assert "sesame 7" not in page
    assert "PRIVATE KEY" not in page

    # Step 1.
    page = text(
        admin_client.post(address("pushcertificate_request"), {"common_name": "Example Ltd"}, follow=True)
    )
    request = PushCertificate.objects.get()
    steps = address("pushcertificate_steps", request.pk)
    assert "The request is made" in page
    assert address("pushcertificate_csr", request.pk) in page
    assert "MDM Vendor: Example Ltd" in page
    signed = address("pushcertificate_signed_request", request.pk)
    assert signed not in page
    assert admin_client.get(signed).status_code == 404
    page = text(admin_client.get(home))
    assert f'href="{steps}"' in page, "the set-up on the home page goes on where one is"
    assert f'href="{address("vendorcertificate_change", signer.pk)}"' in page, "it expires too"

    # Step 2.
    page = text(admin_client.post(steps, {"step": "sign", "vendor": signer.pk}, follow=True))
    assert "Signed by “MDM Vendor: Example Ltd”" in page

    # Step 3.
    assert signed in page
    assert "identity.apple.com/pushcert" in page
    assert "Create a Certificate" in page
    download = admin_client.get(signed)
    assert download["Content-Disposition"].startswith("attachment")
    csr = vendor.decode(download.content).request

    # Step 4.
    answer = authority.sign_request(csr, TOPIC)
    page = text(admin_client.post(steps, {"step": "answer", "certificate": upload(answer)}, follow=True))
    assert "in use until" in page
    assert "Done. The certificate of the topic" in page
    request.refresh_from_db()
    assert (request.state, request.topic) == (PushCertificateState.ACTIVE, TOPIC)
    assert [event.actor for event in AuditEvent.objects.all()] == ["root"] * 4


def test_a_request_signed_by_a_vendor_elsewhere(
    admin_client: Client, trusted: files.Apple, now: datetime
) -> None:
    request = certificates.create_request("Example Ltd", ADMIN)
    steps = address("pushcertificate_steps", request.pk)
    page = text(admin_client.get(steps))
    assert address("vendorcertificate_import") in page
    chain = [trusted.vendor(), trusted.relations, trusted.root]
    forged = files.signed_request(bytes(request.csr), chain, key=files.rsa_key("other"))
    page = text(admin_client.post(steps, {"step": "signed", "signed": upload(forged)}))
    assert "does not fit the request" in page
    request.refresh_from_db()
    assert (request.signed_by, bytes(request.signed_request)) == ("", b"")
    assert AuditEvent.objects.filter(outcome=Outcome.REFUSED).count() == 1
    assert "required" in text(admin_client.post(steps, {"step": "signed"}))
    good = files.signed_request(bytes(request.csr), chain)
    page = text(admin_client.post(steps, {"step": "signed", "signed": upload(good)}, follow=True))
    assert "signature is good" in page
    request.refresh_from_db()
    assert request.signed_by == "MDM Vendor: Example Ltd"


def test_a_renewal_demands_the_same_topic_and_names_the_consequences(
    admin_client: Client, authority: Authority, now: datetime, make_enrollments: MakeEnrollments
) -> None:
    old = import_for(authority, TOPIC, now)
    make_enrollments(3)
    assert f"?renews={old.pk}" in text(admin_client.get(address("pushcertificate_change", old.pk)))
    start = f"{address('pushcertificate_request')}?renews={old.pk}"
    page = text(admin_client.get(start))
    assert "The answer must have the same topic" in page
    assert "3 enrolled devices listen to it" in page
    page = text(admin_client.post(start, {"common_name": "Example Ltd"}, follow=True))
    assert "the Apple Account that made the certificate in use" in page
    assert old.serial_number in page
    request = PushCertificate.objects.get(state=PushCertificateState.REQUESTED)
    assert f"renews {TOPIC}" in text(admin_client.get(address("pushcertificate_changelist")))

    steps = address("pushcertificate_steps", request.pk)
    wrong = authority.sign_request(bytes(request.csr), OTHER_TOPIC)
    assert 'type="hidden" name="confirm_topic_change"' in text(admin_client.get(steps))
    page = text(admin_client.post(steps, {"step": "answer", "certificate": upload(wrong)}))
    assert "all of them have to enrol again" in page
    assert "3 devices that listen to the old topic" in page
    assert OTHER_TOPIC in page
    assert 'type="checkbox" name="confirm_topic_change"' in page
    request.refresh_from_db()
    assert request.state == PushCertificateState.REQUESTED
    assert certificates.active(TOPIC) == old

    right = authority.sign_request(bytes(request.csr), TOPIC)
    admin_client.post(steps, {"step": "answer", "certificate": upload(right)})
    assert certificates.active(TOPIC) == request
    assert admin_client.get(start).status_code == 404, "the old one is not in use any more"


def test_another_topic_is_taken_when_it_is_confirmed(
    admin_client: Client, authority: Authority, now: datetime
) -> None:
    old = import_for(authority, TOPIC, now)
    request = certificates.create_request("Example Ltd", ADMIN, renews=old)
    wrong = authority.sign_request(bytes(request.csr), OTHER_TOPIC)
    admin_client.post(
        address("pushcertificate_steps", request.pk),
        {"step": "answer", "certificate": upload(wrong), "confirm_topic_change": "on"},
    )
    assert {row.topic for row in PushCertificate.objects.filter(state="ACTIVE")} == {TOPIC, OTHER_TOPIC}


def test_each_topic_shows_who_hangs_on_it(
    admin_client: Client, authority: Authority, now: datetime, make_enrollments: MakeEnrollments
) -> None:
    first, newest = import_for(authority, TOPIC, now), import_for(authority, OTHER_TOPIC, now)
    make_enrollments(2)
    make_enrollments(5, topic=OTHER_TOPIC)
    issuer = Issuer.objects.create(slug="bramley", name="Test CA")
    for name, topic in (("Schools", TOPIC), ("Offices", OTHER_TOPIC), ("Everybody", "")):
        EnrollmentProfile.objects.create(name=name, slug=name.lower(), topic=topic, issuer=issuer)
    assert [way.name for way in topics.ways_to_enrol(TOPIC)] == ["Schools"]
    assert [(way.name, way.chosen) for way in topics.ways_to_enrol(OTHER_TOPIC)] == [
        ("Offices", True),
        ("Everybody", False),
    ]
    page = text(admin_client.get(address("pushcertificate_change", newest.pk)))
    assert "Everybody</a> (takes the newest certificate)" in page
    assert "Schools" not in page
    page = text(admin_client.get(address("pushcertificate_changelist")))
    assert '<td class="field-devices">2</td>' in page
    assert '<td class="field-devices">5</td>' in page
    assert "Why can this server wake your devices" in text(
        admin_client.get(address("pushcertificate_change", first.pk))
    )


def test_requests_are_discarded_after_a_question(
    admin_client: Client, authority: Authority, now: datetime
) -> None:
    request = certificates.create_request("Example Ltd", ADMIN)
    discard = address("pushcertificate_discard", request.pk)
    assert "key that was made for it is deleted" in text(admin_client.get(discard))
    assert PushCertificate.objects.filter(pk=request.pk).exists()
    assert "The request is discarded" in text(admin_client.post(discard, follow=True))
    assert not PushCertificate.objects.exists()
    row = import_for(authority, TOPIC, now)
    assert admin_client.post(address("pushcertificate_discard", row.pk)).status_code == 404
    assert PushCertificate.objects.filter(pk=row.pk).exists()


def test_bad_uploads_say_why_and_change_nothing(
    admin_client: Client, trusted: files.Apple, authority: Authority
) -> None:
    request = certificates.create_request("Example Ltd", ADMIN)
    steps = address("pushcertificate_steps", request.pk)
    before = list(PushCertificate.objects.values())
    elsewhere = b"".join(authority.quick_push_certificate(TOPIC)).partition(b"-----BEGIN PRIVATE")[0]
    for data, why in (
        (b"a,b\n1,2\n", "neither PEM nor PKCS #12"),
        (b"x" * 70_000, "larger than 64 KiB"),
        (elsewhere, "belongs to no request made here"),
        (files.pem(trusted.vendor()), "not for device management"),
    ):
        page = text(admin_client.post(steps, {"step": "answer", "certificate": upload(data)}))
        assert why in page
    for data, why in ((b"<html>", "cannot be read"), (b"x" * 140_000, "larger than 128 KiB")):
        assert why in text(admin_client.post(steps, {"step": "signed", "signed": upload(data)}))
    key = files.key_pem(files.rsa_key("vendor"), b"secret")
    page = text(
        admin_client.post(
            address("vendorcertificate_import"),
            {
                "file": upload(files.pem(trusted.vendor(), trusted.relations)),
                "key_file": upload(key),
                "password": "not it",
            },
        )
    )
    assert "password is wrong" in page
    assert "not it" not in page
    for number in ("", "x", "9" * 30, "0"):
        page = text(admin_client.post(steps, {"step": "sign", "vendor": number}, follow=True))
        assert "no such vendor" in page
    assert admin_client.post(steps, {"step": "nonsense"}).status_code == 404
    assert admin_client.get(f"{address('pushcertificate_request')}?renews=9").status_code == 404
    assert list(PushCertificate.objects.values()) == before
    assert not VendorCertificate.objects.exists()


@pytest.mark.parametrize("name", ["pushcertificate_import", "vendorcertificate_import"])
def test_reports_of_faults_leave_passwords_out(admin_client: Client, name: str) -> None:
    answer: Any = admin_client.post(address(name), {"password": "sesame 7"})
    assert answer.wsgi_request.sensitive_post_parameters == ("password",)


def test_who_may_only_look_changes_nothing(
    viewer: Client, trusted: files.Apple, authority: Authority, now: datetime
) -> None:
    data = files.pem(trusted.vendor(), trusted.relations) + files.key_pem(files.rsa_key("vendor"))
    signer = vendors.import_vendor(data, actor=ADMIN, now=now)
    row = import_for(authority, TOPIC, now)
    request = certificates.create_request("Example Ltd", ADMIN, renews=row)
    vendors.sign_request(request, signer, actor=ADMIN, now=now)
    before = list(PushCertificate.objects.values()), list(VendorCertificate.objects.values())
    steps = address("pushcertificate_steps", request.pk)
    page = text(viewer.get(steps))
    assert "<form method=" not in page.partition('id="content"')[2]
    for step in ({"step": "sign", "vendor": signer.pk}, {"step": "answer"}, {"step": "signed"}):
        assert viewer.post(steps, step).status_code == 403
    for path in (
        address("pushcertificate_request"),
        address("pushcertificate_discard", request.pk),
        address("vendorcertificate_import"),
        address("vendorcertificate_retire", signer.pk),
    ):
        assert viewer.get(path).status_code == 403
        assert viewer.post(path, {}).status_code == 403
    assert viewer.get(address("vendorcertificate_changelist")).status_code == 200
    assert (list(PushCertificate.objects.values()), list(VendorCertificate.objects.values())) == before


def test_a_vendor_certificate_is_retired_after_a_question(
    admin_client: Client, trusted: files.Apple, now: datetime
) -> None:
    data = files.pem(trusted.vendor(), trusted.relations) + files.key_pem(files.rsa_key("vendor"))
    signer = vendors.import_vendor(data, actor=ADMIN, now=now)
    retire = address("vendorcertificate_retire", signer.pk)
    page = text(admin_client.get(address("vendorcertificate_change", signer.pk)))
    assert retire in page
    assert bytes(signer.private_key_sealed).hex() not in page
    assert "Take this vendor certificate out of use?" in text(admin_client.get(retire))
    assert "out of use" in text(admin_client.post(retire, follow=True))
    signer.refresh_from_db()
    assert signer.retired_at is not None
    assert "out of use already" in text(admin_client.post(retire, follow=True))
    assert retire not in text(admin_client.get(address("vendorcertificate_change", signer.pk)))
