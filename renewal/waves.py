"""What campaigns do by themselves: one tick asks as many devices as the rate allows, and looks how far it is.

A tick is one transaction under the lock of its campaign: whoever dies in it leaves nothing behind, and of two
that tick at once one finds the campaign held and goes away.
"""

from __future__ import annotations

import logging
from datetime import datetime

from django.db import connection, transaction

from audit.recording import SERVER, record
from commands import queue
from commands.models import Command, CommandSource
from pki.issuance import IssuanceRefused
from pki.issuers import IssuerMissing
from pki.models import IssuerKeyState
from renewal import attempts, campaigns, identities
from renewal.campaigns import CampaignRefused
from renewal.core import pacing
from renewal.core.pacing import CAMPAIGN_PAUSES
from renewal.core.steps import BEFORE_ACTIVATION, RUNNING, Event, State
from renewal.figures import figures, is_hopeless, not_asked, sample, without_root
from renewal.models import CampaignWave, RekeyCampaign, RenewalReason, WaveKind
from renewal.roots import root_profile

logger = logging.getLogger(__name__)


def advance_all(now: datetime) -> int:
    """One tick of every campaign that runs. Returns how many devices were asked."""
    running = RekeyCampaign.objects.filter(state__in=[state.value for state in RUNNING]).order_by("pk")
    return sum(advance(pk, now) for pk in running.values_list("pk", flat=True))


def advance(pk: int, now: datetime) -> int:
    """One tick. Returns how many devices were asked; 0 also where another worker is at it."""
    with transaction.atomic():
        campaign = _claim(pk)
        if campaign is None:
            return 0
        _follow_the_key(campaign, now)
        if State(campaign.state) not in RUNNING:
            return 0
        asked = 0
        if campaign.paused_at is None:
            asked = _wave(campaign, now)
        _look(campaign, now)
    return asked


def _claim(pk: int) -> RekeyCampaign | None:
    """The campaign, locked; None where somebody else holds it or it has ended."""
    rows = RekeyCampaign.objects.select_related("issuer", "new_key__issuer").filter(
        pk=pk, state__in=[state.value for state in RUNNING]
    )
    skip = connection.features.has_select_for_update_skip_locked
    return rows.select_for_update(skip_locked=skip, of=("self",)).first()


def _follow_the_key(campaign: RekeyCampaign, now: datetime) -> None:
    """The key may have been activated, or closed, at the issuer itself."""
    key_state, state = campaign.new_key.state, State(campaign.state)
    if key_state == IssuerKeyState.CURRENT and state in BEFORE_ACTIVATION:
        campaigns.activated(campaign, now)
    elif key_state in (IssuerKeyState.PREVIOUS, IssuerKeyState.CLOSED):
        campaigns.move(campaign, Event.ABORT, now, aborted_at=now)
        record(
            "rekey_campaign.aborted",
            actor=SERVER,
            target=campaign,
            at=now,
            reason="the issuer no longer has the key that the campaign was for",
        )


def _look(campaign: RekeyCampaign, now: datetime) -> None:
    """Is it time for the next step?"""
    found, state = figures(campaign, now), State(campaign.state)
    enough = pacing.is_reached(found.installed, found.on_old, campaign.threshold_percent)
    if state is State.DISTRIBUTING and enough:
        campaigns.move(campaign, Event.ENOUGH, now, ready_at=now)
    elif state is State.REISSUING and not found.on_old:
        campaigns.move(campaign, Event.NONE_LEFT, now, drained_at=now)
    elif state is State.DRAINED and found.on_old:
        campaigns.move(campaign, Event.SOME_LEFT, now, drained_at=None)
    else:
        sample(campaign, found, now)
    if State(campaign.state) is State.READY and campaign.activate_automatically and not campaign.paused_at:
        try:
            with transaction.atomic():
                campaigns.activate(campaign, actor=SERVER, now=now)
        except CampaignRefused as refused:
            logger.warning("campaign %s is ready and not activated: %s", campaign, refused.reason)


def _wave(campaign: RekeyCampaign, now: datetime) -> int:
    """Ask the devices whose turn it is. Compare and set of the time: where locks are none, it decides."""
    allowed = pacing.allowance(campaign.devices_per_minute, campaign.last_wave_at, now)
    if not allowed:
        return 0
    mine = RekeyCampaign.objects.filter(pk=campaign.pk, last_wave_at=campaign.last_wave_at)
    if not mine.update(last_wave_at=now):
        return 0
    campaign.last_wave_at = now
    if State(campaign.state) in BEFORE_ACTIVATION:
        return _offer_root(campaign, allowed, now)
    return _reissue(campaign, allowed, now)


def _offer_root(campaign: RekeyCampaign, allowed: int, now: datetime) -> int:
    """The devices that were in touch last come first."""
    candidates = without_root(campaign, now).filter(attempts.may_try(now, CAMPAIGN_PAUSES, give_up=True))
    ids = list(candidates.order_by("-last_seen_at", "pk").values_list("pk", flat=True)[:allowed])
    if not ids:
        return 0
    try:
        payload = root_profile(campaign.new_key, now)
    except (IssuerMissing, IssuanceRefused) as problem:
        logger.warning("campaign %s cannot give out the new root: %s", campaign, problem)
        return 0
    enqueued = queue.enqueue(
        "InstallProfile", {"Payload": payload}, ids, source=CommandSource.SERVER, actor=SERVER, now=now
    )
    return _note(campaign, WaveKind.ROOT, enqueued.command, enqueued.queued, now)


def _reissue(campaign: RekeyCampaign, allowed: int, now: datetime) -> int:
    candidates = not_asked(campaign, now).filter(
        ~is_hopeless(campaign), attempts.may_try(now, CAMPAIGN_PAUSES, give_up=True)
    )
    ids = list(candidates.order_by("-last_seen_at", "pk").values_list("pk", flat=True)[:allowed])
    if not ids:
        return 0
    planned = identities.plan(ids, reason=RenewalReason.CAMPAIGN, actor=SERVER, now=now, campaign=campaign)
    if planned.command is None:
        return 0
    return _note(campaign, WaveKind.IDENTITY, planned.command, len(planned.renewals), now)


def _note(campaign: RekeyCampaign, kind: WaveKind, command: Command, devices: int, now: datetime) -> int:
    last = campaign.waves.order_by("-number").values_list("number", flat=True).first() or 0
    CampaignWave.objects.create(
        campaign=campaign, number=last + 1, kind=kind, command=command, devices=devices, created_at=now
    )
    return devices
