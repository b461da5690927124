"""Sending a request by the door and looking at what came of it."""

from __future__ import annotations

import hashlib

from pki.models import Certificate
from scep.core.attributes import FailInfo, PkiStatus
from scep.core.message import CertRep, Identity
from scep.models import Transaction, TransactionStatus
from tests.scep.support import Door, Sent, csr, pkcs_req, rsa_key


def ask(door: Door, sent: Sent, ca_certificate: bytes) -> CertRep:
    """Send it and open the answer, which is a CertRep whatever it says."""
    response = door.post(sent.body)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-pki-message"
    return sent.open(response.content, ca_certificate)


def enrol(door: Door, ca_certificate: bytes, value: str, key: int = 1) -> Certificate:
    """A first enrolment with ``rsa_key(key)``; the row of the certificate."""
    reply = ask(door, pkcs_req(csr(rsa_key(key), value), ca_certificate=ca_certificate), ca_certificate)
    return issued(reply)


def issued(reply: CertRep) -> Certificate:
    """The row of the certificate that the reply brought."""
    assert reply.status is PkiStatus.SUCCESS, reply.fail_info
    return Certificate.objects.get(sha256=hashlib.sha256(reply.certificates[0]).hexdigest())


def refused(reply: CertRep, fail_info: FailInfo, reason: str) -> Transaction:
    """It was refused so, and the administrator can read why."""
    assert (reply.status, reply.fail_info) == (PkiStatus.FAILURE, fail_info)
    row = Transaction.objects.latest("id")
    assert (row.status, row.fail_info) == (TransactionStatus.FAILURE, fail_info.label)
    assert reason in row.reason
    return row


def pending(reply: CertRep) -> Transaction:
    """It was told to wait; the row that waits."""
    assert reply.status is PkiStatus.PENDING, reply.fail_info
    assert reply.certificates == ()
    return Transaction.objects.filter(
        transaction_id=reply.transaction_id, status=TransactionStatus.PENDING
    ).latest("id")


def holder(certificate: Certificate, key: int = 1) -> Identity:
    """Who can sign with the certificate's key."""
    return Identity(bytes(certificate.der), rsa_key(key))
