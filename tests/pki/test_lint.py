"""pkilint finds nothing wrong with any kind of certificate, CRL and OCSP response that is signed here."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as reference

from pki import issuers, ocsp, rollover
from pki.issuance import Grant, issue
from pki.models import (
    Certificate,
    Crl,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    Purpose,
    RevocationReason,
)
from pki.revocation import publish_crl, revoke
from pki.subordinate import create_subordinate
from tests.pki.conftest import ACTOR, NOW, Party, spki
from tests.pki.test_ocsp import ask_about_number, get, post
from tests.pki.test_ocsp_messages import certificate_id, request
from tests.support.lint import lint_certificate, lint_crl, lint_ocsp_response

pytestmark = pytest.mark.django_db

ALGORITHMS = ["RSA-2048", "EC-P256", "EC-P384"]
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture(params=ALGORITHMS)
def issuer(request: pytest.FixtureRequest) -> Issuer:
    """An issuer of each kind of key."""
    return issuers.create_issuer(
        "bramley",
        "Bramley Test CA",
        organization="Orchard & Söhne",
        algorithm=request.param,
        actor=ACTOR,
        now=NOW,
    )


def issue_one(
    issuer: Issuer,
    purpose: Purpose,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    san: tuple[tuple[str, str], ...] = (),
) -> Certificate:
    subject = (("CN", f"A {purpose} of Jörg"), ("O", "Orchard"), ("serialNumber", "C02X"))
    return issue(Grant(issuer, purpose, subject, san=san, reason="test"), spki(key), actor=ACTOR, now=NOW)


# --- Certificates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", list(Purpose))
def test_leaf_certificates(
    issuer: Issuer, purpose: Purpose, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey
) -> None:
    names = (("DNS", "mdm.example.com"), ("email", "jo@example.com"), ("URI", "https://example.com/x"))
    for key in (rsa_key, ec_key):
        for san in ((), (*names, ("IP", "192.0.2.1"))):
            assert lint_certificate(bytes(issue_one(issuer, purpose, key, san=san).der)) == []


def test_certificates_of_cas(issuer: Issuer, clock: time_machine.Traveller) -> None:
    """Root, one below, renewed, re-keyed, and links both ways."""
    create_subordinate("below", "Below", parent=issuer, algorithm="EC-P256", actor=ACTOR, now=NOW)
    clock.shift(HOUR)
    rollover.renew(issuer, years=20, actor=ACTOR, now=NOW + HOUR)
    rollover.rekey(issuer, actor=ACTOR, now=NOW + HOUR)
    rows = list(IssuerCertificate.objects.all())
    assert {row.kind for row in rows} == set(IssuerCertificateKind)
    assert {(row.kind, row.serial_number): lint_certificate(bytes(row.der)) for row in rows} == {
        (row.kind, row.serial_number): [] for row in rows
    }


# --- CRLs ------------------------------------------------------------------------------------------------


def test_crls(issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey) -> None:
    """Empty, and with every reason."""
    issuer_key = issuers.current_key(issuer)
    assert lint_crl(bytes(publish_crl(issuer_key, NOW).der)) == []
    for reason in RevocationReason:
        row = issue_one(issuer, Purpose.MDM_IDENTITY, ec_key)
        revoke(row, reason=reason, actor=ACTOR, now=NOW)
    crl = Crl.objects.order_by("-pk")[0]
    assert crl.entries == len(RevocationReason)
    assert lint_crl(bytes(crl.der)) == []


# --- OCSP ------------------------------------------------------------------------------------------------


def test_ocsp_responses(issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey) -> None:
    """Good, revoked for every reason, unknown, several at once, with and without a nonce, and errors."""
    root = x509.load_der_x509_certificate(issuers.chain(issuer)[0])
    numbers = [5]
    for reason in RevocationReason:
        row = issue_one(issuer, Purpose.MDM_IDENTITY, ec_key)
        revoke(row, reason=reason, actor=ACTOR, now=NOW)
        numbers.append(int(row.serial_number, 16))
    numbers.append(int(issue_one(issuer, Purpose.MDM_IDENTITY, ec_key).serial_number, 16))
    for number in numbers:
        assert lint_ocsp_response(post(ask_about_number(root, number)).body) == []
        assert lint_ocsp_response(get(ask_about_number(root, number)).body) == []
    own = Party(ec_key, issuers.chain(issuer)[0])
    several = request(*(certificate_id(own, number) for number in numbers))
    assert lint_ocsp_response(post(several).body) == []
    with_nonce = ocsp.answer("bramley", nonced(root, numbers[1]), NOW)
    assert lint_ocsp_response(with_nonce.body) == []
    assert lint_ocsp_response(post(b"rubbish").body) == []
    responder = Certificate.objects.get(purpose=Purpose.OCSP_SIGNING, status="ISSUED")
    assert lint_certificate(bytes(responder.der)) == []


def nonced(root: x509.Certificate, number: int) -> bytes:
    """The same question with a nonce."""
    plain = reference.load_der_ocsp_request(ask_about_number(root, number))
    builder = reference.OCSPRequestBuilder().add_certificate_by_hash(
        plain.issuer_name_hash,
        plain.issuer_key_hash,
        plain.serial_number,
        hashes.SHA1(),  # noqa: S303
    )
    return builder.add_extension(x509.OCSPNonce(b"n" * 32), critical=False).build().public_bytes(Encoding.DER)


# --- The linter itself -----------------------------------------------------------------------------------


def test_the_linter_finds_what_is_wrong(issuer: Issuer, ec_key: ec.EllipticCurvePrivateKey) -> None:
    """A validity that runs backwards: otherwise an empty list of findings would prove nothing."""
    der = bytearray(issue_one(issuer, Purpose.MDM_IDENTITY, ec_key).der)
    position = der.index(b"\x17\x0d2611241150")
    der[position + 2 : position + 4] = b"45"
    assert lint_certificate(bytes(der))
