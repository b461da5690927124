"""GetCert and GetCRL: one's own certificate, and the newest list of the right key."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
import time_machine
from cryptography import x509

from audit.recording import SERVER
from pki import issuers, revocation
from pki.core import asn1
from pki.core.certificates import CertificateFields, build_certificate
from pki.keys import public_key_der
from pki.models import Certificate, Issuer, IssuerKey, IssuerKeyState, Purpose, RevocationReason
from scep.core.attributes import FailInfo, MessageType, PkiStatus
from scep.core.message import CertRep
from scep.models import ScepService, Transaction, TransactionStatus
from tests.scep.asking import ask, enrol, holder, issued, refused
from tests.scep.conftest import Mint
from tests.scep.support import (
    NOW,
    Door,
    Sent,
    csr,
    no_new_certificate,
    nothing_issued,
    pkcs_req,
    query,
    rsa_key,
    signer,
)

pytestmark = pytest.mark.django_db

GET_CERT, GET_CRL = MessageType.GET_CERT, MessageType.GET_CRL


@pytest.fixture
def certificate(door: Door, mint: Mint, ca_certificate: bytes) -> Certificate:
    """A device's certificate, for ``rsa_key(1)``."""
    return enrol(door, ca_certificate, mint(binding=uuid.uuid4())[1], key=1)


def get_cert(certificate: Certificate, ca_certificate: bytes, key: int = 1, **options: object) -> Sent:
    return query(
        GET_CERT,
        bytes(certificate.der),
        ca_certificate=ca_certificate,
        identity=options.pop("identity", None) or holder(certificate, key),  # type: ignore[arg-type]
        **options,
    )


# --- GetCert ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_certificate", [True, False])
def test_who_holds_the_key_gets_the_certificate_again(
    door: Door, ca_certificate: bytes, certificate: Certificate, with_certificate: bool
) -> None:
    """Signed by the certificate itself, or by a throw-away one for the same key after it was lost."""
    identity = holder(certificate) if with_certificate else signer(1)
    with no_new_certificate():
        reply = ask(door, get_cert(certificate, ca_certificate, identity=identity), ca_certificate)
    assert reply.status is PkiStatus.SUCCESS
    assert reply.certificates == (bytes(certificate.der),)
    row = Transaction.objects.latest("id")
    assert (row.message_type, row.status, row.certificate) == ("GetCert", "SUCCESS", certificate)


def test_the_same_question_again_is_counted(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    """sscep writes one constant transactionID for all of them."""
    for _ in range(3):
        sent = get_cert(certificate, ca_certificate, transaction_id="SSCEP transactionId")
        ask(door, sent, ca_certificate)
    row = Transaction.objects.get(message_type="GetCert")
    assert row.repeats == 2


def test_a_renewed_certificate_fetches_the_one_before_and_the_other_way_round(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    sent = pkcs_req(csr(rsa_key(2)), ca_certificate=ca_certificate, identity=holder(certificate))
    renewed = issued(ask(door, sent, ca_certificate))
    for wanted, who in ((certificate, holder(renewed, 2)), (renewed, holder(certificate))):
        reply = ask(door, get_cert(wanted, ca_certificate, identity=who), ca_certificate)
        assert reply.certificates == (bytes(wanted.der),)


def test_an_expired_or_revoked_certificate_is_still_ones_own(
    door: Door, ca_certificate: bytes, certificate: Certificate, at_noon: time_machine.Traveller
) -> None:
    revocation.revoke(certificate, reason=RevocationReason.SUPERSEDED, actor=SERVER, now=NOW)
    at_noon.shift(timedelta(days=800))
    reply = ask(door, get_cert(certificate, ca_certificate), ca_certificate)
    assert reply.certificates == (bytes(certificate.der),)


def test_somebody_elses_certificate_is_bad_cert_id(
    door: Door, mint: Mint, ca_certificate: bytes, certificate: Certificate
) -> None:
    other = enrol(door, ca_certificate, mint(binding=uuid.uuid4())[1], key=2)
    answers = set()
    for identity in (holder(other, 2), signer(3)):
        with no_new_certificate():
            reply = ask(door, get_cert(certificate, ca_certificate, identity=identity), ca_certificate)
        refused(reply, FailInfo.BAD_CERT_ID, "somebody else's")
        answers.add((reply.fail_info, reply.fail_info_text))
    # A number that does not exist is answered alike: nobody learns which do.
    unknown = foreign_certificate(ca_certificate, serial_number=12345)
    sent = query(GET_CERT, unknown, ca_certificate=ca_certificate, identity=holder(other, 2))
    reply = ask(door, sent, ca_certificate)
    refused(reply, FailInfo.BAD_CERT_ID, "no certificate 3039")
    answers.add((reply.fail_info, reply.fail_info_text))
    assert len(answers) == 1


@pytest.mark.parametrize("how", ["revoked", "expired", "unbound"])
def test_a_holder_out_of_force_fetches_nothing_but_its_own(
    door: Door, mint: Mint, ca_certificate: bytes, how: str, at_noon: time_machine.Traveller
) -> None:
    binding = uuid.uuid4()
    wanted = enrol(door, ca_certificate, mint(binding=binding, subject=(("CN", "a"),))[1], key=1)
    other = enrol(door, ca_certificate, mint(binding=None if how == "unbound" else binding)[1], key=2)
    sent = get_cert(wanted, ca_certificate, identity=holder(other, 2))
    if how != "unbound":
        assert ask(door, sent, ca_certificate).status is PkiStatus.SUCCESS
    if how == "revoked":
        revocation.revoke(other, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW)
    if how == "expired":
        at_noon.move_to(other.not_after + timedelta(seconds=1), tick=False)
    reply = ask(door, get_cert(wanted, ca_certificate, identity=holder(other, 2)), ca_certificate)
    refused(reply, FailInfo.BAD_CERT_ID, "somebody else's")


def test_a_certificate_of_another_issuer_is_not_given_out_here(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    other = issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    other_ca = bytes(issuers.current_certificate(issuers.current_key(other)).der)
    sent = get_cert(certificate, other_ca)
    reply = ask(Door("/scep/other/"), sent, other_ca)
    refused(reply, FailInfo.BAD_CERT_ID, "no certificate")


def test_the_name_of_the_issuer_counts_too(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    """The right number under another issuer's name is not the certificate that is meant."""
    elsewhere = foreign_certificate(signer(9).certificate, int(certificate.serial_number, 16), key=9)
    sent = query(GET_CERT, elsewhere, ca_certificate=ca_certificate, identity=holder(certificate))
    refused(ask(door, sent, ca_certificate), FailInfo.BAD_CERT_ID, "no certificate")


# --- GetCRL ----------------------------------------------------------------------------------------------


def crl_of(reply: CertRep) -> x509.CertificateRevocationList:
    assert reply.status is PkiStatus.SUCCESS, reply.fail_info
    assert reply.certificates == ()
    (der,) = reply.crls
    return x509.load_der_x509_crl(der)


def test_the_newest_crl_is_given(
    door: Door, mint: Mint, ca_certificate: bytes, certificate: Certificate
) -> None:
    other = enrol(door, ca_certificate, mint()[1], key=2)
    sent = query(GET_CRL, bytes(certificate.der), ca_certificate=ca_certificate, identity=holder(certificate))
    before = crl_of(ask(door, sent, ca_certificate))
    assert len(before) == 0
    revocation.revoke(other, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW)
    after = crl_of(ask(door, sent, ca_certificate))
    assert [f"{entry.serial_number:X}" for entry in after] == [other.serial_number.lstrip("0")]
    assert number_of(after) > number_of(before)
    ca = x509.load_der_x509_certificate(ca_certificate)
    assert after.is_signature_valid(ca.public_key())  # type: ignore[arg-type]
    row = Transaction.objects.latest("id")
    assert (row.message_type, row.status, row.certificate) == ("GetCRL", TransactionStatus.SUCCESS, None)


def number_of(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_after_a_rekey_each_generation_has_its_own_list(
    door: Door, ca_certificate: bytes, next_ca_certificate: bytes, certificate: Certificate, issuer: Issuer
) -> None:
    """A leaf of the old key is on the old key's list only."""
    activate_next(issuer)
    old, new = (IssuerKey.objects.get(issuer=issuer, generation=number) for number in (1, 2))
    revocation.publish_crl(new, NOW)
    revocation.revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW)
    sent = query(
        GET_CRL, bytes(certificate.der), ca_certificate=next_ca_certificate, identity=holder(certificate)
    )
    crl = crl_of(ask(door, sent, next_ca_certificate))
    assert crl.is_signature_valid(x509.load_der_x509_certificate(ca_certificate).public_key())  # type: ignore[arg-type]
    assert len(crl) == 1
    # A certificate that is not known has the list of the current key.
    unknown = foreign_certificate(ca_certificate, 99)
    sent = query(GET_CRL, unknown, ca_certificate=next_ca_certificate, identity=holder(certificate))
    crl = crl_of(ask(door, sent, next_ca_certificate))
    assert crl.is_signature_valid(x509.load_der_x509_certificate(next_ca_certificate).public_key())  # type: ignore[arg-type]
    assert old.pk != new.pk


def test_the_crl_of_another_issuer_is_bad_cert_id(
    door: Door, ca_certificate: bytes, certificate: Certificate
) -> None:
    elsewhere = foreign_certificate(signer(9).certificate, 7, key=9)
    sent = query(GET_CRL, elsewhere, ca_certificate=ca_certificate, identity=holder(certificate))
    refused(ask(door, sent, ca_certificate), FailInfo.BAD_CERT_ID, "not that of this service")


@pytest.mark.parametrize("message_type", [GET_CERT, GET_CRL])
@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\x30\x00", asn1.encode_sequence(asn1.encode_sequence(), asn1.encode_integer(1), b"\5\0")],
)
def test_a_query_that_holds_something_else_is_bad_message_check(
    door: Door, ca_certificate: bytes, service: ScepService, message_type: MessageType, content: bytes
) -> None:
    sent = pkcs_req(content, ca_certificate=ca_certificate, message_type=message_type)
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_MESSAGE_CHECK, "")


@pytest.mark.parametrize("message_type", [GET_CERT, GET_CRL, MessageType.CERT_POLL])
def test_a_csr_inside_another_type_brings_nothing(
    door: Door, mint: Mint, ca_certificate: bytes, message_type: MessageType
) -> None:
    """The content has to be what the type says (RFC 8894 section 3.2)."""
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, message_type=message_type)
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_MESSAGE_CHECK, "")


# --- help ------------------------------------------------------------------------------------------------


def foreign_certificate(authority: bytes, serial_number: int, key: int = 1000) -> bytes:
    """A certificate under a CA's name that nobody recorded."""
    fields = CertificateFields(
        subject=(("CN", "x"),),
        public_key=public_key_der(rsa_key(8)),
        serial_number=serial_number,
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
    )
    return build_certificate(fields, issuer_certificate=authority, private_key=rsa_key(key))


def activate_next(issuer: Issuer) -> None:
    """The next generation becomes the current one."""
    issuer.keys.filter(state=IssuerKeyState.CURRENT).update(state=IssuerKeyState.PREVIOUS)
    issuer.keys.filter(state=IssuerKeyState.NEXT).update(state=IssuerKeyState.CURRENT)


def test_purposes_that_others_fetch_are_the_same(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """An over-the-air identity may fetch itself too."""
    certificate = enrol(door, ca_certificate, mint(purpose=Purpose.OTA_IDENTITY)[1], key=4)
    reply = ask(door, get_cert(certificate, ca_certificate, key=4), ca_certificate)
    assert reply.certificates == (bytes(certificate.der),)
