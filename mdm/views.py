"""The two addresses of devices. In order: method, size, certificate over the raw bytes, then the body."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from django.db import transaction
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.utils import timezone

from audit.addresses import client_address
from audit.recording import refuse
from commands.core import plist
from mdm import newcomers, permitted
from mdm.answers import Rejected, Reply
from mdm.authentication import Expired, Presented, pinned, proven_certificate, unpinned
from mdm.checkin import check_in
from mdm.connect import MAX_CONNECT, answer_awaited, connect
from mdm.core.checkin import MAX_CHECKIN
from mdm.core.farewell import Farewell
from mdm.departure import last_word

Handle = Callable[[Presented, Mapping[str, Any], bytes, datetime], Reply]
Hurry = Callable[[bytes, bytes, datetime], Reply | None]
HandleExpired = Callable[[Expired, Mapping[str, Any], bytes, datetime], Reply]


def checkin_view(request: HttpRequest) -> HttpResponse:
    """``/mdm/checkin``."""
    return _serve(request, MAX_CHECKIN, _check_in, hurry=newcomers.at_once)


def connect_view(request: HttpRequest) -> HttpResponse:
    """``/mdm/connect``; also check-ins, of profiles that have a ServerURL and no CheckInURL.

    Here, and only here, a device may have a permit to come with an expired certificate.
    """
    return _serve(request, MAX_CONNECT, _connect, hurry=_hurry, handle_expired=permitted.connect)


def _check_in(presented: Presented, message: Mapping[str, Any], body: bytes, now: datetime) -> Reply:
    return check_in(presented, message, hashlib.sha256(body).digest(), now)


def _connect(presented: Presented, message: Mapping[str, Any], body: bytes, now: datetime) -> Reply:
    if "MessageType" not in message:
        return connect(presented, message, body, now)
    if len(body) > MAX_CHECKIN:
        raise Rejected("body too large", status=413)
    return _check_in(presented, message, body, now)


def _hurry(certificate: bytes, body: bytes, now: datetime) -> Reply | None:
    if b"MessageType" in body:
        return newcomers.at_once(certificate, body, now)
    return answer_awaited(certificate, body, now)


def _serve(
    request: HttpRequest,
    limit: int,
    handle: Handle,
    *,
    hurry: Hurry | None = None,
    handle_expired: HandleExpired | None = None,
) -> HttpResponse:
    if request.method != "PUT":
        return HttpResponse(status=405, headers={"Allow": "PUT"}, content_type="text/plain")
    now = timezone.now()
    remote_addr = client_address(request)
    try:
        body = _read(request, limit)
        certificate = proven_certificate(request, body)
        if hurry is not None and (hurried := hurry(certificate, body, now)) is not None:
            return _answer(hurried)
        try:
            presented = pinned(certificate, now)
        except Expired as expired:
            if (farewell := last_word(expired.identity, now)) is not None:
                return _say(farewell)
            if handle_expired is None:
                raise
            reply = handle_expired(expired, _parse(body, limit), body, now)
        else:
            if presented is not None and (farewell := last_word(presented.identity, now)) is not None:
                return _say(farewell)
            if presented is not None:
                reply = handle(presented, _parse(body, limit), body, now)
            else:
                with transaction.atomic():
                    reply = handle(unpinned(certificate, now), _parse(body, limit), body, now)
    except Rejected as rejected:
        refuse(
            "mdm",
            rejected.reason,
            remote_addr=remote_addr,
            detail=rejected.detail,
            target=rejected.target,
            now=now,
        )
        return HttpResponse(status=rejected.status, content_type="text/plain")
    return _answer(reply)


def _answer(reply: Reply) -> HttpResponse:
    return HttpResponse(reply.body, status=reply.status, content_type=reply.content_type)


def _say(farewell: Farewell) -> HttpResponse:
    """The one answer that makes a device leave; see :mod:`mdm.departure`."""
    return HttpResponse(farewell.body, status=farewell.status, content_type=farewell.content_type)


def _read(request: HttpRequest, limit: int) -> bytes:
    """The body: what is too large is refused before it is read. Raises :class:`Rejected`."""
    claimed = request.META.get("CONTENT_LENGTH") or "0"
    if not claimed.isascii() or not claimed.isdigit():
        raise Rejected("bad Content-Length")
    if len(claimed) > 12 or int(claimed) > limit:
        raise Rejected("body too large", status=413)
    try:
        body = request.read(limit + 1)
    except UnreadablePostError as error:
        raise Rejected("body cut off") from error
    if len(body) != int(claimed):
        raise Rejected("body cut off")
    return body


def _parse(body: bytes, limit: int) -> Mapping[str, Any]:
    try:
        return plist.read(body, max_size=limit)
    except plist.PlistError as error:
        raise Rejected("bad property list", detail=str(error)) from error
