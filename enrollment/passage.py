"""That a person has passed the gate of an enrolment page: kept in the browser's session for an hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.http import HttpRequest

from enrollment import access
from enrollment.access import AccessRefused, Person
from enrollment.models import Access, EnrollmentCode, EnrollmentProfile, PersonSource

LIFE = timedelta(hours=1)
_KEY = "enrollment.passed"


@dataclass(frozen=True)
class Passed:
    """By what somebody passed: who they are, or the id of a code; neither where the page is open."""

    person: Person | None = None
    code_id: int | None = None


OPEN = Passed()


def remember(request: HttpRequest, profile: EnrollmentProfile, passed: Passed, now: datetime) -> None:
    """Keep it, under a new session key: who knew the old one has not passed."""
    request.session.cycle_key()
    person = passed.person
    kept = request.session.get(_KEY, {})
    kept[str(profile.pk)] = {
        "at": int(now.timestamp()),
        "access": profile.access,
        "code": passed.code_id,
        "person": [person.name, person.source, person.identifier, sorted(person.groups)] if person else None,
    }
    request.session[_KEY] = kept


def passed(request: HttpRequest, profile: EnrollmentProfile, now: datetime) -> Passed | None:
    """What was kept, if it still counts: in time, for the present way of access, the code still good."""
    if profile.access == Access.OPEN:
        return OPEN
    kept = request.session.get(_KEY, {}).get(str(profile.pk))
    if not kept or kept["access"] != profile.access or now.timestamp() - kept["at"] > LIFE.total_seconds():
        return None
    person = _person(kept["person"])
    try:
        if profile.access == Access.CODE:
            code = access.verify_code(EnrollmentCode.objects.get(pk=kept["code"], profile=profile), now)
            return Passed(code_id=code.pk)
        return Passed(access.verify_person(profile, person)) if person else None
    except (AccessRefused, EnrollmentCode.DoesNotExist):
        return None  # no refusal: the person is asked again


def forget(request: HttpRequest, profile: EnrollmentProfile) -> None:
    """The next one at this browser has passed nothing."""
    kept = request.session.get(_KEY, {})
    if kept.pop(str(profile.pk), None) is not None:
        request.session[_KEY] = kept


def _person(kept: list[object] | None) -> Person | None:
    if kept is None:
        return None
    name, source, identifier, groups = kept
    assert isinstance(groups, list)  # noqa: S101 - for the type checker
    return Person(str(name), PersonSource(str(source)), str(identifier), frozenset(groups))
