"""A re-key campaign from the first wave to the closed key, and what an administrator may do on the way."""

from __future__ import annotations

import plistlib
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from audit.models import AuditEvent
from commands.models import CommandDelivery, DeliveryState
from devices.models import Enrollment, EnrollmentState
from enrollment.models import EnrollmentProfile
from pki import issuers, rollover
from pki.core.cms import verify_signed_data
from pki.models import Issuer, IssuerKey, IssuerKeyState
from pki.rollover import RolloverRefused
from renewal import campaigns, permits, progress, waves
from renewal.campaigns import CampaignRefused
from renewal.core.pacing import CAMPAIGN_PAUSES
from renewal.figures import figures
from renewal.models import (
    CampaignSample,
    CampaignState,
    CampaignWave,
    IdentityRenewal,
    RekeyCampaign,
    RenewalReason,
    RenewalState,
    WaveKind,
)
from simulator.device import Behaviour
from simulator.exchange import SimulationError
from tests.renewal.phones import ADA, Phone, command_in, new_phone
from tests.support.devices import make_device
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


@pytest.fixture
def phones(profile: EnrollmentProfile) -> list[Phone]:
    """Three enrolled devices."""
    return [new_phone(number) for number in range(1, 4)]


@pytest.fixture
def new_key(issuer: Issuer) -> IssuerKey:
    """The next key of the issuer."""
    return rollover.rekey(issuer, actor=ADA, now=timezone.now())


class Clock:
    """The time of ticks: each a minute after the one before."""

    def __init__(self) -> None:
        self.now = timezone.now()

    def tick(self, campaign: RekeyCampaign, **later: float) -> int:
        self.now += timedelta(**later or {"minutes": 1})
        progress.settle(self.now)
        asked = waves.advance(campaign.pk, self.now)
        campaign.refresh_from_db()
        return asked


@pytest.fixture
def clock() -> Clock:
    return Clock()


def start(issuer: Issuer, **options: Any) -> RekeyCampaign:
    given = {"devices_per_minute": 1000, **options}
    return campaigns.start(issuer, actor=ADA, now=timezone.now(), **given)


def state(campaign: RekeyCampaign) -> str:
    return RekeyCampaign.objects.values_list("state", flat=True).get(pk=campaign.pk)


def keys_in_use(phones: list[Phone]) -> set[int]:
    return {phone.certificate.issuer_key_id for phone in phones}


def connect(phones: list[Phone]) -> list[int]:
    return [phone.connect() for phone in phones]


def activated(issuer: Issuer, phones: list[Phone], clock: Clock, **options: Any) -> RekeyCampaign:
    """A campaign whose new key is in use, with every device still on the old one."""
    campaign = start(issuer, activate_automatically=True, **options)
    clock.tick(campaign)
    connect(phones)
    clock.tick(campaign)
    assert state(campaign) == CampaignState.REISSUING
    return campaign


# The whole way


def test_from_the_new_root_to_the_closed_key(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    old_key = issuers.current_key(issuer)
    lives = {phone.enrollment.pk: phone.enrollment.epoch for phone in phones}
    waiting = [phone.enqueue("SecurityInfo") for phone in phones]
    campaign = start(issuer)
    assert campaign.state == CampaignState.DISTRIBUTING

    # 1. The new root, as a profile of its own, signed by what devices trust.
    assert clock.tick(campaign) == 3
    _uuid, first = command_in(phones[0].idle())
    assert first["RequestType"] == "SecurityInfo"
    assert clock.tick(campaign) == 0
    connect(phones)
    root = issuers.chain_of(issuers.current_certificate(new_key))[-1]
    for phone in phones:
        (installed,) = [
            entry
            for name, entry in phone.device.contents.profiles.items()
            if name == f"org.bramley.authority.{new_key.uuid}"
        ]
        assert [part["PayloadType"] for part in installed["PayloadContent"]] == ["com.apple.security.root"]
    assert keys_in_use(phones) == {old_key.pk}

    # 2. Enough have it; the administrator activates.
    clock.tick(campaign)
    assert campaign.state == CampaignState.READY
    assert campaign.ready_at == clock.now
    assert clock.tick(campaign) == 0
    campaigns.activate(campaign, actor=ADA, now=clock.now)
    assert issuers.current_key(issuer) == new_key
    assert state(campaign) == CampaignState.REISSUING

    # 3. New certificates.
    assert clock.tick(campaign) == 3
    found = figures(campaign, clock.now)
    assert (found.on_old, found.on_new, found.asked) == (3, 0, 3)
    connect(phones)
    assert keys_in_use(phones) == {new_key.pk}
    for phone in phones:
        assert root in [der for _name, der, _is_identity in phone.device.contents.certificates]
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED

    # 4. The old key is closed, and everybody works on.
    campaigns.close(campaign, actor=ADA, now=clock.now)
    old_key.refresh_from_db()
    assert old_key.state == IssuerKeyState.CLOSED
    assert state(campaign) == CampaignState.CLOSED
    later = [phone.enqueue() for phone in phones]
    assert connect(phones) == [1, 1, 1]
    assert {phone.enrollment.pk: phone.enrollment.epoch for phone in phones} == lives
    states = CommandDelivery.objects.filter(command__in=[*waiting, *later]).values_list("state", flat=True)
    assert set(states) == {DeliveryState.ACKNOWLEDGED}
    assert {row.state for row in IdentityRenewal.objects.all()} == {RenewalState.COMPLETED}
    kinds = list(CampaignWave.objects.order_by("number").values_list("number", "kind", "devices"))
    assert kinds == [(1, WaveKind.ROOT, 3), (2, WaveKind.IDENTITY, 3)]
    line = list(CampaignSample.objects.values_list("on_old", "on_new"))
    assert line[0] == (3, 0)
    assert line[-1] == (0, 3)
    acts = AuditEvent.objects.filter(action__startswith="rekey_campaign").values_list("action", flat=True)
    assert sorted(acts) == [
        "rekey_campaign.closed",
        "rekey_campaign.key_activated",
        "rekey_campaign.started",
    ]


def test_the_root_profile_is_signed_by_the_old_key_and_holds_the_new_root(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    clock.tick(campaign)
    _uuid, command = command_in(phones[0].idle())
    signed = verify_signed_data(command["Payload"])
    assert issuers.chain(issuer)[0] in signed.certificates
    content = plistlib.loads(signed.content)
    (payload,) = content["PayloadContent"]
    assert payload["PayloadContent"] == bytes(issuers.current_certificate(new_key).der)


def test_it_activates_by_itself_where_it_was_told_to(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer, activate_automatically=True, threshold_percent=60)
    clock.tick(campaign)
    phones[0].connect()
    clock.tick(campaign)
    assert campaign.state == CampaignState.DISTRIBUTING
    phones[1].connect()
    clock.tick(campaign)
    assert campaign.state == CampaignState.REISSUING
    assert issuers.current_key(issuer) == new_key


def test_a_device_that_enrols_on_the_way_is_counted_and_served(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    assert clock.tick(campaign) == 3
    late = new_phone(4)
    assert clock.tick(campaign) == 1
    connect([*phones, late])
    clock.tick(campaign)
    campaigns.activate(campaign, actor=ADA, now=clock.now)
    latest = new_phone(5)
    assert latest.certificate.issuer_key_id == new_key.pk
    assert clock.tick(campaign) == 4


def test_the_key_may_be_activated_at_the_issuer_itself(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    clock.tick(campaign)
    rollover.activate(issuer, actor=ADA, now=clock.now)
    clock.tick(campaign)
    assert campaign.state == CampaignState.REISSUING
    connect(phones)
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED


def test_it_may_begin_after_the_activation(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    rollover.activate(issuer, actor=ADA, now=clock.now)
    campaign = start(issuer)
    assert (campaign.state, campaign.new_key) == (CampaignState.REISSUING, new_key)
    assert clock.tick(campaign) == 3
    connect(phones)
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED


def test_a_device_that_comes_back_with_the_old_key_reopens_it(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    absent = phones.pop()
    enrollment = absent.enrollment
    campaign = activated(issuer, [*phones, absent], clock)
    Enrollment.objects.filter(pk=enrollment.pk).update(state=EnrollmentState.QUARANTINED)
    clock.tick(campaign)
    connect(phones)
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED
    Enrollment.objects.filter(pk=enrollment.pk).update(state=EnrollmentState.ENROLLED)
    clock.tick(campaign)
    assert campaign.state == CampaignState.REISSUING


# Rate, pause, retry, abort


def test_the_rate_is_kept(issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock) -> None:
    campaign = start(issuer, devices_per_minute=2)
    assert clock.tick(campaign, seconds=0) == 1
    assert clock.tick(campaign, seconds=15) == 0
    assert clock.tick(campaign, seconds=15) == 1
    assert clock.tick(campaign, seconds=30) == 1
    assert clock.tick(campaign, seconds=30) == 0


def test_paused_it_asks_nobody_and_goes_on_where_it_was(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer, devices_per_minute=2)
    clock.tick(campaign)
    campaigns.pause(campaign, actor=ADA, now=clock.now)
    with no_change(), pytest.raises(CampaignRefused, match="paused already"):
        campaigns.pause(campaign, actor=ADA, now=clock.now)
    assert clock.tick(campaign) == 0
    campaigns.resume(campaign, actor=ADA, now=clock.now, devices_per_minute=60)
    resumed = AuditEvent.objects.get(action="rekey_campaign.resumed")
    assert resumed.details == {"devices_per_minute": 60}
    assert clock.tick(campaign) == 2
    with no_change(), pytest.raises(CampaignRefused, match="not paused"):
        campaigns.resume(campaign, actor=ADA, now=clock.now)


def test_paused_it_does_not_activate(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer, activate_automatically=True)
    clock.tick(campaign)
    campaigns.pause(campaign, actor=ADA, now=clock.now)
    connect(phones)
    clock.tick(campaign)
    assert campaign.state == CampaignState.READY
    campaigns.resume(campaign, actor=ADA, now=clock.now)
    clock.tick(campaign)
    assert campaign.state == CampaignState.REISSUING


def test_failures_are_tried_again_until_they_are_given_up_and_again_when_asked(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = activated(issuer, phones, clock)
    bad = phones[0]
    bad.device.behaviour = Behaviour(errors=1.0)
    clock.tick(campaign)
    connect(phones)
    for pause in CAMPAIGN_PAUSES:
        IdentityRenewal.objects.filter(state=RenewalState.FAILED).update(finished_at=clock.now)
        assert clock.tick(campaign, seconds=pause.total_seconds() - 1) == 0
        assert clock.tick(campaign, seconds=2) == 1
        bad.connect()
    IdentityRenewal.objects.filter(state=RenewalState.FAILED).update(finished_at=clock.now)
    found = figures(campaign, clock.now)
    assert (found.on_old, found.failed, found.given_up) == (1, 1, 1)
    assert clock.tick(campaign, days=2) == 0
    bad.device.behaviour = Behaviour()
    campaigns.retry(campaign, actor=ADA, now=clock.now)
    assert clock.tick(campaign) == 1
    bad.connect()
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED
    assert figures(campaign, clock.now).failed == 0


def test_one_device_is_tried_again_at_once(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = activated(issuer, phones, clock)
    phones[0].device.behaviour = Behaviour(errors=1.0)
    clock.tick(campaign)
    connect(phones)
    phones[0].device.behaviour = Behaviour()
    again = campaigns.retry_device(campaign, phones[0].enrollment, actor=ADA, now=clock.now)
    assert (again.reason, again.attempt, again.campaign) == (RenewalReason.CAMPAIGN, 2, campaign)
    with no_change(), pytest.raises(CampaignRefused, match="being renewed already"):
        campaigns.retry_device(campaign, phones[0].enrollment, actor=ADA, now=clock.now)
    phones[0].connect()
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED


def test_a_root_that_was_refused_is_offered_again(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    phones[0].device.behaviour = Behaviour(errors=1.0)
    clock.tick(campaign)
    connect(phones)
    found = figures(campaign, clock.now)
    assert (found.installed, found.refused, found.offered) == (2, 1, 0)
    phones[0].device.behaviour = Behaviour()
    assert clock.tick(campaign, seconds=CAMPAIGN_PAUSES[0].total_seconds() + 60) == 1
    phones[0].connect()
    clock.tick(campaign)
    assert campaign.state == CampaignState.READY


def test_what_is_hopeless_is_named_once(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    stranger = make_device("Z", issuer=issuer)
    stranger.enrol()
    campaign = start(issuer)
    campaigns.activate(campaign, actor=ADA, now=clock.now, force=True)
    clock.tick(campaign)
    connect(phones)
    for _hour in range(3):
        clock.tick(campaign, hours=9)
    (failed,) = IdentityRenewal.objects.filter(state=RenewalState.FAILED)
    assert failed.permanent
    found = figures(campaign, clock.now)
    assert (found.on_old, found.failed, found.given_up) == (1, 1, 1)
    with no_change(), pytest.raises(CampaignRefused, match="1 devices in management depend on an older key"):
        campaigns.close(campaign, actor=ADA, now=clock.now)
    campaigns.close(campaign, actor=ADA, now=clock.now, force=True)
    assert stranger.idle().status == 400
    assert [phone.idle().status for phone in phones] == [200, 200, 200]


def test_given_up_before_the_activation_everything_is_as_before(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    current = issuers.current_key(issuer)
    campaign = start(issuer)
    clock.tick(campaign)
    campaigns.abort(campaign, actor=ADA, now=clock.now)
    assert connect(phones) == [0, 0, 0]
    assert issuers.current_key(issuer) == current
    assert issuers.next_key(issuer) == new_key
    assert clock.tick(campaign) == 0
    for act in (campaigns.pause, campaigns.resume, campaigns.retry, campaigns.activate, campaigns.close):
        with no_change(), pytest.raises(CampaignRefused, match="has ended"):
            act(campaign, actor=ADA, now=clock.now)
    assert start(issuer).pk != campaign.pk


def test_given_up_afterwards_the_old_key_stays_trusted(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = activated(issuer, phones, clock)
    clock.tick(campaign)
    phones[0].connect()
    campaigns.abort(campaign, actor=ADA, now=clock.now)
    assert connect(phones) == [0, 0, 0]
    assert len(keys_in_use(phones)) == 2
    states = IdentityRenewal.objects.order_by("enrollment_id").values_list("state", flat=True)
    assert list(states) == [RenewalState.COMPLETED, RenewalState.CANCELLED, RenewalState.CANCELLED]
    # Another one goes on with who is left.
    again = start(issuer)
    assert again.state == CampaignState.REISSUING
    assert clock.tick(again) == 2


def test_a_key_that_is_gone_ends_it(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    rollover.close(new_key, actor=ADA, now=clock.now)
    clock.tick(campaign)
    assert campaign.state == CampaignState.ABORTED


# Refusals


def test_without_a_next_key_there_is_nothing_to_do(issuer: Issuer, phones: list[Phone]) -> None:
    with no_change(), pytest.raises(CampaignRefused, match="re-key the issuer first"):
        start(issuer)


def test_one_campaign_of_an_issuer_at_a_time(issuer: Issuer, new_key: IssuerKey) -> None:
    start(issuer)
    with no_change(), pytest.raises(CampaignRefused, match="under way"):
        start(issuer)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"threshold_percent": 0}, "percent"),
        ({"threshold_percent": 101}, "percent"),
        ({"devices_per_minute": 0}, "devices a minute"),
        ({"devices_per_minute": 100_001}, "devices a minute"),
    ],
)
def test_numbers_that_make_no_sense(
    issuer: Issuer, new_key: IssuerKey, options: dict[str, int], reason: str
) -> None:
    with no_change(), pytest.raises(CampaignRefused, match=reason):
        start(issuer, **options)


def test_it_is_activated_once_and_not_too_soon(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    clock.tick(campaign)
    phones[0].connect()
    with no_change(), pytest.raises(CampaignRefused, match="only 1 of 3 devices have the new root"):
        campaigns.activate(campaign, actor=ADA, now=clock.now)
    with no_change(), pytest.raises(CampaignRefused, match="not in use yet"):
        campaigns.close(campaign, actor=ADA, now=clock.now)
    campaigns.activate(campaign, actor=ADA, now=clock.now, force=True)
    with no_change(), pytest.raises(CampaignRefused, match="in use already"):
        campaigns.activate(campaign, actor=ADA, now=clock.now, force=True)
    with no_change(), pytest.raises(RolloverRefused):
        rollover.activate(issuer, actor=ADA, now=clock.now)
    campaigns.close(campaign, actor=ADA, now=clock.now, force=True)
    acts = AuditEvent.objects.filter(action__in=("rekey_campaign.key_activated", "rekey_campaign.closed"))
    assert list(acts.order_by("pk").values_list("details", flat=True)) == [
        {"insisted": True, "installed": 1, "of": 3},
        {"insisted": True, "on_old": 3, "expired": 0, "authorities": 0},
    ]


def test_another_next_key_is_not_activated_by_it(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    rollover.close(new_key, actor=ADA, now=clock.now)
    rollover.rekey(issuer, actor=ADA, now=clock.now)
    with no_change(), pytest.raises(CampaignRefused, match="another next key"):
        campaigns.activate(campaign, actor=ADA, now=clock.now, force=True)


def test_an_expired_device_holds_the_old_key_open(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = activated(issuer, phones, clock)
    late = phones.pop()
    late.end_certificate()
    clock.tick(campaign)
    connect(phones)
    clock.tick(campaign)
    assert campaign.state == CampaignState.DRAINED
    assert figures(campaign, clock.now).expired == 1
    with no_change(), pytest.raises(CampaignRefused, match="1 devices whose certificate has ended"):
        campaigns.close(campaign, actor=ADA, now=clock.now)
    # Let in, it renews itself straight on to the new key.
    with pytest.raises(SimulationError):
        late.connect()
    permits.grant(late.enrollment, actor=ADA, now=timezone.now())
    late.connect()
    assert late.certificate.issuer_key_id == new_key.pk
    campaigns.close(campaign, actor=ADA, now=clock.now)


# Several workers at once


def at_once(count: int, work: Any) -> None:
    barrier = threading.Barrier(count)

    def run() -> None:
        try:
            barrier.wait()
            work()
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.django_db(transaction=True)
def test_two_workers_tick_as_one(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer, activate_automatically=True)
    moment = clock.now + timedelta(minutes=1)
    at_once(3, lambda: waves.advance(campaign.pk, moment))
    assert CampaignWave.objects.count() == 1
    assert CommandDelivery.objects.filter(command__request_type="InstallProfile").count() == 3
    connect(phones)
    moment += timedelta(minutes=1)
    at_once(3, lambda: waves.advance(campaign.pk, moment))
    assert AuditEvent.objects.filter(action="issuer.key_activated").count() == 1
    moment += timedelta(minutes=1)
    at_once(3, lambda: waves.advance(campaign.pk, moment))
    assert IdentityRenewal.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_two_administrators_activate_once(
    issuer: Issuer, phones: list[Phone], new_key: IssuerKey, clock: Clock
) -> None:
    campaign = start(issuer)
    outcomes: list[str] = []

    def work() -> None:
        try:
            campaigns.activate(campaign, actor=ADA, now=clock.now, force=True)
            outcomes.append("activated")
        except CampaignRefused as refused:
            outcomes.append(refused.reason)

    at_once(3, work)
    assert sorted(outcomes) == ["activated", *["the new key is in use already"] * 2]
    assert IssuerKey.objects.filter(state=IssuerKeyState.CURRENT).count() == 1
