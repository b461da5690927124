"""Who gets a certificate: a pure table, without a database, keys or a clock.

On the way in come three facts: the type of the message, what the challenge is worth, and who signed. On the
way out comes the ground on which a certificate may be issued, or a refusal. Issuance needs the ground, so a
type of message that nobody thought of cannot skip the question (CVE-2026-30836).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from scep.core.attributes import FailInfo, Header, MessageType

ISSUING = frozenset({MessageType.PKCS_REQ, MessageType.RENEWAL_REQ})
NOT_YET = frozenset({MessageType.CERT_POLL, MessageType.GET_CERT, MessageType.GET_CRL})


@dataclass(frozen=True)
class Refusal:
    """What the client is told (``fail_info``), and what the administrator reads (``reason``)."""

    fail_info: FailInfo
    reason: str


class ChallengeStanding(Enum):
    """What the challengePassword inside the CSR is worth."""

    ABSENT = "no challenge password"
    SEVERAL = "several challenge passwords"
    UNKNOWN = "unknown challenge password"
    FOREIGN = "the challenge was made for another issuer"
    EXPIRED = "the challenge has expired"
    USED = "the challenge was used before"
    LIVE = "unused challenge"


@dataclass(frozen=True)
class Stranger:
    """Signed by a certificate that this server did not issue, as a first enrolment is."""


@dataclass(frozen=True)
class Holder:
    """Signed by the key of a certificate that this issuer issued and that is in force."""


@dataclass(frozen=True)
class Barred:
    """Signed by a certificate of this server that may not be renewed; ``why``: expired, revoked, …"""

    why: str


Signer = Stranger | Holder | Barred


class Ground(Enum):
    """Why a certificate may be issued."""

    CHALLENGE = "the challenge"
    RENEWAL = "the certificate that signed"
    CHALLENGE_AGAIN = "the challenge, used before: only for what it was used for"


def message_type_of(header: Header) -> MessageType | Refusal:
    """The first gate: PKCSReq or RenewalReq, and nothing else, before any other work."""
    if header.faults:
        return Refusal(FailInfo.BAD_REQUEST, "; ".join(header.faults))
    try:
        message_type = MessageType(header.message_type)
    except ValueError:
        return Refusal(FailInfo.BAD_REQUEST, f"{header.message_type!r} is not a type of message")
    if message_type in ISSUING:
        return message_type
    if message_type in NOT_YET:
        return Refusal(FailInfo.BAD_REQUEST, f"{message_type.label} is not supported")
    return Refusal(FailInfo.BAD_REQUEST, f"{message_type.label} is not a request")


def decide(message_type: MessageType, challenge: ChallengeStanding, signer: Signer) -> Ground | Refusal:
    """On which ground to issue, or why not.

    RenewalReq: only who signed counts. PKCSReq: a live challenge counts first (an ordinary enrolment, also
    when an old identity signs it); without one, a certificate in force renews itself, because most clients
    renew by PKCSReq (RFC 8894 section 2.3, and scep-and-ca rule 6).
    """
    if message_type not in ISSUING:
        return Refusal(FailInfo.BAD_REQUEST, f"{message_type.label} does not ask for a certificate")
    if challenge is ChallengeStanding.SEVERAL:
        return Refusal(FailInfo.BAD_REQUEST, challenge.value)
    if message_type is MessageType.PKCS_REQ and challenge is ChallengeStanding.LIVE:
        return Ground.CHALLENGE
    if isinstance(signer, Holder):
        return Ground.RENEWAL
    if message_type is MessageType.RENEWAL_REQ:
        why = signer.why if isinstance(signer, Barred) else "it was not issued here"
        return Refusal(FailInfo.BAD_REQUEST, f"the certificate that signed may not be renewed: {why}")
    if challenge is ChallengeStanding.USED:
        return Ground.CHALLENGE_AGAIN
    reason = challenge.value
    if isinstance(signer, Barred):
        reason += f"; the certificate that signed may not be renewed: {signer.why}"
    return Refusal(FailInfo.BAD_REQUEST, reason)
