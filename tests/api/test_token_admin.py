"""API tokens in the admin: shown once, revoked for good, never more than their user."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from api import tokens
from api.models import ApiToken
from api.scopes import SCOPES
from audit.models import AuditEvent
from tests.api.conftest import Unchanged

pytestmark = pytest.mark.django_db

ADD = "/admin/api/apitoken/add/"
TOKEN = re.compile(r"bramley_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


@pytest.fixture
def browser(superuser: User, client: Client) -> Client:
    client.force_login(superuser)
    return client


def form(user: User, more: dict[str, object] | None = None) -> dict[str, object]:
    return {"name": "Inventory", "user": user.pk, "scopes": ["devices:read"], "lifetime": "365"} | (
        more or {}
    )


def make(browser: Client, user: User) -> tuple[ApiToken, str]:
    page = browser.post(ADD, form(user)).content.decode()
    found = TOKEN.search(page)
    assert found
    return ApiToken.objects.get(), found[0]


def test_the_form_offers_every_scope_in_words(browser: Client) -> None:
    page = browser.get(ADD).content.decode()
    for scope in SCOPES.values():
        assert f'value="{scope.name}"' in page
        assert str(scope.title) in page


def test_a_token_is_shown_in_the_answer_and_never_again(browser: Client, superuser: User) -> None:
    token, text = make(browser, superuser)
    assert tokens.identify(text, token.created_at) == token
    assert token.expires_at is not None
    secret = text.split("_", 2)[2]
    for path in (
        reverse("admin:api_apitoken_changelist"),
        reverse("admin:api_apitoken_change", args=[token.pk]),
        reverse("admin:api_apitoken_revoke", args=[token.pk]),
        reverse("admin:audit_auditevent_changelist"),
        ADD,
    ):
        page = browser.get(path).content.decode()
        assert secret not in page
        assert token.secret_sha256 not in page
    assert AuditEvent.objects.get(action="api_token.created").user == superuser


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"scopes": []},
        {"scopes": ["root"]},
        {"user": 9999},
        {"lifetime": "x"},
        {"name": "x" * 101},
    ],
    ids=range(6),
)
def test_a_wrong_form_makes_nothing(
    browser: Client, superuser: User, unchanged: Unchanged, wrong: dict[str, object]
) -> None:
    with unchanged():
        page = browser.post(ADD, form(superuser, wrong))
    assert page.status_code == 200
    assert not TOKEN.search(page.content.decode())
    assert not ApiToken.objects.exists()


def test_revoking_asks_first(browser: Client, superuser: User) -> None:
    token, text = make(browser, superuser)
    path = reverse("admin:api_apitoken_revoke", args=[token.pk])
    assert browser.get(path).status_code == 200
    assert tokens.identify(text, token.created_at) == token
    assert browser.post(path).status_code == 302
    with pytest.raises(tokens.TokenRefused):
        tokens.identify(text, token.created_at)


def test_the_action_revokes_several(browser: Client, superuser: User) -> None:
    token, _text = make(browser, superuser)
    browser.post(
        reverse("admin:api_apitoken_changelist"),
        {"action": "revoke", "_selected_action": [token.pk]},
    )
    token.refresh_from_db()
    assert token.revoked_at is not None


def test_nobody_makes_a_token_that_can_do_more_than_themselves(
    client: Client, superuser: User, helper_user: Callable[..., User]
) -> None:
    helper = helper_user("api.add_apitoken", "api.view_apitoken")
    client.force_login(helper)
    page = client.post(ADD, form(superuser)).content.decode()
    assert not TOKEN.search(page)
    assert not ApiToken.objects.exists()
    assert TOKEN.search(client.post(ADD, form(helper)).content.decode())


def test_others_tokens_are_out_of_reach(
    browser: Client, superuser: User, helper_user: Callable[..., User], unchanged: Unchanged
) -> None:
    token, _text = make(browser, superuser)
    helper = helper_user("api.view_apitoken", "api.change_apitoken", "api.delete_apitoken")
    guest = Client()
    guest.force_login(helper)
    path = reverse("admin:api_apitoken_revoke", args=[token.pk])
    assert guest.get(path).status_code == 403
    assert guest.post(path).status_code == 403
    assert "Inventory" not in guest.get(reverse("admin:api_apitoken_changelist")).content.decode()
    assert guest.get(reverse("admin:api_apitoken_change", args=[token.pk])).status_code == 302
    token.refresh_from_db()
    assert token.revoked_at is None


def test_who_may_only_look_cannot_act(
    browser: Client, superuser: User, helper_user: Callable[..., User]
) -> None:
    helper = helper_user("api.view_apitoken")
    token, _text = make(browser, superuser)
    ApiToken.objects.update(user=helper)
    guest = Client()
    guest.force_login(helper)
    changelist = reverse("admin:api_apitoken_changelist")
    assert guest.get(changelist).status_code == 200
    assert guest.get(ADD).status_code == 403
    assert guest.post(ADD, form(helper)).status_code == 403
    assert guest.post(reverse("admin:api_apitoken_revoke", args=[token.pk])).status_code == 403
    guest.post(changelist, {"action": "revoke", "_selected_action": [token.pk]})
    guest.post(changelist, {"action": "delete_selected", "_selected_action": [token.pk], "post": "yes"})
    token.refresh_from_db()
    assert token.revoked_at is None


def test_a_token_cannot_be_edited(browser: Client, superuser: User, unchanged: Unchanged) -> None:
    token, _text = make(browser, superuser)
    path = reverse("admin:api_apitoken_change", args=[token.pk])
    with unchanged():
        assert browser.post(path, {"name": "x", "scopes": "[]"}).status_code == 403
    assert ApiToken.objects.get().scopes == ["devices:read"]


def test_deleting_is_recorded(browser: Client, superuser: User) -> None:
    token, _text = make(browser, superuser)
    browser.post(reverse("admin:api_apitoken_delete", args=[token.pk]), {"post": "yes"})
    assert not ApiToken.objects.exists()
    assert AuditEvent.objects.get(action="api_token.deleted").details == {"prefix": token.prefix}
