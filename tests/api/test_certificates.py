"""Certificates and challenges over REST."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from cryptography import x509

from audit.models import AuditEvent
from audit.recording import SERVER
from pki import issuers, revocation
from pki.models import Certificate, CertificateStatus, Crl, RevocationReason
from scep.models import Challenge
from tests.api.conftest import Caller, Unchanged
from tests.console.fleet import Fleet, make_fleet
from vault.sealed import keyed_hashes

pytestmark = pytest.mark.django_db

CERTIFICATES = "/api/v1/certificates/"
CHALLENGES = "/api/v1/challenges/"


@pytest.fixture
def fleet(db: None, now: datetime) -> Fleet:
    issuers.create_issuer("bramley", "Bramley device CA", algorithm="RSA-2048", actor=SERVER, now=now)
    return make_fleet(4, now)


def test_a_certificate_is_found_and_downloaded(caller: Caller, fleet: Fleet) -> None:
    client = caller("certificates:read")
    certificate = fleet.certificates[0]
    page = client.get(CERTIFICATES, {"serial_number": certificate.serial_number.lower()}).json()
    assert [row["id"] for row in page["results"]] == [certificate.pk]
    detail = client.get(f"{CERTIFICATES}{certificate.pk}/").json()
    assert detail["issuer"] == "bramley"
    assert detail["device"] == fleet.devices[0].pk
    assert detail["status"] == "ISSUED"
    pem = client.get(f"{CERTIFICATES}{certificate.pk}/pem/")
    assert pem.headers["Content-Type"] == "application/x-pem-file"
    assert x509.load_pem_x509_certificate(pem.content).signature
    soon = client.get(CERTIFICATES, {"expires_before": certificate.not_after.isoformat()}).json()
    assert certificate.pk not in [row["id"] for row in soon["results"]]


def test_a_certificate_is_revoked_by_the_use_case(caller: Caller, fleet: Fleet) -> None:
    client = caller("certificates:revoke")
    certificate = fleet.certificates[0]
    lists = Crl.objects.count()
    answer = client.post(
        f"{CERTIFICATES}{certificate.pk}/revoke/", {"reason": "keyCompromise"}, format="json"
    )
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["revocation_reason"]) == ("REVOKED", "keyCompromise")
    certificate.refresh_from_db()
    assert certificate.status == CertificateStatus.REVOKED
    assert Crl.objects.count() == lists + 1
    event = AuditEvent.objects.get(action="certificate.revoked")
    assert event.actor == "API token inventory (ada)"


def test_what_cannot_be_revoked_stays(caller: Caller, fleet: Fleet, unchanged: Unchanged) -> None:
    client = caller("certificates:revoke")
    certificate, other = fleet.certificates[:2]
    revocation.revoke(
        certificate,
        reason=RevocationReason.SUPERSEDED,
        actor=SERVER,
        now=certificate.not_before + timedelta(days=1),
    )
    with unchanged():
        again = client.post(f"{CERTIFICATES}{certificate.pk}/revoke/", {}, format="json")
        assert again.status_code == 400
        assert "already" in again.json()["detail"]
        wrong = client.post(f"{CERTIFICATES}{other.pk}/revoke/", {"reason": "whim"}, format="json")
        assert wrong.status_code == 400
        assert "reason" in wrong.json()
        assert client.post(f"{CERTIFICATES}999999/revoke/", {}, format="json").status_code == 404
    assert Certificate.objects.get(pk=other.pk).status == CertificateStatus.ISSUED


def test_challenges_are_shown_once(caller: Caller, fleet: Fleet, now: datetime) -> None:
    client = caller("challenges:write")
    answer = client.post(CHALLENGES, {"count": 2, "cn": "reader-{n}", "ttl": 30}, format="json")
    assert answer.status_code == 201
    assert [row["subject"] for row in answer.json()] == ["CN=reader-1", "CN=reader-2"]
    for row in answer.json():
        challenge = Challenge.objects.get(
            value_hash__in=keyed_hashes(row["challenge"], purpose="scep.challenge")
        )
        assert challenge.expires_at - now < timedelta(minutes=31)
        assert challenge.created_by == "API token inventory (ada)"
    event = AuditEvent.objects.get(action="challenge.created")
    assert answer.json()[0]["challenge"] not in repr(event.details)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 1001}, "count"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": 24 * 60 + 1}, "ttl"),
        ({"cn": "x" * 65}, "cn"),
        ({"cn": "a\x07b"}, "detail"),
        ({"issuer": "nobody"}, "issuer"),
        ({"purpose": "OCSP_SIGNING"}, "purpose"),
        ({"purpose": "SERVER_TLS", "dns_name": "not a name"}, "detail"),
    ],
)
def test_challenges_that_make_no_sense_are_not_made(
    caller: Caller, fleet: Fleet, unchanged: Unchanged, body: dict[str, object], field: str
) -> None:
    client = caller("challenges:write")
    with unchanged():
        answer = client.post(CHALLENGES, body, format="json")
    assert answer.status_code == 400
    assert field in answer.json()
