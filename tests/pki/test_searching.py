"""Finding certificates: by number, fingerprint, name and device, in the admin and on the command line."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

from devices.finding import certificates_of
from devices.models import Device, Enrollment, EnrollmentState, Identity
from pki import rollover
from pki.models import Certificate, CertificateStatus, Issuer, Purpose
from pki.records import grouped
from pki.searching import found_by
from tests.pki.conftest import ACTOR, NOW, IssueCertificate

pytestmark = pytest.mark.django_db


@pytest.fixture
def wanted(issue_certificate: IssueCertificate) -> Certificate:
    """A certificate that a device holds, among others."""
    for number in range(3):
        issue_certificate(f"other {number}", purpose=Purpose.SERVER_TLS)
    certificate = issue_certificate("Wanted, Ltd", san=(("DNS", "pad.acme.example"),))
    hold(certificate, "00008110-00AB1234567890CD", "C02XG0FDH7JY", "Anna's iPad")
    return certificate


def hold(certificate: Certificate, udid: str, serial_number: str, name: str) -> Identity:
    device = Device.objects.create(udid=udid, serial_number=serial_number, name=name)
    enrollment = Enrollment.objects.create(device=device, state=EnrollmentState.ENROLLED)
    return Identity.objects.create(
        enrollment=enrollment, certificate=certificate, sha256=certificate.sha256, pinned_at=NOW
    )


def terms(certificate: Certificate) -> dict[str, str]:
    number, fingerprint = certificate.serial_number, certificate.sha256
    return {
        "number": number,
        "number in lower case": number.lower(),
        "number with colons": grouped(number).lower(),
        "number with spaces and 0x": f" 0x{number} ",
        "beginning of the number": number[:12],
        "beginning with colons": grouped(number[:8]),
        "fingerprint": fingerprint,
        "fingerprint in upper case with colons": grouped(fingerprint),
        "beginning of the fingerprint": fingerprint[:20],
        "subject": "wanted, l",
        "alternative name": "PAD.acme",
        "serial number of the device": "c02xg0fdh7jy",
        "UDID": "00008110-00ab1234567890cd",
        "name of the device": "anna's i",
    }


def ids(term: str) -> list[int]:
    return list(found_by(term, Certificate.objects.order_by("pk")).values_list("pk", flat=True))


def test_every_way_finds_the_one(wanted: Certificate) -> None:
    for way, term in terms(wanted).items():
        assert ids(term) == [wanted.pk], way


def test_what_finds_nothing_and_what_finds_all(wanted: Certificate) -> None:
    everything = list(Certificate.objects.order_by("pk").values_list("pk", flat=True))
    assert ids("") == ids("  ") == everything
    for term in ("nobody", "%", "_", "zz", "FFFFFFFFFFFFFFFF", "0" * 40, "'; DROP TABLE", "C02XG0FDH7J"):
        assert ids(term) == [], term


def test_a_device_keeps_what_it_held_before(wanted: Certificate, issue_certificate: IssueCertificate) -> None:
    later = issue_certificate("later")
    enrollment = Enrollment.objects.get()
    Identity.objects.create(
        enrollment=enrollment, certificate=later, sha256=later.sha256, pinned_at=NOW, state="SUPERSEDED"
    )
    assert ids("C02XG0FDH7JY") == [wanted.pk, later.pk]
    assert certificates_of("C02XG0FDH7JY", 1) == [later.pk]


def test_without_an_app_that_knows_devices(wanted: Certificate, settings: Settings) -> None:
    settings.BRAMLEY_CERTIFICATE_FINDERS = ()
    assert ids("C02XG0FDH7JY") == []
    assert ids("wanted") == [wanted.pk]


def test_the_list_searches_and_filters(wanted: Certificate, issuer: Issuer) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    address = reverse("admin:pki_certificate_changelist")

    def shown(**query: str) -> set[int]:
        page = client.get(address, query)
        assert page.status_code == 200
        return {row.pk for row in page.context["cl"].result_list}

    for way, term in terms(wanted).items():
        assert shown(q=term) == {wanted.pk}, way
    first = issuer.keys.get()
    everything = {row.pk for row in Certificate.objects.all()}
    rollover.rekey(issuer, actor=ACTOR, now=NOW)
    made = issuer.keys.get(generation=2)
    Certificate.objects.filter(pk=wanted.pk).update(issuer_key=made)
    assert shown(generation=str(made.pk)) == {wanted.pk}
    assert shown(generation=str(first.pk)) == everything - {wanted.pk}
    assert shown(generation="999999") == shown(generation="x") == everything
    Certificate.objects.filter(pk=wanted.pk).update(not_after=timezone.now() + timedelta(days=200))
    assert wanted.pk in shown(expiry="365")
    assert wanted.pk not in shown(expiry="90")
    assert shown(q="other", purpose__exact="MDM_IDENTITY") == set()


def test_the_command_takes_the_same(wanted: Certificate, issuer: Issuer) -> None:
    def listed(*arguments: str) -> list[str]:
        out = StringIO()
        call_command("certificate", "list", *arguments, "--json", stdout=out)
        rows: list[dict[str, Any]] = json.loads(out.getvalue())
        return [row["serial_number"] for row in rows]

    one = [wanted.serial_number]
    for way, term in terms(wanted).items():
        assert listed(f"--search={term}") == one, way
    for term in ("C02XG0FDH7JY", "00008110-00AB1234567890CD", "anna"):
        assert listed("--device", term) == one
    assert listed("--device", "nobody") == []
    assert listed("--search", "nobody") == []
    assert len(listed("--limit", "2")) == 2
    assert len(listed("--generation", "1")) == 4
    assert listed("--generation", "2") == []
    Certificate.objects.filter(pk=wanted.pk).update(
        not_after=NOW - timedelta(days=1), status=CertificateStatus.SUPERSEDED
    )
    assert listed("--expired") == listed("--status", "SUPERSEDED") == one
    assert listed("--expired", "--purpose", "SERVER_TLS") == []


def test_a_number_is_looked_up_by_index_alone(
    wanted: Certificate, django_assert_max_num_queries: Any
) -> None:
    """A sure number asks neither for names nor for devices: two queries, both by number."""
    with django_assert_max_num_queries(2) as queries:
        assert ids(wanted.serial_number) == [wanted.pk]
    assert isinstance(queries, CaptureQueriesContext)
    assert not any("LIKE" in query["sql"] or "device" in query["sql"] for query in queries.captured_queries)
