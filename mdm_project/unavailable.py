"""What people are shown when something fails: a page for a while that passes, another for a fault of ours.

Django calls :func:`people` for whatever a view or a middleware raised, in the ``except`` block. The page asks
neither the database nor the session for anything: they may be what has failed.
"""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.loader import render_to_string

from pki.tokens import TokenUnavailable

RETRY_AFTER = "30"
"""Seconds. A database that is busy or restarting is back within them."""
PASSING = (OperationalError, InterfaceError, TokenUnavailable)


def people(request: HttpRequest) -> HttpResponse:
    """503 with Retry-After where the database or a key is not there just now; else 500."""
    passing = isinstance(sys.exception(), PASSING)
    status = 503 if passing else 500
    if request.path.startswith("/api/"):
        said = "Not available just now; try again." if passing else "The server failed."
        response: HttpResponse = JsonResponse({"detail": said}, status=status)
    else:
        response = HttpResponse(render_to_string("unavailable.html", {"passing": passing}), status=status)
    if passing:
        response.headers["Retry-After"] = RETRY_AFTER
    return response
