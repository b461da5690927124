"""The pages that a person opens to enrol a device, and the download."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_safe

from audit import recording
from audit.addresses import client_address
from enrollment import access, direct, passage, qr, throttle
from enrollment.access import AccessRefused, Admission, Closed
from enrollment.forms import CodeForm, SignInForm
from enrollment.models import Access, EnrollmentProfile
from enrollment.passage import Passed
from enrollment.topic import obstacles
from enrollment.what_is_managed import sentences

PROFILE_TYPE = "application/x-apple-aspen-config"


@require_safe
def page(request: HttpRequest, slug: str) -> HttpResponse:
    """What will be managed, in plain words; the gate, where there is one; the button to download."""
    profile = open_profile(request, slug)
    return not_available(request) if profile is None else show(request, profile)


def show(
    request: HttpRequest,
    profile: EnrollmentProfile,
    *,
    code_form: CodeForm | None = None,
    sign_in_form: SignInForm | None = None,
    trouble: str = "",
    status: int = 200,
) -> HttpResponse:
    """The page, in whatever state: a form that was refused comes with what is wrong."""
    now = timezone.now()
    passed = passage.passed(request, profile, now)
    provider = profile.identity_provider
    context = {
        "profile": profile,
        "sentences": sentences(profile.access_rights),
        "obstacles": obstacles(profile),
        "passed": passed,
        "asks_for_code": passed is None and profile.access == Access.CODE,
        "asks_who": passed is None and profile.access == Access.LOGIN,
        "provider": provider if provider is not None and provider.enabled else None,
        "code_form": code_form or CodeForm(),
        "sign_in_form": sign_in_form or SignInForm(),
        "trouble": trouble,
        "download": _download_address(profile, passed, now) if passed is not None else "",
        "address": settings.BRAMLEY_PUBLIC_URL + reverse("enrollment:page", args=[profile.slug]),
    }
    context["qr"] = qr.drawing(str(context["address"]))
    response = render(request, "enrollment/page.html", context, status=status)
    if status == 429:
        response.headers["Retry-After"] = str(throttle.seconds_to_wait(now))
    return response


def _download_address(profile: EnrollmentProfile, passed: Passed, now: datetime) -> str:
    """The way in that the button leads to, with a ticket where one is needed; empty where there is no way."""
    if profile.allow_direct:
        address = reverse("enrollment:profile", args=[profile.slug])
    elif profile.allow_ota:
        address = reverse("over_the_air", args=[profile.slug])
    else:
        return ""
    if profile.access == Access.OPEN:
        return address
    ticket = access.issue_ticket(profile, person=passed.person, code=passed.code_id, now=now)
    return f"{address}?{urlencode({'ticket': ticket})}"


@require_safe
def download(request: HttpRequest, slug: str) -> HttpResponse:
    """A profile with a challenge of its own for each GET. HEAD tells only what a GET would bring."""
    profile = _enabled(slug)
    if profile is None or not profile.allow_direct:
        return not_available(request)
    remote_addr = client_address(request)
    now = timezone.now()
    if throttle.too_many_wrong(remote_addr, now):
        return _too_many(request, profile, now)
    try:
        admitted = access.admission(profile, request.GET.get("ticket", ""), now)
        if request.method == "HEAD":
            return _attachment(b"", profile)
        return _offer(request, profile, admitted, now)
    except Closed as refused:
        note_refusal(request, profile, refused, now)
        return not_available(request)
    except AccessRefused as refused:
        note_refusal(request, profile, refused, now)
        throttle.count_wrong(remote_addr, now)
        return render(request, "enrollment/used_up.html", {"profile": profile}, status=403)


def _offer(
    request: HttpRequest, profile: EnrollmentProfile, admitted: Admission, now: datetime
) -> HttpResponse:
    remote_addr = client_address(request)
    if throttle.too_many_downloads(remote_addr, now):
        recording.refuse("enroll", "too many downloads", remote_addr=remote_addr, target=profile, now=now)
        return _problem(
            request, _("Too many downloads from your network just now. Wait a minute and try again."), 429
        )
    try:
        offered = direct.offer(
            profile,
            admitted=admitted,
            remote_addr=remote_addr,
            user_agent=request.headers.get("User-Agent", ""),
            now=now,
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


def open_profile(request: HttpRequest, slug: str) -> EnrollmentProfile | None:
    """The enrolment profile behind an address, if somebody may enrol there now. A refusal is recorded."""
    profile = _enabled(slug)
    if profile is None:
        return None
    now = timezone.now()
    try:
        access.verify_open(profile, now)
    except Closed as refused:
        note_refusal(request, profile, refused, now)
        return None
    return profile


def note_refusal(
    request: HttpRequest, profile: EnrollmentProfile, refused: AccessRefused, now: datetime
) -> None:
    """Count it, with the reason that the person is not told."""
    recording.refuse(
        "enroll",
        refused.reason,
        remote_addr=client_address(request),
        detail=refused.detail,
        target=profile,
        now=now,
    )


def not_available(request: HttpRequest) -> HttpResponse:
    """The same answer for what does not exist, is switched off, has closed or is full."""
    return render(request, "enrollment/not_available.html", status=404)


def _enabled(slug: str) -> EnrollmentProfile | None:
    return (
        EnrollmentProfile.objects.filter(slug=slug, enabled=True)
        .select_related("issuer", "identity_provider")
        .first()
    )


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


def _too_many(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> HttpResponse:
    note_refusal(request, profile, AccessRefused("too many wrong attempts"), now)
    return _problem(
        request, _("Too many wrong attempts from your network. Wait a minute and try again."), 429
    )


def _problem(request: HttpRequest, message: str, status: int) -> HttpResponse:
    response = render(request, "enrollment/problem.html", {"message": message}, status=status)
    response.headers["Retry-After"] = "60"
    return response
