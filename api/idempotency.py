"""A request that is sent twice does its work once (header ``Idempotency-Key``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from rest_framework import exceptions, status
from rest_framework.request import Request

from api.models import ApiToken, IdempotencyKey

KEPT = timedelta(days=2)
MAX_KEY = 100


class Conflict(exceptions.APIException):
    status_code = status.HTTP_409_CONFLICT
    default_detail = "This Idempotency-Key was used for another request."
    default_code = "conflict"


def once(request: Request, act: Callable[[], dict[str, Any]], now: datetime) -> dict[str, Any]:
    """Carry ``act`` out and keep its answer; for a key that was seen before, give that answer again.

    The key belongs to the token, is kept for two days, and stands for one request: with another body it is
    a :class:`Conflict`. What ``act`` raises leaves nothing behind, so the request can be corrected and sent
    again under the same key. Without the header ``act`` is simply carried out.
    """
    key = request.headers.get("Idempotency-Key", "")
    token = request.auth
    if not key or not isinstance(token, ApiToken):
        return act()
    if len(key) > MAX_KEY or not key.isprintable():
        raise exceptions.ValidationError({"detail": f"An Idempotency-Key has up to {MAX_KEY} characters."})
    digest = _digest(request)
    with transaction.atomic():
        # A second request under the key waits here for the first to commit.
        row, is_new = IdempotencyKey.objects.get_or_create(
            token=token, key=key, defaults={"request_sha256": digest, "created_at": now}
        )
        if not is_new:
            if row.request_sha256 != digest:
                raise Conflict
            return dict(row.answer)
        row.answer = act()
        row.save(update_fields=["answer"])
        IdempotencyKey.objects.filter(created_at__lt=now - KEPT).delete()
    return dict(row.answer)


def _digest(request: Request) -> str:
    body = json.dumps([request.method, request.path, request.data], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()
