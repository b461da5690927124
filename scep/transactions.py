"""The record of PKIOperations: one row for each whose outer signature verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import F

from audit.recording import Actor
from pki.core.certificates import CertificateFacts
from pki.models import Certificate, Issuer
from scep.core.attributes import MessageType
from scep.core.decision import Refusal
from scep.core.message import OpenedRequest, SignedRequest
from scep.models import Challenge, Transaction, TransactionStatus


@dataclass(frozen=True)
class Asked:
    """A request, and what is known of who asked. ``signer`` is None where its certificate is unreadable."""

    issuer: Issuer
    request: SignedRequest = field(repr=False)
    signer: CertificateFacts | None
    remote_addr: str
    user_agent: str
    now: datetime

    @property
    def actor(self) -> Actor:
        """A client has no name that could be believed: the subject of its certificate stands for it."""
        name = legible(self.signer.subject, 150) if self.signer else ""
        return Actor(name=f"SCEP client {name}".strip(), remote_addr=self.remote_addr)


@dataclass(frozen=True)
class Issued:
    """The answer is this certificate, issued just now (``fresh``) or before.

    ``note``: what the administrator should know of it.
    """

    certificate: Certificate
    note: str = ""
    fresh: bool = False


Outcome = Issued | Refusal


def successful(asked: Asked, opened: OpenedRequest) -> Transaction | None:
    """The transaction that answered the very same request: same id, same CSR, same signer."""
    return (
        Transaction.objects.select_related("certificate")
        .filter(
            issuer=asked.issuer,
            transaction_id=asked.request.header.transaction_id,
            csr_sha256=opened.csr.sha256,
            signer_sha256=_sha256(asked.request.signer),
            status=TransactionStatus.SUCCESS,
        )
        .first()
    )


def of_challenge(challenge: Challenge) -> list[Transaction]:
    """The transactions in which the challenge brought a certificate, the first one first."""
    return list(
        Transaction.objects.select_related("certificate")
        .filter(challenge=challenge, status=TransactionStatus.SUCCESS)
        .order_by("id")
    )


def record(asked: Asked, opened: OpenedRequest | None, challenge: Challenge | None, outcome: Outcome) -> None:
    """Write the row; the same request with the same answer again is counted on the row that is there."""
    if opened and isinstance(outcome, Issued) and not outcome.fresh and (same := successful(asked, opened)):
        Transaction.objects.filter(pk=same.pk).update(repeats=F("repeats") + 1)
        return
    row = Transaction(
        issuer=asked.issuer,
        transaction_id=asked.request.header.transaction_id,
        message_type=_label(asked.request.header.message_type),
        signer_sha256=_sha256(asked.request.signer),
        digest=asked.request.digest,
        challenge=challenge,
        remote_addr=asked.remote_addr[:45],
        user_agent=legible(asked.user_agent, 200),
        created_at=asked.now,
    )
    if asked.signer:
        row.signer_subject = legible(asked.signer.subject, 500)
        row.signer_key_sha256 = asked.signer.public_key_sha256
    if opened:
        row.cipher = opened.cipher
        row.csr_sha256 = opened.csr.sha256
        row.csr_subject = legible(opened.csr.subject, 500)
        row.csr_key = legible(opened.csr.key, 40)
    if isinstance(outcome, Issued):
        row.status = TransactionStatus.SUCCESS
        row.certificate = outcome.certificate
        row.reason = legible(outcome.note, 500)
    else:
        row.status = TransactionStatus.FAILURE
        row.fail_info = outcome.fail_info.label
        row.reason = legible(outcome.reason, 500)
    row.save()


def legible(text: str, limit: int) -> str:
    """Text of strangers for the record: no control characters (PostgreSQL takes no NUL), and not endless."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text[:limit])


def _label(message_type: str) -> str:
    try:
        return MessageType(message_type).label
    except ValueError:
        return message_type[:20]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
