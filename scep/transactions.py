"""The record of PKIOperations: one row for each whose outer signature verified."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from django.db.models import F, Q

from audit.recording import Actor
from database import instances
from pki.core.csr import SigningRequest, asked_names
from pki.core.names import Name
from pki.models import Certificate, CertificateStatus, Issuer, IssuerKey
from scep.challenges import Found
from scep.core.attributes import FailInfo, MessageType
from scep.core.decision import ISSUING, Refusal
from scep.core.message import Opened, OpenedRequest, SignedRequest
from scep.models import Challenge, ScepService, Transaction, TransactionStatus
from scep.standing import Authority

San = tuple[tuple[str, str], ...]

_EXTENSIONS = {
    "2.5.29.14": "subjectKeyIdentifier",
    "2.5.29.15": "keyUsage",
    "2.5.29.17": "subjectAltName",
    "2.5.29.19": "basicConstraints",
    "2.5.29.30": "nameConstraints",
    "2.5.29.31": "cRLDistributionPoints",
    "2.5.29.32": "certificatePolicies",
    "2.5.29.35": "authorityKeyIdentifier",
    "2.5.29.37": "extKeyUsage",
    "1.3.6.1.5.5.7.1.1": "authorityInfoAccess",
    "1.3.6.1.4.1.311.20.2": "certificateTemplateName",
    "1.3.6.1.4.1.311.21.7": "certificateTemplate",
    "1.3.6.1.4.1.311.25.2": "objectSid",
}


class Signer(NamedTuple):
    """What the certificate that signed a request says of its holder, unverified."""

    subject: str
    public_key_sha256: str


@dataclass(frozen=True)
class Asked:
    """A request, and what is known of who asked. ``signer`` is None where its certificate is unreadable.

    ``recipient``: the certificate that it was encrypted to. ``issuing_key``: the key generation that has to
    issue, where it is not simply the current one. ``authority``: what the issuer signs with just now.
    ``found``: what its challenge is worth, where that was looked up already.
    """

    service: ScepService
    request: SignedRequest = field(repr=False)
    signer: Signer | None
    remote_addr: str
    user_agent: str
    now: datetime
    recipient: bytes = field(default=b"", repr=False)
    issuing_key: IssuerKey | None = None
    authority: Authority | None = field(default=None, repr=False)
    found: Found | None = field(default=None, repr=False)

    @property
    def issuer(self) -> Issuer:
        """Whose certificates the service gives out."""
        return self.service.issuer

    @property
    def actor(self) -> Actor:
        """A client has no name that could be believed: the subject of its certificate stands for it."""
        name = legible(self.signer.subject, 150) if self.signer else ""
        return Actor(name=f"SCEP client {name}".strip(), remote_addr=self.remote_addr)

    @property
    def signer_sha256(self) -> str:
        """Fingerprint of the certificate that signed."""
        return _sha256(self.request.signer)

    @property
    def signer_key_sha256(self) -> str:
        """Fingerprint of its key."""
        return self.signer.public_key_sha256 if self.signer else ""


@dataclass(frozen=True)
class Issued:
    """The answer is this certificate, issued just now (``fresh``) or before.

    ``note``: what the administrator should know of it.
    """

    certificate: Certificate
    note: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Proposal:
    """What the administrator finds in the form when the request is looked at."""

    subject: Name = ()
    san: San = ()
    validity_days: int | None = None


@dataclass(frozen=True)
class Held:
    """The answer is "wait": the request is open. ``row`` is the one that waits, None where it is new."""

    row: Transaction | None = None
    public_key: bytes = b""
    proposal: Proposal = Proposal()
    expires_at: datetime | None = None
    note: str = ""


@dataclass(frozen=True)
class Retrieved:
    """The answer to GetCert or GetCRL."""

    certificates: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    certificate: Certificate | None = None
    note: str = ""


Outcome = Issued | Held | Retrieved | Refusal


def successful(asked: Asked, opened: OpenedRequest) -> Transaction | None:
    """The transaction that answered the very same request: same id, same CSR, same signer."""
    return (
        Transaction.objects.select_related("certificate")
        .filter(
            issuer=asked.issuer,
            transaction_id=asked.request.header.transaction_id,
            csr_sha256=opened.csr.sha256,
            signer_sha256=asked.signer_sha256,
            status=TransactionStatus.SUCCESS,
        )
        .first()
    )


def waiting(asked: Asked, opened: OpenedRequest) -> Transaction | None:
    """The very same request, where it waits for approval or an administrator has decided about it."""
    return (
        Transaction.objects.filter(
            service=asked.service,
            transaction_id=asked.request.header.transaction_id,
            csr_sha256=opened.csr.sha256,
            signer_sha256=asked.signer_sha256,
        )
        .filter(Q(status=TransactionStatus.PENDING) | Q(decided_at__isnull=False))
        .order_by("-id")
        .first()
    )


def approved(asked: Asked, key_sha256: str) -> Transaction | None:
    """The same transaction by the same key, approved before: its client lost the answer and starts anew."""
    return (
        Transaction.objects.select_related("certificate")
        .filter(
            service=asked.service,
            transaction_id=asked.request.header.transaction_id,
            status=TransactionStatus.SUCCESS,
            decided_at__isnull=False,
            certificate__public_key_sha256=key_sha256,
            certificate__status=CertificateStatus.ISSUED,
            certificate__not_after__gt=asked.now,
        )
        .order_by("-id")
        .first()
    )


def polled(asked: Asked) -> Transaction | None:
    """The request that a CertPoll is about: its transactionID, and the key that signed (section 3.3.3)."""
    if not asked.signer_key_sha256:
        return None
    return (
        Transaction.objects.select_related("certificate")
        .filter(
            service=asked.service,
            transaction_id=asked.request.header.transaction_id,
            signer_key_sha256=asked.signer_key_sha256,
            message_type__in=[kind.label for kind in ISSUING],
        )
        .exclude(status=TransactionStatus.FAILURE, decided_at=None)
        .order_by("-id")
        .first()
    )


def of_challenge(challenge: Challenge) -> list[Transaction]:
    """The transactions in which the challenge brought a certificate, or may yet; the first one first."""
    return list(
        Transaction.objects.select_related("certificate")
        .filter(challenge=challenge, status__in=[TransactionStatus.SUCCESS, TransactionStatus.PENDING])
        .order_by("id")
    )


def record(asked: Asked, opened: Opened | None, challenge: Challenge | None, outcome: Outcome) -> None:
    """Write the row; the same request with the same answer again is counted on the row that is there."""
    same = _same(asked, opened, outcome)
    if same is not None:
        again(same, asked.now)
        return
    new_row(asked, opened, challenge, outcome).save(force_insert=True)


def new_row(
    asked: Asked, opened: Opened | None, challenge: Challenge | None, outcome: Outcome
) -> Transaction:
    """What :func:`record` writes for a request that was not asked before; not yet written."""
    row = instances.new(
        Transaction,
        service=asked.service,
        issuer=asked.issuer,
        transaction_id=asked.request.header.transaction_id,
        message_type=_label(asked.request.header.message_type),
        signer_sha256=asked.signer_sha256,
        signer_key_sha256=asked.signer_key_sha256,
        recipient_sha256=_sha256(asked.recipient) if asked.recipient else "",
        digest=asked.request.digest,
        challenge=challenge,
        remote_addr=asked.remote_addr[:45],
        user_agent=legible(asked.user_agent, 200),
        created_at=asked.now,
    )
    if asked.signer:
        row.signer_subject = legible(asked.signer.subject, 500)
    if opened:
        row.cipher = opened.cipher
    if isinstance(opened, OpenedRequest):
        _describe_csr(row, opened.csr)
    _describe_outcome(row, outcome)
    return row


def again(row: Transaction, now: datetime) -> None:
    """Count the same question with the same answer on the row that is there."""
    Transaction.objects.filter(pk=row.pk).update(repeats=F("repeats") + 1, last_asked_at=now)


def _same(asked: Asked, opened: Opened | None, outcome: Outcome) -> Transaction | None:
    match outcome:
        case Issued(fresh=False) if isinstance(opened, OpenedRequest):
            return successful(asked, opened)
        case Held(row=row):
            return row
        case Refusal() if isinstance(opened, OpenedRequest) and asked.service.rules.waits:
            earlier = waiting(asked, opened)
            if earlier is None or earlier.status != TransactionStatus.FAILURE:
                return None
            return earlier if earlier.reason == outcome.reason else None
        case Retrieved():
            return Transaction.objects.filter(
                service=asked.service,
                transaction_id=asked.request.header.transaction_id,
                message_type=_label(asked.request.header.message_type),
                signer_sha256=asked.signer_sha256,
                certificate=outcome.certificate,
                reason=outcome.note,
                status=TransactionStatus.SUCCESS,
            ).first()
    return None


def _describe_csr(row: Transaction, csr: SigningRequest) -> None:
    """What was asked for, for the administrator. Not the request itself: it holds the challenge."""
    row.csr_sha256 = csr.sha256
    row.csr_subject = legible(csr.subject, 500)
    row.csr_key = legible(csr.key, 40)
    names = asked_names(csr)
    row.csr_names = legible(
        ", ".join([*(f"{kind}:{value}" for kind, value in names.alternative_names), *names.left_out]), 500
    )
    row.csr_extensions = legible(", ".join(_EXTENSIONS.get(oid, oid) for oid in csr.extension_oids), 500)


def _describe_outcome(row: Transaction, outcome: Outcome) -> None:
    match outcome:
        case Issued():
            row.status = TransactionStatus.SUCCESS
            row.certificate = outcome.certificate
            row.reason = legible(outcome.note, 500)
        case Retrieved():
            row.status = TransactionStatus.SUCCESS
            row.certificate = outcome.certificate
            row.reason = legible(outcome.note, 500)
        case Held():
            row.status = TransactionStatus.PENDING
            row.csr_public_key = outcome.public_key
            row.proposed_subject = [list(pair) for pair in outcome.proposal.subject]
            row.proposed_names = [list(pair) for pair in outcome.proposal.san]
            row.proposed_days = outcome.proposal.validity_days
            row.expires_at = outcome.expires_at
            row.reason = legible(outcome.note, 500)
        case Refusal():
            row.status = TransactionStatus.FAILURE
            row.fail_info = outcome.fail_info.label
            row.reason = legible(outcome.reason, 500)


def refusal_of(row: Transaction) -> Refusal:
    """The refusal that a row records, to be given again."""
    by_label = {info.label: info for info in FailInfo}
    return Refusal(by_label.get(row.fail_info, FailInfo.BAD_REQUEST), row.reason)


def legible(text: str, limit: int) -> str:
    """Text of strangers for the record: no control characters (PostgreSQL takes no NUL), and not endless."""
    text = text[:limit]
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _label(message_type: str) -> str:
    try:
        return MessageType(message_type).label
    except ValueError:
        return message_type[:20]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
