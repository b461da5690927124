"""RFC 8894 row by row: what the table in docs/protocols/scep.md names and no other test holds yet.

The last tests hold the table itself: every row is there, and every test that it names exists.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from audit.recording import Actor
from pki.core import asn1, cms
from pki.models import Issuer
from scep import approvals
from scep.core import attributes, message
from scep.core.attributes import FailInfo, MessageType, PkiStatus
from scep.core.message import CertRep
from scep.models import ApprovalChoice, Mode, ScepService, Transaction
from scep.transactions import Proposal
from tests.scep.asking import ask, enrol, holder, pending
from tests.scep.conftest import Mint
from tests.scep.support import (
    NOW,
    Door,
    Sent,
    cert_poll,
    csr,
    no_new_certificate,
    nothing_issued,
    pkcs_req,
    query,
    rsa_key,
    signed,
    signer,
)

pytestmark = pytest.mark.django_db

ROUTER = (("CN", "router 1"),)
ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "protocols" / "scep.md"
ROWS = range(1, 77)
BOTH_CASES = {19, 20, 21, 29, 32, 39, 40, 41, 42, 43, 59, 63, 64, 65, 66}


def parts(response: bytes) -> cms.SignedContent:
    return cms.verify_signed_data(response, require_attributes=True)


def opened(sent: Sent, response: bytes) -> cms.SignedData:
    """What is inside the envelope of a SUCCESS, taken apart."""
    plain = cms.decrypt(
        parts(response).content,
        recipient=sent.identity.certificate,
        private_key=sent.identity.private_key,
        random=bytes,
    )
    return cms.decode_signed_data(plain.content)


@pytest.fixture
def by_hand(service: ScepService) -> ScepService:
    service.challenge_mode, service.approval = Mode.NONE, ApprovalChoice.ALWAYS
    service.save()
    return service


# --- what every reply has (rows 22, 29, 33, 36, 42, 43, 46) ----------------------------------------------


def replies(door: Door, mint: Mint, ca_certificate: bytes) -> Iterator[tuple[PkiStatus, Sent, bytes]]:
    """One of each kind, as bytes."""
    good = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    yield PkiStatus.SUCCESS, good, door.post(good.body).content
    bad = pkcs_req(csr(rsa_key(1), "guessed"), ca_certificate=ca_certificate)
    yield PkiStatus.FAILURE, bad, door.post(bad.body).content
    ScepService.objects.update(challenge_mode=Mode.NONE, approval=ApprovalChoice.ALWAYS)
    held = pkcs_req(csr(rsa_key(2)), ca_certificate=ca_certificate)
    yield PkiStatus.PENDING, held, door.post(held.body).content


def test_rows_29_and_36_every_reply_has_its_attributes_and_answers_its_request(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    nonces = set()
    for status, sent, response in replies(door, mint, ca_certificate):
        found = parts(response).attributes or {}
        assert attributes.decode_printable(found, attributes.MESSAGE_TYPE, "messageType") == "3"
        assert attributes.decode_printable(found, attributes.PKI_STATUS, "pkiStatus") == status
        assert attributes.decode_transaction_id(found) == sent.transaction_id
        assert attributes.decode_nonce(found, attributes.RECIPIENT_NONCE, "") == sent.sender_nonce
        nonce = attributes.decode_nonce(found, attributes.SENDER_NONCE, "")
        assert len(nonce) == 16
        assert nonce != sent.sender_nonce
        nonces.add(nonce)
    assert len(nonces) == 3


def test_row_30_types_of_the_attributes(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    printable = (attributes.MESSAGE_TYPE, attributes.PKI_STATUS, attributes.TRANSACTION_ID)
    for status, _sent, response in replies(door, mint, ca_certificate):
        found = parts(response).attributes or {}
        assert {found[oid][0][0] for oid in printable} == {asn1.PRINTABLE_STRING}
        for oid in (attributes.SENDER_NONCE, attributes.RECIPIENT_NONCE):
            assert found[oid][0][0] == asn1.OCTET_STRING
        assert (attributes.FAIL_INFO in found) is (status is PkiStatus.FAILURE)
        if status is PkiStatus.FAILURE:
            assert found[attributes.FAIL_INFO][0][0] == asn1.PRINTABLE_STRING
            assert found[attributes.FAIL_INFO_TEXT][0][0] == asn1.UTF8_STRING


def test_rows_22_42_and_43_without_data_there_is_no_envelope(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    for status, _sent, response in replies(door, mint, ca_certificate):
        assert (parts(response).content == b"") is (status is not PkiStatus.SUCCESS)


def test_row_35_the_text_of_a_failure_says_little(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    sent = pkcs_req(csr(rsa_key(1), "guessed"), ca_certificate=ca_certificate)
    reply = ask(door, sent, ca_certificate)
    assert reply.fail_info_text == message.DEVICE_TEXT[FailInfo.BAD_REQUEST]
    assert Transaction.objects.get().reason not in reply.fail_info_text


# --- what a SUCCESS holds (rows 39, 40, 41, 46) ----------------------------------------------------------


def is_degenerate(inside: cms.SignedData) -> bool:
    return (inside.content, inside.signers) == (None, ())


@pytest.mark.parametrize("message_type", ["PKCSReq", "RenewalReq", "CertPoll", "GetCert", "GetCRL"])
def test_rows_39_to_41_and_46_a_success_holds_what_was_asked_for_and_nothing_else(
    mint: Mint, ca_certificate: bytes, service: ScepService, message_type: str
) -> None:
    door = Door()
    certificate = enrol(door, ca_certificate, mint()[1])
    own = holder(certificate)
    sent = {
        "PKCSReq": lambda: pkcs_req(csr(rsa_key(2), mint()[1]), ca_certificate=ca_certificate),
        "RenewalReq": lambda: pkcs_req(
            csr(rsa_key(2)),
            ca_certificate=ca_certificate,
            identity=own,
            message_type=MessageType.RENEWAL_REQ,
        ),
        "CertPoll": lambda: polled(door, mint, ca_certificate),
        "GetCert": lambda: query(
            MessageType.GET_CERT, bytes(certificate.der), ca_certificate=ca_certificate, identity=own
        ),
        "GetCRL": lambda: query(
            MessageType.GET_CRL, bytes(certificate.der), ca_certificate=ca_certificate, identity=own
        ),
    }[message_type]()
    inside = opened(sent, door.post(sent.body).content)
    assert is_degenerate(inside)
    if message_type == "GetCRL":
        assert (len(inside.certificates), len(inside.crls)) == (0, 1)
    else:
        assert (len(inside.certificates), len(inside.crls)) == (1, 0)
        issued = x509.load_der_x509_certificate(inside.certificates[0])
        issued.verify_directly_issued_by(x509.load_der_x509_certificate(ca_certificate))


def polled(door: Door, mint: Mint, ca_certificate: bytes) -> Sent:
    """A CertPoll for a certificate that was issued at once."""
    sent = pkcs_req(csr(rsa_key(3), mint()[1]), ca_certificate=ca_certificate)
    door.post(sent.body)
    return cert_poll(sent, ROUTER, ca_certificate=ca_certificate)


@pytest.mark.parametrize("message_type", [MessageType.GET_CERT, MessageType.GET_CRL])
def test_rows_40_41_and_61_a_query_is_never_pending(
    door: Door, ca_certificate: bytes, by_hand: ScepService, message_type: MessageType
) -> None:
    """Even where everything waits: SUCCESS or FAILURE."""
    other = signer(7)
    sent = query(message_type, other.certificate, ca_certificate=ca_certificate, identity=other)
    with no_new_certificate():
        reply = ask(door, sent, ca_certificate)
    assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, FailInfo.BAD_CERT_ID)


def test_row_13_a_request_waits_as_often_as_it_takes_and_is_then_answered_once_and_for_all(
    door: Door, ca_certificate: bytes, by_hand: ScepService
) -> None:
    sent = pkcs_req(csr(rsa_key(1), subject=ROUTER), ca_certificate=ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    said = [row_status(door, sent, ca_certificate) for _ in range(3)]
    approvals.approve(row, Proposal(ROUTER), actor=_actor(), now=NOW)
    said += [row_status(door, sent, ca_certificate) for _ in range(2)]
    assert said == [PkiStatus.PENDING] * 3 + [PkiStatus.SUCCESS] * 2


def row_status(door: Door, sent: Sent, ca_certificate: bytes) -> PkiStatus:
    reply: CertRep = ask(door, cert_poll(sent, ROUTER, ca_certificate=ca_certificate), ca_certificate)
    return reply.status


def _actor() -> Actor:
    return Actor(name="anna")


# --- the rest --------------------------------------------------------------------------------------------


def test_row_24_content_that_is_not_encrypted_is_refused(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    identity = signer()
    header = attributes.encode_header(MessageType.PKCS_REQ, "id", b"nonce")
    body = signed(csr(rsa_key(1), mint()[1]), identity, header)
    with nothing_issued():
        reply = ask(door, Sent(body, identity, "id", b"nonce"), ca_certificate)
    assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, FailInfo.BAD_MESSAGE_CHECK)


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("cipher", ["aes128_cbc", "aes256_cbc", "des_ede3_cbc"])
def test_rows_19_20_and_72_no_reply_is_weaker_than_it_has_to_be(
    door: Door, mint: Mint, ca_certificate: bytes, digest: str, cipher: str
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, digest=digest, cipher=cipher)
    reply = ask(door, sent, ca_certificate)
    assert reply.status is PkiStatus.SUCCESS
    assert reply.cipher == cipher
    assert reply.digest in {"sha256", "sha512"}


def test_row_50_a_service_that_allows_nothing_says_nothing(door: Door, service: ScepService) -> None:
    ScepService.objects.update(capabilities=[])
    response = door.get("operation=GetCACaps")
    assert (response.status_code, response.content) == (200, b"")


def test_row_16_nothing_is_revoked_by_scep(
    door: Door, mint: Mint, ca_certificate: bytes, issuer: Issuer
) -> None:
    """No message of the protocol asks for it, and no type that is not one does anything."""
    certificate = enrol(door, ca_certificate, mint()[1])
    for written in ("1", "2", "4", "18", "23"):
        sent = pkcs_req(
            csr(rsa_key(2)),
            ca_certificate=ca_certificate,
            identity=holder(certificate),
            message_type=written,
        )
        with nothing_issued():
            assert ask(door, sent, ca_certificate).status is PkiStatus.FAILURE
    certificate.refresh_from_db()
    assert certificate.status == "ISSUED"


# --- the table -------------------------------------------------------------------------------------------


def table() -> dict[int, tuple[str, list[tuple[str, str]]]]:
    """Row number to its line and the tests that it names."""
    found: dict[int, tuple[str, list[tuple[str, str]]]] = {}
    for line in TABLE.read_text().splitlines():
        if match := re.match(r"\| *(\d+) *\|", line):
            assert int(match.group(1)) not in found, line
            found[int(match.group(1))] = (line, re.findall(r"`(test_\w+)::(test_\w+)`", line))
    return found


def functions_of(module: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_is_in_the_table_with_a_test() -> None:
    assert sorted(table()) == list(ROWS)
    assert [number for number, (_line, named) in table().items() if not named] == []


def test_every_test_that_the_table_names_exists() -> None:
    named = {pair for _line, pairs in table().values() for pair in pairs}
    known = {module: functions_of(module) for module in {module for module, _name in named}}
    assert [pair for pair in sorted(named) if pair[1] not in known[pair[0]]] == []


def test_rows_that_need_both_cases_have_two_tests() -> None:
    assert [number for number in sorted(BOTH_CASES) if len(table()[number][1]) < 2] == []
