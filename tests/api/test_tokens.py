"""Tokens: recognised, or refused with one answer for every reason, and never shown again."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from api import tokens
from api.models import ApiToken
from audit.models import AuditEvent, Refusal
from audit.recording import SERVER
from tests.api.conftest import Caller

pytestmark = pytest.mark.django_db

DEVICES = "/api/v1/devices/"


def made(user: User, now: datetime, **more: object) -> tuple[ApiToken, str]:
    wanted: dict[str, object] = {"scopes": ["devices:read"], "actor": SERVER, "now": now, **more}
    return tokens.create("inventory", user=user, **wanted)  # type: ignore[arg-type]


def ask(text: str) -> int:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=text)
    return int(client.get(DEVICES).status_code)


def test_a_token_is_its_text_and_the_row_holds_only_a_hash(superuser: User, now: datetime) -> None:
    token, text = made(superuser, now)
    name, prefix, secret = text.split("_", 2)
    assert (name, prefix) == ("bramley", token.prefix)
    assert token.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
    row = ApiToken.objects.values().get()
    assert secret not in repr(row)
    assert tokens.identify(text, now) == token
    event = AuditEvent.objects.get(action="api_token.created")
    assert secret not in repr(event.details)
    assert ask(f"Bearer {text}") == 200
    assert ask(f"bearer {text}") == 200


@pytest.mark.parametrize(
    ("scopes", "expires"),
    [([], None), (["devices:read", "everything"], None), (["devices:read"], timedelta(0))],
)
def test_a_token_that_makes_no_sense_is_not_made(
    superuser: User, now: datetime, scopes: list[str], expires: timedelta | None
) -> None:
    with pytest.raises(tokens.InvalidToken):
        made(superuser, now, scopes=scopes, expires_at=None if expires is None else now + expires)
    assert not ApiToken.objects.exists()
    assert not AuditEvent.objects.exists()


def test_refusals(superuser: User, now: datetime) -> None:
    token, text = made(superuser, now, expires_at=now + timedelta(days=1))
    _other, other_text = made(superuser, now)
    secret, other_secret = text.rsplit("_", 1)[0], other_text.split("_", 2)[2]
    assert ask(f"Bearer {text}") == 200
    wrong = [
        f"Bearer bramley_{token.prefix}_{other_secret}",  # another token's secret
        f"Bearer bramley_{'0' * 12}_{text.split('_', 2)[2]}",  # another prefix
        f"Bearer {text[:-1]}",
        f"Bearer {text}x",
        f"Bearer {text} {text}",
        "Bearer ",
        "Bearer",
        f"Bearer {secret}_",
        f"Bearer bramley__{other_secret}",
        "Bearer bramley_" + "é" * 12,
        f"Token {text}",
        f"Basic {text}",
        text,
    ]
    for header in wrong:
        assert ask(header) == 401, header
    reasons = set(Refusal.objects.values_list("reason", flat=True))
    assert reasons == {"unknown token", "not a token"}
    for row in Refusal.objects.values_list("detail", "reason", "target_id"):
        assert other_secret not in repr(row)


def test_an_expired_token_is_refused(superuser: User, now: datetime) -> None:
    _token, text = made(superuser, now, expires_at=now + timedelta(hours=1))
    tokens.identify(text, now + timedelta(minutes=59, seconds=59))
    with pytest.raises(tokens.TokenRefused, match="token expired"):
        tokens.identify(text, now + timedelta(hours=1))
    with time_machine.travel(now + timedelta(hours=2), tick=False):
        assert ask(f"Bearer {text}") == 401
    assert Refusal.objects.get().reason == "token expired"


def test_a_revoked_token_is_refused_from_the_next_request(superuser: User, now: datetime) -> None:
    token, text = made(superuser, now)
    assert ask(f"Bearer {text}") == 200
    assert tokens.revoke(token, actor=SERVER, now=now)
    assert ask(f"Bearer {text}") == 401
    assert Refusal.objects.get().reason == "token revoked"
    assert not tokens.revoke(token, actor=SERVER, now=now)
    assert AuditEvent.objects.filter(action="api_token.revoked").count() == 1


def test_the_token_of_an_inactive_user_is_refused(superuser: User, now: datetime) -> None:
    _token, text = made(superuser, now)
    User.objects.filter(pk=superuser.pk).update(is_active=False)
    assert ask(f"Bearer {text}") == 401
    assert Refusal.objects.get().reason == "user of the token is not active"


def test_a_401_says_how_to_authenticate_and_nothing_else(superuser: User, now: datetime) -> None:
    token, text = made(superuser, now)
    tokens.revoke(token, actor=SERVER, now=now)
    client = APIClient()
    anonymous = client.get(DEVICES)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    revoked = client.get(DEVICES)
    assert anonymous.headers["WWW-Authenticate"] == revoked.headers["WWW-Authenticate"]
    assert revoked.headers["WWW-Authenticate"].startswith("Bearer")
    assert revoked.json() == {"detail": "Invalid token."}
    assert text not in revoked.content.decode()


def test_use_is_noted_at_most_once_a_minute(superuser: User) -> None:
    start = datetime(2026, 11, 24, 5, 40, tzinfo=UTC)
    token, text = made(superuser, start)

    def last_used() -> datetime | None:
        return ApiToken.objects.get(pk=token.pk).last_used_at

    tokens.identify(text, start)
    assert last_used() == start
    tokens.identify(text, start + timedelta(seconds=59))
    assert last_used() == start
    tokens.identify(text, start + timedelta(seconds=61))
    assert last_used() == start + timedelta(seconds=61)


def test_sessions_count_for_nothing(superuser: User) -> None:
    client = APIClient()
    client.force_login(superuser)
    assert client.get(DEVICES).status_code == 401


def test_recognising_a_token_is_one_query(
    caller: Caller, django_assert_num_queries: object, superuser: User, now: datetime
) -> None:
    _token, text = made(superuser, now)
    tokens.identify(text, now)
    with django_assert_num_queries(1):  # type: ignore[operator]
        tokens.identify(text, now + timedelta(seconds=1))
