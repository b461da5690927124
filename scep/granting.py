"""Whether a request gets a certificate: one transaction that decides, claims, issues and records.

Issuing needs a :class:`pki.issuance.Grant`, and only what stands on a ground of :mod:`scep.core.decision`
makes one. A refusal is an outcome like any other: it is committed with its reason.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import transaction

from audit import recording
from audit.models import Outcome as AuditOutcome
from pki import issuance
from pki.core.certificates import alternative_names_of, subject_of
from pki.core.csr import SigningRequest
from pki.core.policy import KeyRefused, verify_key
from pki.issuance import Grant, IssuanceRefused
from pki.models import Certificate, CertificateStatus, Issuer, Purpose
from scep import challenges, signers, transactions
from scep.challenges import Found
from scep.core.attributes import FailInfo, MessageType
from scep.core.decision import ChallengeStanding, Ground, Refusal, Stranger, decide
from scep.core.message import OpenedRequest
from scep.models import Challenge
from scep.transactions import Asked, Issued, Outcome


@dataclass(frozen=True)
class _Wanted:
    """A request for a certificate that can be decided: opened, and its key is fit for one."""

    asked: Asked
    opened: OpenedRequest
    key_sha256: str


def settle(asked: Asked, opened: OpenedRequest) -> Outcome:
    """Decide and record, in one transaction."""
    wanted = _wanted(asked, opened)
    with transaction.atomic():
        found = challenges.find(opened.csr.challenge_passwords, asked.issuer, asked.now)
        outcome = wanted if isinstance(wanted, Refusal) else _answer(wanted, found)
        transactions.record(asked, opened, found.challenge, outcome)
    return outcome


def _wanted(asked: Asked, opened: OpenedRequest) -> _Wanted | Refusal:
    """The key policy. The key's fingerprint is taken as certificates write it, not as the CSR did."""
    try:
        key = verify_key(opened.csr.public_key)
    except KeyRefused as refused:
        return Refusal(FailInfo.BAD_ALG, f"the key of the request: {refused}")
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _Wanted(asked, opened, hashlib.sha256(spki).hexdigest())


def _answer(wanted: _Wanted, found: Found) -> Outcome:
    """The same request again, a new certificate, or a refusal."""
    asked = wanted.asked
    message_type = MessageType(asked.request.header.message_type)
    # An unused challenge spares two look-ups: its request was never answered, and who signed changes nothing.
    unused = found.standing is ChallengeStanding.LIVE
    if not unused and (earlier := transactions.successful(asked, wanted.opened)):
        return _again(earlier.certificate)
    if unused and message_type is MessageType.PKCS_REQ:
        known = signers.Known(Stranger())
    else:
        known = signers.identify(asked.request.signer, asked.issuer, asked.now)
    ground = decide(message_type, found.standing, known.signer)
    match ground:
        case Refusal():
            return ground
        case Ground.CHALLENGE if found.challenge:
            return _by_challenge(wanted, found.challenge)
        case Ground.CHALLENGE_AGAIN if found.challenge:
            return _by_used_challenge(wanted, found.challenge)
        case Ground.RENEWAL if known.certificate:
            return _by_renewal(wanted, known.certificate)
    raise AssertionError(f"{ground} without the row that it stands on")


def _again(certificate: Certificate | None, note: str = "") -> Outcome:
    """A lost reply is sent again (RFC 8894 section 5.2), but not a certificate that was revoked since."""
    if certificate is None or certificate.status == CertificateStatus.REVOKED:
        return Refusal(FailInfo.BAD_REQUEST, "the certificate of this request was revoked")
    return Issued(certificate, note)


def _by_challenge(wanted: _Wanted, challenge: Challenge) -> Outcome:
    """Claim and issue together: what is not issued leaves the challenge unused (threats B4)."""
    asked = wanted.asked
    grant = Grant(
        issuer=asked.issuer,
        purpose=Purpose(challenge.purpose),
        subject=challenge.subject_name,
        san=challenge.alternative_names,
        binding=challenge.binding,
        validity_days=challenge.validity_days,
        reason="SCEP challenge",
    )
    try:
        with transaction.atomic():
            claimed = challenges.claim(challenge, asked.now)
            if claimed:
                return _issue(wanted, grant)
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)
    # Another request took it in the meantime: perhaps this very one.
    return _by_used_challenge(wanted, challenge)


def _by_used_challenge(wanted: _Wanted, challenge: Challenge) -> Outcome:
    """The same key gets its certificate again; another key is a breach (RFC 8894 7.3, threats B3, B14)."""
    asked = wanted.asked
    earlier = transactions.of_challenge(challenge)
    if not earlier or earlier[0].certificate is None or not _same_key(earlier[0].certificate, wanted):
        reason = "the challenge was used before, by another key"
        _alarm(asked, challenge, AuditOutcome.REFUSED, reason)
        return Refusal(FailInfo.BAD_REQUEST, reason)
    signer_key = asked.signer.public_key_sha256 if asked.signer else ""
    if any(row.signer_key_sha256 != signer_key for row in earlier):
        note = "the same request came from different signers; they got the same certificate"
        _alarm(asked, challenge, AuditOutcome.DONE, note)
        return _again(earlier[0].certificate, note)
    return _again(earlier[0].certificate, "sent again: the challenge was used before, by this key")


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
    )
    try:
        with transaction.atomic():
            issued = _issue(wanted, grant)
            signers.arrived(signer, asked.now)
            return issued
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)


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
