"""PKIOperation: from the bytes of a request to a signed CertRep (RFC 8894 sections 3 and 4.3).

1. Verify the outer signature. Where that fails there is nobody to answer: HTTP 400.
2. Look at what everybody can see: type of message, digest, time, the signer's key, whom it is encrypted to.
   Then decrypt and read the content.
3. In one transaction: decide, claim the challenge, issue, record (:mod:`scep.granting`); or look up what
   became of a request (:mod:`scep.approvals`), or fetch a certificate or CRL (:mod:`scep.retrieval`).
4. Answer. A refusal is committed with its reason; the client is told little.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from audit import recording
from pki import issuers
from pki.core import cms
from pki.core.certificates import describe_holder, read_identifiers
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed
from scep import approvals, granting, recipients, retrieval, standing, transactions, webhooks
from scep.challenges import Found
from scep.core import capabilities, message
from scep.core.attributes import FailInfo
from scep.core.decision import Refusal, message_type_of
from scep.core.message import (
    Credentials,
    Opened,
    OpenedPoll,
    OpenedQuery,
    OpenedRequest,
    SignedRequest,
)
from scep.core.wire import MAX_MESSAGE, PKI_MESSAGE
from scep.models import ScepService
from scep.recipients import Recipient
from scep.standing import Standing
from scep.transactions import Asked, Held, Issued, Outcome, Retrieved, Signer

# Why a client was refused is read by people: names for what old clients use.
_KNOWN_ALGORITHMS = {
    "1.3.14.3.2.7": "DES",
    "1.2.840.113549.3.2": "RC2",
    "1.2.840.113549.3.4": "RC4",
    "2.16.840.1.101.3.4.1.22": "AES-192",
}
_RETRY_AFTER = 10


@dataclass(frozen=True)
class Reply:
    """What goes back over HTTP. ``failed``: it counts as a failure of the address that asked."""

    status: int
    content_type: str
    body: bytes = field(repr=False)
    failed: bool
    retry_after: int = 0


def pki_operation(
    stands: Standing, body: bytes, *, certain: bool, remote_addr: str, user_agent: str, now: datetime
) -> Reply:
    """Answer one PKIOperation. 400 while the outer signature is not verified, then 200 with a CertRep.

    ``certain``: whether ``stands`` was read for this request; else it is confirmed before anything is
    recorded. Raises :class:`scep.standing.Outdated` where it is not so any more.
    """
    if len(body) > MAX_MESSAGE:
        recording.refuse("scep", "message too large", remote_addr=remote_addr, now=now)
        return _plain(413, "too large")
    try:
        request = message.verify_request(body)
    except Malformed as fault:
        _confirm(stands, None, certain, now)
        recording.refuse(
            "scep", "outer signature not verified", remote_addr=remote_addr, detail=fault.reason, now=now
        )
        return _plain(400, "bad request")
    try:
        recipient = standing.recipient(stands, request.envelope, now)
    except (recipients.NotReady, issuers.IssuerMissing) as fault:
        _confirm(stands, None, certain, now)
        recording.refuse("scep", str(fault), remote_addr=remote_addr, target=stands.issuer, now=now)
        return _plain(400, "bad request")
    opened = _open(stands.service, request, recipient, now)
    asked = Asked(
        stands.service,
        request,
        _signer_of(request),
        remote_addr,
        user_agent,
        now,
        recipient=recipient.credentials.certificate,
        issuing_key=recipient.issuing_key,
        authority=stands.current,
        found=_confirm(stands, opened, certain, now),
    )
    try:
        outcome = opened if isinstance(opened, Refusal) else _settle(asked, opened)
    except webhooks.Busy:
        recording.refuse("scep", "the webhook is busy", remote_addr=remote_addr, now=now)
        return replace(_plain(503, "busy"), retry_after=_RETRY_AFTER)
    if isinstance(opened, Refusal):
        transactions.record(asked, None, None, opened)
    return _answer(asked, outcome, opened, recipient.credentials)


def _confirm(stands: Standing, opened: Opened | Refusal | None, certain: bool, now: datetime) -> Found | None:
    """Make sure of what was only remembered; its challenge is looked up along with it."""
    if certain:
        return None
    passwords = opened.csr.challenge_passwords if isinstance(opened, OpenedRequest) else ()
    return standing.confirm(stands, passwords, now)


def _settle(asked: Asked, opened: Opened) -> Outcome:
    match opened:
        case OpenedPoll():
            return approvals.poll(asked, opened)
        case OpenedQuery():
            return retrieval.fetch(asked, opened)
    return granting.settle(asked, opened)


# --- reading the request ---------------------------------------------------------------------------------


def _signer_of(request: SignedRequest) -> Signer | None:
    """For the record. A certificate may verify a signature and still hold what cannot be described."""
    try:
        return Signer(*describe_holder(request.signer))
    except Malformed:
        return None


def _open(
    service: ScepService, request: SignedRequest, recipient: Recipient, now: datetime
) -> Opened | Refusal:
    """The gates before any row is looked at."""
    message_type = message_type_of(request.header)
    if isinstance(message_type, Refusal):
        return message_type
    refusal = _weak_digest(service, request) or _wrong_time(service, request, now) or _weak_signer(request)
    if refusal:
        return refusal
    try:
        return message.open_envelope(
            request,
            message_type,
            recipient=recipient.credentials.certificate,
            private_key=recipient.credentials.private_key,
            random=secrets.token_bytes,
            ciphers=capabilities.ciphers(service.capabilities),
            allow_sha1=service.accept_sha1,
        )
    except cms.UnsupportedAlgorithm as unsupported:
        # From the clear part of the message: it tells nobody anything.
        return Refusal(FailInfo.BAD_ALG, _in_words(unsupported.reason))
    except Malformed as fault:
        # All that depends on what was decrypted is answered alike (threats C8, C9), up to and including the
        # CSR's own signature.
        return Refusal(FailInfo.BAD_MESSAGE_CHECK, fault.reason)


def _weak_digest(service: ScepService, request: SignedRequest) -> Refusal | None:
    """What a service does not advertise it does not take, whoever asks (section 7.5); SHA-1 is a switch."""
    digest = request.digest
    if digest in capabilities.digests(service.capabilities, sha1=service.accept_sha1):
        return None
    return Refusal(FailInfo.BAD_ALG, f"signed with {digest}, which this service does not accept")


def _wrong_time(service: ScepService, request: SignedRequest, now: datetime) -> Refusal | None:
    """signingTime, where the service asks for clocks that are right. Old and new devices' often are not."""
    allowed, signed_at = service.clock_minutes, request.header.signing_time
    if allowed is None or signed_at is None or abs(now - signed_at) <= timedelta(minutes=allowed):
        return None
    return Refusal(FailInfo.BAD_TIME, f"signed at {signed_at:%Y-%m-%d %H:%M:%S} UTC by the client's clock")


def _weak_signer(request: SignedRequest) -> Refusal | None:
    """The reply will be encrypted to the certificate that signed: decided before anything is issued."""
    try:
        key = verify_key(read_identifiers(request.signer).public_key)
    except (KeyRefused, Malformed) as refused:
        return Refusal(FailInfo.BAD_ALG, f"the key of the certificate that signed: {refused}")
    if not isinstance(key, RSAPublicKey):
        return Refusal(FailInfo.BAD_ALG, "the certificate that signed has no RSA key to encrypt the reply to")
    return None


def _in_words(reason: str) -> str:
    for oid, name in _KNOWN_ALGORITHMS.items():
        reason = reason.replace(f" {oid} ", f" {name} ")
    return reason


# --- the answer ------------------------------------------------------------------------------------------


def _answer(asked: Asked, outcome: Outcome, opened: Opened | Refusal, credentials: Credentials) -> Reply:
    request, now, random = asked.request, asked.now, secrets.token_bytes
    cipher = "" if isinstance(opened, Refusal) else opened.cipher
    match outcome:
        case Refusal():
            certrep = message.encode_failure(
                request, outcome.fail_info, credentials=credentials, random=random, now=now
            )
            return Reply(200, PKI_MESSAGE, certrep, failed=True)
        case Held():
            certrep = message.encode_pending(request, credentials=credentials, random=random, now=now)
            # Whoever fills the list of those that wait is slowed down like who guesses.
            return Reply(200, PKI_MESSAGE, certrep, failed=outcome.row is None)
        case Issued():
            found = Retrieved(certificates=(bytes(outcome.certificate.der),))
        case Retrieved():
            found = outcome
    certrep = message.encode_success(
        request,
        found.certificates,
        found.crls,
        cipher=cipher,
        credentials=credentials,
        random=random,
        now=now,
    )
    return Reply(200, PKI_MESSAGE, certrep, failed=False)


def _plain(status: int, text: str) -> Reply:
    return Reply(status, "text/plain", f"{text}\n".encode(), failed=status != 503)
