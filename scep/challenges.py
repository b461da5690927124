"""One-time challenges: minted, found by their keyed hash, claimed once.

A challenge carries all that the certificate will hold but the key. Its value is shown to who minted it and
kept nowhere: the row has the HMAC of it.
"""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from audit import recording
from audit.recording import Actor
from pki.core.names import Name, NameRefused, encode_alternative_names, encode_name
from pki.models import Issuer, IssuerKind, IssuerState, Purpose
from scep import statements
from scep.core.decision import ChallengeStanding
from scep.models import Challenge
from vault.sealed import keyed_hash, keyed_hashes

VALUE_BYTES = 20
DEFAULT_LIFETIME = timedelta(minutes=60)
MAX_LIFETIME = timedelta(hours=24)
MAX_AT_ONCE = 10_000

_PURPOSE_OF_HASH = "scep.challenge"
MAX_VALUE = 255

SanList = Sequence[tuple[str, str]]


class ChallengeError(Exception):
    """A challenge that will not be minted; ``reason`` says why, for who asked."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Found:
    """What a presented challengePassword is worth, and the row where there is one.

    ``profile``: the row of the certificate profile for its purpose, None for the built-in one.
    """

    standing: ChallengeStanding
    challenge: Challenge | None = None
    profile: int | None = None


def create_challenge(
    *,
    issuer: Issuer,
    purpose: Purpose,
    subject: Name,
    san: SanList = (),
    binding: uuid.UUID | None = None,
    validity_days: int | None = None,
    ttl: timedelta,
    created_by: str,
    now: datetime,
) -> tuple[Challenge, str]:
    """Mint one challenge and give its value (base32, 160 bits), which is shown nowhere again.

    ``binding``: opaque reference that the certificate will carry. ``ttl``: how long it can be used. The
    caller audits the act that it is part of. Raises :class:`pki.core.certificates.NameRefused`.
    """
    challenge, value = _minted(
        issuer=issuer,
        purpose=purpose,
        subject=subject,
        san=san,
        binding=binding,
        validity_days=validity_days,
        created_by=created_by,
        expires_at=now + ttl,
    )
    challenge.save()
    return challenge, value


def create_challenges(
    subjects: Sequence[Name],
    *,
    issuer: Issuer,
    purpose: Purpose,
    san: SanList = (),
    validity_days: int | None = None,
    ttl: timedelta,
    actor: Actor,
    now: datetime,
) -> list[tuple[Challenge, str]]:
    """Mint one for each subject, for a person or a script; audited. Raises :class:`ChallengeError`."""
    if not 1 <= len(subjects) <= MAX_AT_ONCE:
        raise ChallengeError(f"between 1 and {MAX_AT_ONCE} challenges can be made at once")
    if issuer.kind == IssuerKind.TRUST_ONLY or issuer.state != IssuerState.ACTIVE:
        raise ChallengeError(f"the issuer {issuer.slug} does not issue certificates")
    if not timedelta(0) < ttl <= MAX_LIFETIME:
        raise ChallengeError("a challenge can be used for at most 24 hours")
    try:
        minted = [
            _minted(
                issuer=issuer,
                purpose=purpose,
                subject=subject,
                san=san,
                binding=None,
                validity_days=validity_days,
                created_by=actor.name,
                expires_at=now + ttl,
            )
            for subject in subjects
        ]
    except NameRefused as refused:
        raise ChallengeError(refused.reason) from None
    with transaction.atomic():
        Challenge.objects.bulk_create([challenge for challenge, _value in minted], batch_size=500)
        recording.record(
            "challenge.created",
            actor=actor,
            target=minted[0][0] if len(minted) == 1 else issuer,
            details={"count": len(minted), "issuer": issuer.slug, "purpose": str(purpose)},
            at=now,
        )
    return minted


def numbered(common_name: str, count: int) -> list[Name]:
    """``count`` subjects: the common name with ``{n}`` replaced by 1, 2, …; random ones where it is empty."""
    return [
        (
            (
                "CN",
                common_name.replace("{n}", str(number)) if common_name else f"device-{secrets.token_hex(6)}",
            ),
        )
        for number in range(1, count + 1)
    ]


def withdraw(challenge: Challenge, *, actor: Actor, now: datetime) -> bool:
    """End an unused challenge early. False where it was used or had expired already."""
    with transaction.atomic():
        ended = Challenge.objects.filter(pk=challenge.pk, consumed_at=None, expires_at__gt=now).update(
            expires_at=now
        )
        if ended:
            recording.record("challenge.withdrawn", actor=actor, target=challenge, at=now)
    return bool(ended)


def find(passwords: Sequence[str], issuer: Issuer, now: datetime) -> Found:
    """Look up the challengePassword of a CSR.

    The look-up is by HMAC: there is no comparison with a secret that could take its time.
    """
    if len(passwords) > 1:
        return Found(ChallengeStanding.SEVERAL)
    if not passwords or not passwords[0]:
        return Found(ChallengeStanding.ABSENT)
    hashes = hashes_of(passwords)
    return judge(statements.find_challenge(hashes) if hashes else None, issuer, now)


def hashes_of(passwords: Sequence[str]) -> list[bytes]:
    """By what a challengePassword is looked up; empty where there is none, or not one that could be ours."""
    if len(passwords) != 1 or not 0 < len(passwords[0]) <= MAX_VALUE:
        return []
    return keyed_hashes(passwords[0], purpose=_PURPOSE_OF_HASH)


def judge(row: tuple[Challenge, int | None] | None, issuer: Issuer, now: datetime) -> Found:
    """What a challenge is worth for this issuer, as it was found; ``row``: with its certificate profile."""
    if row is None:
        return Found(ChallengeStanding.UNKNOWN)
    challenge, profile = row
    if challenge.issuer_id != issuer.pk:
        return Found(ChallengeStanding.FOREIGN, challenge)
    if challenge.consumed_at is not None:
        return Found(ChallengeStanding.USED, challenge)
    if challenge.expires_at <= now:
        return Found(ChallengeStanding.EXPIRED, challenge)
    return Found(ChallengeStanding.LIVE, challenge, profile)


def claim(challenge: Challenge, now: datetime) -> bool:
    """Take the challenge: of all that try, one gets True (threats B4).

    Call it in the transaction that issues and records: what is rolled back was not claimed.
    """
    return bool(
        Challenge.objects.filter(pk=challenge.pk, consumed_at=None, expires_at__gt=now).update(
            consumed_at=now
        )
    )


def _minted(
    *,
    issuer: Issuer,
    purpose: Purpose,
    subject: Name,
    san: SanList,
    binding: uuid.UUID | None,
    validity_days: int | None,
    created_by: str,
    expires_at: datetime,
) -> tuple[Challenge, str]:
    subject_text = encode_name(subject).rfc4514_string()
    encode_alternative_names(san)
    value = base64.b32encode(secrets.token_bytes(VALUE_BYTES)).decode("ascii")
    challenge = Challenge(
        value_hash=keyed_hash(value, purpose=_PURPOSE_OF_HASH),
        issuer=issuer,
        purpose=purpose,
        binding=binding,
        subject=[list(pair) for pair in subject],
        subject_text=subject_text[:500],
        subject_alternative_name=[list(pair) for pair in san],
        validity_days=validity_days,
        created_by=created_by[:200],
        expires_at=expires_at,
    )
    return challenge, value
