"""PKIOperation: from the bytes of a request to a signed CertRep (RFC 8894 sections 3 and 4.3).

1. Verify the outer signature. Where that fails there is nobody to answer: HTTP 400.
2. Look at the type of message and at the signer's key, then decrypt and read the CSR.
3. In one transaction: decide, claim the challenge, issue, record (:mod:`scep.granting`).
4. Answer. A refusal is committed with its reason; the client is told little.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from audit import recording
from pki import issuers, keys
from pki.core import cms
from pki.core.certificates import CertificateFacts, describe, read_identifiers
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed
from pki.models import Issuer
from scep import granting, transactions
from scep.core import message
from scep.core.attributes import FailInfo
from scep.core.decision import Refusal, message_type_of
from scep.core.message import OpenedRequest, SignedRequest
from scep.core.wire import MAX_MESSAGE, PKI_MESSAGE
from scep.transactions import Asked, Issued

# Why a client was refused is read by people: names for what old clients use.
_KNOWN_ALGORITHMS = {
    "1.3.14.3.2.7": "DES",
    "1.2.840.113549.3.2": "RC2",
    "1.2.840.113549.3.4": "RC4",
    "2.16.840.1.101.3.4.1.22": "AES-192",
}


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
    if authority is None:
        recording.refuse("scep", "issuer without an RSA key", remote_addr=remote_addr, target=issuer, now=now)
        return Reply(400, "text/plain", b"bad request\n", failed=True)
    asked = Asked(issuer, request, _facts_of(request), remote_addr, user_agent, now)
    opened = _open(asked, authority)
    if isinstance(opened, Refusal):
        transactions.record(asked, None, None, opened)
        return _failure(request, opened, authority, now)
    outcome = granting.settle(asked, opened)
    if isinstance(outcome, Refusal):
        return _failure(request, outcome, authority, now)
    return _success(request, outcome, opened, authority, now)


# --- reading the request ---------------------------------------------------------------------------------


def _authority(issuer: Issuer) -> _Authority | None:
    """The issuer's certificate and key now; None where the key is not RSA, since clients encrypt to it."""
    issuer_key = issuers.current_key(issuer)
    private_key = keys.issuer_private_key(issuer_key)
    if not isinstance(private_key, RSAPrivateKey):
        return None
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


def _in_words(reason: str) -> str:
    for oid, name in _KNOWN_ALGORITHMS.items():
        reason = reason.replace(f" {oid} ", f" {name} ")
    return reason


# --- the answer ------------------------------------------------------------------------------------------


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
