"""Who gets a certificate: a pure table, without a database, keys or a clock.

On the way in come the rules of the service and three facts: the type of the message, what the challenge is
worth, and who signed. On the way out comes the ground on which a certificate may be issued, or a refusal.
Issuance needs the ground, so a type of message that nobody thought of cannot skip the question
(CVE-2026-30836).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from scep.core.attributes import FailInfo, Header, MessageType

ISSUING = frozenset({MessageType.PKCS_REQ, MessageType.RENEWAL_REQ})
REQUESTS = ISSUING | {MessageType.CERT_POLL, MessageType.GET_CERT, MessageType.GET_CRL}


@dataclass(frozen=True)
class Refusal:
    """What the client is told (``fail_info``), and what the administrator reads (``reason``)."""

    fail_info: FailInfo
    reason: str


class ChallengeMode(StrEnum):
    """How a service decides about the challengePassword of a first request."""

    BOUND = "BOUND"
    """It was made here, for one certificate, once."""
    WEBHOOK = "WEBHOOK"
    """Another system is asked."""
    NONE = "NONE"
    """It is not looked at: a person decides about each request."""


class Approval(StrEnum):
    """Which first requests wait for a person."""

    NEVER = "NEVER"
    WITHOUT_CHALLENGE = "WITHOUT_CHALLENGE"
    """Those that hold no challenge."""
    ALWAYS = "ALWAYS"
    """All of them, those with a good challenge too."""


class RulesRefused(ValueError):
    """Rules that would give everybody a certificate."""


@dataclass(frozen=True)
class Rules:
    """What a service allows. Raises :class:`RulesRefused` for rules that would be an open door."""

    mode: ChallengeMode = ChallengeMode.BOUND
    approval: Approval = Approval.NEVER
    renewal: bool = True

    def __post_init__(self) -> None:
        if self.mode is ChallengeMode.NONE and self.approval is not Approval.ALWAYS:
            raise RulesRefused("without a challenge every request needs approval")

    @property
    def waits(self) -> bool:
        """Whether requests may wait for a person."""
        return self.approval is not Approval.NEVER


class ChallengeStanding(Enum):
    """What the challengePassword inside the CSR is worth."""

    ABSENT = "no challenge password"
    SEVERAL = "several challenge passwords"
    UNKNOWN = "unknown challenge password"
    FOREIGN = "the challenge was made for another issuer"
    EXPIRED = "the challenge has expired"
    USED = "the challenge was used before"
    LIVE = "unused challenge"
    PRESENTED = "a challenge password that this server does not judge"


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
    """Why a certificate may be issued, at once or after somebody agreed."""

    CHALLENGE = "the challenge"
    RENEWAL = "the certificate that signed"
    CHALLENGE_AGAIN = "the challenge, used before: only for what it was used for"
    CHALLENGE_AND_APPROVAL = "the challenge, and an administrator who agrees"
    WEBHOOK = "another system, if it agrees"
    WEBHOOK_AND_APPROVAL = "another system and an administrator, if both agree"
    APPROVAL = "an administrator, if one agrees"


def message_type_of(header: Header) -> MessageType | Refusal:
    """The first gate: the five requests of the RFC and nothing else, before any other work."""
    if header.faults:
        return Refusal(FailInfo.BAD_REQUEST, "; ".join(header.faults))
    try:
        message_type = MessageType(header.message_type)
    except ValueError:
        return Refusal(FailInfo.BAD_REQUEST, f"{header.message_type!r} is not a type of message")
    if message_type in REQUESTS:
        return message_type
    return Refusal(FailInfo.BAD_REQUEST, f"{message_type.label} is not a request")


def decide(
    message_type: MessageType, challenge: ChallengeStanding, signer: Signer, rules: Rules
) -> Ground | Refusal:
    """On which ground to issue, or why not.

    RenewalReq: only who signed counts. PKCSReq: a live challenge counts first (an ordinary enrolment, also
    when an old identity signs it); without one, a certificate in force renews itself, because most clients
    renew by PKCSReq (RFC 8894 section 2.3, and scep-and-ca rule 6). Only then come those who are asked:
    another system about a challenge that it made, a person about a request.
    """
    if message_type not in ISSUING:
        return Refusal(FailInfo.BAD_REQUEST, f"{message_type.label} does not ask for a certificate")
    if challenge is ChallengeStanding.SEVERAL:
        return Refusal(FailInfo.BAD_REQUEST, challenge.value)
    bound = rules.mode is ChallengeMode.BOUND
    if message_type is MessageType.PKCS_REQ and bound and challenge is ChallengeStanding.LIVE:
        return Ground.CHALLENGE_AND_APPROVAL if rules.approval is Approval.ALWAYS else Ground.CHALLENGE
    if isinstance(signer, Holder) and rules.renewal:
        return Ground.RENEWAL
    if message_type is MessageType.RENEWAL_REQ:
        return Refusal(FailInfo.BAD_REQUEST, _not_renewed(signer, rules))
    if bound and challenge is ChallengeStanding.USED:
        return Ground.CHALLENGE_AGAIN
    if rules.mode is ChallengeMode.WEBHOOK and challenge is ChallengeStanding.PRESENTED:
        return Ground.WEBHOOK_AND_APPROVAL if rules.approval is Approval.ALWAYS else Ground.WEBHOOK
    if rules.mode is ChallengeMode.NONE or (
        challenge is ChallengeStanding.ABSENT and rules.approval is Approval.WITHOUT_CHALLENGE
    ):
        return Ground.APPROVAL
    reason = challenge.value
    if isinstance(signer, Barred) or (isinstance(signer, Holder) and not rules.renewal):
        reason += f"; {_not_renewed(signer, rules)}"
    return Refusal(FailInfo.BAD_REQUEST, reason)


def _not_renewed(signer: Signer, rules: Rules) -> str:
    if not rules.renewal:
        return "renewal is turned off for this service"
    why = signer.why if isinstance(signer, Barred) else "it was not issued here"
    return f"the certificate that signed may not be renewed: {why}"
