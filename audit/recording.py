"""Writing the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import models, transaction
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone

from audit.addresses import client_address
from audit.models import AuditEvent, Outcome, Refusal
from database import instances, rows

MAX_REFUSAL_ROWS_A_MINUTE = 200


@dataclass(frozen=True)
class Actor:
    """Who acts: a person, an API token, a device, or a part of the server itself."""

    name: str
    user_id: int | None = None
    remote_addr: str = ""

    @classmethod
    def of_user(cls, user: AbstractBaseUser | AnonymousUser, remote_addr: str = "") -> Actor:
        """The person who is signed in."""
        return cls(name=user.get_username(), user_id=user.pk, remote_addr=remote_addr)

    @classmethod
    def of_request(cls, request: HttpRequest) -> Actor:
        """The person who sits in front of the page, and from where."""
        return cls.of_user(request.user, client_address(request))


SERVER = Actor(name="server")


def record(
    action: str,
    *,
    actor: Actor,
    target: models.Model | None = None,
    outcome: Outcome = Outcome.DONE,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> AuditEvent:
    """Append one event. ``action`` is ``noun.verb`` (``certificate.revoked``); no secrets in ``details``.

    Call it inside the transaction of the act, so that both are kept or neither.
    """
    return rows.insert(
        event_of(action, actor=actor, target=target, outcome=outcome, reason=reason, details=details, at=at)
    )


def event_of(
    action: str,
    *,
    actor: Actor,
    target: models.Model | None = None,
    outcome: Outcome = Outcome.DONE,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> AuditEvent:
    """What :func:`record` appends, not yet written: for who writes act and event in one statement."""
    return instances.new(
        AuditEvent,
        **columns_of(
            action, actor=actor, target=target, outcome=outcome, reason=reason, details=details, at=at
        ),
    )


def columns_of(
    action: str,
    *,
    actor: Actor,
    target: models.Model | None = None,
    outcome: Outcome = Outcome.DONE,
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> dict[str, Any]:
    """The same by column, for a statement written by hand. A target that is not yet written has no id."""
    return {
        "at": at or timezone.now(),
        "actor": actor.name[:200],
        "user_id": actor.user_id,
        "action": action,
        "outcome": outcome,
        "target_kind": target._meta.label_lower[:40] if target is not None else "",
        "target_id": str(target.pk)[:64] if target is not None else "",
        "target_label": str(target)[:200] if target is not None else "",
        "reason": reason[:500],
        "remote_addr": actor.remote_addr[:45],
        "details": dict(details or {}),
    }


def refuse(
    surface: str,
    reason: str,
    *,
    remote_addr: str,
    detail: str = "",
    target: models.Model | None = None,
    now: datetime | None = None,
) -> None:
    """Count one refused request of a device or stranger.

    ``surface`` is ``mdm``, ``scep``, ``enroll`` or ``api``; ``reason`` a short fixed word group
    (``"certificate revoked"``); ``detail`` what an administrator needs to understand it, without secrets.
    At most :data:`MAX_REFUSAL_ROWS_A_MINUTE` rows a minute; what exceeds them is counted under no address.
    Call it outside the transaction that the refusal rolled back.
    """
    at = now or timezone.now()
    minute = at.replace(second=0, microsecond=0)
    key: dict[str, Any] = {
        "minute": minute,
        "surface": surface[:20],
        "reason": reason[:80],
        "remote_addr": remote_addr[:45],
        "target_kind": target._meta.label_lower[:40] if target is not None else "",
        "target_id": str(target.pk)[:64] if target is not None else "",
    }
    with transaction.atomic():
        if _count(key, detail, at):
            return
        if Refusal.objects.filter(minute=minute).count() >= MAX_REFUSAL_ROWS_A_MINUTE:
            key |= {"remote_addr": "", "target_kind": "", "target_id": ""}
            if _count(key, detail, at):
                return
        _row, created = Refusal.objects.get_or_create(
            **key, defaults={"count": 1, "detail": detail[:500], "last_at": at}
        )
        if not created:
            _count(key, detail, at)


def _count(key: Mapping[str, Any], detail: str, at: datetime) -> int:
    return Refusal.objects.filter(**key).update(count=F("count") + 1, detail=detail[:500], last_at=at)
