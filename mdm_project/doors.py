"""Two doors of one project (design, decision 4).

Devices enter by :class:`DeviceDoor`: no session, no CSRF, no messages, no cookies, a URLconf of its own and
the answers of a protocol. People enter by Django's ordinary handler with the middleware of the settings.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import DisallowedHost, RequestDataTooBig
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.urls import Resolver404, ResolverMatch, get_resolver
from django.utils import translation
from django.utils.log import log_response

from audit.addresses import CLIENT_ADDRESS
from mdm_project import at_hand
from mdm_project.threshold import PatientBody
from pki.tokens import TokenUnavailable

logger = logging.getLogger(__name__)

DEVICE_PATHS = re.compile(r"/(mdm|scep|pki)(/|$)|/enroll/[^/]+/ota$|/(healthz|readyz|metrics)$")


class DeviceDoor:
    """Resolves ``settings.DEVICE_URLCONF`` and calls the view; nothing else stands between.

    Of Django's own handler only the request and the response are left: its signals and middleware, to which
    nobody listens here, took as long as everything else that is done for a request before its view.
    """

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = WSGIRequest(environ)
        try:
            response = respond(request)
            status, body = response.status_code, response.content
            if status >= 500:
                log_response(
                    "%s: %s", response.reason_phrase, request.path, response=response, request=request
                )
            start_response(f"{status} {response.reason_phrase}", list(response.items()))
        finally:
            request.close()
        return [body]


def respond(request: HttpRequest) -> HttpResponse:
    """Resolve and call the view. A fault is a 5xx with an empty body, never a 401 and never a page."""
    try:
        match = _resolve(request.path_info)
        request.resolver_match = match
        response: HttpResponse = match.func(request, *match.args, **match.kwargs)
    except (Resolver404, Http404):
        response = HttpResponse(status=404, content_type="text/plain")
    except RequestDataTooBig:
        response = HttpResponse(status=413, content_type="text/plain")
    except DisallowedHost:
        response = HttpResponse(status=400, content_type="text/plain")
    except TokenUnavailable as away:
        logger.error("a key is not available at %s: %s", request.path, away.reason)
        response = HttpResponse(status=503, content_type="text/plain", headers={"Retry-After": "30"})
    except OperationalError:
        logger.exception("database unavailable at %s", request.path)
        response = HttpResponse(status=503, content_type="text/plain", headers={"Retry-After": "30"})
    except Exception:
        logger.exception("fault at %s", request.path)
        response = HttpResponse(status=500, content_type="text/plain")
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Content-Length"] = str(len(response.content))
    return response


@lru_cache(maxsize=256)
def _resolve(path: str) -> ResolverMatch:
    """The view for a path. Nearly all requests of devices go to a handful of paths."""
    return get_resolver(settings.DEVICE_URLCONF).resolve(path)


class Doors:
    """The WSGI application: picks the door by path."""

    def __init__(self) -> None:
        self.devices = DeviceDoor()
        self.people = WSGIHandler()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not isinstance(environ.get("wsgi.input"), PatientBody):  # who is slow to send it would hold one
            at_hand.take()
        if DEVICE_PATHS.match(environ.get("PATH_INFO", "")):
            try:
                return self.devices(environ, start_response)
            finally:
                at_hand.put_back()
        # People's pages need the client's address only, never whether the peer may pass certificates.
        environ["REMOTE_ADDR"] = environ.get(CLIENT_ADDRESS, environ.get("REMOTE_ADDR", ""))
        try:
            return _at_once(self.people(environ, start_response))
        finally:
            translation.deactivate()  # whom this thread serves next may be a device


def _at_once(response: HttpResponseBase) -> Iterable[bytes]:
    """A body that is complete goes out as one piece, and the request is over for Django before it is sent."""
    if not isinstance(response, HttpResponse):
        return response
    body = response.content
    response.close()
    return [body]
