"""Requests that wait for a person: put aside, polled for, approved exactly as shown, or rejected.

Row states: PENDING, then SUCCESS (approved: issued in the same transaction) or FAILURE (rejected, or lapsed
because nobody decided in time). Whoever asks again, by CertPoll or by the same request, gets what the row
says.
"""

from __future__ import annotations

from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet

from audit import recording
from audit.models import Outcome as AuditOutcome
from audit.recording import Actor
from pki import issuance
from pki.issuance import Grant, IssuanceRefused
from pki.models import Certificate, CertificateStatus, IssuerKey, IssuerKeyState, Purpose
from scep import transactions
from scep.core.attributes import FailInfo
from scep.core.decision import Refusal
from scep.core.message import OpenedPoll
from scep.models import ScepService, Transaction, TransactionStatus
from scep.transactions import Asked, Held, Issued, Outcome, Proposal

MAX_OPEN = 500
"""Requests that may wait at one service: strangers send them."""

LAPSED = "nobody decided in time"


class DecisionRefused(Exception):
    """The request cannot be decided so; ``reason`` says why, for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


# --- for the client ----------------------------------------------------------------------------------------


def lock(service: ScepService) -> None:
    """Requests at one service that wait follow each other, in the caller's transaction."""
    ScepService.objects.select_for_update(of=("self",)).get(pk=service.pk)


def is_full(service: ScepService, now: datetime) -> bool:
    """Whether no more may wait."""
    return open_requests(now).filter(service=service).count() >= MAX_OPEN


def open_requests(now: datetime) -> QuerySet[Transaction]:
    """The requests that somebody may decide about now."""
    return Transaction.objects.filter(status=TransactionStatus.PENDING, expires_at__gt=now)


def lapse(row: Transaction, now: datetime) -> bool:
    """End a request whose time is over. False where it is not over yet."""
    if row.expires_at is not None and row.expires_at > now:
        return False
    _lapse(Transaction.objects.filter(pk=row.pk), now)
    row.refresh_from_db()
    return True


def lapse_all(now: datetime) -> int:
    """End every request whose time is over; returns how many."""
    return _lapse(Transaction.objects.filter(expires_at__lte=now), now)


def _lapse(rows: QuerySet[Transaction], now: datetime) -> int:
    return rows.filter(status=TransactionStatus.PENDING).update(
        status=TransactionStatus.FAILURE,
        fail_info=FailInfo.BAD_REQUEST.label,
        reason=LAPSED,
        decided_at=now,
        csr_public_key=None,
    )


def poll(asked: Asked, opened: OpenedPoll) -> Outcome:
    """Answer CertPoll: what became of the request with this transactionID, by the key that signed it.

    What the content names is not looked at: several requests of one subject are told apart by their
    transactionID (sections 3.3.3 and 4.4). After issuing, the certificate is given as often as it is asked
    for (section 5.2).
    """
    with transaction.atomic():
        row = transactions.polled(asked)
        outcome = _polled(row, asked)
        if row is not None:
            transactions.again(row, asked.now)
        else:
            transactions.record(asked, opened, None, outcome)
    return outcome


def _polled(row: Transaction | None, asked: Asked) -> Outcome:
    if row is None:
        return Refusal(FailInfo.BAD_CERT_ID, "no request with this transactionID and signer waits here")
    if row.status == TransactionStatus.PENDING and not lapse(row, asked.now):
        return Held(row)
    if row.status == TransactionStatus.SUCCESS and row.certificate is not None:
        if row.certificate.status == CertificateStatus.REVOKED:
            return Refusal(FailInfo.BAD_REQUEST, "the certificate of this request was revoked")
        return Issued(row.certificate)
    return transactions.refusal_of(row)


# --- for the administrator ---------------------------------------------------------------------------------


def grant_of(row: Transaction, proposal: Proposal) -> Grant:
    """What would be issued if the request were approved so: the same for the preview and for the issuer."""
    challenge = row.challenge
    return Grant(
        issuer=row.issuer,
        purpose=Purpose(challenge.purpose if challenge else row.service.purpose),
        subject=proposal.subject,
        san=proposal.san,
        binding=challenge.binding if challenge else None,
        validity_days=proposal.validity_days,
        reason="SCEP, approved by an administrator",
        issuer_key=_issuing_key(row),
    )


def approve(row: Transaction, proposal: Proposal, *, actor: Actor, now: datetime) -> Certificate:
    """Issue exactly what ``proposal`` says, for the key of the request. Raises :class:`DecisionRefused`.

    Other open requests at the service for the same key get the same certificate: they are the same client,
    which lost its patience.
    """
    with transaction.atomic():
        locked = _locked(row, now)
        public_key = bytes(locked.csr_public_key or b"")
        try:
            with transaction.atomic():
                certificate = issuance.issue(grant_of(locked, proposal), public_key, actor=actor, now=now)
        except IssuanceRefused as refused:
            raise DecisionRefused(refused.reason) from None
        for waiting in _same_client(locked):
            _settle(waiting, actor, now, status=TransactionStatus.SUCCESS, certificate=certificate)
        recording.record(
            "scep_request.approved",
            actor=actor,
            target=locked,
            details={
                "service": locked.service.slug,
                "subject": certificate.subject,
                "serial_number": certificate.serial_number,
                "transaction_id": locked.transaction_id,
            },
            at=now,
        )
    return certificate


def reject(row: Transaction, reason: str, *, actor: Actor, now: datetime) -> None:
    """Refuse an open request; the reason is for the record, devices show none.

    Raises :class:`DecisionRefused`.
    """
    with transaction.atomic():
        locked = _locked(row, now)
        said = f"rejected: {reason}" if reason else "rejected"
        for waiting in _same_client(locked):
            _settle(waiting, actor, now, status=TransactionStatus.FAILURE, reason=said)
        recording.record(
            "scep_request.rejected",
            actor=actor,
            target=locked,
            outcome=AuditOutcome.DONE,
            reason=reason,
            details={"service": locked.service.slug, "transaction_id": locked.transaction_id},
            at=now,
        )


def _locked(row: Transaction, now: datetime) -> Transaction:
    """The row, which nobody else decides about at the same time."""
    lock(row.service)
    locked = Transaction.objects.select_related("service", "issuer", "challenge").get(pk=row.pk)
    if locked.status != TransactionStatus.PENDING:
        raise DecisionRefused("this request does not wait for a decision any more")
    if locked.expires_at is not None and locked.expires_at <= now:
        raise DecisionRefused("this request has lapsed")
    return locked


def _same_client(row: Transaction) -> list[Transaction]:
    """The row, and other open requests of its service for the same key and challenge."""
    return list(
        Transaction.objects.filter(
            service=row.service,
            status=TransactionStatus.PENDING,
            csr_public_key=bytes(row.csr_public_key or b""),
            challenge=row.challenge,
        )
    )


def _settle(
    row: Transaction,
    actor: Actor,
    now: datetime,
    *,
    status: TransactionStatus,
    certificate: Certificate | None = None,
    reason: str = "",
) -> None:
    row.status = status
    row.certificate = certificate
    row.fail_info = "" if status == TransactionStatus.SUCCESS else FailInfo.BAD_REQUEST.label
    row.reason = transactions.legible(reason, 500)
    row.decided_at = now
    row.decided_by = actor.name[:200]
    row.csr_public_key = None
    row.save()


def _issuing_key(row: Transaction) -> IssuerKey | None:
    """The next key generation, where the request was encrypted to it and it is still the next one."""
    following = (
        row.issuer.keys.filter(state=IssuerKeyState.NEXT, certificates__sha256=row.recipient_sha256 or "-")
        .select_related("issuer")
        .first()
    )
    if following is not None or not row.recipient_sha256:
        return following
    held = (
        Certificate.objects.filter(
            sha256=row.recipient_sha256,
            purpose=Purpose.SCEP_RECIPIENT,
            issuer_key__issuer=row.issuer,
            issuer_key__state=IssuerKeyState.NEXT,
        )
        .select_related("issuer_key__issuer")
        .first()
    )
    return held.issuer_key if held else None
