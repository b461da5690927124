"""Warnings before certificates end: at which moment, once each, on record and by e-mail."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from pytest_django import Settings

from audit.models import AuditEvent
from mdm_project.celery import SWEEPS
from mdm_project.mail import Server, server
from push import certificates, expiry, tasks, vendors
from push.models import PushCertificate
from tests.push import vendor_files as files
from tests.push.conftest import ADMIN, TOPIC, MakeEnrollments
from tests.support.apns import Authority

END = datetime(2027, 6, 1, 12, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def push_certificate(authority: Authority, now: datetime, topic: str = TOPIC) -> PushCertificate:
    made, key = authority.push_certificate(topic, not_after=END)
    return certificates.import_certificate(made + key, confirm_topic_change=True, actor=ADMIN, now=now)


def warned(now: datetime) -> list[tuple[str, int]]:
    return [(warning.name, warning.threshold) for warning in expiry.warn(now)]


@pytest.mark.once
@pytest.mark.parametrize(
    ("left", "threshold"),
    [
        (timedelta(days=60, seconds=1), None),
        (timedelta(days=60), 60),
        (timedelta(days=30, seconds=1), 60),
        (timedelta(days=30), 30),
        (timedelta(days=7), 7),
        (timedelta(days=1, seconds=1), 7),
        (timedelta(days=1), 1),
        (timedelta(seconds=1), 1),
        (timedelta(0), 0),
        (timedelta(days=-400), 0),
    ],
)
def test_the_thresholds(left: timedelta, threshold: int | None) -> None:
    assert expiry.threshold_of(left) == threshold


@pytest.mark.django_db
def test_each_threshold_warns_once(
    authority: Authority, now: datetime, make_enrollments: MakeEnrollments
) -> None:
    row = push_certificate(authority, now)
    make_enrollments(3)
    told = []
    for days in (90, 61, 60, 59, 45, 30, 29.5, 8, 7, 2, 1, 0.5, 0, -1, -30):
        for _again in range(2):
            told += [(days, threshold) for _name, threshold in warned(END - timedelta(days=days))]
    assert told == [(60, 60), (30, 30), (7, 7), (1, 1), (0, 0)]
    events = list(AuditEvent.objects.filter(target_id=str(row.pk)).exclude(actor="admin").order_by("id"))
    assert [event.action for event in events] == [
        *["push_certificate.expires_soon"] * 4,
        "push_certificate.expired",
    ]
    assert events[0].details == {
        "topic": TOPIC,
        "not_after": END.isoformat(),
        "within_days": 60,
        "devices": 3,
    }
    assert {event.actor for event in events} == {"server"}


@pytest.mark.django_db
def test_a_server_that_was_off_warns_of_where_it_stands_now(authority: Authority, now: datetime) -> None:
    push_certificate(authority, now)
    assert warned(END - timedelta(days=5)) == [(TOPIC, 7)]
    assert warned(END - timedelta(days=4)) == []


@pytest.mark.django_db
def test_a_renewal_ends_the_warnings_and_has_its_own(authority: Authority, now: datetime) -> None:
    old = push_certificate(authority, now)
    assert warned(END - timedelta(days=20)) == [(TOPIC, 30)]
    made, key = authority.push_certificate(TOPIC, not_after=END + timedelta(days=300))
    certificates.import_certificate(made + key, actor=ADMIN, now=now)
    assert warned(END) == [], "the old one is replaced"
    assert warned(END + timedelta(days=250)) == [(TOPIC, 60)]
    old.refresh_from_db()
    assert old.warned_days == 30


@pytest.mark.django_db
def test_vendor_certificates_are_watched_until_they_are_retired(
    now: datetime, settings: Settings, tmp_path: Path
) -> None:
    apple = files.Apple()
    (tmp_path / "root.pem").write_bytes(files.pem(apple.root))
    settings.BRAMLEY_APNS_CA = str(tmp_path / "root.pem")
    data = files.pem(apple.vendor(until=END), apple.relations) + files.key_pem(files.rsa_key("vendor"))
    row = vendors.import_vendor(data, actor=ADMIN, now=now)
    assert warned(END - timedelta(days=30)) == [("MDM Vendor: Example Ltd", 30)]
    assert AuditEvent.objects.filter(action="vendor_certificate.expires_soon").count() == 1
    vendors.retire_vendor(row, actor=ADMIN, now=now)
    assert warned(END) == []


@pytest.mark.django_db
def test_one_e_mail_tells_the_administrators(
    authority: Authority, now: datetime, settings: Settings, make_enrollments: MakeEnrollments
) -> None:
    push_certificate(authority, now)
    push_certificate(authority, now, f"{TOPIC}.other")
    make_enrollments(2)
    assert len(expiry.warn(END - timedelta(days=60))) == 2
    assert mail.outbox == [], "nobody is named"
    settings.BRAMLEY_ALERT_EMAILS = ["it@example.com", "boss@example.com"]
    assert len(expiry.warn(END - timedelta(days=30))) == 2
    (sent,) = mail.outbox
    assert sent.to == ["it@example.com", "boss@example.com"]
    assert sent.subject == "[Bramley] 2 certificates need attention"
    assert f"Push certificate ends within 30 days: {TOPIC}" in sent.body
    assert "2 enrolled devices can then not be woken" in sent.body
    assert "/admin/push/" in sent.body
    expiry.warn(END - timedelta(days=29))
    assert len(mail.outbox) == 1


@pytest.mark.django_db
def test_a_mail_server_that_is_away_loses_no_record(
    authority: Authority, now: datetime, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    push_certificate(authority, now)
    settings.BRAMLEY_ALERT_EMAILS = ["it@example.com"]
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_TIMEOUT = "127.0.0.1", 9, 1
    with caplog.at_level(logging.ERROR):
        assert warned(END - timedelta(days=60)) == [(TOPIC, 60)]
    assert "could not be sent by e-mail" in caplog.text
    assert AuditEvent.objects.filter(action="push_certificate.expires_soon").count() == 1


@pytest.mark.django_db
def test_the_beat_runs_it(authority: Authority) -> None:
    assert "push.tasks.warn_of_expiry" in {task for task, _seconds in SWEEPS.values()}
    soon = datetime.now(UTC) + timedelta(days=20)
    made, key = authority.push_certificate(TOPIC, not_after=soon)
    row = certificates.import_certificate(made + key, actor=ADMIN, now=datetime.now(UTC))
    tasks.warn_of_expiry()
    row.refresh_from_db()
    assert row.warned_days == 30


@pytest.mark.once
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", Server()),
        ("smtp://relay", Server("relay", 25)),
        (
            "smtp+starttls://me%40example.com:p%3Aw@mail.example.com",
            Server("mail.example.com", 587, "me@example.com", "p:w", starttls=True),
        ),
        ("smtps://mail.example.com:4650", Server("mail.example.com", 4650, tls=True)),
    ],
)
def test_the_mail_server_is_one_address(
    url: str, expected: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BRAMLEY_SMTP_URL", url)
    assert server() == expected
    assert "p:w" not in repr(server())
    (tmp_path / "url").write_text(f"{url}\n")
    monkeypatch.delenv("BRAMLEY_SMTP_URL")
    monkeypatch.setenv("BRAMLEY_SMTP_URL_FILE", str(tmp_path / "url"))
    assert server() == expected


@pytest.mark.once
@pytest.mark.parametrize("url", ["http://x", "smtp://", "smtp://user:geheim@host:port", "mail.example.com"])
def test_a_wrong_mail_server_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRAMLEY_SMTP_URL", url)
    with pytest.raises(ImproperlyConfigured) as caught:
        server()
    assert "geheim" not in str(caught.value)
