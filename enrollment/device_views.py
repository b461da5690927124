"""The address of over-the-air enrolment, as devices use it. Answers are Apple's protocol, never a page."""

from __future__ import annotations

from datetime import datetime

from django.http import Http404, HttpRequest, HttpResponse, UnreadablePostError
from django.utils import timezone, translation

from audit import recording
from audit.addresses import client_address
from enrollment import access, ota, throttle
from enrollment.access import AccessRefused
from enrollment.models import EnrollmentProfile
from enrollment.ota import MAX_MESSAGE, NotOffered, Refused
from enrollment.views import PROFILE_TYPE


def over_the_air(request: HttpRequest, slug: str) -> HttpResponse:
    """``/enroll/<slug>/ota``: GET is phase 1, POST phase 2 or 3."""
    if request.method not in {"GET", "HEAD", "POST"}:
        return _plain(405, "method not allowed", {"Allow": "GET, HEAD, POST"})
    profile = (
        EnrollmentProfile.objects.filter(slug=slug, enabled=True, allow_ota=True)
        .select_related("issuer")
        .first()
    )
    if profile is None:
        raise Http404
    now = timezone.now()
    try:
        if request.method == "POST":
            return _profile(_answer(request, profile, now))
        return _profile(_offer(request, profile, now) if request.method == "GET" else b"")
    except Refused as refused:
        return _refused(request, profile, refused, now)
    except NotOffered as missing:
        recording.refuse(
            "enroll",
            "profile not offered",
            remote_addr=client_address(request),
            detail=missing.reason,
            target=profile,
            now=now,
        )
        return _plain(503, "not available", {"Retry-After": "60"})


def _offer(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> bytes:
    remote_addr = client_address(request)
    if throttle.too_many_downloads(remote_addr, now):
        raise Refused("too many downloads", status=429)
    if throttle.too_many_wrong(remote_addr, now):
        raise Refused("too many wrong attempts", status=429)
    agent = request.headers.get("User-Agent", "")
    try:
        admitted = access.admission(profile, request.GET.get("ticket", ""), now)
        with _language_of(request):
            return ota.offer(
                profile, admitted=admitted, remote_addr=remote_addr, user_agent=agent, now=now
            ).mobileconfig
    except AccessRefused as error:
        throttle.count_wrong(remote_addr, now)
        raise Refused(error.reason, detail=error.detail) from error


def _answer(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> bytes:
    remote_addr = client_address(request)
    if throttle.too_many_failures(remote_addr, now):
        raise Refused("too many failures", status=429)
    body = _body(request)
    with _language_of(request):
        return ota.answer(profile, body, remote_addr=remote_addr, now=now)


def _language_of(request: HttpRequest) -> translation.override:
    """What a device shows of a profile is in the language that it asks for."""
    return translation.override(translation.get_language_from_request(request))


def _body(request: HttpRequest) -> bytes:
    """The body: what is too large is refused before it is read."""
    claimed = request.META.get("CONTENT_LENGTH") or "0"
    if not claimed.isascii() or not claimed.isdigit():
        raise Refused("bad Content-Length", status=400)
    if len(claimed) > 12 or int(claimed) > MAX_MESSAGE:
        raise Refused("body too large", status=413)
    try:
        body = request.read(MAX_MESSAGE + 1)
    except UnreadablePostError as error:
        raise Refused("body cut off", status=400) from error
    if len(body) != int(claimed):
        raise Refused("body cut off", status=400)
    if not body:
        raise Refused("no message", status=400)
    return body


_WORDS = {400: "bad request", 403: "not allowed", 413: "too large", 429: "too many requests"}


def _refused(
    request: HttpRequest, profile: EnrollmentProfile, refused: Refused, now: datetime
) -> HttpResponse:
    """The administrator is told why, the device as little as that it did not work."""
    remote_addr = client_address(request)
    ota.note_refusal(refused, profile, remote_addr=remote_addr, now=now)
    headers = {}
    if refused.status == 429:
        headers["Retry-After"] = str(throttle.seconds_to_wait(now))
    else:
        throttle.count_failure(remote_addr, now)
    return _plain(refused.status, _WORDS[refused.status], headers)


def _profile(content: bytes) -> HttpResponse:
    return HttpResponse(
        content,
        content_type=PROFILE_TYPE,
        headers={
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Robots-Tag": "noindex",
        },
    )


def _plain(status: int, text: str, headers: dict[str, str] | None = None) -> HttpResponse:
    content = f"{text}\n".encode()
    return HttpResponse(
        content,
        status=status,
        content_type="text/plain",
        headers={"Content-Length": str(len(content)), **(headers or {})},
    )
