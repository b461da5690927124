"""The pages that a person opens to enrol a device, and the download."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from audit import recording
from enrollment import direct, throttle
from enrollment.models import EnrollmentProfile
from enrollment.topic import obstacles
from enrollment.what_is_managed import sentences

CLIENT_ADDRESS = "bramley.client_address"
PROFILE_TYPE = "application/x-apple-aspen-config"


@require_safe
def page(request: HttpRequest, slug: str) -> HttpResponse:
    """What will be managed, in plain words, and the button to download the profile."""
    profile = _enabled(slug)
    if profile is None:
        return _not_available(request)
    return render(
        request,
        "enrollment/page.html",
        {
            "profile": profile,
            "sentences": sentences(profile.access_rights),
            "obstacles": obstacles(profile),
        },
    )


@require_safe
def download(request: HttpRequest, slug: str) -> HttpResponse:
    """A profile with a challenge of its own for each GET. HEAD tells only what a GET would bring."""
    profile = _enabled(slug)
    if profile is None or not profile.allow_direct:
        return _not_available(request)
    if request.method == "HEAD":
        return _attachment(b"", profile)
    remote_addr = client_address(request)
    now = timezone.now()
    if throttle.too_many_downloads(remote_addr, now):
        recording.refuse("enroll", "too many downloads", remote_addr=remote_addr, target=profile, now=now)
        return _problem(
            request, _("Too many downloads from your network just now. Wait a minute and try again."), 429
        )
    try:
        offered = direct.offer(
            profile, remote_addr=remote_addr, user_agent=request.headers.get("User-Agent", ""), now=now
        )
    except direct.NotOffered as refused:
        recording.refuse(
            "enroll",
            "profile not offered",
            remote_addr=remote_addr,
            detail=refused.reason,
            target=profile,
            now=now,
        )
        return _problem(request, _("This server is not set up for enrolment yet. Tell your IT staff."), 503)
    return _attachment(offered.mobileconfig, profile)


def client_address(request: HttpRequest) -> str:
    """Who asks: the client itself, also where a trusted proxy stands between (mdm_project.threshold)."""
    address: str = request.META.get(CLIENT_ADDRESS) or request.META.get("REMOTE_ADDR", "")
    return address


def _enabled(slug: str) -> EnrollmentProfile | None:
    return EnrollmentProfile.objects.filter(slug=slug, enabled=True).select_related("issuer").first()


def _attachment(content: bytes, profile: EnrollmentProfile) -> HttpResponse:
    return HttpResponse(
        content,
        content_type=PROFILE_TYPE,
        headers={
            "Content-Disposition": f'attachment; filename="{profile.slug}.mobileconfig"',
            "Cache-Control": "no-store",
            "X-Robots-Tag": "noindex",
        },
    )


def _not_available(request: HttpRequest) -> HttpResponse:
    return render(request, "enrollment/not_available.html", status=404)


def _problem(request: HttpRequest, message: str, status: int) -> HttpResponse:
    response = render(request, "enrollment/problem.html", {"message": message}, status=status)
    response.headers["Retry-After"] = "60"
    return response
