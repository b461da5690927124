"""Requests that wait for an administrator: held, polled for, approved exactly as shown, rejected, lapsed."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
import time_machine
from cryptography import x509
from pytest_django.fixtures import Settings

from audit.models import AuditEvent
from audit.recording import SERVER, Actor
from pki import issuers, revocation
from pki.models import Certificate, Issuer, Purpose, RevocationReason
from scep import approvals
from scep.core.attributes import FailInfo, MessageType, PkiStatus
from scep.models import (
    ApprovalChoice,
    Mode,
    PendingRequest,
    ScepService,
    Transaction,
    TransactionStatus,
)
from scep.models import Proposal as ProposalChoice
from scep.transactions import Proposal
from tests.scep.asking import ask, enrol, holder, issued, pending, refused
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
    rsa_key,
    signer,
)

pytestmark = pytest.mark.django_db

ROUTER = (("C", "GB"), ("O", "Example"), ("CN", "router 1"))
ANNA = Actor(name="anna")


@pytest.fixture
def waiting_room(service: ScepService) -> ScepService:
    """The service holds every request of a stranger, whatever its challenge."""
    service.challenge_mode, service.approval = Mode.NONE, ApprovalChoice.ALWAYS
    service.save()
    return service


def router_request(ca_certificate: bytes, key: int = 1, **options: object) -> Sent:
    request = csr(rsa_key(key), subject=ROUTER, san=[("DNS", "router-1.example")])
    options = {"identity": signer(key, "router 1"), **options}
    return pkcs_req(request, ca_certificate=ca_certificate, **options)  # type: ignore[arg-type]


def proposal_of(row: Transaction) -> Proposal:
    return Proposal(row.proposed_name, row.proposed_alternative_names, row.proposed_days)


# --- held ------------------------------------------------------------------------------------------------


def test_a_request_waits_and_an_administrator_sees_what_it_asks_for(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    with nothing_issued():
        row = pending(ask(door, sent, ca_certificate))
    assert (row.service, row.message_type, row.challenge) == (waiting_room, "PKCSReq", None)
    assert row.csr_subject == "CN=router 1,O=Example,C=GB"
    assert (row.csr_names, row.csr_extensions) == ("DNS:router-1.example", "subjectAltName")
    assert row.proposed_name == ROUTER
    assert row.proposed_alternative_names == (("DNS", "router-1.example"),)
    assert row.expires_at == NOW + timedelta(days=7)
    assert PendingRequest.objects.filter(status=TransactionStatus.PENDING).count() == 1


def test_the_same_request_again_waits_in_the_same_place(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    with nothing_issued():
        replies = [ask(door, sent, ca_certificate) for _ in range(3)]
    assert {reply.status for reply in replies} == {PkiStatus.PENDING}
    assert len({reply.sender_nonce for reply in replies}) == 3
    row = Transaction.objects.get()
    assert (row.status, row.repeats, row.last_asked_at) == (TransactionStatus.PENDING, 2, NOW)


@pytest.mark.parametrize("challenge", ["guessed", " ", "\u00fc"])
def test_where_no_challenge_is_looked_at_a_guess_waits_like_everything(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, challenge: str
) -> None:
    request = csr(rsa_key(1), challenge, subject=ROUTER)
    with nothing_issued():
        row = pending(ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate))
    assert challenge not in repr(row.__dict__) or challenge == " "


def test_requests_without_a_challenge_wait_and_others_go_on(
    door: Door, mint: Mint, ca_certificate: bytes, service: ScepService
) -> None:
    service.approval = ApprovalChoice.WITHOUT_CHALLENGE
    service.save()
    with nothing_issued():
        pending(ask(door, router_request(ca_certificate), ca_certificate))
        empty = pkcs_req(csr(rsa_key(2), "", subject=ROUTER), ca_certificate=ca_certificate)
        pending(ask(door, empty, ca_certificate))
        wrong = pkcs_req(csr(rsa_key(3), "guessed", subject=ROUTER), ca_certificate=ca_certificate)
        refused(ask(door, wrong, ca_certificate), FailInfo.BAD_REQUEST, "unknown challenge")
    enrol(door, ca_certificate, mint()[1], key=4)


def test_without_approval_nothing_waits(door: Door, ca_certificate: bytes, service: ScepService) -> None:
    with nothing_issued():
        reply = ask(door, router_request(ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "no challenge")
    assert not Transaction.objects.filter(status=TransactionStatus.PENDING).exists()


@pytest.mark.parametrize(
    ("proposal", "subject", "names"),
    [
        (ProposalChoice.SUBJECT_AND_NAMES, ROUTER, (("DNS", "router-1.example"),)),
        (ProposalChoice.SUBJECT, ROUTER, ()),
        (ProposalChoice.NOTHING, (), ()),
    ],
)
def test_what_of_a_request_is_proposed(
    ca_certificate: bytes,
    waiting_room: ScepService,
    proposal: ProposalChoice,
    subject: object,
    names: object,
) -> None:
    waiting_room.proposal, waiting_room.validity_days = proposal, 90
    waiting_room.save()
    row = pending(ask(Door(), router_request(ca_certificate), ca_certificate))
    assert proposal_of(row) == Proposal(subject, names, 90)  # type: ignore[arg-type]


def test_a_weak_key_does_not_wait(door: Door, ca_certificate: bytes, waiting_room: ScepService) -> None:
    request = csr(rsa_key(0, 1024), subject=ROUTER)
    with nothing_issued():
        reply = ask(door, pkcs_req(request, ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_ALG, "1024")


def test_a_renewal_does_not_wait(
    door: Door, mint: Mint, ca_certificate: bytes, waiting_room: ScepService, issuer: Issuer
) -> None:
    """Who proves to hold a certificate in force was approved before."""
    row = pending(ask(door, router_request(ca_certificate), ca_certificate))
    first = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    sent = pkcs_req(csr(rsa_key(2)), ca_certificate=ca_certificate, identity=holder(first))
    assert issued(ask(door, sent, ca_certificate)).renewed_from == first


def test_no_more_than_so_many_wait(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals, "MAX_OPEN", 2)
    for key in (1, 2):
        pending(ask(door, router_request(ca_certificate, key), ca_certificate))
    with nothing_issued():
        reply = ask(door, router_request(ca_certificate, 3), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "too many requests wait")
    assert ask(door, router_request(ca_certificate, 1, transaction_id="x"), ca_certificate).fail_info


def test_new_requests_that_wait_count_as_failures_of_their_address(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, settings: Settings
) -> None:
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 3
    sent = router_request(ca_certificate)
    assert [door.post(sent.body).status_code for _ in range(6)] == [200] * 6
    for key in (2, 3):
        assert door.post(router_request(ca_certificate, key).body).status_code == 200
    assert door.post(router_request(ca_certificate, 4).body).status_code == 429


# --- polled for ------------------------------------------------------------------------------------------


def test_a_poll_is_told_to_wait_then_gets_the_certificate_as_often_as_it_asks(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
    with nothing_issued():
        pending(ask(door, poll, ca_certificate))
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    for again in (poll, cert_poll(sent, ROUTER, ca_certificate=ca_certificate), sent):
        with nothing_issued():
            assert issued(ask(door, again, ca_certificate)) == certificate
    row.refresh_from_db()
    assert (row.status, row.certificate, row.repeats) == (TransactionStatus.SUCCESS, certificate, 4)
    assert Transaction.objects.count() == 1


def test_a_poll_is_known_by_its_transaction_id_and_not_by_what_it_names(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    first, second = (router_request(ca_certificate, key) for key in (1, 2))
    rows = [pending(ask(door, sent, ca_certificate)) for sent in (first, second)]
    approved = approvals.approve(rows[1], proposal_of(rows[1]), actor=ANNA, now=NOW)
    polls = [cert_poll(sent, (("CN", "whoever"),), ca_certificate=ca_certificate) for sent in (first, second)]
    pending(ask(door, polls[0], ca_certificate))
    assert issued(ask(door, polls[1], ca_certificate)) == approved


def test_several_requests_of_one_key_are_told_apart(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    identity = signer(1, "router 1")
    requests = [
        pkcs_req(
            csr(rsa_key(number), subject=(("CN", f"router {number}"),)),
            ca_certificate=ca_certificate,
            identity=identity,
            transaction_id=f"request {number}",
        )
        for number in (1, 2, 3)
    ]
    rows = [pending(ask(door, sent, ca_certificate)) for sent in requests]
    approvals.reject(rows[0], "not this one", actor=ANNA, now=NOW)
    certificate = approvals.approve(rows[2], proposal_of(rows[2]), actor=ANNA, now=NOW)
    replies = [
        ask(door, cert_poll(sent, ROUTER, ca_certificate=ca_certificate), ca_certificate) for sent in requests
    ]
    assert [reply.status for reply in replies] == [PkiStatus.FAILURE, PkiStatus.PENDING, PkiStatus.SUCCESS]
    assert issued(replies[2]) == certificate
    assert certificate.subject == "CN=router 3"


def test_a_poll_without_a_request_is_bad_cert_id(
    door: Door, mint: Mint, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
    with nothing_issued():
        refused(ask(door, poll, ca_certificate), FailInfo.BAD_CERT_ID, "no request with this transactionID")


@pytest.mark.parametrize("other", ["transaction", "signer", "service"])
def test_a_poll_of_somebody_else_is_bad_cert_id(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, issuer: Issuer, other: str
) -> None:
    ScepService.objects.create(slug="second", issuer=issuer)
    sent = router_request(ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    poll = cert_poll(
        sent,
        ROUTER,
        ca_certificate=ca_certificate,
        identity=signer(5, "router 1") if other == "signer" else None,
        transaction_id="another" if other == "transaction" else sent.transaction_id,
    )
    with nothing_issued():
        reply = ask(Door("/scep/second/") if other == "service" else door, poll, ca_certificate)
    refused(reply, FailInfo.BAD_CERT_ID, "no request")


def test_a_poll_after_a_refusal_is_bad_cert_id(
    door: Door, ca_certificate: bytes, service: ScepService
) -> None:
    sent = router_request(ca_certificate)
    refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "no challenge")
    poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
    refused(ask(door, poll, ca_certificate), FailInfo.BAD_CERT_ID, "no request")


def test_a_poll_after_a_certificate_that_came_at_once(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """The reply was lost; the client asks what became of it (RFC 8894 section 5.2)."""
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    certificate = issued(ask(door, sent, ca_certificate))
    poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
    with nothing_issued():
        assert issued(ask(door, poll, ca_certificate)) == certificate


def test_a_poll_for_a_certificate_that_was_revoked_since(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    revocation.revoke(certificate, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=NOW)
    reply = ask(door, cert_poll(sent, ROUTER, ca_certificate=ca_certificate), ca_certificate)
    assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, FailInfo.BAD_REQUEST)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x30\x00", b"\x30\x04\x30\x00\x30\x00\x00"])
def test_a_poll_that_holds_something_else_is_not_decrypted_in_the_clients_eyes(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, content: bytes
) -> None:
    sent = router_request(ca_certificate)
    pending(ask(door, sent, ca_certificate))
    poll = pkcs_req(
        content,
        ca_certificate=ca_certificate,
        identity=sent.identity,
        transaction_id=sent.transaction_id,
        message_type=MessageType.CERT_POLL,
    )
    with nothing_issued():
        refused(ask(door, poll, ca_certificate), FailInfo.BAD_MESSAGE_CHECK, "")


# --- decided ---------------------------------------------------------------------------------------------


def test_the_certificate_holds_what_was_approved_and_the_key_of_the_request(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    wanted = Proposal((("CN", "core router"),), (("DNS", "core.example"), ("IP", "192.0.2.1")), 30)
    certificate = approvals.approve(row, wanted, actor=ANNA, now=NOW)
    reply = ask(door, cert_poll(sent, ROUTER, ca_certificate=ca_certificate), ca_certificate)
    parsed = x509.load_der_x509_certificate(reply.certificates[0])
    assert parsed.subject.rfc4514_string() == "CN=core router"
    assert parsed.public_key() == rsa_key(1).public_key()
    assert certificate.subject_alternative_name == "DNS:core.example, IP:192.0.2.1"
    assert certificate.not_after == NOW + timedelta(days=30)
    assert certificate.purpose == Purpose.SERVER_TLS
    row.refresh_from_db()
    assert (row.decided_by, row.decided_at, row.csr_public_key) == ("anna", NOW, None)
    event = AuditEvent.objects.get(action="scep_request.approved")
    assert (event.actor, event.details["serial_number"]) == ("anna", certificate.serial_number)


def test_a_rejected_request_stays_rejected_with_its_reason(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    sent = router_request(ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    approvals.reject(row, "nobody knows this router", actor=ANNA, now=NOW)
    poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
    with nothing_issued():
        for again in (poll, sent, poll):
            reply = ask(door, again, ca_certificate)
            assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, FailInfo.BAD_REQUEST)
            assert "nobody" not in reply.fail_info_text
    row.refresh_from_db()
    assert (row.status, row.reason) == (TransactionStatus.FAILURE, "rejected: nobody knows this router")
    assert (Transaction.objects.count(), row.repeats) == (1, 3)
    assert AuditEvent.objects.get(action="scep_request.rejected").reason == "nobody knows this router"


def test_after_a_rejection_another_request_may_wait(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    row = pending(ask(door, router_request(ca_certificate), ca_certificate))
    approvals.reject(row, "", actor=ANNA, now=NOW)
    assert pending(ask(door, router_request(ca_certificate), ca_certificate)).pk != row.pk


def test_a_request_is_decided_once(door: Door, ca_certificate: bytes, waiting_room: ScepService) -> None:
    row = pending(ask(door, router_request(ca_certificate), ca_certificate))
    approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    with nothing_issued():
        with pytest.raises(approvals.DecisionRefused, match="not wait"):
            approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
        with pytest.raises(approvals.DecisionRefused, match="not wait"):
            approvals.reject(row, "", actor=ANNA, now=NOW)
    row.refresh_from_db()
    assert row.status == TransactionStatus.SUCCESS


@pytest.mark.parametrize(
    ("proposal", "reason"),
    [
        (Proposal(), "name nobody"),
        (Proposal((("CN", "a\nb"),)), "control characters"),
        (Proposal((("CN", "x" * 65),)), "longer than"),
        (Proposal((("CN", "x"),), (("DNS", "not a name"),)), "DNS"),
        (Proposal((("CN", "x"),), (), 0), "valid for a day"),
    ],
)
def test_what_cannot_be_issued_is_not_approved(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, proposal: Proposal, reason: str
) -> None:
    row = pending(ask(door, router_request(ca_certificate), ca_certificate))
    with nothing_issued(), pytest.raises(approvals.DecisionRefused, match=reason):
        approvals.approve(row, proposal, actor=ANNA, now=NOW)
    row.refresh_from_db()
    assert row.status == TransactionStatus.PENDING
    assert not AuditEvent.objects.filter(action="scep_request.approved").exists()


def test_a_client_that_lost_its_patience_gets_the_same_certificate(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    """It started again, with a new throw-away certificate, for the same key."""
    first, second = router_request(ca_certificate), router_request(ca_certificate)
    row = pending(ask(door, first, ca_certificate))
    assert pending(ask(door, second, ca_certificate)).pk != row.pk
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    for sent in (first, second):
        poll = cert_poll(sent, ROUTER, ca_certificate=ca_certificate)
        assert issued(ask(door, poll, ca_certificate)) == certificate
    assert Certificate.objects.count() == 1


def test_a_client_that_starts_anew_after_the_approval_gets_its_certificate(
    door: Door, ca_certificate: bytes, waiting_room: ScepService
) -> None:
    """Its transactionID follows from its key, as most clients make it; the throw-away certificate is new."""
    row = pending(ask(door, router_request(ca_certificate, transaction_id="key 1"), ca_certificate))
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    with no_new_certificate():
        again = router_request(ca_certificate, transaction_id="key 1")
        assert issued(ask(door, again, ca_certificate)) == certificate
    # Another key, or another transaction, waits.
    pending(ask(door, router_request(ca_certificate, 2, transaction_id="key 1"), ca_certificate))
    pending(ask(door, router_request(ca_certificate, 1, transaction_id="other"), ca_certificate))
    revocation.revoke(certificate, reason=RevocationReason.SUPERSEDED, actor=SERVER, now=NOW)
    pending(ask(door, router_request(ca_certificate, transaction_id="key 1"), ca_certificate))


def test_a_request_lapses_and_may_then_be_made_anew(
    door: Door, ca_certificate: bytes, waiting_room: ScepService, at_noon: time_machine.Traveller
) -> None:
    sent = router_request(ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    at_noon.shift(timedelta(days=7))
    later = NOW + timedelta(days=7)
    with nothing_issued():
        with pytest.raises(approvals.DecisionRefused, match="lapsed"):
            approvals.approve(row, proposal_of(row), actor=ANNA, now=later)
        reply = ask(door, cert_poll(sent, ROUTER, ca_certificate=ca_certificate), ca_certificate)
        assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, FailInfo.BAD_REQUEST)
    row.refresh_from_db()
    assert (row.status, row.reason) == (TransactionStatus.FAILURE, approvals.LAPSED)
    again = pending(ask(door, sent, ca_certificate))
    assert again.pk != row.pk
    approvals.approve(again, proposal_of(again), actor=ANNA, now=later)


def test_the_sweep_ends_what_has_lapsed(door: Door, ca_certificate: bytes, waiting_room: ScepService) -> None:
    row = pending(ask(door, router_request(ca_certificate), ca_certificate))
    assert approvals.lapse_all(NOW + timedelta(days=6)) == 0
    assert approvals.lapse_all(NOW + timedelta(days=7)) == 1
    assert approvals.lapse_all(NOW + timedelta(days=8)) == 0
    row.refresh_from_db()
    assert row.reason == approvals.LAPSED


# --- a challenge and an administrator --------------------------------------------------------------------


@pytest.fixture
def strict(service: ScepService) -> ScepService:
    service.approval = ApprovalChoice.ALWAYS
    service.save()
    return service


def test_a_good_challenge_waits_with_what_it_says(
    door: Door, mint: Mint, ca_certificate: bytes, strict: ScepService
) -> None:
    binding = uuid.uuid4()
    challenge, value = mint(binding=binding, validity_days=20)
    sent = pkcs_req(csr(rsa_key(1), value, subject=(("CN", "else"),)), ca_certificate=ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    assert not Certificate.objects.exists()
    assert proposal_of(row) == Proposal((("CN", "device 1"),), (), 20)
    challenge.refresh_from_db()
    assert challenge.consumed_at == NOW
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    assert (certificate.binding, certificate.purpose) == (binding, Purpose.MDM_IDENTITY)
    assert issued(ask(door, sent, ca_certificate)) == certificate


def test_a_challenge_that_waits_is_used_up(
    door: Door, mint: Mint, ca_certificate: bytes, strict: ScepService
) -> None:
    _challenge, value = mint()
    first = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    row = pending(ask(door, first, ca_certificate))
    with nothing_issued():
        thief = pkcs_req(csr(rsa_key(2), value), ca_certificate=ca_certificate)
        refused(ask(door, thief, ca_certificate), FailInfo.BAD_REQUEST, "used before, by another key")
    assert AuditEvent.objects.filter(action="scep.challenge_reused").count() == 1
    # The same key with a new throw-away certificate waits too, and both get one certificate.
    second = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    pending(ask(door, second, ca_certificate))
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    assert {issued(ask(door, sent, ca_certificate)) for sent in (first, second)} == {certificate}


def test_a_rejected_challenge_is_not_taken_for_a_stolen_one(
    door: Door, mint: Mint, ca_certificate: bytes, strict: ScepService
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    row = pending(ask(door, sent, ca_certificate))
    approvals.reject(row, "no", actor=ANNA, now=NOW)
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "rejected: no")
    assert not AuditEvent.objects.filter(action="scep.challenge_reused").exists()


@pytest.mark.parametrize("value", [None, "", "guessed"])
def test_without_a_good_challenge_nothing_waits_there(
    door: Door, ca_certificate: bytes, strict: ScepService, value: str | None
) -> None:
    with nothing_issued():
        reply = ask(door, pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "challenge")
    assert not Transaction.objects.filter(status=TransactionStatus.PENDING).exists()


def test_a_full_waiting_room_leaves_the_challenge_unused(
    door: Door,
    mint: Mint,
    ca_certificate: bytes,
    strict: ScepService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(approvals, "MAX_OPEN", 0)
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    with nothing_issued():
        refused(ask(door, sent, ca_certificate), FailInfo.BAD_REQUEST, "too many")
    monkeypatch.setattr(approvals, "MAX_OPEN", 10)
    pending(ask(door, sent, ca_certificate))


# --- the next generation ---------------------------------------------------------------------------------


def test_a_request_to_the_next_ca_that_waited_is_issued_by_it(
    door: Door, ca_certificate: bytes, next_ca_certificate: bytes, waiting_room: ScepService, issuer: Issuer
) -> None:
    sent = router_request(next_ca_certificate)
    row = pending(ask(door, sent, next_ca_certificate))
    certificate = approvals.approve(row, proposal_of(row), actor=ANNA, now=NOW)
    following = issuers.next_key(issuer)
    assert following is not None
    assert certificate.issuer_key == following
