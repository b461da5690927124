"""Whom clients encrypt to and who answers: every live generation, and RA certificates."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from audit.models import AuditEvent
from audit.recording import SERVER
from pki import issuers, keys
from pki.core import cms
from pki.core.certificates import build_root
from pki.core.path import verify_issued_by
from pki.models import (
    Certificate,
    HeldKey,
    Issuer,
    IssuerCertificateKind,
    IssuerKey,
    IssuerKeyState,
    Purpose,
)
from scep import recipients
from scep.core import wire
from scep.core.attributes import FailInfo, PkiStatus
from scep.models import CaForm, ScepService, Transaction
from tests.scep.asking import ask, enrol, issued, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, csr, nothing_issued, pkcs_req, rsa_key, signer

pytestmark = pytest.mark.django_db


def current(issuer: Issuer) -> IssuerKey:
    return issuers.current_key(issuer)


def ca_certificates(door: Door) -> tuple[bytes, ...]:
    """The answer to GetCACert, whatever its form."""
    response = door.get("operation=GetCACert")
    assert response.status_code == 200
    if response.headers["Content-Type"] == wire.CA_CERTIFICATE:
        return (response.content,)
    assert response.headers["Content-Type"] == wire.CA_CERTIFICATES
    parts = cms.decode_signed_data(response.content)
    assert (parts.content, parts.signers) == (None, ())
    return parts.certificates


@pytest.fixture
def subordinate(issuer: Issuer, ca_certificate: bytes) -> bytes:
    """The issuer becomes one below an external root; its certificate."""
    root_key = rsa_key(950)
    root = build_root(
        (("CN", "External root"),),
        private_key=root_key,
        serial_number=5,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=5000),
    )
    key = current(issuer)
    builder = x509.CertificateBuilder(
        x509.load_der_x509_certificate(root).subject,
        x509.load_der_x509_certificate(ca_certificate).subject,
        x509.load_der_x509_certificate(ca_certificate).public_key(),
        77,
        NOW - timedelta(days=1),
        NOW + timedelta(days=4000),
    )
    for extension in x509.load_der_x509_certificate(ca_certificate).extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    der = builder.sign(root_key, hashes.SHA256()).public_bytes(Encoding.DER)
    key.certificates.update(is_current=False)
    issuers.add_certificate(key, der, kind=IssuerCertificateKind.SUBORDINATE, above=(root,))
    return der


# --- GetCACert -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [CaForm.SINGLE, CaForm.CHAIN])
def test_a_root_is_alone_in_both_forms(
    door: Door, ca_certificate: bytes, service: ScepService, form: CaForm
) -> None:
    service.ca_form = form
    service.save()
    response = door.get("operation=GetCACert")
    assert response.headers["Content-Type"] == wire.CA_CERTIFICATE
    assert response.content == ca_certificate


def test_a_subordinate_is_alone_or_with_those_above_it(
    door: Door, mint: Mint, subordinate: bytes, service: ScepService
) -> None:
    assert ca_certificates(door) == (subordinate,)
    service.ca_form = CaForm.CHAIN
    service.save()
    found = ca_certificates(door)
    assert found[0] == subordinate
    assert len(found) == 2
    verify_issued_by(found[0], found[1])
    enrol(door, subordinate, mint()[1])


# --- every certificate of every generation ---------------------------------------------------------------


def test_a_client_with_the_certificate_before_the_renewal_is_answered_by_it(
    door: Door, mint: Mint, ca_certificate: bytes, subordinate: bytes
) -> None:
    """The reply is signed by the certificate that the client knows: it compares (Apple does)."""
    assert ca_certificate != subordinate
    for known in (ca_certificate, subordinate):
        reply = ask(door, pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=known), known)
        assert reply.status is PkiStatus.SUCCESS
        row = Transaction.objects.latest("id")
        assert row.recipient_sha256 == hashlib.sha256(known).hexdigest()


def test_a_request_to_the_next_ca_is_issued_and_answered_by_it(
    door: Door, mint: Mint, ca_certificate: bytes, next_ca_certificate: bytes, issuer: Issuer
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=next_ca_certificate)
    certificate = issued(ask(door, sent, next_ca_certificate))
    assert certificate.issuer_key.state == IssuerKeyState.NEXT
    verify_issued_by(bytes(certificate.der), next_ca_certificate)
    # Others go on with the current one.
    assert enrol(door, ca_certificate, mint()[1]).issuer_key == current(issuer)


def test_a_request_to_the_next_ca_has_to_be_good_like_any_other(
    door: Door, next_ca_certificate: bytes
) -> None:
    with nothing_issued():
        sent = pkcs_req(csr(rsa_key(1), "guessed"), ca_certificate=next_ca_certificate)
        refused(ask(door, sent, next_ca_certificate), FailInfo.BAD_REQUEST, "unknown challenge")


def test_a_client_with_the_previous_ca_is_answered_by_it_and_gets_a_certificate_of_the_current_one(
    door: Door, mint: Mint, ca_certificate: bytes, next_ca_certificate: bytes, issuer: Issuer
) -> None:
    issuer.keys.filter(state=IssuerKeyState.CURRENT).update(state=IssuerKeyState.PREVIOUS)
    issuer.keys.filter(state=IssuerKeyState.NEXT).update(state=IssuerKeyState.CURRENT)
    certificate = enrol(door, ca_certificate, mint()[1])
    assert certificate.issuer_key.generation == 2
    verify_issued_by(bytes(certificate.der), next_ca_certificate)


def test_a_closed_generation_reads_nothing_any_more(
    door: Door, mint: Mint, ca_certificate: bytes, next_ca_certificate: bytes, issuer: Issuer
) -> None:
    issuer.keys.filter(state=IssuerKeyState.CURRENT).update(state=IssuerKeyState.CLOSED)
    issuer.keys.filter(state=IssuerKeyState.NEXT).update(state=IssuerKeyState.CURRENT)
    with nothing_issued():
        sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
        refused(ask(door, sent, next_ca_certificate), FailInfo.BAD_MESSAGE_CHECK, "")


def test_the_certificate_of_a_stranger_is_answered_by_the_usual_one(
    door: Door, mint: Mint, ca_certificate: bytes
) -> None:
    with nothing_issued():
        sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=signer(7).certificate)
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_MESSAGE_CHECK, "")


# --- GetNextCACert ---------------------------------------------------------------------------------------


def next_certificates(door: Door, ca_certificate: bytes) -> tuple[bytes, ...]:
    response = door.get("operation=GetNextCACert")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-x509-next-ca-cert"
    signed = cms.verify_signed_data(response.content, require_attributes=True)
    assert signed.signer == ca_certificate
    inside = cms.decode_signed_data(signed.content)
    assert (inside.content, inside.signers) == (None, ())
    assert set(inside.certificates) <= set(signed.certificates), "jscep looks for them outside"
    return inside.certificates


def test_without_a_next_ca_nothing_is_said_of_one(door: Door, issuer: Issuer) -> None:
    assert door.get("operation=GetNextCACert").status_code == 404
    assert b"GetNextCACert" not in door.get("operation=GetCACaps").content


def test_the_next_ca_is_announced_as_soon_as_it_is_made(
    door: Door, ca_certificate: bytes, next_ca_certificate: bytes
) -> None:
    assert b"GetNextCACert\n" in door.get("operation=GetCACaps").content
    assert next_certificates(door, ca_certificate) == (next_ca_certificate,)
    assert ca_certificates(door) == (ca_certificate,)


def test_a_next_key_without_its_certificate_is_not_announced(door: Door, issuer: Issuer) -> None:
    """A subordinate of an external CA waits for it."""
    root = build_root(
        (("CN", "x"),), private_key=rsa_key(901), serial_number=1, not_before=NOW, not_after=NOW
    )
    issuers.add_key(
        issuer, private_key=rsa_key(901), algorithm="RSA-2048", certificate=root, state=IssuerKeyState.NEXT
    )
    assert door.get("operation=GetNextCACert").status_code == 404
    assert b"GetNextCACert" not in door.get("operation=GetCACaps").content


def test_after_activation_the_next_is_the_current_and_nothing_is_next(
    door: Door, next_ca_certificate: bytes, issuer: Issuer
) -> None:
    issuer.keys.filter(state=IssuerKeyState.CURRENT).update(state=IssuerKeyState.PREVIOUS)
    issuer.keys.filter(state=IssuerKeyState.NEXT).update(state=IssuerKeyState.CURRENT)
    assert door.get("operation=GetNextCACert").status_code == 404
    assert ca_certificates(door) == (next_ca_certificate,)


# --- an RA certificate -----------------------------------------------------------------------------------


@pytest.fixture
def ra_service(service: ScepService) -> ScepService:
    service.ra_certificate = True
    service.save()
    return service


@pytest.fixture
def ra_certificate(door: Door, ra_service: ScepService) -> bytes:
    return ca_certificates(door)[0]


def test_the_ra_certificate_comes_first_and_can_what_clients_need(
    door: Door, ra_service: ScepService, ca_certificate: bytes, issuer: Issuer
) -> None:
    ra, ca = ca_certificates(door)
    assert ca == ca_certificate
    verify_issued_by(ra, ca)
    parsed = x509.load_der_x509_certificate(ra)
    usage = parsed.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.digital_signature, usage.key_encipherment, usage.key_cert_sign) == (True, True, False)
    assert parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    key = parsed.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    row = Certificate.objects.get(purpose=Purpose.SCEP_RECIPIENT)
    assert bytes(row.der) == ra
    assert row.not_after == NOW + timedelta(days=365)
    # It is made once.
    assert ca_certificates(door) == (ra, ca)
    assert HeldKey.objects.count() == 1
    assert AuditEvent.objects.filter(action="certificate.issued").count() == 1


def test_with_an_ra_certificate_it_decrypts_and_signs_and_the_ca_only_issues(
    door: Door,
    mint: Mint,
    ra_certificate: bytes,
    ca_certificate: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ra_certificate)
    certificate = issued(ask(door, sent, ra_certificate))
    verify_issued_by(bytes(certificate.der), ca_certificate)
    # Where nothing is issued the issuer's key is not even opened.
    monkeypatch.setattr(keys, "issuer_private_key", None)
    guess = pkcs_req(csr(rsa_key(2), "guess"), ca_certificate=ra_certificate)
    refused(ask(door, guess, ra_certificate), FailInfo.BAD_REQUEST, "unknown challenge")


def test_with_an_ra_certificate_the_issuers_own_key_reads_nothing(
    door: Door, mint: Mint, ra_certificate: bytes, ca_certificate: bytes
) -> None:
    with nothing_issued():
        sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
        refused(ask(door, sent, ra_certificate), FailInfo.BAD_MESSAGE_CHECK, "")


def test_the_ra_certificate_is_renewed_by_itself_and_the_old_one_understood(
    door: Door, mint: Mint, ra_certificate: bytes, at_noon: time_machine.Traveller
) -> None:
    later = timedelta(days=365 - 61)
    at_noon.move_to(NOW + later, tick=False)
    assert recipients.renew_ra_certificates(NOW + later) == 0
    later += timedelta(days=2)
    at_noon.move_to(NOW + later, tick=False)
    assert recipients.renew_ra_certificates(NOW + later) == 1
    assert recipients.renew_ra_certificates(NOW + later) == 0
    new = ca_certificates(door)[0]
    assert new != ra_certificate
    for known in (ra_certificate, new):
        _challenge, value = mint(now=NOW + later)
        sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=known, now=NOW + later)
        assert ask(door, sent, known).status is PkiStatus.SUCCESS
    # The old one ends, and what is encrypted to it is read no more.
    at_noon.move_to(NOW + timedelta(days=366), tick=False)
    sent = pkcs_req(csr(rsa_key(2), "x"), ca_certificate=ra_certificate)
    refused(ask(door, sent, new), FailInfo.BAD_MESSAGE_CHECK, "")


def test_one_that_nobody_renewed_is_renewed_when_it_is_asked_for(
    door: Door, ra_certificate: bytes, at_noon: time_machine.Traveller
) -> None:
    at_noon.move_to(NOW + timedelta(days=400), tick=False)
    new = ca_certificates(door)[0]
    assert new != ra_certificate
    assert HeldKey.objects.count() == 2


def test_the_ra_of_the_next_generation_is_announced_with_it(
    mint: Mint,
    ra_certificate: bytes,
    ca_certificate: bytes,
    next_ca_certificate: bytes,
    issuer: Issuer,
) -> None:
    door = Door()
    next_ra, next_ca = next_certificates(door, ca_certificate)
    assert next_ca == next_ca_certificate
    verify_issued_by(next_ra, next_ca)
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=next_ra)
    certificate = issued(ask(door, sent, next_ra))
    assert certificate.issuer_key.state == IssuerKeyState.NEXT
    # After the change of generations the new RA is the usual one, and the old one still understood.
    issuer.keys.filter(state=IssuerKeyState.CURRENT).update(state=IssuerKeyState.PREVIOUS)
    issuer.keys.filter(state=IssuerKeyState.NEXT).update(state=IssuerKeyState.CURRENT)
    assert ca_certificates(door) == (next_ra, next_ca)
    sent = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ra_certificate)
    assert issued(ask(door, sent, ra_certificate)).issuer_key.generation == 2


def test_an_issuer_on_a_curve_serves_scep_by_itself_with_an_ra_certificate(
    db: None, at_noon: time_machine.Traveller, mint: Mint
) -> None:
    """Clients encrypt to an RSA key, so it gets one of its own without being told."""
    curve = issuers.create_issuer("curve", "Curve CA", algorithm="EC-P256", actor=SERVER, now=NOW)
    service = ScepService.objects.create(slug="curve", issuer=curve)
    assert not service.ra_certificate
    assert recipients.renew_ra_certificates(NOW) == 1
    ra, ca = ca_certificates(Door("/scep/curve/"))
    _challenge, value = mint(issuer=curve)
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ra)
    certificate = issued(ask(Door("/scep/curve/"), sent, ra))
    verify_issued_by(bytes(certificate.der), ca)
    assert HeldKey.objects.count() == 1


def test_a_next_key_that_cannot_decrypt_is_announced_with_its_ra_certificate(
    door: Door, mint: Mint, ca_certificate: bytes, issuer: Issuer
) -> None:
    """The key in use decrypts and the next one does not: each generation is asked in its own way."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = build_root(
        (("CN", "Bramley test CA"),),
        private_key=key,
        serial_number=900,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=5000),
    )
    following = issuers.add_key(
        issuer, private_key=key, algorithm="EC-P256", certificate=der, state=IssuerKeyState.NEXT
    )
    issuers.add_certificate(following, der, kind=IssuerCertificateKind.SELF_SIGNED)
    ra, announced = next_certificates(door, ca_certificate)
    assert (ca_certificates(door), announced) == ((ca_certificate,), der)
    issued(ask(door, pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate), ca_certificate))
    sent = pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ra)
    assert issued(ask(door, sent, ra)).issuer_key == following
    # After the change of generations the earlier key is still understood, by those who know it.
    issuer.keys.filter(state=IssuerKeyState.CURRENT).update(state=IssuerKeyState.PREVIOUS)
    issuer.keys.filter(state=IssuerKeyState.NEXT).update(state=IssuerKeyState.CURRENT)
    assert ca_certificates(door) == (ra, der)
    sent = pkcs_req(csr(rsa_key(3), mint()[1]), ca_certificate=ca_certificate)
    assert issued(ask(door, sent, ca_certificate)).issuer_key == following


def test_two_services_of_one_issuer_share_its_ra_certificate(
    door: Door, ra_certificate: bytes, issuer: Issuer
) -> None:
    ScepService.objects.create(slug="second", issuer=issuer, ra_certificate=True)
    assert ca_certificates(Door("/scep/second/"))[0] == ra_certificate


def test_a_revoked_ra_certificate_is_replaced(door: Door, mint: Mint, ra_certificate: bytes) -> None:
    Certificate.objects.filter(purpose=Purpose.SCEP_RECIPIENT).update(status="REVOKED")
    new = ca_certificates(door)[0]
    assert new != ra_certificate
    with nothing_issued():
        sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ra_certificate)
        refused(ask(door, sent, new), FailInfo.BAD_MESSAGE_CHECK, "")


def test_without_an_issuer_in_force_there_is_no_answer(
    door: Door, ra_service: ScepService, issuer: Issuer
) -> None:
    issuer.keys.update(state=IssuerKeyState.CLOSED)
    assert door.get("operation=GetCACert").status_code == 404
    assert door.post(pkcs_req(csr(rsa_key(1)), ca_certificate=signer().certificate).body).status_code == 400
