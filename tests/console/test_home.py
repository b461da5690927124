"""The home page: numbers that lead to the rows they count, in a fixed number of queries."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.test import Client

from audit.models import Outcome
from audit.recording import Actor, record, refuse
from console import home
from devices.models import Enrollment, EnrollmentState
from scep.models import Transaction, TransactionStatus
from tests.console.fleet import Fleet, make_fleet, make_issuer, make_push_certificate

QUERIES = 14

pytestmark = pytest.mark.django_db


def tile(board: home.Board, title: str) -> home.Tile:
    return next(tile for tile in board.tiles if tile.title == title)


def test_an_empty_server_shows_what_to_do_first(browser: Client) -> None:
    page = browser.get("/admin/")
    board = page.context["board"]
    assert [step.done for step in board.steps] == [False, False, False, False]
    assert {tile.count for tile in board.tiles} == {0}
    assert not [tile.tone for tile in board.tiles if tile.tone]
    assert (board.expiries, board.platforms, board.contact) == ([], [], [])
    assert "0 of 4 done" in page.content.decode()


def test_the_checklist_goes_when_all_is_done(administrator: User, now: datetime, settings: Any) -> None:
    make_issuer(now)
    assert [step.done for step in home.board(administrator, now).steps] == [True, False, False, False]
    make_push_certificate(now)
    settings.BRAMLEY_PUBLIC_URL = "https://mdm.example.org"
    assert [step.done for step in home.board(administrator, now).steps] == [True, True, True, False]
    make_fleet(1, now, seed=3)
    assert Enrollment.objects.exclude(enrolled_at=None).exists()
    assert home.board(administrator, now).steps == []


def test_a_device_that_left_does_not_undo_the_checklist(administrator: User, now: datetime) -> None:
    make_fleet(1, now, seed=3)
    Enrollment.objects.update(state=EnrollmentState.CHECKED_OUT)
    assert home.board(administrator, now).steps[3].done


def test_every_tile_opens_the_rows_that_it_counts(browser: Client, fleet: Fleet, now: datetime) -> None:
    for tile in home.board(User.objects.get(username="ada"), now).tiles:
        if not tile.url:
            continue
        answer = browser.get(tile.url)
        assert answer.status_code == 200, tile.title
        rows = answer.context["cl"].queryset
        counted = sum(row.count for row in rows) if "refusal" in tile.url else rows.count()
        assert counted == tile.count, tile.title
        assert tile.count, f"the fleet has none of these: {tile.title}"


def test_every_bar_opens_the_devices_that_it_counts(browser: Client, fleet: Fleet, now: datetime) -> None:
    board = home.board(User.objects.get(username="ada"), now)
    assert len(board.contact) == 4
    assert board.platforms
    for part in (*board.platforms, *board.contact):
        rows = browser.get(part.url).context["cl"].queryset
        assert rows.count() == part.count, part.label


def test_nothing_is_due_the_moment_it_is_not(administrator: User, fleet: Fleet, now: datetime) -> None:
    Enrollment.objects.update(state=EnrollmentState.ENROLLED, last_seen_at=now - timedelta(days=7))
    assert tile(home.board(administrator, now), "Not seen for 7 days").count == 0
    board = home.board(administrator, now + timedelta(seconds=1))
    assert tile(board, "Not seen for 7 days").count == len(fleet.devices)


def test_what_expires_comes_first_with_its_urgency(administrator: User, now: datetime) -> None:
    make_issuer(now, days=3000)
    make_push_certificate(now, days=5, held="APNs refused it")
    push, issuer = home.board(administrator, now).expiries
    assert (push.kind, push.tone, push.note) == ("push certificate", "bad", "APNs refused it")
    assert push.left == "in 5 days"
    assert (issuer.tone, issuer.left) == ("good", "in 8 years")


@pytest.mark.parametrize(
    ("days", "tone", "left"),
    [
        (-3, "bad", "3 days ago"),
        (14, "bad", "in 14 days"),
        (40, "wait", "in 40 days"),
        (300, "good", "in 10 months"),
    ],
)
def test_the_tone_of_a_push_certificate(
    administrator: User, now: datetime, days: int, tone: str, left: str
) -> None:
    make_push_certificate(now, days=days)
    (push,) = home.board(administrator, now).expiries
    assert (push.tone, push.left) == (tone, left)


def test_recent_activity_is_in_words_with_links(browser: Client, fleet: Fleet) -> None:
    device = fleet.devices[0]
    record("device.renamed", actor=Actor("ada"), target=device, outcome=Outcome.REFUSED, reason="no")
    page = browser.get("/admin/").content.decode()
    assert "Device renamed" in page
    assert "no such" not in page


def test_requests_that_wait_for_approval_have_a_tile_while_there_are_any(
    browser: Client, fleet: Fleet, now: datetime
) -> None:
    ada = User.objects.get(username="ada")
    assert "Certificate requests" not in [tile.title for tile in home.board(ada, now).tiles]
    first, second = Transaction.objects.order_by("pk")[:2]
    Transaction.objects.filter(pk__in=(first.pk, second.pk)).update(
        status=TransactionStatus.PENDING, certificate=None, expires_at=now + timedelta(hours=1)
    )
    asked = tile(home.board(ada, now), "Certificate requests")
    assert (asked.count, asked.tone) == (2, "wait")
    assert browser.get(asked.url).context["cl"].queryset.count() == 2
    Transaction.objects.filter(pk=first.pk).update(expires_at=now)  # nobody can decide about it any more
    assert tile(home.board(ada, now), "Certificate requests").count == 1


def test_people_see_only_what_they_may(client: Client, fleet: Fleet, now: datetime) -> None:
    user = User.objects.create_user("bob", is_staff=True)
    assert home.board(user, now) == home.Board()
    assert home.board(AnonymousUser(), now) == home.Board()
    user.user_permissions.add(Permission.objects.get(codename="view_refusal"))
    board = home.board(User.objects.get(pk=user.pk), now)
    assert [tile.title for tile in board.tiles] == ["Refused requests"]
    assert (board.steps, board.expiries, board.happenings) == ([], [], [])
    client.force_login(user)
    assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize("devices", [3, 300])
def test_it_takes_the_same_queries_for_few_and_many(
    administrator: User, now: datetime, django_assert_num_queries: object, devices: int
) -> None:
    make_fleet(devices, now)
    make_push_certificate(now)
    refuse("mdm", "unknown certificate", remote_addr="198.51.100.7")
    with django_assert_num_queries(QUERIES):  # type: ignore[operator]
        home.board(administrator, now)


def test_links_are_stable_for_a_minute(administrator: User, fleet: Fleet) -> None:
    at = datetime(2026, 11, 24, 5, 40, 10, tzinfo=UTC)
    links = [tile.url for tile in home.board(administrator, at).tiles]
    assert links == [tile.url for tile in home.board(administrator, at + timedelta(seconds=40)).tiles]
    for link in links:
        for values in parse_qs(urlsplit(link).query).values():
            assert not re.search(r"\.\d", values[0])
