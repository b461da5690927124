"""One push to APNs: what is sent, what an answer means.

Source: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs";
"Sending Push Notifications to a Device" of the MDM protocol: the body is ``{"mdm": PushMagic}``, no ``aps``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from uuid import UUID

MAX_BODY = 4096  # bytes of an answer that are kept; APNs sends about 50
MAX_REASON = 100
WRONG_ENVIRONMENT_SAMPLE = 20

PRIORITY = "10"
PUSH_TYPE = "mdm"


@dataclass(frozen=True)
class Notification:
    """A push to one device. ``expires_at``: seconds since 1970; APNs keeps trying until then."""

    token: bytes = field(repr=False)
    push_magic: str = field(repr=False)
    topic: str
    apns_id: UUID
    expires_at: int


def encode_path(notification: Notification) -> str:
    """The request's path: the token in lower-case hexadecimal, of whatever length it has."""
    return f"/3/device/{notification.token.hex()}"


Headers = tuple[tuple[str, str], ...]


@lru_cache(maxsize=64)
def common_headers(authority: str, topic: str, expires_at: int) -> tuple[Headers, Headers]:
    """What the requests of a topic have in common: pseudo-headers (RFC 9113 section 8.3), and the others.

    Each also has ``:path`` and ``apns-id`` of its own.
    """
    return (
        ((":method", "POST"), (":scheme", "https"), (":authority", authority)),
        (
            ("apns-topic", topic),
            ("apns-push-type", PUSH_TYPE),
            ("apns-priority", PRIORITY),
            ("apns-expiration", str(expires_at)),
        ),
    )


def encode_payload(notification: Notification) -> bytes:
    """The request's body, UTF-8 JSON with exactly one key."""
    return json.dumps({"mdm": notification.push_magic}, ensure_ascii=False, separators=(",", ":")).encode()


class Failure(Enum):
    """Why there is no answer."""

    CONNECTION = "connection"
    """No connection, or it broke before the answer."""
    TIME_OUT = "time-out"
    """Sent, and nothing came back in time."""
    CERTIFICATE_REFUSED = "certificate refused"
    """APNs ended the TLS handshake because of our client certificate."""
    SERVER_NOT_TRUSTED = "server not trusted"
    """The server's certificate does not chain to a root that we trust. Nothing was sent."""
    UNUSABLE_CERTIFICATE = "unusable certificate"
    """Our own TLS library does not load the certificate and key."""


@dataclass(frozen=True)
class Answer:
    """What came back for one push: a status with a reason, or the kind of failure."""

    status: int | None = None
    reason: str = ""
    timestamp: datetime | None = None
    failure: Failure | None = None

    def __str__(self) -> str:
        if self.status is None:
            return self.reason or (self.failure.value if self.failure else "no answer")
        return f"{self.status} {self.reason}".strip()


def decode_answer(status: int, body: bytes) -> Answer:
    """Read a reply. Any body will do: what is not APNs's JSON has no reason. Never raises."""
    if not body:
        return Answer(status)
    try:
        value = json.loads(body[:MAX_BODY])
    except (ValueError, RecursionError):
        return Answer(status)
    if not isinstance(value, dict):
        return Answer(status)
    return Answer(status, clean_reason(value.get("reason")), _instant(value.get("timestamp")))


def clean_reason(value: object) -> str:
    """A reason that may be shown and logged: printable ASCII, at most :data:`MAX_REASON` characters."""
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value if c.isascii() and c.isprintable())[:MAX_REASON]


def decode_goaway(data: bytes | None) -> str:
    """The reason in a GOAWAY frame's debug data, empty where there is none."""
    return decode_answer(0, bytes(data or b"")).reason


def _instant(milliseconds: object) -> datetime | None:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        return None
    try:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None


class Verdict(Enum):
    """What an answer means for the row that asked for the push."""

    ACCEPTED = "accepted"
    """APNs has it. Push again later if the device does not connect."""
    RETRY = "retry"
    """This push failed; the same token again, after a pause of its own."""
    OUTAGE = "outage"
    """APNs, or the way to it, is out of order: nothing of it is the row's fault."""
    TOKEN_DEAD = "token dead"  # noqa: S105 - no password
    """The token is no longer valid. The device is kept; its next TokenUpdate brings another."""
    HOLD = "hold"
    """The certificate or its topic is refused: every push of the topic would be."""
    DROP = "drop"
    """The request itself is refused; the same again would be."""


_TOKEN_REASONS = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic"})
_TOPIC_REASONS = frozenset(
    {"BadTopic", "TopicDisallowed", "MissingTopic", "BadCertificate", "BadCertificateEnvironment"}
)
_REQUEST_REASONS = frozenset(
    {
        "BadCollapseId",
        "BadExpirationDate",
        "BadMessageId",
        "BadPriority",
        "DuplicateHeaders",
        "InvalidPushType",
        "MissingDeviceToken",
        "PayloadEmpty",
        "BadPath",
        "MethodNotAllowed",
        "PayloadTooLarge",
    }
)
_CERTIFICATE_FAILURES = frozenset({Failure.CERTIFICATE_REFUSED, Failure.UNUSABLE_CERTIFICATE})


def judge(answer: Answer, *, token_updated_at: datetime | None) -> Verdict:
    """The table of answers. ``token_updated_at``: when the device gave us the token that was used.

    A 410 counts only if it is not older than the token: APNs answers it late, by design, and the device
    may have sent the same or another token since.
    """
    if answer.status is None:
        return Verdict.HOLD if answer.failure in _CERTIFICATE_FAILURES else Verdict.OUTAGE
    if answer.status == 410:
        return _judge_gone(answer.timestamp, token_updated_at)
    return _judge_status(answer.status, answer.reason)


def _judge_status(status: int, reason: str) -> Verdict:
    if status == 200:
        return Verdict.ACCEPTED
    if status >= 500:
        return Verdict.OUTAGE
    if status == 403 or reason in _TOPIC_REASONS:
        return Verdict.HOLD
    if reason in _TOKEN_REASONS:
        return Verdict.TOKEN_DEAD
    if status in {404, 405, 413} or reason in _REQUEST_REASONS:
        return Verdict.DROP
    return Verdict.RETRY


def _judge_gone(timestamp: datetime | None, token_updated_at: datetime | None) -> Verdict:
    if timestamp is None:
        return Verdict.RETRY
    if token_updated_at is not None and timestamp < _to_milliseconds(token_updated_at):
        return Verdict.RETRY
    return Verdict.TOKEN_DEAD


def _to_milliseconds(value: datetime) -> datetime:
    """Cut to what APNs can say."""
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


def says_wrong_environment(answers: Sequence[Answer]) -> bool:
    """Whether APNs calls *every* token of a good sample bad.

    Tokens of one APNs environment are all bad in the other. To believe that would cost every device its
    token; it is the address of APNs, or the certificate, that is wrong.
    """
    return len(answers) >= WRONG_ENVIRONMENT_SAMPLE and all(a.reason in _TOKEN_REASONS for a in answers)


def is_outage(verdicts: Sequence[Verdict]) -> bool:
    """Whether a batch says that APNs as a whole is out of order: more than half of it failed so."""
    return 2 * sum(verdict is Verdict.OUTAGE for verdict in verdicts) > len(verdicts)
