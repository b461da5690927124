"""Every page of every registered model, taken from the admin's registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import models
from django.test import Client
from django.urls import NoReverseMatch, reverse

from audit.models import AuditEvent, Refusal
from devices.models import Device
from pki.models import Certificate
from tests.console.fleet import Fleet
from tests.console.unchanged import everything

MODELS = sorted(admin.site._registry, key=lambda model: model._meta.label)
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model._meta.label_lower)

PROBE = (
    """"><xss-probe onfocus=alert(1) autofocus></xss-probe><script>alert(1)</script>"""
    """<img src=x onerror=alert(1)>' onmouseover='alert(1)'<a href=javascript:alert(1)>{{7*7}}</a>"""
)


def address(model: type[models.Model], page: str, *args: object) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def newest(model: type[models.Model]) -> models.Model | None:
    return model._default_manager.order_by("-pk").first()


def pages(model: type[models.Model]) -> Iterator[str]:
    yield address(model, "changelist")
    yield address(model, "add")
    row = newest(model)
    if row is not None:
        for page in ("change", "delete", "history"):
            yield address(model, page, row.pk)


def text(answer: Any) -> str:
    return str(answer.content.decode())


def test_something_is_registered() -> None:
    assert len(MODELS) >= 10


@every_model
def test_list_and_detail_answer(browser: Client, fleet: Fleet, model: type[models.Model]) -> None:
    answer = browser.get(address(model, "changelist"))
    assert answer.status_code == 200
    row = newest(model)
    if row is None:
        return
    assert "result_list" in text(answer)
    assert browser.get(address(model, "change", row.pk)).status_code == 200


@every_model
def test_an_empty_list_says_so(browser: Client, model: type[models.Model]) -> None:
    if model is User:
        return
    page = text(browser.get(address(model, "changelist")))
    assert "Nothing here yet." in page


@every_model
def test_every_page_answers_or_refuses(browser: Client, fleet: Fleet, model: type[models.Model]) -> None:
    for path in pages(model):
        answer = browser.get(path)
        assert answer.status_code in {200, 302, 403}, path
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert answer.headers["Cache-Control"]


@every_model
def test_search_filters_and_order_work(browser: Client, fleet: Fleet, model: type[models.Model]) -> None:
    model_admin = admin.site._registry[model]
    path = address(model, "changelist")
    assert browser.get(path, {"q": "x' OR 1=1 --"}).status_code == 200
    assert browser.get(path, {"_facets": "True"}).status_code == 200
    for column in range(1, len(model_admin.list_display) + 1):
        assert browser.get(path, {"o": f"-{column}"}).status_code == 200


@every_model
def test_strangers_are_sent_to_sign_in(client: Client, fleet: Fleet, model: type[models.Model]) -> None:
    for path in pages(model):
        for answer in (client.get(path), client.post(path, {"action": "delete_selected"})):
            assert answer.status_code == 302, path
            assert answer.headers["Location"].startswith("/admin/login/")


@every_model
def test_people_without_rights_see_nothing(client: Client, fleet: Fleet, model: type[models.Model]) -> None:
    client.force_login(User.objects.create_user("bob", is_staff=True))
    for path in pages(model):
        assert client.get(path).status_code in {302, 403}, path


@every_model
def test_who_may_only_look_can_do_nothing(
    client: Client, fleet: Fleet, onlooker: User, model: type[models.Model]
) -> None:
    client.force_login(onlooker)
    row = newest(model)
    before = everything()
    assert client.get(address(model, "changelist")).status_code == 200
    assert client.get(address(model, "add")).status_code in {302, 403}
    assert client.post(address(model, "add"), {"name": "x", "count": 1}).status_code in {302, 403}
    if row is not None:
        assert client.get(address(model, "change", row.pk)).status_code == 200
        assert client.post(address(model, "change", row.pk), {"name": "x"}).status_code in {200, 302, 403}
        assert client.post(address(model, "delete", row.pk), {"post": "yes"}).status_code in {302, 403}
        for name in actions(model):
            client.post(
                address(model, "changelist"),
                {
                    "action": name,
                    "_selected_action": [row.pk],
                    "post": "yes",
                    "confirm": "yes",
                    "apply": "yes",
                },
            )
    assert everything() == before


@every_model
def test_own_pages_of_an_admin_are_guarded(
    client: Client, fleet: Fleet, onlooker: User, model: type[models.Model]
) -> None:
    """Addresses that an app adds to its admin: strangers sign in, onlookers change nothing."""
    model_admin = admin.site._registry[model]
    row = newest(model)
    standard = {"changelist", "add", "history", "delete", "change"}
    paths = []
    for pattern in model_admin.get_urls():
        name = str(getattr(pattern, "name", "") or "")
        if not name or name.rsplit("_", 1)[-1] in standard:
            continue
        keys = list(pattern.pattern.converters)
        if keys and row is None:
            continue
        try:
            paths.append(reverse(f"admin:{name}", kwargs=dict.fromkeys(keys, getattr(row, "pk", None))))
        except NoReverseMatch:
            continue
    for path in paths:
        assert client.get(path).status_code == 302, path
        assert client.post(path).status_code == 302, path
    client.force_login(onlooker)
    before = everything()
    for path in paths:
        assert client.post(path, {"post": "yes", "confirm": "yes"}).status_code < 500, path
    assert everything() == before


def actions(model: type[models.Model]) -> list[str]:
    model_admin: Any = admin.site._registry[model]
    return [str(name) for _function, name, _description in model_admin._get_base_actions()]


class Tags(HTMLParser):
    """Elements and attributes that a page really has."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))


def spoil(fleet: Fleet) -> None:
    """Every text that a device or stranger chooses becomes an attack."""
    attack = {
        "name": PROBE,
        "serial_number": PROBE[:64],
        "product_name": PROBE[:100],
        "model_name": PROBE[:100],
    }
    Device.objects.update(
        **attack,
        os_version=PROBE[:40],
        information={PROBE: PROBE, "DeviceName": PROBE, "List": [PROBE, {PROBE: PROBE}]},
        security={PROBE: PROBE},
    )
    AuditEvent.objects.update(
        actor=PROBE[:200], target_label=PROBE[:200], reason=PROBE, details={PROBE: PROBE}
    )
    Refusal.objects.update(reason=PROBE[:80], detail=PROBE, remote_addr=PROBE[:45])
    Certificate.objects.update(subject=PROBE)
    for model in MODELS:
        if model._meta.app_label in {"enrollment", "scep", "devices", "commands"}:
            one_of_a_kind = {name for constraint in model._meta.constraints for name in _fields(constraint)}
            texts = {
                field.name: PROBE[: field.max_length or 300]
                for field in model._meta.concrete_fields
                if isinstance(field, models.CharField)
                and not field.choices
                and not field.unique
                and not isinstance(field, models.SlugField)
                and field.name not in {*attack, *one_of_a_kind}
            }
            if texts:
                model._default_manager.update(**texts)


def _fields(constraint: models.BaseConstraint) -> tuple[str, ...]:
    return tuple(constraint.fields) if isinstance(constraint, models.UniqueConstraint) else ()


@every_model
def test_what_devices_say_is_never_markup(browser: Client, fleet: Fleet, model: type[models.Model]) -> None:
    spoil(fleet)
    for path in ("/admin/", *pages(model)):
        answer = browser.get(path)
        if answer.status_code != 200:
            continue
        tags = Tags()
        tags.feed(text(answer))
        for tag, attributes in tags.found:
            assert tag != "xss-probe", path
            assert not [name for name in attributes if name.startswith("on")], (path, tag, attributes)
            assert "style" not in attributes, (path, tag, attributes)
            assert tag != "style", path
            assert tag != "script" or attributes.get("src") or attributes.get("type"), path
            assert not attributes.get("href", "").lower().startswith("javascript:"), path


@every_model
def test_no_page_holds_a_secret(browser: Client, fleet: Fleet, model: type[models.Model]) -> None:
    rows = model._default_manager.order_by("-pk")[:5]
    for path in [*pages(model), *(address(model, "change", row.pk) for row in rows)]:
        assert "CANARY" not in text(browser.get(path)), path


def test_lists_cost_the_same_for_many_rows(
    browser: Client, fleet: Fleet, now: datetime, django_assert_max_num_queries: object
) -> None:
    for model in MODELS:
        with django_assert_max_num_queries(20):  # type: ignore[operator]
            assert browser.get(address(model, "changelist")).status_code == 200, model
