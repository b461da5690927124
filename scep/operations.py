"""PKIOperation: from the bytes of a request to a signed CertRep (RFC 8894 sections 3 and 4.3).

1. Verify the outer signature. Where that fails there is nobody to answer: HTTP 400.
2. Look at the type of message and at who signed, then decrypt, read the CSR, look at its key.
3. In one transaction: decide, claim the challenge, issue, record.
4. Answer. A refusal is committed with its reason; the client is told little.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from django.db import transaction

from audit import recording
from audit.models import Outcome as AuditOutcome
from pki import issuance, issuers, keys
from pki.core import cms
from pki.core.certificates import (
    CertificateFacts,
    alternative_names_of,
    describe,
    read_identifiers,
    subject_of,
)
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed
from pki.issuance import Grant, IssuanceRefused
from pki.models import Certificate, CertificateStatus, Issuer, Purpose
from scep import challenges, signers, transactions
from scep.challenges import Found
from scep.core import message
from scep.core.attributes import FailInfo, MessageType
from scep.core.decision import Ground, Refusal, decide, message_type_of
from scep.core.message import OpenedRequest, SignedRequest
from scep.core.wire import MAX_MESSAGE, PKI_MESSAGE
from scep.models import Challenge
from scep.transactions import Asked, Issued, Outcome

# Why a client was refused is read by people: names for what old clients use.
_KNOWN_ALGORITHMS = {
    "1.3.14.3.2.7": "DES",
    "1.2.840.113549.3.2": "RC2",
    "1.2.840.113549.3.4": "RC4",
    "2.16.840.1.101.3.4.1.22": "AES-192",
}
_BASIC_CONSTRAINTS = "2.5.29.19"


@dataclass(frozen=True)
class Reply:
    """What goes back over HTTP. ``failed``: it counts as a failure of the address that asked."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    failed: bool


@dataclass(frozen=True)
class _Authority:
    """The issuer's side of the conversation."""

    issuer: Issuer
    certificate: bytes
    private_key: RSAPrivateKey = field(repr=False)


def pki_operation(issuer: Issuer, body: bytes, *, remote_addr: str, user_agent: str, now: datetime) -> Reply:
    """Answer one PKIOperation. 400 while the outer signature is not verified, then 200 with a CertRep."""
    if len(body) > MAX_MESSAGE:
        recording.refuse("scep", "message too large", remote_addr=remote_addr, now=now)
        return Reply(413, "text/plain", b"too large\n", failed=True)
    try:
        request = message.verify_request(body)
    except Malformed as fault:
        recording.refuse(
            "scep", "outer signature not verified", remote_addr=remote_addr, detail=fault.reason, now=now
        )
        return Reply(400, "text/plain", b"bad request\n", failed=True)
    authority = _authority(issuer)
    asked = Asked(issuer, request, _facts_of(request), remote_addr, user_agent, now)
    opened = _open(asked, authority)
    if isinstance(opened, Refusal):
        transactions.record(asked, None, None, opened)
        return _failure(request, opened, authority, now)
    outcome = _settle(asked, opened)
    if isinstance(outcome, Refusal):
        return _failure(request, outcome, authority, now)
    return _success(request, outcome, opened, authority, now)


# --------------------------------------------------------------------------------------- reading the request


def _authority(issuer: Issuer) -> _Authority:
    issuer_key = issuers.current_key(issuer)
    private_key = keys.issuer_private_key(issuer_key)
    if not isinstance(private_key, RSAPrivateKey):
        raise TypeError(f"issuer {issuer.slug} has no RSA key; SCEP encrypts to the CA, and only RSA can")
    return _Authority(issuer, bytes(issuers.current_certificate(issuer_key).der), private_key)


def _facts_of(request: SignedRequest) -> CertificateFacts | None:
    """For the record. A certificate may verify a signature and still hold what cannot be described."""
    try:
        return describe(request.signer)
    except Malformed:
        return None


def _open(asked: Asked, authority: _Authority) -> OpenedRequest | Refusal:
    """The gates before any row is looked at."""
    message_type = message_type_of(asked.request.header)
    if isinstance(message_type, Refusal):
        return message_type
    if refusal := _weak_signer(asked.request):
        return refusal
    try:
        return message.open_request(
            asked.request,
            recipient=authority.certificate,
            private_key=authority.private_key,
            random=secrets.token_bytes,
        )
    except cms.UnsupportedAlgorithm as unsupported:
        # From the clear part of the message: it tells nobody anything.
        return Refusal(FailInfo.BAD_ALG, _in_words(unsupported.reason))
    except Malformed as fault:
        # All that depends on what was decrypted is answered alike (threats C8, C9), up to and including the
        # CSR's own signature.
        return Refusal(FailInfo.BAD_MESSAGE_CHECK, fault.reason)


def _weak_signer(request: SignedRequest) -> Refusal | None:
    """The reply will be encrypted to the certificate that signed: decided before anything is issued."""
    try:
        key = verify_key(read_identifiers(request.signer).public_key)
    except (KeyRefused, Malformed) as refused:
        return Refusal(FailInfo.BAD_ALG, f"the key of the certificate that signed: {refused}")
    if not isinstance(key, RSAPublicKey):
        return Refusal(FailInfo.BAD_ALG, "the certificate that signed has no RSA key to encrypt the reply to")
    return None


def _weak_key(opened: OpenedRequest) -> Refusal | None:
    try:
        verify_key(opened.csr.public_key)
    except KeyRefused as refused:
        return Refusal(FailInfo.BAD_ALG, f"the key of the request: {refused}")
    return None


def _in_words(reason: str) -> str:
    for oid, name in _KNOWN_ALGORITHMS.items():
        reason = reason.replace(f" {oid} ", f" {name} ")
    return reason


# --------------------------------------------------------------------------------------------- the decision


def _settle(asked: Asked, opened: OpenedRequest) -> Outcome:
    """Decide and record, in one transaction."""
    weak = _weak_key(opened)
    with transaction.atomic():
        found = challenges.find(opened.csr.challenge_passwords, asked.issuer, asked.now)
        outcome = weak or _answer(asked, opened, found)
        transactions.record(asked, opened, found.challenge, outcome)
    return outcome


def _answer(asked: Asked, opened: OpenedRequest, found: Found) -> Outcome:
    """The same request again, a new certificate, or a refusal."""
    if earlier := transactions.successful(asked, opened):
        return _again(earlier.certificate)
    known = signers.identify(asked.request.signer, asked.issuer, asked.now)
    ground = decide(MessageType(asked.request.header.message_type), found.standing, known.signer)
    match ground:
        case Refusal():
            return ground
        case Ground.CHALLENGE if found.challenge:
            return _by_challenge(asked, opened, found.challenge)
        case Ground.CHALLENGE_AGAIN if found.challenge:
            return _by_used_challenge(asked, opened, found.challenge)
        case Ground.RENEWAL if known.certificate:
            return _by_renewal(asked, opened, known.certificate)
    raise AssertionError(f"{ground} without the row that it stands on")


def _again(certificate: Certificate | None, note: str = "") -> Outcome:
    """A lost reply is sent again (RFC 8894 section 5.2), but not a certificate that was revoked since."""
    if certificate is None or certificate.status == CertificateStatus.REVOKED:
        return Refusal(FailInfo.BAD_REQUEST, "the certificate of this request was revoked")
    return Issued(certificate, note)


def _by_challenge(asked: Asked, opened: OpenedRequest, challenge: Challenge) -> Outcome:
    """Claim and issue together: what is not issued leaves the challenge unused (threats B4)."""
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
                return _issue(asked, opened, grant)
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)
    # Another request took it in the meantime: perhaps this very one.
    return _by_used_challenge(asked, opened, challenge)


def _by_used_challenge(asked: Asked, opened: OpenedRequest, challenge: Challenge) -> Outcome:
    """The same key gets its certificate again; another key is a breach (RFC 8894 7.3, threats B3, B14)."""
    earlier = transactions.of_challenge(challenge)
    if not earlier or earlier[0].certificate is None or not _same_key(earlier[0].certificate, opened):
        reason = "the challenge was used before, by another key"
        _alarm(asked, challenge, AuditOutcome.REFUSED, reason)
        return Refusal(FailInfo.BAD_REQUEST, reason)
    if asked.signer is None or any(
        row.signer_key_sha256 != asked.signer.public_key_sha256 for row in earlier
    ):
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


def _by_renewal(asked: Asked, opened: OpenedRequest, certificate: Certificate) -> Outcome:
    """A certificate in force renews itself: everything but the key and the time stays as it is."""
    signer = signers.lock(certificate)
    if signer is None:
        return Refusal(FailInfo.BAD_REQUEST, "the certificate that signed is no longer in force")
    heirs = list(signers.heirs(signer, asked.now))
    for heir in heirs:
        if _same_key(heir, opened):
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
        renewed_from=signer,
        reason="SCEP renewal",
    )
    try:
        with transaction.atomic():
            issued = _issue(asked, opened, grant)
            signers.arrived(signer, asked.now)
            return issued
    except IssuanceRefused as refused:
        return Refusal(FailInfo.BAD_REQUEST, refused.reason)


def _issue(asked: Asked, opened: OpenedRequest, grant: Grant) -> Issued:
    certificate = issuance.issue(grant, opened.csr.public_key, actor=asked.actor, now=asked.now)
    return Issued(certificate, _ignored(opened, certificate))


def _ignored(opened: OpenedRequest, certificate: Certificate) -> str:
    """What the CSR asked for and did not get: of it only the key is taken (threats B8, B10)."""
    ignored = []
    if opened.csr.subject != certificate.subject:
        ignored.append("another subject")
    if _BASIC_CONSTRAINTS in opened.csr.extension_oids:
        ignored.append("to be a CA")
    return f"asked for {' and '.join(ignored)}: ignored" if ignored else ""


def _same_key(certificate: Certificate, opened: OpenedRequest) -> bool:
    return certificate.public_key_sha256 == hashlib.sha256(opened.csr.public_key).hexdigest()


# ----------------------------------------------------------------------------------------------- the answer


def _failure(request: SignedRequest, refusal: Refusal, authority: _Authority, now: datetime) -> Reply:
    certrep = message.encode_failure(
        request,
        refusal.fail_info,
        ca_certificate=authority.certificate,
        private_key=authority.private_key,
        random=secrets.token_bytes,
        now=now,
    )
    return Reply(200, PKI_MESSAGE, certrep, failed=True)


def _success(
    request: SignedRequest, issued: Issued, opened: OpenedRequest, authority: _Authority, now: datetime
) -> Reply:
    certrep = message.encode_success(
        request,
        bytes(issued.certificate.der),
        cipher=opened.cipher,
        ca_certificate=authority.certificate,
        private_key=authority.private_key,
        random=secrets.token_bytes,
        now=now,
    )
    return Reply(200, PKI_MESSAGE, certrep, failed=False)
