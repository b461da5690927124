"""Simulated devices against the project in this process: no socket, the two doors as they are."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.test import Client

from mdm_project.doors import DEVICE_PATHS
from simulator.exchange import Request, Response
from tests.support.device_door import DeviceClient


class InProcess:
    """Answers requests and keeps them in ``requests``. ``before`` sees each one first and may replace it."""

    def __init__(self, before: Callable[[Request], Request] = lambda request: request) -> None:
        self.before = before
        self.requests: list[Request] = []
        self.devices = DeviceClient()
        self.people = Client(enforce_csrf_checks=True)

    def send(self, request: Request) -> Response:
        request = self.before(request)
        self.requests.append(request)
        parts = urlsplit(request.url)
        if DEVICE_PATHS.match(parts.path):
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            answer = self.devices.request(request.method, target, request.body, request.headers)
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, answer.body, headers)
        self.people.cookies.clear()
        headers = dict(request.headers)
        kind = headers.pop("Content-Type", "application/octet-stream")
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        page = self.people.generic(request.method, target, request.body, content_type=kind, headers=headers)
        return Response(
            page.status_code,
            page.content,
            {name.lower(): value for name, value in page.items()},
            tuple(morsel.OutputString() for morsel in page.cookies.values()),
        )
