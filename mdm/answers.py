"""What devices are answered, and what stands behind a refusal."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import models

EMPTY = b""


@dataclass(frozen=True)
class Reply:
    """The answer to an accepted request."""

    status: int = 200
    body: bytes = EMPTY
    content_type: str = "application/xml"


class Rejected(Exception):
    """The request is refused and changes nothing.

    ``reason`` is a short fixed text for the administrator, ``detail`` what helps to understand it (no
    secrets, no bodies), ``target`` the row that it is about. The device learns the status only; never 401,
    which would make it unenrol.
    """

    def __init__(
        self, reason: str, *, status: int = 400, detail: str = "", target: models.Model | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.detail = detail
        self.target = target
