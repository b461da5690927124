"""Secrets that devices deposit: bootstrap tokens and unlock tokens.

A value is served only to the enrollment and epoch that deposited it (threats E6), or to a person who may see
it, with a record. Earlier values are kept, sealed, for recovery.
"""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import transaction

from audit.recording import Actor, record
from devices.models import Enrollment, EscrowedSecret, SecretKind
from vault.sealed import seal, unseal


def _context(secret_uuid: uuid.UUID) -> str:
    return f"devices.escrowedsecret.value:{secret_uuid}"


def deposit(enrollment: Enrollment, kind: SecretKind, value: bytes, now: datetime) -> EscrowedSecret:
    """Keep ``value`` as the current secret of this kind. The same value again changes nothing."""
    held = _current_row(enrollment, kind)
    if held is not None and unseal(bytes(held.value_sealed), context=_context(held.uuid)) == value:
        return held
    with transaction.atomic(savepoint=False):
        withdraw(enrollment, kind, now)
        secret_uuid = uuid.uuid4()
        return EscrowedSecret.objects.create(
            uuid=secret_uuid,
            enrollment=enrollment,
            kind=kind,
            epoch=enrollment.epoch,
            value_sealed=seal(value, context=_context(secret_uuid)),
            deposited_at=now,
        )


def current(enrollment: Enrollment, kind: SecretKind) -> bytes | None:
    """The value that this enrollment deposited in its present epoch, or None."""
    held = _current_row(enrollment, kind)
    return None if held is None else unseal(bytes(held.value_sealed), context=_context(held.uuid))


def withdraw(enrollment: Enrollment, kind: SecretKind, now: datetime) -> int:
    """Stop serving the current secret of this kind. Returns how many were withdrawn (0 or 1)."""
    return EscrowedSecret.objects.filter(enrollment=enrollment, kind=kind, withdrawn_at=None).update(
        withdrawn_at=now
    )


def withdraw_all(enrollment: Enrollment, now: datetime) -> int:
    """Stop serving every secret of the enrollment: a new epoch begins. Returns how many were withdrawn."""
    return EscrowedSecret.objects.filter(enrollment=enrollment, withdrawn_at=None).update(withdrawn_at=now)


@transaction.atomic
def reveal(secret: EscrowedSecret, actor: Actor, *, reason: str = "") -> bytes:
    """The value, for a person who may see it; leaves an audit record. The caller checks the permission."""
    record(
        "secret.revealed",
        actor=actor,
        target=secret,
        reason=reason,
        details={"kind": secret.kind, "device": secret.enrollment.device.udid},
    )
    return unseal(bytes(secret.value_sealed), context=_context(secret.uuid))


def _current_row(enrollment: Enrollment, kind: SecretKind) -> EscrowedSecret | None:
    return EscrowedSecret.objects.filter(
        enrollment=enrollment, kind=kind, epoch=enrollment.epoch, withdrawn_at=None
    ).first()
