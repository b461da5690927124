"""Whether a request gets a certificate: one transaction that decides, claims, issues and records.

Issuing needs a :class:`pki.issuance.Grant`, and only what stands on a ground of :mod:`scep.core.decision`
makes one. A refusal is an outcome like any other: it is committed with its reason. Where another system has
to be asked, it is asked between two such transactions, and the second decides anew with its answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import IntegrityError, transaction

from audit import recording
from audit.models import Outcome as AuditOutcome
from pki import issuance, keys
from pki.core.certificates import alternative_names_of, subject_of
from pki.core.csr import SigningRequest, asked_names
from pki.core.policy import KeyRefused, verify_key
from pki.issuance import Grant, IssuanceRefused
from pki.models import Certificate, CertificateStatus, Issuer, Purpose
from scep import approvals, challenges, signers, standing, statements, transactions, webhooks
from scep.challenges import Found
from scep.core.attributes import FailInfo, MessageType
from scep.core.decision import ChallengeMode, ChallengeStanding, Ground, Refusal, Stranger, decide
from scep.core.message import OpenedRequest
from scep.core.webhook import Permission, Question
from scep.models import Challenge, ScepService, Transaction, TransactionStatus
from scep.models import Proposal as ProposalChoice
from scep.transactions import Asked, Held, Issued, Outcome, Proposal

Verdict = Permission | Refusal
"""What the other system said: it agrees to this, or it does not."""


@dataclass(frozen=True)
class _Wanted:
    """A request for a certificate that can be decided: opened, and its key is fit for one."""

    asked: Asked
    opened: OpenedRequest
    public_key: bytes
    key_sha256: str

    @property
    def service(self) -> ScepService:
        return self.asked.service


def settle(asked: Asked, opened: OpenedRequest) -> Outcome:
    """Decide and record. Raises :class:`scep.webhooks.Busy`, with nothing recorded."""
    if issued := _at_once(asked, opened):
        return issued
    outcome = _decided(asked, opened, None)
    if not isinstance(outcome, Question):
        return outcome
    outcome = _decided(asked, opened, _verdict(asked.service, outcome))
    if isinstance(outcome, Question):
        raise AssertionError("the answer was not taken")
    return outcome


def _verdict(service: ScepService, question: Question) -> Verdict:
    try:
        return webhooks.ask(service, question)
    except webhooks.Denied as denied:
        return Refusal(FailInfo.BAD_REQUEST, denied.reason)


def _at_once(asked: Asked, opened: OpenedRequest) -> Issued | None:
    """An ordinary enrolment: an unused challenge, and nobody else is asked.

    Decided as always, and then written in one statement that takes the challenge, so that nobody waits for
    anybody. None where anything is otherwise, also where another request took the challenge meanwhile: then
    nothing was written, and all is decided anew in a transaction.
    """
    usual = MessageType(asked.request.header.message_type) is MessageType.PKCS_REQ
    authority = asked.authority
    rules = asked.service.rules
    if not usual or rules.mode is not ChallengeMode.BOUND or authority is None or asked.issuing_key:
        return None
    wanted, found = _wanted(asked, opened), asked.found or _find(asked, opened)
    if isinstance(wanted, Refusal) or found.challenge is None:
        return None
    if decide(MessageType.PKCS_REQ, found.standing, Stranger(), rules) is not Ground.CHALLENGE:
        return None
    grant = _grant_by(wanted, found.challenge)
    try:
        means = standing.means(authority, grant.purpose, found.profile)
        prepared = issuance.prepare(
            grant, wanted.opened.csr.public_key, means, actor=asked.actor, now=asked.now
        )
        issued = Issued(prepared.certificate, _ignored(opened.csr, prepared.certificate), fresh=True)
        row = transactions.new_row(asked, opened, found.challenge, issued)
        kept = statements.keep(found.challenge, prepared.certificate, prepared.event, row)
    except (IssuanceRefused, IntegrityError, keys.KeyUnavailable):
        return None
    return issued if kept else None


def _decided(asked: Asked, opened: OpenedRequest, verdict: Verdict | None) -> Outcome | Question:
    """In one transaction. A question to another system leaves nothing behind."""
    wanted = _wanted(asked, opened)
    with transaction.atomic():
        found = _find(asked, opened)
        outcome = wanted if isinstance(wanted, Refusal) else _answer(wanted, found, verdict)
        if not isinstance(outcome, Question):
            transactions.record(asked, opened, found.challenge, outcome)
    return outcome


def _wanted(asked: Asked, opened: OpenedRequest) -> _Wanted | Refusal:
    """The key policy. The key's fingerprint is taken as certificates write it, not as the CSR did."""
    try:
        key = verify_key(opened.csr.public_key)
    except KeyRefused as refused:
        return Refusal(FailInfo.BAD_ALG, f"the key of the request: {refused}")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _Wanted(asked, opened, spki, hashlib.sha256(spki).hexdigest())


def _find(asked: Asked, opened: OpenedRequest) -> Found:
    """What the challenge is worth. Only challenges made here are judged here."""
    passwords = opened.csr.challenge_passwords
    if asked.service.rules.mode is ChallengeMode.BOUND:
        return challenges.find(passwords, asked.issuer, asked.now)
    if len(passwords) > 1:
        return Found(ChallengeStanding.SEVERAL)
    present = bool(passwords) and 0 < len(passwords[0]) <= challenges.MAX_VALUE
    return Found(ChallengeStanding.PRESENTED if present else ChallengeStanding.ABSENT)


def _answer(wanted: _Wanted, found: Found, verdict: Verdict | None) -> Outcome | Question:
    """The same request again, a new certificate, a place among those that wait, or a refusal."""
    asked = wanted.asked
    message_type = MessageType(asked.request.header.message_type)
    # An unused challenge spares two look-ups: its request was never answered, and who signed changes nothing.
    unused = found.standing is ChallengeStanding.LIVE
    if not unused and (earlier := transactions.successful(asked, wanted.opened)):
        return _again(earlier.certificate)
    if unused and message_type is MessageType.PKCS_REQ:
        known = signers.Known(Stranger())
    else:
        known = signers.identify(asked.request.signer, asked.service, asked.now)
    ground = decide(message_type, found.standing, known.signer, asked.service.rules)
    match ground:
        case Refusal():
            return ground
        case Ground.CHALLENGE if found.challenge:
            return _by_challenge(wanted, found.challenge)
        case Ground.CHALLENGE_AND_APPROVAL if found.challenge:
            return _held_with_challenge(wanted, found.challenge)
        case Ground.CHALLENGE_AGAIN if found.challenge:
            return _by_used_challenge(wanted, found.challenge)
        case Ground.RENEWAL if known.certificate:
            return _by_renewal(wanted, known.certificate)
        case Ground.WEBHOOK | Ground.WEBHOOK_AND_APPROVAL:
            return _by_webhook(wanted, verdict, held=ground is Ground.WEBHOOK_AND_APPROVAL)
        case Ground.APPROVAL:
            return _held(wanted, _proposal(wanted))
    raise AssertionError(f"{ground} without the row that it stands on")


def _again(certificate: Certificate | None, note: str = "") -> Outcome:
    """A lost reply is sent again (RFC 8894 section 5.2), but not a certificate that was revoked since."""
    if certificate is None or certificate.status == CertificateStatus.REVOKED:
        return Refusal(FailInfo.BAD_REQUEST, "the certificate of this request was revoked")
    return Issued(certificate, note)


def _by_challenge(wanted: _Wanted, challenge: Challenge) -> Outcome:
    """Claim and issue together: what is not issued leaves the challenge unused (threats B4)."""
    asked, grant = wanted.asked, _grant_by(wanted, challenge)
    try:
        with transaction.atomic():
            claimed = challenges.claim(challenge, asked.now)
            if claimed:
                return _issue(wanted, grant)
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)
    # Another request took it in the meantime: perhaps this very one.
    return _by_used_challenge(wanted, challenge)


def _grant_by(wanted: _Wanted, challenge: Challenge) -> Grant:
    """The certificate that the challenge was made for."""
    return Grant(
        issuer=wanted.asked.issuer,
        purpose=Purpose(challenge.purpose),
        subject=challenge.subject_name,
        san=challenge.alternative_names,
        binding=challenge.binding,
        validity_days=challenge.validity_days,
        reason="SCEP challenge",
        issuer_key=wanted.asked.issuing_key,
    )


def _by_used_challenge(wanted: _Wanted, challenge: Challenge) -> Outcome:
    """The same key gets its certificate again; another key is a breach (RFC 8894 7.3, threats B3, B14)."""
    asked = wanted.asked
    earlier = transactions.of_challenge(challenge)
    if not earlier or not _of_same_key(earlier[0], wanted):
        if earlier_row := transactions.waiting(asked, wanted.opened):
            return transactions.refusal_of(earlier_row)
        reason = "the challenge was used before, by another key"
        _alarm(asked, challenge, AuditOutcome.REFUSED, reason)
        return Refusal(FailInfo.BAD_REQUEST, reason)
    if earlier[0].status == TransactionStatus.PENDING:
        return _held(wanted, _proposal_of(challenge))
    if any(row.signer_key_sha256 != asked.signer_key_sha256 for row in earlier):
        note = "the same request came from different signers; they got the same certificate"
        _alarm(asked, challenge, AuditOutcome.DONE, note)
        return _again(earlier[0].certificate, note)
    return _again(earlier[0].certificate, "sent again: the challenge was used before, by this key")


def _of_same_key(row: Transaction, wanted: _Wanted) -> bool:
    if row.status == TransactionStatus.PENDING:
        return bytes(row.csr_public_key or b"") == wanted.public_key
    return row.certificate is not None and _same_key(row.certificate, wanted)


def _alarm(asked: Asked, challenge: Challenge, outcome: AuditOutcome, reason: str) -> None:
    recording.record(
        "scep.challenge_reused",
        actor=asked.actor,
        target=challenge,
        outcome=outcome,
        reason=reason,
        details={"transaction_id": asked.request.header.transaction_id},
        at=asked.now,
    )


def _by_renewal(wanted: _Wanted, certificate: Certificate) -> Outcome:
    """A certificate in force renews itself: everything but the key and the time stays as it is."""
    asked = wanted.asked
    signer = signers.lock(certificate)
    if signer is None:
        return Refusal(FailInfo.BAD_REQUEST, "the certificate that signed is no longer in force")
    heirs = list(signers.heirs(signer, asked.now))
    for heir in heirs:
        if _same_key(heir, wanted):
            return _again(heir, "sent again: it was renewed with this key before")
    if heirs:
        return Refusal(
            FailInfo.BAD_REQUEST,
            f"the certificate that signed was renewed already, by {heirs[0].serial_number}; "
            "revoke that one if it never arrived",
        )
    der = bytes(signer.der)
    grant = Grant(
        issuer=asked.issuer,
        purpose=Purpose(signer.purpose),
        subject=subject_of(der),
        san=alternative_names_of(der),
        binding=signer.binding,
        validity_days=_inherited_validity(signer, asked.issuer),
        renewed_from=signer,
        reason="SCEP renewal",
        issuer_key=asked.issuing_key,
    )
    try:
        with transaction.atomic():
            issued = _issue(wanted, grant)
            signers.arrived(signer, asked.now)
            return issued
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)


# --- others are asked --------------------------------------------------------------------------------------


def _by_webhook(wanted: _Wanted, verdict: Verdict | None, *, held: bool) -> Outcome | Question:
    """First the question, then what was answered to it."""
    asked = wanted.asked
    if waiting := _decided_before(wanted):
        return waiting
    if verdict is None:
        proposal = _names_of(wanted)
        return Question(
            service=wanted.service.slug,
            challenge=wanted.opened.csr.challenge_passwords[0],
            transaction_id=asked.request.header.transaction_id,
            csr=wanted.opened.csr.der,
            subject=proposal.subject,
            san=proposal.san,
            remote_addr=asked.remote_addr,
        )
    if isinstance(verdict, Refusal):
        return verdict
    days = verdict.validity_days or wanted.service.validity_days
    if held:
        return _held(wanted, Proposal(verdict.subject, verdict.san, days))
    grant = Grant(
        issuer=asked.issuer,
        purpose=Purpose(wanted.service.purpose),
        subject=verdict.subject,
        san=verdict.san,
        validity_days=days,
        reason="SCEP, allowed by the webhook",
        issuer_key=asked.issuing_key,
    )
    # The same request may have been allowed twice at once: one of them issues.
    approvals.lock(wanted.service)
    if earlier := transactions.successful(asked, wanted.opened):
        return _again(earlier.certificate)
    try:
        with transaction.atomic():
            return _issue(wanted, grant)
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)


def _held_with_challenge(wanted: _Wanted, challenge: Challenge) -> Outcome:
    """The challenge is used up by waiting: nobody else can wait with it."""
    with transaction.atomic():
        if challenges.claim(challenge, wanted.asked.now):
            held = _held(wanted, _proposal_of(challenge))
            if isinstance(held, Refusal):
                transaction.set_rollback(True)
            return held
    return _by_used_challenge(wanted, challenge)


def _held(wanted: _Wanted, proposal: Proposal) -> Outcome:
    """A place among those that wait, or the one that it has already."""
    asked = wanted.asked
    approvals.lock(wanted.service)
    if decided := _decided_before(wanted):
        return decided
    if earlier := transactions.approved(asked, wanted.key_sha256):
        return _again(earlier.certificate, "sent again: it was approved before, for this key")
    if approvals.is_full(wanted.service, asked.now):
        return Refusal(FailInfo.BAD_REQUEST, "too many requests wait for approval")
    return Held(
        public_key=wanted.public_key,
        proposal=proposal,
        expires_at=asked.now + timedelta(days=wanted.service.pending_days),
    )


def _decided_before(wanted: _Wanted) -> Outcome | None:
    """The same answer to the very same request, while it waits and after somebody said no.

    One that lapsed may ask again.
    """
    row = transactions.waiting(wanted.asked, wanted.opened)
    if row is None:
        return None
    if row.status == TransactionStatus.PENDING:
        return None if approvals.lapse(row, wanted.asked.now) else Held(row)
    if row.status == TransactionStatus.SUCCESS:
        return _again(row.certificate)
    return transactions.refusal_of(row) if row.decided_by else None


def _proposal_of(challenge: Challenge) -> Proposal:
    return Proposal(challenge.subject_name, challenge.alternative_names, challenge.validity_days)


def _proposal(wanted: _Wanted) -> Proposal:
    """As much of the names asked for as the service proposes to the administrator."""
    names = _names_of(wanted)
    match wanted.service.proposal:
        case ProposalChoice.NOTHING:
            return Proposal(validity_days=wanted.service.validity_days)
        case ProposalChoice.SUBJECT:
            return Proposal(names.subject, validity_days=wanted.service.validity_days)
    return names


def _names_of(wanted: _Wanted) -> Proposal:
    names = asked_names(wanted.opened.csr)
    return Proposal(names.subject, names.alternative_names, wanted.service.validity_days)


# --- issuing -----------------------------------------------------------------------------------------------


def _inherited_validity(certificate: Certificate, issuer: Issuer) -> int | None:
    """The days that the certificate had, where they were fewer than the issuer's default."""
    days = (certificate.not_after - certificate.not_before).days
    return days if 0 < days < issuer.leaf_validity_days else None


def _issue(wanted: _Wanted, grant: Grant) -> Issued:
    csr, asked = wanted.opened.csr, wanted.asked
    certificate = issuance.issue(grant, csr.public_key, actor=asked.actor, now=asked.now)
    return Issued(certificate, _ignored(csr, certificate), fresh=True)


def _ignored(csr: SigningRequest, certificate: Certificate) -> str:
    """The subject that the CSR asked for is never taken: of it only the key is (threats B8, B10)."""
    return "" if csr.subject == certificate.subject else "asked for another subject: ignored"


def _same_key(certificate: Certificate, wanted: _Wanted) -> bool:
    return certificate.public_key_sha256 == wanted.key_sha256
