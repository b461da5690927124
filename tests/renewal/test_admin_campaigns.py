"""The admin's pages of re-key campaigns: what they say, what they do, and who may."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from audit.models import AuditEvent
from devices.models import Enrollment
from pki import issuers, rollover
from pki.models import Issuer, IssuerKeyState
from renewal import campaign_page, campaigns, curve, waves
from renewal.core.pacing import CAMPAIGN_PAUSES
from renewal.models import CampaignSample, CampaignState, IdentityRenewal, RekeyCampaign, RenewalState
from simulator.device import Behaviour
from tests.renewal.phones import ADA, Phone
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
ACTS = ("pause", "resume", "retry", "activate", "close", "abort")
START = "/admin/renewal/rekeycampaign/start/"


@pytest.fixture
def root(db: None) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password="x"))
    return client


def to(name: str, campaign: RekeyCampaign) -> str:
    return reverse(f"admin:renewal_rekeycampaign_{name}", args=[campaign.pk])


def text(client: Client, address: str) -> str:
    answer = client.get(address)
    assert answer.status_code == 200, address
    return answer.content.decode()


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.split("<main", 1)[1]).split())


def tick(campaign: RekeyCampaign) -> None:
    RekeyCampaign.objects.update(last_wave_at=timezone.now() - timedelta(minutes=1))
    waves.advance(campaign.pk, timezone.now())
    campaign.refresh_from_db()


@pytest.fixture
def campaign(issuer: Issuer, phone: Phone, other: Phone) -> RekeyCampaign:
    """For two devices, before the first wave."""
    rollover.rekey(issuer, actor=ADA, now=timezone.now())
    return campaigns.start(issuer, actor=ADA, now=timezone.now())


def test_a_campaign_from_the_first_page_to_the_last(root: Client, issuer: Issuer, phone: Phone) -> None:
    listed = text(root, reverse("admin:renewal_rekeycampaign_changelist"))
    assert "No campaign yet." in listed
    assert START in listed
    page = words(text(root, START))
    assert "No issuer has a newer key to bring to its devices." in page
    assert "There is no next key, and no earlier one to close: re-key the issuer first." in page

    new_key = rollover.rekey(issuer, actor=ADA, now=timezone.now())
    page = text(root, START)
    for wanted in ("1. Devices get the new root", "key 2 takes over", "Then 1 device gets a new certificate"):
        assert wanted in page
    chosen = {"new_key": new_key.pk, "devices_per_minute": 6000, "threshold_percent": 100}
    assert root.post(START, chosen).status_code == 302
    campaign = RekeyCampaign.objects.get()
    assert (campaign.created_by, campaign.threshold_percent, campaign.activate_automatically) == (
        "root",
        100,
        False,
    )

    page = text(root, to("change", campaign))
    assert "style=" not in page.split("<main", 1)[1]
    shown = words(page)
    assert "0 of 1 devices have it (0%); 100% are enough." in shown
    assert "Waits until 100% of the devices have the new root." in shown
    assert "None yet. The first one goes out within a minute." in shown
    assert to("close", campaign) not in page
    tick(campaign)
    phone.connect()
    tick(campaign)
    page = text(root, to("change", campaign))
    assert "Press “Activate the new key…”." in page
    assert "Wave 1" in page

    assert "1 of 1 devices have the new root." in text(root, to("activate", campaign))
    assert root.post(to("activate", campaign)).status_code == 302
    assert issuers.current_key(issuer) == new_key
    assert "1 device still has to get its new certificate." in text(root, to("change", campaign))
    tick(campaign)
    phone.connect()
    tick(campaign)
    assert campaign.state == CampaignState.DRAINED
    page = text(root, to("change", campaign))
    assert "1 of 1 devices use the new key (100%)" in page
    assert "the new key took over" in page
    assert "No device in management depends on an older key." in text(root, to("close", campaign))
    assert root.post(to("close", campaign)).status_code == 302
    page = text(root, to("change", campaign))
    assert "Done: the older keys are closed." in page
    for act in ACTS:
        assert to(act, campaign) not in page
        with no_change():
            assert root.post(to(act, campaign)).status_code == 404
    assert issuer.keys.get(generation=1).state == IssuerKeyState.CLOSED
    assert "Test CA, key 2" in text(root, reverse("admin:renewal_rekeycampaign_changelist"))


def test_pause_rate_and_giving_up(root: Client, campaign: RekeyCampaign) -> None:
    assert root.post(to("pause", campaign)).status_code == 302
    page = text(root, to("change", campaign))
    assert "Paused by root" in page
    with no_change():
        assert "It is paused already." in root.post(to("pause", campaign)).content.decode()
    with no_change():
        answer = root.post(to("resume", campaign), {"devices_per_minute": 0})
    assert answer.status_code == 200
    assert root.post(to("resume", campaign), {"devices_per_minute": 7}).status_code == 302
    campaign.refresh_from_db()
    assert (campaign.paused_at, campaign.devices_per_minute) == (None, 7)
    assert root.post(to("abort", campaign)).status_code == 302
    campaign.refresh_from_db()
    assert campaign.state == CampaignState.ABORTED
    assert "Given up." in text(root, to("change", campaign))
    done = AuditEvent.objects.filter(actor="root").order_by("id").values_list("action", flat=True)
    assert list(done) == ["rekey_campaign.paused", "rekey_campaign.resumed", "rekey_campaign.aborted"]


def test_cutting_devices_off_has_to_be_typed(root: Client, campaign: RekeyCampaign, issuer: Issuer) -> None:
    with no_change():
        answer = root.post(to("close", campaign))  # the new key is not in use
        assert answer.status_code == 404
        page = root.post(to("activate", campaign)).content.decode()
        assert "Only 0 of 2 devices have the new root." in page
        page = root.post(to("activate", campaign), {"confirm": "bramly"}).content.decode()
        assert "That is not the short name of this issuer." in page
    assert root.post(to("activate", campaign), {"confirm": "bramley"}).status_code == 302
    with no_change():
        page = root.post(to("close", campaign), {"confirm": ""}).content.decode()
        assert "2 devices still use an older key." in page
        assert root.post(to("activate", campaign), {"confirm": "bramley"}).status_code == 404
    assert root.post(to("close", campaign), {"confirm": "bramley"}).status_code == 302
    campaign.refresh_from_db()
    assert campaign.state == CampaignState.CLOSED


def test_failures_are_shown_with_their_reason_and_tried_again(
    root: Client, campaign: RekeyCampaign, phone: Phone, other: Phone
) -> None:
    phone.device.behaviour = Behaviour(errors=1.0)
    tick(campaign)
    phone.connect()
    other.connect()
    page = words(text(root, to("change", campaign)))
    assert "The simulated device was told to fail." in page
    assert "tried again by itself" in page
    campaigns.activate(campaign, actor=ADA, now=timezone.now(), force=True)
    tick(campaign)
    phone.connect()
    failed = IdentityRenewal.objects.get(state=RenewalState.FAILED)
    again = [
        IdentityRenewal(
            enrollment=failed.enrollment,
            reason=failed.reason,
            campaign=campaign,
            state=RenewalState.FAILED,
            error="it failed again",
            created_at=timezone.now(),
            finished_at=timezone.now(),
        )
        for _pause in CAMPAIGN_PAUSES
    ]
    IdentityRenewal.objects.bulk_create(again)
    page = words(text(root, to("change", campaign)))
    assert "1 device failed and is not tried again by itself." in page
    assert "it failed again" in page
    assert "you decide" in page
    assert "1 device that failed is asked again" in text(root, to("retry", campaign))
    assert root.post(to("retry", campaign)).status_code == 302
    page = words(text(root, to("change", campaign)))
    assert "you decide" not in page
    phone.device.behaviour = Behaviour()
    tick(campaign)
    phone.connect()
    other.connect()
    tick(campaign)
    assert campaign.state == CampaignState.DRAINED


def test_what_keeps_it_waiting_is_said(root: Client, campaign: RekeyCampaign, phone: Phone) -> None:
    phone.end_certificate()
    Enrollment.objects.update(last_seen_at=timezone.now() - timedelta(days=40))
    RekeyCampaign.objects.update(created_at=timezone.now() - timedelta(hours=1))
    page = text(root, to("change", campaign))
    shown = words(page)
    assert "The certificate of 1 device has ended" in shown
    assert "1 device has not been seen for 30 days." in shown
    assert "are the workers running?" in shown
    assert reverse("admin:renewal_identityrenewal_device", args=[phone.enrollment.device_id]) in page


def test_the_home_page_tells_of_it(root: Client, campaign: RekeyCampaign, phone: Phone) -> None:
    home = reverse("admin:index")
    assert "Re-key of Test CA" in text(root, home)
    assert to("change", campaign) in text(root, home)
    phone.device.behaviour = Behaviour(errors=1.0)
    tick(campaign)
    phone.connect()
    CampaignSample.objects.update(at=timezone.now() - timedelta(hours=1))
    tick(campaign)
    assert "left on an older key; 1 failed" in words(text(root, home))
    campaigns.abort(campaign, actor=ADA, now=timezone.now())
    assert "Re-key of" not in text(root, home)


def test_another_key_than_the_one_that_was_looked_at_is_refused(root: Client, issuer: Issuer) -> None:
    rollover.rekey(issuer, actor=ADA, now=timezone.now())
    with no_change():
        page = root.post(START, {"new_key": 0, "devices_per_minute": 60, "threshold_percent": 95})
        assert "look at it again" in page.content.decode()
        assert root.post(START, {"new_key": 0, "devices_per_minute": 0}).status_code == 200


def test_of_several_issuers_one_is_chosen(root: Client, campaign: RekeyCampaign) -> None:
    for slug in ("acme", "bolt"):
        made = issuers.create_issuer(slug, slug.title(), algorithm="RSA-2048", actor=ADA)
        rollover.rekey(made, actor=ADA, now=timezone.now())
    page = words(text(root, START))
    assert "A campaign is under way." in page
    assert "Acme" in page
    assert "Acme" in text(root, f"{START}?issuer={Issuer.objects.get(slug='acme').pk}")
    assert "Look what would happen" in text(root, f"{START}?issuer={campaign.issuer_id}")
    assert "Look what would happen" in text(root, f"{START}?issuer=x")


@pytest.mark.parametrize("rights", [["view"], ["view", "change"]], ids=["looking", "without the issuer"])
def test_who_may_only_look(campaign: RekeyCampaign, rights: list[str]) -> None:
    user = User.objects.create_user("eve", password="x", is_staff=True)
    names = [f"{right}_rekeycampaign" for right in rights]
    user.user_permissions.set(Permission.objects.filter(codename__in=names))
    client = Client()
    client.force_login(user)
    page = text(client, to("change", campaign))
    assert "Devices get the new root" in page
    assert START not in text(client, reverse("admin:renewal_rekeycampaign_changelist"))
    with no_change():
        for act in ACTS:
            assert to(act, campaign) not in page
            assert client.post(to(act, campaign)).status_code == 403
        assert client.post(START, {}).status_code == 403


def test_the_page_costs_the_same_however_many_devices(
    campaign: RekeyCampaign, django_assert_max_num_queries: object
) -> None:
    with django_assert_max_num_queries(25):  # type: ignore[operator]
        campaign_page.page_of(campaign, timezone.now(), may_change=True)


def test_the_chart() -> None:
    now = timezone.now()
    points = [curve.Point(now + timedelta(minutes=n), 10 - n, n % 2) for n in range(11)]
    drawn = curve.draw(points, activated_at=now + timedelta(minutes=5))
    assert 'points="0,200 0,10 100,29' in drawn
    assert '1000,200 1000,200"' in drawn
    assert drawn.count("<rect") == 2
    assert "style" not in drawn
    one = curve.draw([curve.Point(now, 3, 0)])
    assert 'points="0,200 0,10 1000,10 1000,200"' in one
    assert "tone-bad" in one
    assert "renewal failed" not in one
    assert 'points="0,200 0,200 1000,200 1000,200"' in curve.draw([curve.Point(now, 0, 0)])


def test_the_page_of_the_issuer_leads_there(root: Client, issuer: Issuer) -> None:
    page = reverse("admin:pki_issuer_change", args=[issuer.pk])
    assert START not in text(root, page)
    rollover.rekey(issuer, actor=ADA, now=timezone.now())
    assert f"{START}?issuer={issuer.pk}" in text(root, page)
    rollover.activate(issuer, actor=ADA, now=timezone.now())
    assert f"{START}?issuer={issuer.pk}" in text(root, page)
