"""Which identities the server renews by itself, when, and how many at a time."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from audit.recording import SERVER
from enrollment.models import EnrollmentProfile
from pki.models import Issuer, IssuerKey
from renewal import due, tasks
from renewal.core.pacing import EXPIRY_PAUSES
from renewal.models import (
    CampaignState,
    IdentityRenewal,
    RekeyCampaign,
    RenewalReason,
    RenewalState,
)
from tests.renewal.phones import Phone, new_phone
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def lives(phone: Phone, *, days: int, left: float, now: datetime) -> None:
    """Its certificate is valid for ``days``, of which ``left`` are left."""
    certificate = phone.certificate
    certificate.not_after = now + timedelta(days=left)
    certificate.not_before = certificate.not_after - timedelta(days=days)
    certificate.save(update_fields=["not_before", "not_after"])


def chosen(now: datetime) -> list[int]:
    return list(due.due(now).values_list("enrollment_id", flat=True))


@pytest.mark.parametrize(
    ("percent", "left", "is_due"),
    [
        (33, 33.1, False),
        (33, 32.9, True),
        (33, 0.1, True),
        (33, -0.1, False),
        (50, 49.9, True),
        (10, 11, False),
        (10, 9.9, True),
    ],
)
def test_at_a_third_of_the_life_left_or_as_the_profile_says(
    phone: Phone, profile: EnrollmentProfile, percent: int, left: float, is_due: bool
) -> None:
    now = timezone.now()
    profile.renew_at_percent = percent
    profile.save()
    lives(phone, days=100, left=left, now=now)
    assert chosen(now) == ([phone.enrollment.pk] if is_due else [])


def test_the_sweep_renews_it_and_the_device_goes_on(phone: Phone, other: Phone) -> None:
    now = timezone.now()
    lives(phone, days=730, left=200, now=now)
    before = phone.certificate
    assert tasks.renew_due() == 1
    assert tasks.renew_due() == 0
    phone.connect()
    (renewal,) = IdentityRenewal.objects.all()
    assert (renewal.reason, renewal.state) == (RenewalReason.EXPIRY, RenewalState.COMPLETED)
    assert renewal.requested_by == SERVER.name
    assert phone.certificate.not_after > before.not_after
    assert tasks.renew_due() == 0
    assert other.renewals == []


def test_those_that_end_first_come_first_and_not_all_at_once(profile: EnrollmentProfile) -> None:
    now = timezone.now()
    phones = [new_phone(number) for number in range(1, 4)]
    for phone, left in zip(phones, (30, 10, 20), strict=True):
        lives(phone, days=365, left=left, now=now)
    assert due.renew_due(now, limit=2) == 2
    assert [len(phone.renewals) for phone in phones] == [0, 1, 1]
    assert due.renew_due(now, limit=2) == 1


def test_what_failed_is_tried_again_after_a_pause_that_grows(phone: Phone) -> None:
    now = timezone.now()
    lives(phone, days=730, left=100, now=now)
    for number, pause in enumerate((*EXPIRY_PAUSES, EXPIRY_PAUSES[-1]), 1):
        assert due.renew_due(now) == 1, number
        assert due.renew_due(now) == 0
        IdentityRenewal.objects.filter(attempt=number).update(
            state=RenewalState.FAILED, error="no reason", finished_at=now
        )
        with no_change():
            assert due.renew_due(now + pause - timedelta(seconds=1)) == 0
        now += pause
    assert phone.renewals[-1].attempt == 5


def test_what_fails_for_ever_is_tried_once(phone: Phone) -> None:
    now = timezone.now()
    lives(phone, days=730, left=100, now=now)
    due.renew_due(now)
    IdentityRenewal.objects.update(state=RenewalState.FAILED, permanent=True, finished_at=now)
    assert due.renew_due(now + timedelta(days=30)) == 0


def test_failures_of_an_earlier_certificate_do_not_count(phone: Phone) -> None:
    now = timezone.now()
    lives(phone, days=730, left=100, now=now)
    due.renew_due(now)
    IdentityRenewal.objects.update(state=RenewalState.FAILED, finished_at=now)
    assert due.renew_due(now + timedelta(hours=2)) == 1
    phone.connect()
    lives(phone, days=730, left=100, now=now)
    assert due.renew_due(now + timedelta(hours=3)) == 1
    assert phone.renewals[-1].attempt == 1


def test_before_a_new_key_a_certificate_that_lasts_is_left_to_the_campaign(
    phone: Phone, issuer: Issuer
) -> None:
    now = timezone.now()
    campaign = RekeyCampaign.objects.create(
        issuer=issuer, new_key=IssuerKey.objects.get(), created_at=now, state=CampaignState.DISTRIBUTING
    )
    lives(phone, days=730, left=100, now=now)
    assert chosen(now) == []
    lives(phone, days=730, left=29, now=now)
    assert chosen(now) == [phone.enrollment.pk]
    lives(phone, days=730, left=100, now=now)
    campaign.state = CampaignState.REISSUING
    campaign.save()
    assert chosen(now) == [phone.enrollment.pk]


def test_a_device_that_is_not_enrolled_is_not_asked(phone: Phone) -> None:
    now = timezone.now()
    lives(phone, days=730, left=10, now=now)
    phone.check_in("CheckOut", Topic=phone.enrollment.topic)
    assert chosen(now) == []


@pytest.mark.django_db(transaction=True)
def test_two_workers_at_once_plan_one_renewal(profile: EnrollmentProfile) -> None:
    now = timezone.now()
    phones = [new_phone(number) for number in range(1, 5)]
    for phone in phones:
        lives(phone, days=365, left=10, now=now)
    planned: list[Any] = []
    barrier = threading.Barrier(4)

    def work() -> None:
        try:
            barrier.wait()
            planned.append(due.renew_due(now))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    due.renew_due(now)  # whoever found a row held by another left it out
    assert [len(phone.renewals) for phone in phones] == [1, 1, 1, 1]
    assert len(planned) == 4
