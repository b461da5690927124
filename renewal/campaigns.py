"""What an administrator does with a re-key campaign. What happens by itself is in :mod:`renewal.waves`.

Every act locks the campaign, asks whether it is still possible, and is recorded. Two at once: one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef

from audit.recording import Actor, record
from commands import queue
from commands.models import OUTSTANDING, CommandDelivery
from devices.models import Enrollment
from pki import issuers, rollover
from pki.models import Issuer, IssuerKey, IssuerKeyState, IssuerKind, IssuerState
from pki.rollover import RolloverRefused
from renewal import generations, identities, progress
from renewal.core import pacing, steps
from renewal.core.steps import AFTER_ACTIVATION, BEFORE_ACTIVATION, RUNNING, Event, State
from renewal.figures import Figures, figures, of_issuer, sample
from renewal.models import (
    OPEN_RENEWALS,
    CampaignState,
    IdentityRenewal,
    RekeyCampaign,
    RenewalReason,
)

MAX_DEVICES_PER_MINUTE = 100_000


class CampaignRefused(Exception):
    """It is not done; ``reason`` says why, in words for an administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Preview:
    """What a campaign for this issuer would do. ``old``: the generations that it ends, the newest first.

    ``is_active``: the new key is in use already; then it begins with the new certificates.
    """

    issuer: Issuer
    new_key: IssuerKey
    old: list[IssuerKey]
    is_active: bool
    figures: Figures

    def minutes(self, devices_per_minute: int) -> int:
        """How long asking all of them takes, each time, if all answer."""
        return pacing.minutes_needed(self.figures.on_old, devices_per_minute)


def preview(issuer: Issuer, now: datetime) -> Preview:
    """What would happen. Changes nothing. Raises :class:`CampaignRefused` where there is nothing to do."""
    if issuer.kind == IssuerKind.TRUST_ONLY or issuer.state != IssuerState.ACTIVE:
        raise CampaignRefused("the issuer does not issue certificates")
    new_key = issuers.next_key(issuer)
    if new_key is not None:
        if not generations.chain_of_key(new_key):
            raise CampaignRefused("the next key has no certificate yet: import it first")
    else:
        new_key = issuer.keys.filter(state=IssuerKeyState.CURRENT).select_related("issuer").first()
    if new_key is None:
        raise CampaignRefused("the issuer has no key")
    old = generations.older_keys(new_key)
    is_active = new_key.state == IssuerKeyState.CURRENT
    if not old:
        raise CampaignRefused("there is no next key, and no earlier one to close: re-key the issuer first")
    return Preview(issuer, new_key, old, is_active, of_issuer(issuer, new_key, now))


def running(issuer: Issuer) -> RekeyCampaign | None:
    """The campaign of this issuer that has not ended, if there is one."""
    return (
        RekeyCampaign.objects.select_related("issuer", "new_key")
        .filter(issuer=issuer, state__in=[state.value for state in RUNNING])
        .first()
    )


def start(
    issuer: Issuer,
    *,
    actor: Actor,
    now: datetime,
    threshold_percent: int = 95,
    devices_per_minute: int = 60,
    activate_automatically: bool = False,
) -> RekeyCampaign:
    """Begin a campaign for the next key of an issuer, or for the one that has just come into use.

    Raises :class:`CampaignRefused`.
    """
    if not 1 <= threshold_percent <= 100:
        raise CampaignRefused("enough devices are between 1 and 100 percent")
    _verify_rate(devices_per_minute)
    found = preview(issuer, now)
    try:
        with transaction.atomic():
            campaign = RekeyCampaign.objects.create(
                issuer=issuer,
                new_key=found.new_key,
                state=CampaignState.REISSUING if found.is_active else CampaignState.DISTRIBUTING,
                threshold_percent=threshold_percent,
                devices_per_minute=devices_per_minute,
                activate_automatically=activate_automatically,
                created_by=actor.name[:200],
                created_at=now,
                activated_at=now if found.is_active else None,
            )
            sample(campaign, figures(campaign, now), now)
            record(
                "rekey_campaign.started",
                actor=actor,
                target=campaign,
                at=now,
                details={
                    "issuer": issuer.slug,
                    "generation": found.new_key.generation,
                    "devices": found.figures.on_old,
                    "devices_per_minute": devices_per_minute,
                    "threshold_percent": threshold_percent,
                },
            )
    except IntegrityError as error:
        raise CampaignRefused("a campaign of this issuer is under way") from error
    return campaign


def _verify_rate(devices_per_minute: int) -> None:
    if not 1 <= devices_per_minute <= MAX_DEVICES_PER_MINUTE:
        raise CampaignRefused(f"between 1 and {MAX_DEVICES_PER_MINUTE} devices a minute")


def pause(campaign: RekeyCampaign, *, actor: Actor, now: datetime) -> RekeyCampaign:
    """Ask no more devices until it is resumed; who was asked may still come.

    Raises :class:`CampaignRefused`.
    """
    with locked(campaign, "paused", actor, now) as row:
        if row.paused_at is not None:
            raise CampaignRefused("it is paused already")
        row.paused_at, row.paused_by = now, actor.name[:200]
        row.save(update_fields=["paused_at", "paused_by"])
    return row


def resume(
    campaign: RekeyCampaign, *, actor: Actor, now: datetime, devices_per_minute: int | None = None
) -> RekeyCampaign:
    """Go on, perhaps at another rate. Raises :class:`CampaignRefused`."""
    if devices_per_minute is not None:
        _verify_rate(devices_per_minute)
    told: dict[str, Any] = {}
    with locked(campaign, "resumed", actor, now, told) as row:
        if row.paused_at is None and devices_per_minute in (None, row.devices_per_minute):
            raise CampaignRefused("it is not paused")
        row.paused_at, row.paused_by = None, ""
        row.devices_per_minute = devices_per_minute or row.devices_per_minute
        row.last_wave_at = now
        row.save(update_fields=["paused_at", "paused_by", "devices_per_minute", "last_wave_at"])
        told["devices_per_minute"] = row.devices_per_minute
    return row


def retry(campaign: RekeyCampaign, *, actor: Actor, now: datetime) -> RekeyCampaign:
    """Forget what failed so far: those devices are asked again, in the waves that follow.

    Raises :class:`CampaignRefused`.
    """
    with locked(campaign, "failures_retried", actor, now) as row:
        row.retry_from = now
        row.save(update_fields=["retry_from"])
    return row


def retry_device(
    campaign: RekeyCampaign, enrollment: Enrollment, *, actor: Actor, now: datetime
) -> IdentityRenewal:
    """Ask one device for a new certificate now. Raises :class:`CampaignRefused`."""
    with transaction.atomic():
        row = _lock(campaign)
        if State(row.state) not in AFTER_ACTIVATION:
            raise CampaignRefused("the new key is not in use, or the campaign has ended")
        try:
            return identities.renew(
                enrollment, reason=RenewalReason.CAMPAIGN, actor=actor, now=now, campaign=row
            )
        except identities.NotRenewable as refused:
            raise CampaignRefused(refused.reason) from refused


def activate(campaign: RekeyCampaign, *, actor: Actor, now: datetime, force: bool = False) -> RekeyCampaign:
    """The new key takes over: from now on it issues. Exactly once.

    ``force``: although fewer devices have its root than were to have it. Raises :class:`CampaignRefused`.
    """
    told: dict[str, Any] = {"insisted": force}
    with locked(campaign, "key_activated", actor, now, told) as row:
        if State(row.state) not in BEFORE_ACTIVATION:
            raise CampaignRefused("the new key is in use already")
        found = figures(row, now)
        if not force and not pacing.is_reached(found.installed, found.on_old, row.threshold_percent):
            raise CampaignRefused(
                f"only {found.installed} of {found.on_old} devices have the new root: insist, or wait"
            )
        told |= {"installed": found.installed, "of": found.on_old}
        _take_over(row, actor, now)
        activated(row, now)
    return row


def _take_over(row: RekeyCampaign, actor: Actor, now: datetime) -> None:
    try:
        taken = rollover.activate(row.issuer, actor=actor, now=now)
    except RolloverRefused as refused:
        raise CampaignRefused(refused.reason) from refused
    if taken.pk != row.new_key_id:
        raise CampaignRefused("the issuer has another next key than this campaign is for")


def activated(row: RekeyCampaign, now: datetime) -> None:
    """Note, on the locked campaign, that the new key is in use."""
    move(row, Event.ACTIVATED, now, activated_at=now)


def close(campaign: RekeyCampaign, *, actor: Actor, now: datetime, force: bool = False) -> RekeyCampaign:
    """Close every older key: what still hangs on it is refused from now on.

    ``force``: although devices under management, or CAs below, depend on one. Raises
    :class:`CampaignRefused`.
    """
    told: dict[str, Any] = {"insisted": force}
    with locked(campaign, "closed", actor, now, told) as row:
        if State(row.state) not in AFTER_ACTIVATION:
            raise CampaignRefused("the new key is not in use yet")
        found = figures(row, now)
        if not force and (found.on_old or found.expired or found.authorities):
            raise CampaignRefused(_dependants(found))
        told |= {"on_old": found.on_old, "expired": found.expired, "authorities": found.authorities}
        for issuer_key in generations.older_keys(row.new_key):
            try:
                rollover.close(issuer_key, actor=actor, now=now, force=True)
            except RolloverRefused as refused:
                raise CampaignRefused(refused.reason) from refused
        _end_open_renewals(row, "the campaign was closed", actor, now)
        move(row, Event.CLOSE, now, closed_at=now)
    return row


def _dependants(found: Figures) -> str:
    parts = [
        f"{found.on_old} devices in management" if found.on_old else "",
        f"{found.expired} devices whose certificate has ended" if found.expired else "",
        f"{found.authorities} authorities below" if found.authorities else "",
    ]
    return f"{' and '.join(part for part in parts if part)} depend on an older key"


def abort(campaign: RekeyCampaign, *, actor: Actor, now: datetime) -> RekeyCampaign:
    """Give it up. Keys stay as they are: one that is in use stays so, and older ones stay trusted.

    What devices have not fetched yet is taken back. Raises :class:`CampaignRefused`.
    """
    with locked(campaign, "aborted", actor, now) as row:
        waiting = CommandDelivery.objects.filter(command=OuterRef("command"), state__in=OUTSTANDING)
        for wave in row.waves.select_related("command").filter(Exists(waiting)):
            queue.cancel(wave.command, actor, now)
        _end_open_renewals(row, "the campaign was given up", actor, now)
        move(row, Event.ABORT, now, aborted_at=now)
    return row


def _end_open_renewals(row: RekeyCampaign, why: str, actor: Actor, now: datetime) -> None:
    opened = list(row.renewals.filter(state__in=OPEN_RENEWALS).select_related("command"))
    for command in {renewal.command for renewal in opened if renewal.command is not None}:
        queue.cancel(command, actor, now)
    progress.cancel(opened, why, now)


# The row


@contextmanager
def locked(
    campaign: RekeyCampaign, act: str, actor: Actor, now: datetime, details: dict[str, Any] | None = None
) -> Iterator[RekeyCampaign]:
    """The campaign as it is now, locked, and running; the act is recorded if nothing is raised.

    ``details``: for the record; they may be filled in until then.
    """
    with transaction.atomic():
        row = _lock(campaign)
        if State(row.state) not in RUNNING:
            raise CampaignRefused("the campaign has ended")
        yield row
        record(f"rekey_campaign.{act}", actor=actor, target=row, at=now, details=details)


def _lock(campaign: RekeyCampaign) -> RekeyCampaign:
    return (
        RekeyCampaign.objects.select_for_update(of=("self",))
        .select_related("issuer", "new_key__issuer")
        .get(pk=campaign.pk)
    )


def move(row: RekeyCampaign, event: Event, now: datetime, **changes: Any) -> None:
    """Take the locked campaign a step further, compare and set, and keep its figures of that moment.

    Raises :class:`CampaignRefused` where it cannot happen (any more).
    """
    before, after = row.state, steps.next_state(State(row.state), event)
    if after is None:
        raise CampaignRefused(f"this cannot be done now: {row.get_state_display()}")
    changes = {"state": CampaignState(after.value), **changes}
    if not RekeyCampaign.objects.filter(pk=row.pk, state=before).update(**changes):
        raise CampaignRefused("somebody else was faster")
    for name, value in changes.items():
        setattr(row, name, value)
    sample(row, figures(row, now), now, at_once=True)
