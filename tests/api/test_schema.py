"""The OpenAPI document says what is so."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from api.urls import urlpatterns
from tests.api.test_access import DECLARED, OPEN


@pytest.fixture
def document(db: None) -> dict[str, Any]:
    answer = Client().get("/api/v1/schema/", HTTP_ACCEPT="application/vnd.oai.openapi+json")
    assert answer.status_code == 200
    read: dict[str, Any] = json.loads(answer.content)
    return read


@pytest.mark.django_db
def test_it_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("spectacular", "--validate", stdout=StringIO())
    assert "Errors:   0" in capsys.readouterr().err or "Error" not in capsys.readouterr().err


def test_every_operation_is_there_with_its_scope_and_its_refusals(document: dict[str, Any]) -> None:
    operations = {
        (path, method.upper()): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in {"get", "post", "put", "patch", "delete"}
    }
    assert len(operations) == len(DECLARED)
    for (path, method), operation in operations.items():
        assert "Scope: `" in operation["description"], path
        assert {"401", "403"} <= set(operation["responses"]), path
        if method == "POST":
            assert {"400", "413"} <= set(operation["responses"]), path
        if "{" in path:
            assert "404" in operation["responses"], path
        assert operation["security"] == [{"token": []}]
    names = [operation["operationId"] for operation in operations.values()]
    assert len(names) == len(set(names))


def test_the_token_is_described(document: dict[str, Any]) -> None:
    scheme = document["components"]["securitySchemes"]["token"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


@pytest.mark.django_db
def test_schema_and_docs_are_open_and_strict() -> None:
    assert {pattern.name for pattern in urlpatterns} >= OPEN
    page = Client().get("/api/v1/docs/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["Content-Security-Policy"]
    text = page.content.decode()
    assert "<style" not in text
    assert "style=" not in text
    assert "https://" not in text
    script = Client().get("/api/v1/docs/", {"script": "", "lang": '";alert(1);"'})
    assert '";alert(1)' not in script.content.decode()
