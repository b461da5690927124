"""Words, badges, charts, sections, time zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db.models import TextChoices
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django.utils import timezone

from audit.models import Outcome
from commands.models import DeliveryState
from console import charts, sections, states, words
from console.templatetags import bramley
from console.timezone import COOKIE, ViewersTimeZone
from devices.models import Device, Enrollment, EnrollmentState, IdentityState
from enrollment.models import SessionState
from pki.models import CertificateStatus, IssuerKeyState, IssuerState
from push.models import PushCertificateState, PushState
from scep.models import TransactionStatus

NOW = datetime(2026, 11, 24, 5, 40, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (-59, "just now"),
        (30, "in less than a minute"),
        (-60, "1 minute ago"),
        (-3599, "59 minutes ago"),
        (-3600, "1 hour ago"),
        (-86399, "23 hours ago"),
        (-86400, "1 day ago"),
        (29 * 86400, "in 29 days"),
        (-89 * 86400, "89 days ago"),
        (90 * 86400, "in 3 months"),
        (-3 * 365 * 86400, "3 years ago"),
    ],
)
def test_times_in_words(seconds: int, text: str) -> None:
    assert words.relative(NOW + timedelta(seconds=seconds), NOW) == text


def test_a_moment_names_its_zone() -> None:
    assert words.moment(NOW) == "24 Nov 2026, 05:40 UTC"
    with timezone.override(ZoneInfo("America/New_York")):
        assert words.moment(NOW) == "24 Nov 2026, 00:40 EST"


def test_thousands() -> None:
    assert words.thousands(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert words.thousands(999) == "999"


def test_relative_times_keep_the_moment() -> None:
    shown = bramley.ago(NOW)
    assert 'datetime="2026-11-24T05:40:00+00:00"' in shown
    assert 'title="24 Nov 2026, 05:40 UTC"' in shown
    assert "never" in bramley.ago(None)


STATES: list[type[TextChoices]] = [
    CertificateStatus,
    DeliveryState,
    EnrollmentState,
    IdentityState,
    IssuerKeyState,
    IssuerState,
    Outcome,
    PushCertificateState,
    PushState,
    SessionState,
    TransactionStatus,
]


@pytest.mark.parametrize("choices", STATES, ids=lambda choices: choices.__name__)
def test_every_state_has_a_look_and_a_short_word(choices: type[TextChoices]) -> None:
    for value, label in choices.choices:
        look = states.LOOKS[value]
        assert look.tone in charts.TONES
        assert len(str(look.short or label)) <= 20, (value, label)


def test_a_badge_shows_the_short_word_and_says_the_long_one() -> None:
    shown = bramley.badge(Enrollment(state=EnrollmentState.QUARANTINED))
    assert shown == (
        '<span class="badge tone-wait" title="held for an administrator to admit">quarantined</span>'
    )
    assert "<b>" not in bramley.state_badge("<b>", "<b>")
    assert bramley.state_badge("") == "-"


def test_bars_are_drawn_to_the_largest() -> None:
    drawn = charts.bars([charts.Part("iOS", 50), charts.Part("<macOS>", 25, "odd", "/x/?a=1&b=2")])
    assert 'class="tone-good" width="1000"' in drawn
    assert 'class="tone-off" width="500"' in drawn
    assert "&lt;macOS&gt;" in drawn
    assert "/x/?a=1&amp;b=2" in drawn
    assert "style=" not in drawn


def test_a_small_part_is_still_seen() -> None:
    drawn = charts.bars([charts.Part("many", 100_000), charts.Part("one", 1), charts.Part("none", 0)])
    assert 'class="tone-good" width="6"' in drawn
    assert 'class="tone-good" width="0"' in drawn


def test_no_parts_no_fault() -> None:
    assert "<table" in charts.bars([])
    assert "<svg" in charts.progress([])
    assert "<svg" in charts.progress([charts.Part("none", 0)])


def test_progress_fills_the_bar() -> None:
    drawn = bramley.progress_chart({"ACKNOWLEDGED": 2, "QUEUED": 1, "ERROR": 0})
    assert 'class="tone-good" x="0" width="667"' in drawn
    assert 'class="tone-info" x="667" width="333"' in drawn
    assert "tone-bad" not in drawn


def test_every_registered_model_has_its_place() -> None:
    for model in admin.site._registry:
        assert sections.section_of(model._meta.label_lower), f"no section names {model._meta.label_lower}"


def test_no_model_stands_in_two_sections() -> None:
    named = [label for section in sections.SECTIONS for label in section.models]
    assert len(named) == len(set(named))


@pytest.mark.django_db
def test_what_no_section_names_is_shown_all_the_same(administrator: User, monkeypatch: Any) -> None:
    monkeypatch.setattr("console.site.SECTIONS", sections.SECTIONS[:1])
    request = RequestFactory().get("/admin/")
    request.user = administrator
    listed = admin.site.get_app_list(request)
    assert [section["app_label"] for section in listed] == ["devices", "other"] or [
        section["app_label"] for section in listed
    ] == ["other"]
    shown = {model["model"] for section in listed for model in section["models"]}
    assert shown == set(admin.site._registry)


@pytest.mark.django_db
def test_sections_stand_in_their_order(browser: Client) -> None:
    page = browser.get("/admin/")
    slugs = [section["app_label"] for section in page.context["available_apps"]]
    order = [section.slug for section in sections.SECTIONS]
    assert slugs == [slug for slug in order if slug in slugs]


def seen_in(cookie: str | None, path: str = "/admin/") -> str:
    request = RequestFactory().get(path)
    if cookie is not None:
        request.COOKIES[COOKIE] = cookie

    def view(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(words.moment(NOW))

    return ViewersTimeZone(view)(request).content.decode()


def test_times_are_in_the_viewers_zone() -> None:
    assert seen_in("Europe/Berlin") == "24 Nov 2026, 06:40 CET"
    assert seen_in(None) == "24 Nov 2026, 05:40 UTC"
    assert timezone.get_current_timezone_name() == "UTC"


@pytest.mark.parametrize(
    "name", ["", "Nowhere/At-All", "../../etc/passwd", "Europe/Berlin\n", "x" * 5000, "%00"]
)
def test_zones_that_nobody_knows_are_utc(name: str) -> None:
    assert seen_in(name).endswith("UTC")


def test_the_api_speaks_utc() -> None:
    assert seen_in("Europe/Berlin", "/api/v1/devices/").endswith("UTC")


@pytest.mark.django_db
def test_the_login_page_is_ours(client: Client) -> None:
    page = client.get("/admin/login/").content.decode()
    assert "console/bramley.css" in page
    assert "console/logo.svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


@pytest.mark.django_db
def test_lists_show_states_and_times_for_every_app(browser: Client) -> None:
    device = Device.objects.create(udid="00008110-1", name="Ada’s iPhone")
    Enrollment.objects.create(
        device=device, state=EnrollmentState.ENROLLED, last_seen_at=timezone.now() - timedelta(hours=3)
    )
    if Enrollment not in admin.site._registry:
        pytest.skip("enrolments are not in the admin")
    page = browser.get("/admin/devices/enrollment/").content.decode()
    assert '<span class="badge tone-good" title="enrolled">enrolled</span>' in page
    assert ">3 hours ago</time>" in page
