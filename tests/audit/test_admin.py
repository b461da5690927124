"""The record in the admin: readable, searchable, exported, and never changed."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from audit.admin import disarmed
from audit.models import AuditEvent, Outcome, Refusal
from audit.recording import Actor, record, refuse
from audit.wording import action_in_words, kind_in_words, surface_in_words, target_url
from devices.models import Device

pytestmark = pytest.mark.django_db

EVENTS, REFUSALS = "/admin/audit/auditevent/", "/admin/audit/refusal/"


@pytest.fixture
def browser(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


def ids(browser: Client, path: str, **query: str) -> list[int]:
    return [row.pk for row in browser.get(path, query).context["cl"].queryset]


def test_actions_in_words() -> None:
    assert action_in_words("certificate.revoked") == "Certificate revoked"
    assert action_in_words("device_group.renamed") == "Device group renamed"
    assert action_in_words("api_token.created") == "API token created"
    assert action_in_words("enrollment_profile.changed") == "Enrolment profile changed"
    assert action_in_words("secret.revealed") == "Secret shown"
    assert action_in_words("") == ""
    assert surface_in_words("mdm") == "Check-in and connect"
    assert surface_in_words("new") == "new"


def test_targets_that_are_gone_or_unknown_have_no_link() -> None:
    row = AuditEvent(at=timezone.now(), target_kind="no.such", target_id="1")
    assert target_url(row) == ""
    assert kind_in_words(row) == "no.such"
    assert target_url(AuditEvent(target_kind="nonsense", target_id="1")) == ""
    assert target_url(AuditEvent()) == ""
    assert target_url(AuditEvent(target_kind="audit.auditevent", target_id="7")) == f"{EVENTS}7/change/"


def test_events_are_found_by_filter_and_search(browser: Client) -> None:
    now = timezone.now()
    device = Device.objects.create(udid="00008110-1", serial_number="C02XK1")
    old = record("device.enrolled", actor=Actor("enrolment"), target=device, at=now - timedelta(days=9))
    new = record(
        "certificate.revoked", actor=Actor("grace", remote_addr="192.0.2.9"), outcome=Outcome.REFUSED, at=now
    )
    assert ids(browser, EVENTS) == [new.pk, old.pk]
    assert ids(browser, EVENTS, when="day") == [new.pk]
    assert ids(browser, EVENTS, when="nonsense") == [new.pk, old.pk]
    assert ids(browser, EVENTS, outcome__exact="REFUSED") == [new.pk]
    assert ids(browser, EVENTS, action="device.enrolled") == [old.pk]
    assert ids(browser, EVENTS, q="C02XK1") == [old.pk]
    assert ids(browser, EVENTS, q="192.0.2.9") == [new.pk]
    assert ids(browser, EVENTS, target_kind__exact="devices.device", target_id__exact=str(device.pk)) == [
        old.pk
    ]


def test_refusals_are_found_by_filter_and_search(browser: Client) -> None:
    now = timezone.now()
    refuse("mdm", "certificate revoked", remote_addr="198.51.100.7", detail="serial 3F9A", now=now)
    refuse("scep", "challenge used", remote_addr="198.51.100.8", now=now - timedelta(days=2))
    mdm, scep = Refusal.objects.order_by("-last_at")
    assert ids(browser, REFUSALS) == [mdm.pk, scep.pk]
    assert ids(browser, REFUSALS, when="day") == [mdm.pk]
    assert ids(browser, REFUSALS, surface="scep") == [scep.pk]
    assert ids(browser, REFUSALS, q="3F9A") == [mdm.pk]
    page = browser.get(REFUSALS).content.decode()
    assert "Check-in and connect" in page


def test_nobody_changes_the_record(browser: Client) -> None:
    event = record("device.enrolled", actor=Actor("enrolment"))
    before = AuditEvent.objects.values().get()
    for path in (f"{EVENTS}add/", f"{EVENTS}{event.pk}/delete/", f"{EVENTS}{event.pk}/change/"):
        assert browser.post(path, {"post": "yes", "actor": "nobody"}).status_code == 403
    browser.post(EVENTS, {"action": "delete_selected", "_selected_action": [event.pk], "post": "yes"})
    assert AuditEvent.objects.values().get() == before


def test_the_record_as_csv_disarms_formulas(browser: Client) -> None:
    device = Device.objects.create(udid="00008110-1", name='=HYPERLINK("http://evil")')
    event = record("device.renamed", actor=Actor("@grace"), target=device, reason="\t=1")
    answer = browser.post(EVENTS, {"action": "download_csv", "_selected_action": [event.pk]})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    body = b"".join(answer.streaming_content).decode()  # type: ignore[attr-defined]
    head, row = list(csv.reader(io.StringIO(body)))
    cells = dict(zip(head, row, strict=True))
    assert cells["target"] == '\'=HYPERLINK("http://evil")'
    assert cells["actor"] == "'@grace"
    assert cells["reason"] == "'\t=1"
    assert cells["action"] == "device.renamed"
    assert datetime.fromisoformat(cells["at"]) == event.at


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_what_a_spreadsheet_would_calculate(start: str) -> None:
    assert disarmed(f"{start}1") == f"'{start}1"
    assert disarmed(f"a{start}") == f"a{start}"
