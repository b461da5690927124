"""API tokens: made once, shown once, recognised by a hash.

A token reads ``bramley_<prefix>_<secret>``. The prefix finds the row; of the 256-bit secret only SHA-256 is
kept (a slow hash protects guessable secrets, and this is none).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Q

from api.models import ApiToken
from api.scopes import SCOPES
from audit.recording import Actor, record

USED_EVERY = timedelta(minutes=1)
"""``last_used_at`` is written at most so often."""

_FORM = re.compile(r"bramley_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_NOBODY = hashlib.sha256(b"").hexdigest()


class InvalidToken(Exception):
    """The token cannot be made so. The text says why."""


class TokenRefused(Exception):
    """The presented token is not accepted. ``reason`` is for the administrator, not for who presented it."""

    def __init__(self, reason: str, token: ApiToken | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.token = token


def create(
    name: str,
    *,
    user: User,
    scopes: Iterable[str],
    expires_at: datetime | None = None,
    actor: Actor,
    now: datetime,
) -> tuple[ApiToken, str]:
    """Make a token that acts for ``user`` within ``scopes``; its text is returned here and kept nowhere.

    Raises :class:`InvalidToken`.
    """
    wanted = sorted(set(scopes))
    if not wanted:
        raise InvalidToken("a token needs at least one scope")
    if unknown := [scope for scope in wanted if scope not in SCOPES]:
        raise InvalidToken(f"unknown scopes: {', '.join(unknown)}")
    if expires_at is not None and expires_at <= now:
        raise InvalidToken("the token would have expired already")
    prefix, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    with transaction.atomic():
        token = ApiToken.objects.create(
            name=name,
            prefix=prefix,
            secret_sha256=_digest(secret),
            scopes=wanted,
            user=user,
            expires_at=expires_at,
        )
        record(
            "api_token.created",
            actor=actor,
            target=token,
            at=now,
            details={"prefix": prefix, "scopes": wanted, "user": user.get_username()},
        )
    return token, f"bramley_{prefix}_{secret}"


def identify(presented: str, now: datetime) -> ApiToken:
    """The live token of a live user that this text stands for. Raises :class:`TokenRefused`."""
    match = _FORM.fullmatch(presented)
    if match is None:
        raise TokenRefused("not a token")
    token = ApiToken.objects.select_related("user").filter(prefix=match[1]).first()
    same = hmac.compare_digest(token.secret_sha256 if token else _NOBODY, _digest(match[2]))
    if token is None or not same:
        raise TokenRefused("unknown token")
    if token.revoked_at is not None:
        raise TokenRefused("token revoked", token)
    if token.expires_at is not None and token.expires_at <= now:
        raise TokenRefused("token expired", token)
    if not token.user.is_active:
        raise TokenRefused("user of the token is not active", token)
    _note_use(token, now)
    return token


def revoke(token: ApiToken, *, actor: Actor, now: datetime) -> bool:
    """End a token at once. False where it was revoked before."""
    with transaction.atomic():
        revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now)
        if revoked:
            record("api_token.revoked", actor=actor, target=token, at=now, details={"prefix": token.prefix})
    return bool(revoked)


def _note_use(token: ApiToken, now: datetime) -> None:
    if token.last_used_at is not None and token.last_used_at > now - USED_EVERY:
        return
    stale = Q(last_used_at=None) | Q(last_used_at__lte=now - USED_EVERY)
    ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
