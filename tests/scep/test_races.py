"""Many at once: one challenge gives one certificate, whoever is first (threats B4, B15)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from django.db import connection
from django.http import HttpResponse
from pytest_django.fixtures import Settings

from audit.models import AuditEvent
from audit.recording import Actor
from pki.models import Certificate, CertificateStatus, HeldKey
from scep import approvals
from scep.core.attributes import MessageType, PkiStatus
from scep.core.message import CertRep
from scep.models import (
    ApprovalChoice,
    Challenge,
    Mode,
    ScepService,
    Transaction,
    TransactionStatus,
)
from scep.transactions import Proposal
from tests.scep.asking import enrol, holder
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, Sent, csr, ec_key, pkcs_req, rsa_key, signer

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 50
AT_ONCE = 8


@pytest.fixture(autouse=True)
def failures_are_not_limited(settings: Settings) -> None:
    settings.BRAMLEY_SCEP_FAILURES_PER_MINUTE = 10_000


def all_at_once(requests: list[Sent], ca_certificate: bytes) -> list[CertRep]:
    """Send them from many threads that start together; every answer is a CertRep."""
    threads = min(AT_ONCE, len(requests))
    barrier = Barrier(threads)

    def run(share: list[Sent]) -> list[tuple[Sent, HttpResponse]]:
        door = Door()
        barrier.wait()
        try:
            return [(sent, door.post(sent.body)) for sent in share]
        finally:
            connection.close()

    shares = [requests[number::threads] for number in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        answered = [pair for share in pool.map(run, shares) for pair in share]
    assert {response.status_code for _sent, response in answered} == {200}
    return [sent.open(response.content, ca_certificate) for sent, response in answered]


def count(replies: list[CertRep], status: PkiStatus) -> int:
    return sum(reply.status is status for reply in replies)


def test_fifty_keys_with_one_challenge_get_one_certificate(mint: Mint, ca_certificate: bytes) -> None:
    challenge, value = mint()
    requests = [
        pkcs_req(csr(ec_key(), value), ca_certificate=ca_certificate, identity=signer(1)) for _ in range(MANY)
    ]
    replies = all_at_once(requests, ca_certificate)
    assert count(replies, PkiStatus.SUCCESS) == 1
    assert count(replies, PkiStatus.FAILURE) == MANY - 1
    assert Certificate.objects.count() == 1
    assert Challenge.objects.get(pk=challenge.pk).consumed_at is not None
    assert Transaction.objects.filter(status=TransactionStatus.SUCCESS).count() == 1
    assert Transaction.objects.filter(status=TransactionStatus.FAILURE).count() == MANY - 1
    assert AuditEvent.objects.filter(action="scep.challenge_reused").count() == MANY - 1
    assert AuditEvent.objects.filter(action="certificate.issued").count() == 1


@pytest.mark.slow
def test_twenty_times_fifty_keys_with_one_challenge(mint: Mint, ca_certificate: bytes) -> None:
    """Threats B4: exactly one certificate each time, whoever is first."""
    keys = [ec_key() for _ in range(MANY)]
    for round_number in range(1, 21):
        challenge, value = mint()
        requests = [
            pkcs_req(csr(key, value), ca_certificate=ca_certificate, identity=signer(1)) for key in keys
        ]
        replies = all_at_once(requests, ca_certificate)
        assert count(replies, PkiStatus.SUCCESS) == 1
        assert count(replies, PkiStatus.FAILURE) == MANY - 1
        assert Certificate.objects.count() == round_number
        assert Transaction.objects.filter(challenge=challenge, status=TransactionStatus.SUCCESS).count() == 1


def test_one_request_that_waits_sent_many_times_at_once_waits_once(
    service: ScepService, ca_certificate: bytes
) -> None:
    ScepService.objects.update(challenge_mode=Mode.NONE, approval=ApprovalChoice.ALWAYS)
    sent = pkcs_req(csr(rsa_key(1)), ca_certificate=ca_certificate)
    replies = all_at_once([sent] * 20, ca_certificate)
    assert count(replies, PkiStatus.PENDING) == 20
    row = Transaction.objects.get()
    assert (row.status, row.repeats) == (TransactionStatus.PENDING, 19)


def test_a_request_that_many_approve_at_once_is_issued_once(
    service: ScepService, ca_certificate: bytes
) -> None:
    ScepService.objects.update(challenge_mode=Mode.NONE, approval=ApprovalChoice.ALWAYS)
    sent = pkcs_req(csr(rsa_key(1)), ca_certificate=ca_certificate)
    all_at_once([sent], ca_certificate)
    row = Transaction.objects.get()
    barrier = Barrier(AT_ONCE)

    def decide(number: int) -> bool:
        barrier.wait()
        mine = Transaction.objects.select_related("service").get(pk=row.pk)
        wanted = Proposal((("CN", f"router {number}"),))
        try:
            approvals.approve(mine, wanted, actor=Actor(name=f"person {number}"), now=NOW)
        except approvals.DecisionRefused:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert sum(pool.map(decide, range(AT_ONCE))) == 1
    assert Certificate.objects.count() == 1
    row.refresh_from_db()
    assert row.certificate == Certificate.objects.get()


def test_the_ra_certificate_is_made_once_however_many_ask(
    service: ScepService, ca_certificate: bytes
) -> None:
    ScepService.objects.update(ra_certificate=True)
    barrier = Barrier(AT_ONCE)

    def fetch(_number: int) -> bytes:
        barrier.wait()
        try:
            return Door().get("operation=GetCACert").content
        finally:
            connection.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert len(set(pool.map(fetch, range(AT_ONCE)))) == 1
    assert HeldKey.objects.count() == 1


def test_one_request_sent_many_times_at_once_gets_one_certificate(mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    sent = pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate)
    replies = all_at_once([sent] * MANY, ca_certificate)
    assert count(replies, PkiStatus.SUCCESS) == MANY
    assert len({reply.certificates for reply in replies}) == 1
    assert Certificate.objects.count() == 1
    assert Transaction.objects.get().repeats == MANY - 1
    assert not AuditEvent.objects.filter(action="scep.challenge_reused").exists()


def test_one_key_with_many_signers_at_once_gets_one_certificate(mint: Mint, ca_certificate: bytes) -> None:
    _challenge, value = mint()
    request = csr(rsa_key(1), value)
    requests = [
        pkcs_req(request, ca_certificate=ca_certificate, identity=signer(number % 4, f"signer {number}"))
        for number in range(20)
    ]
    replies = all_at_once(requests, ca_certificate)
    assert len({reply.certificates for reply in replies}) == 1
    assert Certificate.objects.count() == 1


def test_many_challenges_at_once_give_serial_numbers_that_are_all_different(
    mint: Mint, ca_certificate: bytes
) -> None:
    requests = [
        pkcs_req(csr(ec_key(), mint()[1]), ca_certificate=ca_certificate, identity=signer(1))
        for _ in range(MANY)
    ]
    replies = all_at_once(requests, ca_certificate)
    assert count(replies, PkiStatus.SUCCESS) == MANY
    assert Certificate.objects.values("serial_number").distinct().count() == MANY


@pytest.mark.parametrize("same_key", [True, False])
def test_one_certificate_is_renewed_once_however_many_ask(
    mint: Mint, ca_certificate: bytes, same_key: bool
) -> None:
    certificate = enrol(Door(), ca_certificate, mint()[1])
    requests = [
        pkcs_req(
            csr(rsa_key(2) if same_key else ec_key()),
            ca_certificate=ca_certificate,
            identity=holder(certificate),
            message_type=MessageType.RENEWAL_REQ,
        )
        for _ in range(20)
    ]
    replies = all_at_once(requests, ca_certificate)
    assert count(replies, PkiStatus.SUCCESS) == (20 if same_key else 1)
    assert certificate.renewals.filter(status=CertificateStatus.ISSUED).count() == 1
