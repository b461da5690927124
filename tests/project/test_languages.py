"""The language of a person is over with the request: devices are served in none."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from django.http import HttpResponse
from django.utils import translation

from mdm_project.doors import Doors


def german(environ: dict[str, Any], start_response: Callable[..., Any]) -> HttpResponse:
    translation.activate("de")
    if environ["PATH_INFO"] == "/fault/":
        raise RuntimeError("a fault of the handler itself")
    return HttpResponse(translation.get_language())


def ask(doors: Doors, path: str) -> Iterable[bytes]:
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}
    return doors(environ, lambda *_: None)


@pytest.mark.django_db
def test_the_next_request_of_the_thread_is_not_in_the_language_of_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doors = Doors()
    monkeypatch.setattr(doors, "people", german)
    before = translation.get_language()
    assert list(ask(doors, "/enroll/default/")) == [b"de"]
    assert translation.get_language() == before
    with pytest.raises(RuntimeError):
        ask(doors, "/fault/")
    assert translation.get_language() == before
    list(ask(doors, "/mdm/connect"))
    assert translation.get_language() == before
