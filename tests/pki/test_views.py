"""What relying parties fetch, by the door for devices."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from django.db import connection
from django.test.utils import CaptureQueriesContext

from pki import issuers
from pki.models import Issuer, IssuerCertificate, IssuerKeyState, IssuerKind, RevocationReason
from pki.revocation import publish_crl, revoke
from tests.pki.conftest import ACTOR, NOW, IssueCertificate
from tests.support.device_door import DeviceClient

pytestmark = pytest.mark.django_db


def test_the_ca_certificate(issuer: Issuer) -> None:
    answer = DeviceClient().request("GET", "/pki/bramley/ca.cer")
    assert (answer.status, answer.body) == (200, issuers.chain(issuer)[0])
    assert answer.headers["Content-Type"] == "application/pkix-cert"
    assert "set-cookie" not in {name.lower() for name in answer.headers}


def test_the_crl(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    points = x509.load_der_x509_certificate(bytes(certificate.der)).extensions.get_extension_for_class(
        x509.CRLDistributionPoints
    )
    (name,) = points.value[0].full_name or []
    path = name.value.removeprefix("http://127.0.0.1:8000")
    revoke(certificate, reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=NOW)
    answer = DeviceClient().request("GET", path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/pkix-crl"
    assert answer.headers["Last-Modified"] == "Tue, 24 Nov 2026 12:00:00 GMT"
    assert len(x509.load_der_x509_crl(answer.body)) == 1


def test_who_has_the_list_is_told_so(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    client = DeviceClient()
    first = client.get("/pki/bramley/1.crl")
    assert first.headers["Cache-Control"] == "public, max-age=60, must-revalidate"
    known = {"If-None-Match": first.headers["ETag"]}
    since = {"If-Modified-Since": first.headers["Last-Modified"]}
    for headers in (known, since):
        with CaptureQueriesContext(connection) as captured:
            again = client.get("/pki/bramley/1.crl", headers)
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
        # The list itself, which may be megabytes, is not read for that.
        assert len(captured) == 1
        assert '"der"' not in captured[0]["sql"]
    later = NOW + timedelta(seconds=1)
    revoke(issue_certificate(), reason=RevocationReason.UNSPECIFIED, actor=ACTOR, now=later)
    for headers in (known, since):
        again = client.get("/pki/bramley/1.crl", headers)
        assert again.status == 200
        assert again.headers["ETag"] != first.headers["ETag"]
        assert len(x509.load_der_x509_crl(again.body)) == 1


def test_earlier_generations_go_on_answering(issuer: Issuer) -> None:
    issuer_key = issuers.current_key(issuer)
    issuer.keys.update(state=IssuerKeyState.PREVIOUS)
    publish_crl(issuer_key, NOW + timedelta(days=1))
    answer = DeviceClient().request("GET", "/pki/bramley/1.crl")
    assert x509.load_der_x509_crl(answer.body).last_update_utc == NOW + timedelta(days=1)


@pytest.mark.parametrize(
    "path",
    ["/pki/nobody/ca.cer", "/pki/bramley/2.crl", "/pki/bramley/x.crl", "/pki/bramley/", "/pki/../ca.cer"],
)
def test_what_is_not_there(issuer: Issuer, path: str) -> None:
    assert DeviceClient().request("GET", path).status == 404


def test_certificates_of_other_cas_are_not_handed_out(issuer: Issuer) -> None:
    Issuer.objects.update(kind=IssuerKind.TRUST_ONLY)
    assert DeviceClient().request("GET", "/pki/bramley/ca.cer").status == 404


def test_replaced_certificates_are_not_handed_out(issuer: Issuer) -> None:
    IssuerCertificate.objects.update(is_current=False)
    assert DeviceClient().request("GET", "/pki/bramley/ca.cer").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods(issuer: Issuer, method: str) -> None:
    for path in ("/pki/bramley/ca.cer", "/pki/bramley/1.crl"):
        assert DeviceClient().request(method, path).status == 405
