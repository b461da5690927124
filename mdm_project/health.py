"""Is the process up, can it work, and what does it count."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse


def healthz(request: HttpRequest) -> HttpResponse:
    """200 as long as the process answers."""
    return HttpResponse("ok\n", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError


def metrics(request: HttpRequest) -> HttpResponse:
    raise NotImplementedError
