"""The gate before the download: codes, accounts, tickets, limits, each with the refusals beside it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Group, User
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.utils import timezone

from audit.models import AuditEvent, Refusal
from enrollment import access, codes, direct, ota
from enrollment.access import AccessRefused, Admission
from enrollment.core.access import CodeRefused
from enrollment.models import (
    Access,
    EnrollmentCode,
    EnrollmentProfile,
    EnrollmentSession,
    PersonSource,
    SessionState,
)
from enrollment.setup import ensure_default_profile
from tests.enrollment.gates import ADMINISTRATOR, button, details, gated, minted, reasons
from tests.support.device_door import DeviceClient
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
PAGE, CODE, SIGN_IN = "/enroll/default/", "/enroll/default/code", "/enroll/default/sign-in"
DOWNLOAD, OTA = "/enroll/default/profile", "/enroll/default/ota"
PASSWORD = "orchard-gate-9"


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    cache.clear()


@pytest.fixture
def needs_code(profile: EnrollmentProfile) -> EnrollmentProfile:
    return gated(profile, Access.CODE)


@pytest.fixture
def needs_login(profile: EnrollmentProfile) -> EnrollmentProfile:
    return gated(profile, Access.LOGIN)


@pytest.fixture
def anna(db: None) -> User:
    """An account without any rights."""
    return User.objects.create_user("anna", password=PASSWORD)


def sessions() -> int:
    return EnrollmentSession.objects.count()


# --- Codes -----------------------------------------------------------------------------------------------


def test_with_a_code_a_person_gets_the_profile_once(client: Client, needs_code: EnrollmentProfile) -> None:
    code, value = minted(needs_code)
    assert button(client) == ""
    assert client.post(CODE, {"code": value.lower().replace("-", " ")}).status_code == 303
    address = button(client)
    assert address.startswith(f"{DOWNLOAD}?ticket=")
    answer = client.get(address)
    assert (answer.status_code, answer.content[0]) == (200, 0x30)
    session = EnrollmentSession.objects.get()
    assert session.code == code
    code.refresh_from_db()
    assert code.uses == 1
    # The same link again, and the same code again.
    with no_change():
        assert client.get(address).status_code == 403
        assert button(client) == ""
        assert client.post(CODE, {"code": value}).status_code == 403
    assert reasons()[:2] == ["wrong code", "ticket used before"]


def test_head_uses_nothing_up(client: Client, needs_code: EnrollmentProfile) -> None:
    _code, value = minted(needs_code)
    client.post(CODE, {"code": value})
    address = button(client)
    with no_change():
        assert client.head(address).status_code == 200
        assert client.head(DOWNLOAD).status_code == 403
    assert client.get(address).status_code == 200


def test_without_a_code_there_is_nothing(client: Client, needs_code: EnrollmentProfile) -> None:
    minted(needs_code)
    door = DeviceClient()
    with no_change():
        assert client.get(DOWNLOAD).status_code == 403
        assert door.get(OTA).status == 403
        assert client.get(f"{DOWNLOAD}?ticket=").status_code == 403
    assert reasons() == ["no ticket"]
    assert Refusal.objects.get().count == 3


def test_whatever_is_wrong_with_a_code_looks_the_same(client: Client, needs_code: EnrollmentProfile) -> None:
    other = EnrollmentProfile.objects.create(
        slug="other", name="Other", issuer=needs_code.issuer, access=Access.CODE
    )
    _expired, expired = minted(needs_code, expires_at=timezone.now() + timedelta(minutes=1))
    withdrawn_code, withdrawn = minted(needs_code)
    codes.withdraw(withdrawn_code, actor=ADMINISTRATOR, now=timezone.now())
    used_code, used = minted(needs_code)
    EnrollmentCode.objects.filter(pk=used_code.pk).update(uses=1)
    _other, foreign = minted(other)
    pages = set()
    with time_machine.travel(timezone.now() + timedelta(minutes=2), tick=True):
        for value in ("WRON-GWRO-NGWR", expired, withdrawn, used, foreign, "💥", "x" * 128):
            with no_change():
                answer = client.post(CODE, {"code": value})
            assert answer.status_code == 403
            pages.add(answer.content.decode().partition("csrfmiddlewaretoken")[0])
            assert value not in answer.content.decode()
            assert button(client) == ""
    assert len(pages) == 1
    assert set(reasons()) == {"wrong code"}
    for value in (expired, withdrawn, used, foreign):
        assert value not in details()


def test_a_form_without_a_code_is_asked_again(client: Client, needs_code: EnrollmentProfile) -> None:
    with no_change():
        assert client.post(CODE, {"code": "  "}).status_code == 400
        assert client.get(CODE).status_code == 405


def test_one_code_for_a_class(needs_code: EnrollmentProfile) -> None:
    code, value = minted(needs_code, max_uses=2)
    guests = [Client(), Client(), Client()]
    for guest in guests:
        assert guest.post(CODE, {"code": value}).status_code == 303
    addresses = [button(guest) for guest in guests]
    assert [guest.get(address).status_code for guest, address in zip(guests, addresses, strict=True)] == [
        200,
        200,
        403,
    ]
    code.refresh_from_db()
    assert (code.uses, sessions()) == (2, 2)


def test_a_code_that_an_administrator_chose(client: Client, needs_code: EnrollmentProfile) -> None:
    minted(needs_code, chosen="Summer School 2026", max_uses=None)
    assert client.post(CODE, {"code": "summerschool-2026"}).status_code == 303
    for _ in range(3):
        assert client.get(button(client)).status_code == 200
    with pytest.raises(CodeRefused), no_change():
        minted(needs_code, chosen="SUMMER SCHOOL 2026")


def test_codes_are_stored_as_hashes_only(needs_code: EnrollmentProfile) -> None:
    code, value = minted(needs_code)
    row = repr(EnrollmentCode.objects.values().get(pk=code.pk))
    assert value not in row
    assert value.replace("-", "") not in row
    assert value not in repr(list(AuditEvent.objects.values()))


def test_guessing_codes_is_slowed_down(client: Client, needs_code: EnrollmentProfile, settings: Any) -> None:
    settings.BRAMLEY_ENROLL_WRONG_PER_MINUTE = 5
    _code, value = minted(needs_code)
    moment = timezone.now().replace(second=10, microsecond=0)
    with time_machine.travel(moment, tick=False):
        with no_change():
            answers = [client.post(CODE, {"code": f"GUESS-{number:06}"}) for number in range(8)]
            assert [answer.status_code for answer in answers] == [403] * 5 + [429] * 3
            assert int(answers[-1]["Retry-After"]) == 50
            # Not even the right one, until the minute is over; and no ticket either.
            assert client.post(CODE, {"code": value}).status_code == 429
            assert client.get(f"{DOWNLOAD}?ticket=x").status_code == 429
            assert DeviceClient().get(OTA).status == 429
        assert Client(REMOTE_ADDR="192.0.2.9").post(CODE, {"code": value}).status_code == 303
    with time_machine.travel(moment + timedelta(minutes=1), tick=False):
        assert client.post(CODE, {"code": value}).status_code == 303
    assert "too many wrong attempts" in reasons()


def test_a_code_counts_for_an_hour_in_the_browser(client: Client, needs_code: EnrollmentProfile) -> None:
    code, value = minted(needs_code, max_uses=5)
    client.post(CODE, {"code": value})
    assert button(client)
    with time_machine.travel(timezone.now() + timedelta(minutes=61), tick=True):
        assert button(client) == ""
    client.post(CODE, {"code": value})
    codes.withdraw(code, actor=ADMINISTRATOR, now=timezone.now())
    assert button(client) == ""


def test_another_person_at_the_same_browser(client: Client, needs_code: EnrollmentProfile) -> None:
    _code, value = minted(needs_code)
    client.post(CODE, {"code": value})
    assert client.post("/enroll/default/leave").status_code == 303
    assert button(client) == ""


# --- Accounts --------------------------------------------------------------------------------------------


def test_with_an_account_a_person_gets_the_profile(
    client: Client, needs_login: EnrollmentProfile, anna: User
) -> None:
    assert button(client) == ""
    answer = client.post(SIGN_IN, {"username": "anna", "password": PASSWORD})
    assert (answer.status_code, answer["Location"]) == (303, PAGE)
    assert "Signed in as <strong>anna</strong>" in client.get(PAGE).content.decode()
    assert client.get(button(client)).status_code == 200
    session = EnrollmentSession.objects.get()
    assert (session.person, session.person_source, session.person_id) == (
        "anna",
        PersonSource.ACCOUNT,
        str(anna.pk),
    )
    # For this enrolment only: it opens nothing else.
    assert "_auth_user_id" not in client.session
    assert client.get("/admin/").status_code == 302
    event = AuditEvent.objects.get(action="enrollment.signed_in")
    assert (event.actor, event.target_id) == ("anna", str(needs_login.pk))


def test_the_session_key_changes_with_the_rights(
    client: Client, needs_login: EnrollmentProfile, anna: User
) -> None:
    client.session.save()
    client.cookies["sessionid"] = client.session.session_key or ""
    before = client.session.session_key
    client.post(SIGN_IN, {"username": "anna", "password": PASSWORD})
    assert client.cookies["sessionid"].value != before


@pytest.mark.parametrize(
    "given", [("anna", "wrong"), ("nobody", PASSWORD), ("anna", ""), ("", PASSWORD), ("anna\0", PASSWORD)]
)
def test_a_wrong_name_or_password(
    client: Client, needs_login: EnrollmentProfile, anna: User, given: tuple[str, str]
) -> None:
    with no_change():
        answer = client.post(SIGN_IN, {"username": given[0], "password": given[1]})
    assert answer.status_code in (400, 403)
    assert button(client) == ""
    assert PASSWORD not in answer.content.decode() + details()


def test_an_account_that_was_switched_off(client: Client, needs_login: EnrollmentProfile, anna: User) -> None:
    anna.is_active = False
    anna.save()
    with no_change():
        assert client.post(SIGN_IN, {"username": "anna", "password": PASSWORD}).status_code == 403


def test_guessing_one_password_is_slowed_down_from_everywhere(
    needs_login: EnrollmentProfile, anna: User
) -> None:
    with time_machine.travel(timezone.now().replace(minute=1), tick=False):
        answers = [
            Client(REMOTE_ADDR=f"192.0.2.{number}").post(
                SIGN_IN, {"username": "Anna " if number % 2 else "anna", "password": f"guess {number}"}
            )
            for number in range(14)
        ]
        assert [answer.status_code for answer in answers] == [403] * 10 + [429] * 4
        with no_change():
            right = Client().post(SIGN_IN, {"username": "anna", "password": PASSWORD})
        assert right.status_code == 429


def test_only_people_of_a_group(client: Client, needs_login: EnrollmentProfile, anna: User) -> None:
    needs_login.people_groups = "Teachers\n staff "
    needs_login.save()
    with no_change():
        answer = client.post(SIGN_IN, {"username": "anna", "password": PASSWORD})
    assert answer.status_code == 403
    assert "signed in as anna" in answer.content.decode()
    assert reasons() == ["person not in a group that may enrol"]
    anna.groups.add(Group.objects.create(name="Staff"))
    assert client.post(SIGN_IN, {"username": "anna", "password": PASSWORD}).status_code == 303
    assert button(client)
    # Not for ever: the next look counts.
    needs_login.people_groups = "Directors"
    needs_login.save()
    assert button(client) == ""


def test_accounts_can_be_left_out(client: Client, needs_login: EnrollmentProfile, anna: User) -> None:
    needs_login.allow_accounts = False
    needs_login.save()
    assert "Signing in is not set up yet" in client.get(PAGE).content.decode()
    with no_change():
        assert client.post(SIGN_IN, {"username": "anna", "password": PASSWORD}).status_code == 404


def test_the_wrong_gate_is_no_gate(client: Client, needs_code: EnrollmentProfile, anna: User) -> None:
    with no_change():
        assert client.post(SIGN_IN, {"username": "anna", "password": PASSWORD}).status_code == 404
        assert client.get("/enroll/default/openid").status_code == 404
    gated(needs_code, Access.LOGIN)
    with no_change():
        assert client.post(CODE, {"code": "x"}).status_code == 404


def test_what_one_gate_gave_is_worth_nothing_at_the_other(
    client: Client, needs_code: EnrollmentProfile
) -> None:
    _code, value = minted(needs_code)
    client.post(CODE, {"code": value})
    address = button(client)
    gated(needs_code, Access.LOGIN)
    with no_change():
        assert client.get(address).status_code == 403
    assert button(client) == ""


@pytest.mark.parametrize(
    "where", ["//evil.example", "https://evil.example/", "\\\\evil", "javascript:alert(1)"]
)
def test_nobody_is_sent_elsewhere(
    client: Client, needs_login: EnrollmentProfile, anna: User, where: str
) -> None:
    answer = client.post(f"{SIGN_IN}?next={where}", {"username": "anna", "password": PASSWORD, "next": where})
    assert answer["Location"] == PAGE
    text = client.get(f"{PAGE}?next={where}").content.decode()
    assert "evil" not in text
    assert client.post(f"/enroll/default/leave?next={where}")["Location"] == PAGE


def test_forms_need_their_token(needs_code: EnrollmentProfile) -> None:
    strict = Client(enforce_csrf_checks=True)
    _code, value = minted(needs_code)
    with no_change():
        for path in ("code", "sign-in", "leave"):
            assert strict.post(f"/enroll/default/{path}", {"code": value}).status_code == 403


# --- Tickets ---------------------------------------------------------------------------------------------


def ticket_of(profile: EnrollmentProfile, **more: Any) -> str:
    code = EnrollmentCode.objects.filter(profile=profile).first()
    return access.issue_ticket(profile, code=code.pk if code else None, now=timezone.now(), **more)


def refused_everywhere(client: Client, ticket: str, slug: str = "default") -> None:
    with no_change():
        assert client.get(f"/enroll/{slug}/profile", {"ticket": ticket}).status_code == 403
        assert DeviceClient().get(f"/enroll/{slug}/ota?ticket={ticket}").status == 403


def test_a_ticket_that_was_altered(client: Client, needs_code: EnrollmentProfile) -> None:
    minted(needs_code)
    ticket = ticket_of(needs_code)
    middle = len(ticket) // 2
    swapped = ticket[:middle] + ("A" if ticket[middle] != "A" else "B") + ticket[middle + 1 :]
    for forged in (
        swapped,
        ticket[:-4],
        ticket + "AAAA",
        "AAAA",
        "🎟",
        "." * 5000,
        "%00",
        "eyJ0aWNrZXQiOiIxIn0",
    ):
        cache.clear()
        with no_change():
            assert client.get(DOWNLOAD, {"ticket": forged}).status_code == 403
    assert set(reasons()) == {"bad ticket"}


def test_a_ticket_of_another_profile(client: Client, needs_code: EnrollmentProfile) -> None:
    other = EnrollmentProfile.objects.create(
        slug="other", name="Other", issuer=needs_code.issuer, access=Access.CODE
    )
    minted(needs_code)
    refused_everywhere(client, ticket_of(needs_code), "other")
    assert set(reasons()) == {"bad ticket"}
    assert not EnrollmentSession.objects.filter(profile=other).exists()


def test_a_ticket_that_is_too_old(client: Client, needs_code: EnrollmentProfile) -> None:
    minted(needs_code)
    ticket = ticket_of(needs_code)
    with time_machine.travel(timezone.now() + access.TICKET_LIFE + timedelta(seconds=1), tick=True):
        refused_everywhere(client, ticket)
    assert set(reasons()) == {"ticket expired"}


def test_one_ticket_starts_one_session_by_either_way(client: Client, needs_code: EnrollmentProfile) -> None:
    minted(needs_code, max_uses=None)
    ticket = ticket_of(needs_code)
    answer = DeviceClient().get(f"{OTA}?ticket={ticket}")
    assert (answer.status, answer.body[0]) == (200, 0x30)
    refused_everywhere(client, ticket)
    assert set(reasons()) == {"ticket used before"}
    assert sessions() == 1


def test_a_ticket_does_not_outlive_its_code(client: Client, needs_code: EnrollmentProfile) -> None:
    code, _value = minted(needs_code)
    ticket = ticket_of(needs_code)
    codes.withdraw(code, actor=ADMINISTRATOR, now=timezone.now())
    refused_everywhere(client, ticket)


def test_a_ticket_tells_nobody_who_it_is_for(needs_login: EnrollmentProfile) -> None:
    person = access.Person("anna@example.com", PersonSource.OPENID, "https://idp 7")
    ticket = access.issue_ticket(needs_login, person=person, now=timezone.now())
    assert "anna" not in ticket
    assert access.admission(needs_login, ticket, timezone.now()).person == person


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_gets_through(issuer: Any) -> None:
    profile = gated(ensure_default_profile(issuer), Access.CODE)
    minted(profile, max_uses=None)
    ticket = ticket_of(profile)
    barrier, outcomes = threading.Barrier(4), []

    def go() -> None:
        try:
            admitted = access.admission(profile, ticket, timezone.now())
            barrier.wait()
            direct.offer(profile, admitted=admitted, remote_addr="", user_agent="", now=timezone.now())
            outcomes.append("got it")
        except AccessRefused as refused:
            outcomes.append(refused.reason)
        finally:
            connection.close()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["got it"] + ["ticket used before"] * 3
    assert (sessions(), EnrollmentCode.objects.get().uses) == (1, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("limit", ["code", "quota"])
def test_a_limit_holds_for_many_at_once(issuer: Any, limit: str) -> None:
    profile = gated(ensure_default_profile(issuer), Access.CODE)
    minted(profile, max_uses=2 if limit == "code" else None)
    if limit == "quota":
        profile.max_enrollments = 2
        profile.save()
    tickets = [ticket_of(profile) for _ in range(5)]
    barrier, outcomes = threading.Barrier(5), []

    def go(ticket: str) -> None:
        try:
            admitted = access.admission(profile, ticket, timezone.now())
            barrier.wait()
            direct.offer(profile, admitted=admitted, remote_addr="", user_agent="", now=timezone.now())
            outcomes.append("got it")
        except AccessRefused as refused:
            outcomes.append(refused.reason)
        finally:
            connection.close()

    threads = [threading.Thread(target=go, args=[ticket]) for ticket in tickets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("got it") == 2, outcomes
    assert sessions() == 2


def test_nothing_is_given_out_by_oversight(needs_code: EnrollmentProfile) -> None:
    """The use cases themselves ask: a caller that forgets the ticket gets nothing."""
    now = timezone.now()
    with no_change():
        for offer in (direct.offer, ota.offer):
            with pytest.raises(AccessRefused):
                offer(needs_code, remote_addr="", user_agent="", now=now)
            with pytest.raises(AccessRefused):
                offer(needs_code, admitted=Admission(), remote_addr="", user_agent="", now=now)


# --- Limits ----------------------------------------------------------------------------------------------


def test_as_many_as_may_enrol(client: Client, profile: EnrollmentProfile) -> None:
    profile.max_enrollments = 2
    profile.save()
    assert [client.get(DOWNLOAD).status_code for _ in range(2)] == [200, 200]
    with no_change():
        assert client.get(DOWNLOAD).status_code == 404
        assert client.get(PAGE).status_code == 404
        assert DeviceClient().get(OTA).status == 403
    assert set(reasons()) == {"as many as may have enrolled"}
    # Who does not go on gives the place back.
    EnrollmentSession.objects.filter(pk=EnrollmentSession.objects.first().pk).update(  # type: ignore[union-attr]
        state=SessionState.EXPIRED
    )
    assert client.get(DOWNLOAD).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(minutes=profile.session_minutes + 1), tick=True):
        assert client.get(PAGE).status_code == 200
    # Who has enrolled does not.
    EnrollmentSession.objects.exclude(state=SessionState.EXPIRED).update(state=SessionState.COMPLETED)
    with time_machine.travel(timezone.now() + timedelta(days=400), tick=True), no_change():
        assert client.get(PAGE).status_code == 404


def test_after_the_last_day(client: Client, profile: EnrollmentProfile) -> None:
    profile.closes_at = timezone.now() + timedelta(days=1)
    profile.save()
    assert client.get(DOWNLOAD).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(days=1, seconds=5), tick=True), no_change():
        closed = client.get(PAGE)
        assert closed.status_code == 404
        assert client.get(DOWNLOAD).status_code == 404
        assert DeviceClient().get(OTA).status == 403
    assert closed.content == client.get("/enroll/nothing/").content
    assert set(reasons()) == {"enrolment has closed"}
