"""Every route of the API, taken from the URLconf: a new one without a scope fails here."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.urls import URLPattern, reverse
from rest_framework.test import APIClient

from api.scopes import SCOPES
from api.urls import urlpatterns
from tests.api.conftest import Caller, Unchanged

pytestmark = pytest.mark.django_db

OPEN = {"schema", "docs"}
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ROUTES = [pattern for pattern in urlpatterns if pattern.name not in OPEN]


def path_of(pattern: URLPattern) -> str:
    values = {"pk": 999_999, "uuid": uuid.UUID(int=5)}
    names = list(pattern.pattern.converters)
    return reverse(f"api:{pattern.name}", kwargs={name: values[name] for name in names})


def declared() -> list[tuple[str, str, str]]:
    """Path, method and scope of everything the API can do."""
    return [
        (path_of(pattern), method, scope)
        for pattern in ROUTES
        for method, scope in pattern.callback.view_class.scopes.items()  # type: ignore[attr-defined]
    ]


DECLARED = declared()


def test_every_route_says_which_scopes_it_needs() -> None:
    for pattern in ROUTES:
        view = pattern.callback.view_class  # type: ignore[attr-defined]
        handlers = {method for method in METHODS if hasattr(view, method.lower())}
        assert handlers == set(view.scopes), pattern.name
        assert set(view.scopes.values()) <= set(SCOPES), pattern.name
    assert {scope for _path, _method, scope in DECLARED} == set(SCOPES)


@pytest.mark.parametrize("pattern", ROUTES, ids=lambda pattern: pattern.name)
def test_anonymous_gets_401_whatever_the_method(pattern: URLPattern, unchanged: Unchanged) -> None:
    client = APIClient()
    with unchanged():
        for method in (*METHODS, "OPTIONS", "HEAD", "TRACE"):
            answer = client.generic(method, path_of(pattern))
            assert answer.status_code == 401, method
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(("path", "method", "scope"), DECLARED)
def test_without_the_scope_403(
    caller: Caller, unchanged: Unchanged, path: str, method: str, scope: str
) -> None:
    client = caller(*(name for name in SCOPES if name != scope))
    with unchanged():
        answer = client.generic(method, path, "{}", content_type="application/json")
    assert answer.status_code == 403
    assert scope in answer.json()["detail"]


@pytest.mark.parametrize(("path", "method", "scope"), DECLARED)
def test_with_the_scope_past_the_gate(caller: Caller, path: str, method: str, scope: str) -> None:
    answer = caller(scope).generic(method, path, "{}", content_type="application/json")
    expected = {200, 201, 400, 404} if method == "POST" else {200, 404}
    assert answer.status_code in expected


@pytest.mark.parametrize("route", DECLARED)
def test_a_token_can_do_no_more_than_its_user(
    caller: Caller, unchanged: Unchanged, helper_user: Callable[..., User], route: tuple[str, str, str]
) -> None:
    path, method, scope = route
    others = {p for name, other in SCOPES.items() if name != scope for p in other.permissions}
    client = caller(user=helper_user(*(others - set(SCOPES[scope].permissions))))
    with unchanged():
        answer = client.generic(method, path, "{}", content_type="application/json")
    assert answer.status_code == 403


def test_what_a_route_has_not_is_405(caller: Caller) -> None:
    client = caller()
    for pattern in ROUTES:
        path = path_of(pattern)
        scopes = pattern.callback.view_class.scopes  # type: ignore[attr-defined]
        for method in METHODS:
            if method not in scopes:
                assert client.generic(method, path).status_code == 405, (path, method)


def test_a_user_whose_rights_are_taken_is_refused_at_once(
    caller: Caller, helper_user: Callable[..., User]
) -> None:
    user = helper_user("devices.view_device")
    client = caller("devices:read", user=user)
    assert client.get("/api/v1/devices/").status_code == 200
    user.user_permissions.clear()
    assert client.get("/api/v1/devices/").status_code == 403


def test_the_browsable_api_is_off(caller: Caller) -> None:
    answer = caller().get("/api/v1/devices/", HTTP_ACCEPT="text/html")
    assert answer.status_code in {200, 406}
    assert answer.headers["Content-Type"] == "application/json"


def test_answers_are_not_kept_by_caches(caller: Caller) -> None:
    assert caller().get("/api/v1/devices/").headers["Cache-Control"] == "no-store"
