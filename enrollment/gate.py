"""What people do to get past the gate of an enrolment page: type a code, sign in here or elsewhere.

Every address to go on to is made here; none is taken from the request.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps

from django.contrib.auth import authenticate
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_POST

from audit.addresses import client_address
from audit.recording import Actor, record
from enrollment import access, openid, passage, throttle
from enrollment.access import AccessRefused, Person
from enrollment.forms import CodeForm, SignInForm
from enrollment.models import Access, EnrollmentProfile, PersonSource
from enrollment.openid import SignInFailed
from enrollment.passage import Passed
from enrollment.views import not_available, note_refusal, open_profile, show

View = Callable[[HttpRequest, EnrollmentProfile, datetime], HttpResponse]


def _at_gate(ways: Access) -> Callable[[View], Callable[[HttpRequest, str], HttpResponse]]:
    """For profiles with this way of access only, and for who has not guessed too often."""

    def decorate(view: View) -> Callable[[HttpRequest, str], HttpResponse]:
        @wraps(view)
        def guarded(request: HttpRequest, slug: str) -> HttpResponse:
            profile = open_profile(request, slug)
            if profile is None or profile.access != ways:
                return not_available(request)
            now = timezone.now()
            if throttle.too_many_wrong(client_address(request), now):
                return _too_many(request, profile, now)
            return view(request, profile, now)

        return guarded

    return decorate


@require_POST
@sensitive_post_parameters("code")
@_at_gate(Access.CODE)
def code(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> HttpResponse:
    """Somebody typed a code."""
    form = CodeForm(request.POST)
    if not form.is_valid():
        return show(request, profile, code_form=form, status=400)
    try:
        found = access.find_code(profile, form.cleaned_data["code"], now)
    except AccessRefused as refused:
        # The same words and the same work for whatever is wrong with it.
        return _refused(
            request, profile, refused, _("This code does not work. Check it, or ask your IT staff."), now
        )
    return _let_in(request, profile, Passed(code_id=found.pk), now)


@require_POST
@sensitive_post_parameters("password")
@_at_gate(Access.LOGIN)
def sign_in(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> HttpResponse:
    """Somebody signed in with an account of this server, for this enrolment only."""
    if not profile.allow_accounts:
        return not_available(request)
    form = SignInForm(request.POST)
    if not form.is_valid():
        return show(request, profile, sign_in_form=form, status=400)
    username = form.cleaned_data["username"]
    if throttle.too_many_wrong_passwords(username, now):
        return _too_many(request, profile, now)
    user = authenticate(request, username=username, password=form.cleaned_data["password"])
    if user is None:
        throttle.count_wrong_password(username, now)
        return _refused(
            request,
            profile,
            AccessRefused("wrong name or password"),
            _("Name or password are wrong."),
            now,
        )
    groups = frozenset(user.groups.values_list("name", flat=True))
    person = Person(user.get_username(), PersonSource.ACCOUNT, str(user.pk), groups)
    return _let_in_person(request, profile, person, now)


@require_GET
@_at_gate(Access.LOGIN)
def openid_start(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> HttpResponse:
    """Off to the sign-in provider."""
    try:
        return openid.start(request, profile, now)
    except SignInFailed as failed:
        return _failed(request, profile, failed, now)


@require_GET
def openid_return(request: HttpRequest) -> HttpResponse:
    """Back from the sign-in provider."""
    begun_for = openid.profile_of(request)
    profile = open_profile(request, begun_for.slug) if begun_for else None
    if profile is None or profile.access != Access.LOGIN:
        return not_available(request)
    now = timezone.now()
    if throttle.too_many_wrong(client_address(request), now):
        return _too_many(request, profile, now)
    try:
        person = openid.finish(request, profile)
    except SignInFailed as failed:
        return _failed(request, profile, failed, now)
    return _let_in_person(request, profile, person, now)


@require_POST
def leave(request: HttpRequest, slug: str) -> HttpResponse:
    """Somebody else's turn."""
    profile = open_profile(request, slug)
    if profile is None:
        return not_available(request)
    passage.forget(request, profile)
    return _back(profile)


def _let_in_person(
    request: HttpRequest, profile: EnrollmentProfile, person: Person, now: datetime
) -> HttpResponse:
    try:
        access.verify_person(profile, person)
    except AccessRefused as refused:
        words = _("You are signed in as %(name)s, who may not enrol here. Ask your IT staff.")
        return _refused(request, profile, refused, words % {"name": person.name}, now)
    record(
        "enrollment.signed_in",
        actor=Actor(person.name, remote_addr=client_address(request)),
        target=profile,
        details={"known_by": str(person.source), "id": person.identifier},
        at=now,
    )
    return _let_in(request, profile, Passed(person=person), now)


def _let_in(request: HttpRequest, profile: EnrollmentProfile, passed: Passed, now: datetime) -> HttpResponse:
    passage.remember(request, profile, passed, now)
    return _back(profile)


def _back(profile: EnrollmentProfile) -> HttpResponse:
    response = HttpResponseRedirect(reverse("enrollment:page", args=[profile.slug]))
    response.status_code = 303
    return response


def _refused(
    request: HttpRequest, profile: EnrollmentProfile, refused: AccessRefused, words: str, now: datetime
) -> HttpResponse:
    note_refusal(request, profile, refused, now)
    throttle.count_wrong(client_address(request), now)
    return show(request, profile, trouble=words, status=403)


def _failed(
    request: HttpRequest, profile: EnrollmentProfile, failed: SignInFailed, now: datetime
) -> HttpResponse:
    words = _("Signing in did not work. Try again; if it goes on, tell your IT staff.")
    return _refused(request, profile, AccessRefused(failed.reason, failed.detail), words, now)


def _too_many(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> HttpResponse:
    note_refusal(request, profile, AccessRefused("too many wrong attempts"), now)
    words = _("Too many wrong attempts. Wait a few minutes and try again.")
    return show(request, profile, trouble=words, status=429)
