"""Enrolment codes: minting, withdrawing. What people type is shown once; what is kept is a keyed hash."""

from __future__ import annotations

import secrets
from datetime import datetime

from django.db import IntegrityError, transaction

from audit.recording import Actor, record
from enrollment.access import hash_of_code
from enrollment.core.access import CodeRefused, mint_code, normal_code, verify_chosen_code
from enrollment.models import EnrollmentCode, EnrollmentProfile

__all__ = ["MAX_AT_ONCE", "CodeRefused", "mint", "withdraw"]

MAX_AT_ONCE = 500


def mint(
    profile: EnrollmentProfile,
    *,
    count: int,
    label: str = "",
    chosen: str = "",
    max_uses: int | None = 1,
    expires_at: datetime | None = None,
    actor: Actor,
    now: datetime,
) -> list[tuple[EnrollmentCode, str]]:
    """Make ``count`` codes, or the one that somebody has ``chosen``. Each comes with what people type.

    ``max_uses``: downloads that one code lets through; None for any number. Raises :class:`CodeRefused`.
    """
    if chosen and count != 1:
        raise CodeRefused("A code that you choose is one code.")
    if not 1 <= count <= MAX_AT_ONCE:
        raise CodeRefused(f"Between 1 and {MAX_AT_ONCE} codes at once.")
    if expires_at is not None and expires_at <= now:
        raise CodeRefused("It would have expired already.")
    values = [chosen.strip()] if chosen else [mint_code(secrets.token_bytes) for _ in range(count)]
    if chosen:
        verify_chosen_code(chosen)
    try:
        with transaction.atomic():
            made = [
                EnrollmentCode.objects.create(
                    profile=profile,
                    label=_numbered(label, number, count),
                    value_hash=hash_of_code(profile, normal_code(value)),
                    max_uses=max_uses,
                    expires_at=expires_at,
                    created_at=now,
                    created_by=actor.name[:200],
                )
                for number, value in enumerate(values, 1)
            ]
            record(
                "enrollment_code.created",
                actor=actor,
                target=profile,
                details={"count": count, "label": label, "max_uses": max_uses},
                at=now,
            )
    except IntegrityError as error:
        raise CodeRefused("There is this code already.") from error
    return list(zip(made, values, strict=True))


def withdraw(code: EnrollmentCode, *, actor: Actor, now: datetime) -> bool:
    """It lets nobody through any more. False where it was withdrawn before."""
    with transaction.atomic():
        withdrawn = EnrollmentCode.objects.filter(pk=code.pk, withdrawn_at=None).update(withdrawn_at=now)
        if withdrawn:
            record("enrollment_code.withdrawn", actor=actor, target=code, at=now)
    return bool(withdrawn)


def _numbered(label: str, number: int, count: int) -> str:
    return (f"{label} {number}".strip() if count > 1 else label)[:200]
