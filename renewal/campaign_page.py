"""What the page of a re-key campaign shows: how far it is, what comes next, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, JSONField, OuterRef, Q, QuerySet, Subquery, Value
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from commands.models import CommandDelivery, DeliveryState
from devices.models import Channel, Device, EnrollmentState, Identity, IdentityState
from pki.outlook import Statement
from renewal import curve, generations
from renewal.core import pacing
from renewal.core.steps import AFTER_ACTIVATION, BEFORE_ACTIVATION, RUNNING, State
from renewal.figures import (
    Figures,
    failed_renewals,
    figures,
    is_hopeless,
    not_asked,
    refused_roots,
    without_root,
)
from renewal.models import CampaignSample, CampaignWave, IdentityRenewal, RekeyCampaign, RenewalState

MOST_ROWS = 20
STALLED_AFTER = timedelta(minutes=5)
"""A worker ticks every 15 seconds."""


@dataclass(frozen=True)
class Tile:
    """One number, with where to look it up."""

    title: str
    count: int
    hint: str = ""
    url: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Step:
    """One of the four steps. ``needs``: what has to be so before it is done, and how it is now."""

    title: str
    needs: str
    done: bool = False
    is_now: bool = False
    url: str = ""
    button: str = ""


@dataclass(frozen=True)
class Failure:
    """A device that could not do what it was asked."""

    device: Device
    reason: str
    failures: int
    at: datetime | None
    given_up: bool


@dataclass(frozen=True)
class Share:
    """A part of a bar, as :class:`console.charts.Part`."""

    label: str | Promise
    count: int
    tone: str
    url: str = ""

    @property
    def css(self) -> str:
        return self.tone


@dataclass(frozen=True)
class Wave:
    """Devices that were asked together, by what they answered."""

    wave: CampaignWave
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Page:
    """All of it."""

    notes: tuple[Statement, ...]
    actions: tuple[tuple[str, str], ...]
    tiles: tuple[Tile, ...]
    steps: tuple[Step, ...]
    chart: SafeString | str
    renewals: tuple[Share, ...]
    failures: tuple[Failure, ...]
    failed: int
    ended: tuple[Identity, ...]
    waves: tuple[Wave, ...]
    waves_in_all: int


def page_of(campaign: RekeyCampaign, now: datetime, *, may_change: bool) -> Page:
    """As it is now; buttons only for who may press them. A fixed number of queries."""
    found = figures(campaign, now)
    is_running = State(campaign.state) in RUNNING
    failures = tuple(_failures(campaign, now)) if is_running else ()
    return Page(
        notes=tuple(_notes(campaign, found, now)),
        actions=tuple(_actions(campaign, found)) if may_change and is_running else (),
        tiles=tuple(_tiles(campaign, found)),
        steps=tuple(_steps(campaign, found, may_change=may_change)),
        chart=_chart(campaign, found, now),
        renewals=tuple(_renewal_shares(campaign)),
        failures=failures,
        failed=found.failures,
        ended=tuple(_ended(campaign, now)) if is_running and found.expired else (),
        waves=tuple(_waves(campaign)),
        waves_in_all=campaign.waves.count(),
    )


def _url(name: str, campaign: RekeyCampaign) -> str:
    return reverse(f"admin:renewal_rekeycampaign_{name}", args=[campaign.pk])


def _percent(part: int, of: int) -> int:
    """Rounded down: 100 only when it is all of them."""
    return part * 100 // of if of else 100


# --- What now? -------------------------------------------------------------------------------------------


def _notes(campaign: RekeyCampaign, found: Figures, now: datetime) -> Iterator[Statement]:
    state = State(campaign.state)
    if state in RUNNING and campaign.paused_at is not None:
        yield Statement(
            "wait",
            _(
                "Paused by %(who)s: no more devices are asked. Those that were asked before may still come. "
                "Press “Resume…” to go on."
            )
            % {"who": campaign.paused_by or "-"},
        )
    elif state in RUNNING and _is_stalled(campaign, now):
        yield Statement("bad", _("Nothing has happened for some minutes: are the workers running?"))
    yield _now(campaign, state, found)
    if state in RUNNING and found.given_up:
        yield Statement(
            "bad",
            ngettext(
                "%(count)d device failed and is not tried again by itself. Look at the reason below, mend "
                "it, and press “Retry failures…”.",
                "%(count)d devices failed and are not tried again by themselves. Look at the reasons below, "
                "mend them, and press “Retry failures…”.",
                found.given_up,
            )
            % {"count": found.given_up},
        )
    if state in RUNNING and found.expired:
        yield Statement(
            "wait",
            ngettext(
                "The certificate of %(count)d device has ended: it is refused until you let it in for one "
                "renewal (below).",
                "The certificates of %(count)d devices have ended: they are refused until you let them in "
                "for one renewal (below).",
                found.expired,
            )
            % {"count": found.expired},
        )
    if state in RUNNING and found.silent:
        yield Statement(
            "info",
            ngettext(
                "%(count)d device has not been seen for 30 days. It is asked when it comes back; nothing is "
                "lost until you close the older keys.",
                "%(count)d devices have not been seen for 30 days. They are asked when they come back; "
                "nothing is lost until you close the older keys.",
                found.silent,
            )
            % {"count": found.silent},
        )


def _is_stalled(campaign: RekeyCampaign, now: datetime) -> bool:
    return (campaign.last_wave_at or campaign.created_at) < now - STALLED_AFTER


def _now(campaign: RekeyCampaign, state: State, found: Figures) -> Statement:
    if state is State.DISTRIBUTING:
        return Statement(
            "info", _("Devices are getting the new root. Nothing to do for you until enough of them have it.")
        )
    if state is State.READY and campaign.activate_automatically:
        return Statement("info", _("Enough devices have the new root. The new key takes over by itself."))
    if state is State.READY:
        return Statement("wait", _("Enough devices have the new root. Press “Activate the new key…”."))
    if state is State.REISSUING:
        return Statement(
            "info",
            ngettext(
                "The new key is in use. %(count)d device still has to get its new certificate.",
                "The new key is in use. %(count)d devices still have to get their new certificate.",
                found.on_old,
            )
            % {"count": found.on_old},
        )
    if state is State.DRAINED:
        return Statement(
            "good", _("No device uses an older key any more. Press “Close the older keys…” to end it.")
        )
    if state is State.CLOSED:
        return Statement("good", _("Done: the older keys are closed."))
    return Statement("info", _("Given up. Keys stay as they were; older ones stay trusted."))


def _actions(campaign: RekeyCampaign, found: Figures) -> Iterator[tuple[str, str]]:
    state = State(campaign.state)
    if state in BEFORE_ACTIVATION:
        yield _url("activate", campaign), _("Activate the new key…")
    if state in AFTER_ACTIVATION:
        yield _url("close", campaign), _("Close the older keys…")
    if found.failures:
        yield _url("retry", campaign), _("Retry failures…")
    if campaign.paused_at is None:
        yield _url("pause", campaign), _("Pause…")
    yield _url("resume", campaign), _("Resume…") if campaign.paused_at else _("Change the rate…")
    yield _url("abort", campaign), _("Give up…")


def _tiles(campaign: RekeyCampaign, found: Figures) -> Iterator[Tile]:
    state = State(campaign.state)
    certificates = reverse("admin:pki_certificate_changelist")
    old = ",".join(str(key.generation) for key in generations.older_keys(campaign.new_key))
    yield Tile(
        _("On an older key"),
        found.on_old,
        _("key %(generations)s") % {"generations": old} if old else _("the older keys are closed"),
    )
    yield Tile(
        _("On the new key"),
        found.on_new,
        _("key %(generations)s") % {"generations": campaign.new_key.generation},
        f"{certificates}?issuer_key__id__exact={campaign.new_key_id}",
    )
    if state in BEFORE_ACTIVATION:
        yield Tile(_("With the new root"), found.installed, _("they trust the new key already"))
        yield Tile(_("Asked"), found.offered, _("the new root waits for them to connect"))
    elif state in AFTER_ACTIVATION:
        yield Tile(_("Asked"), found.asked, _("their new certificate is under way"))
    renewals = reverse("admin:renewal_identityrenewal_changelist")
    yield Tile(
        _("Failed"),
        found.failures,
        _("%(count)d of them for you to decide") % {"count": found.given_up},
        f"{renewals}?campaign__id__exact={campaign.pk}&state__exact={RenewalState.FAILED}",
        "bad" if found.given_up else "wait" if found.failures else "",
    )


# --- The steps -------------------------------------------------------------------------------------------


def _steps(campaign: RekeyCampaign, found: Figures, *, may_change: bool) -> Iterator[Step]:
    state = State(campaign.state)
    running = state in RUNNING and may_change
    before, after = state in BEFORE_ACTIVATION, state in AFTER_ACTIVATION
    is_enough = pacing.is_reached(found.installed, found.on_old, campaign.threshold_percent)
    yield Step(
        _("Devices get the new root"),
        _root_needs(campaign, found),
        done=(not before and campaign.activated_at is not None) or state is State.READY,
        is_now=state is State.DISTRIBUTING,
    )
    yield Step(
        _("The new key takes over"),
        _activation_needs(campaign, is_enough=is_enough),
        done=campaign.activated_at is not None,
        is_now=state is State.READY,
        url=_url("activate", campaign) if running and before else "",
        button=_("Activate…"),
    )
    yield Step(
        _("Devices get new certificates, in waves"),
        _("%(done)d of %(all)d devices use the new key (%(percent)d%%), at most %(rate)d a minute.")
        % {
            "done": found.on_new,
            "all": found.devices,
            "percent": _percent(found.on_new, found.devices),
            "rate": campaign.devices_per_minute,
        }
        if not before
        else _("Begins when the new key is in use: at most %(rate)d devices a minute.")
        % {"rate": campaign.devices_per_minute},
        done=state in (State.DRAINED, State.CLOSED),
        is_now=state is State.REISSUING,
    )
    yield Step(
        _("The older keys are closed"),
        _closing_needs(campaign, found),
        done=state is State.CLOSED,
        is_now=state is State.DRAINED,
        url=_url("close", campaign) if running and after else "",
        button=_("Close…"),
    )


def _root_needs(campaign: RekeyCampaign, found: Figures) -> str:
    if State(campaign.state) in BEFORE_ACTIVATION:
        return _("%(have)d of %(all)d devices have it (%(percent)d%%); %(enough)d%% are enough.") % {
            "have": found.installed,
            "all": found.on_old,
            "percent": _percent(found.installed, found.on_old),
            "enough": campaign.threshold_percent,
        }
    if campaign.activated_at == campaign.created_at:
        return _("Left out: the new key was in use already when the campaign began.")
    return _("%(enough)d%% were enough.") % {"enough": campaign.threshold_percent}


def _activation_needs(campaign: RekeyCampaign, *, is_enough: bool) -> str:
    if campaign.activated_at is not None:
        return _("In use since %(moment)s.") % {"moment": _moment(campaign.activated_at)}
    if not is_enough:
        return _("Waits until %(enough)d%% of the devices have the new root. You may insist earlier.") % {
            "enough": campaign.threshold_percent
        }
    if campaign.activate_automatically:
        return _("Enough have the root: it takes over by itself within a minute.")
    return _("Enough have the root: it waits for you.")


def _closing_needs(campaign: RekeyCampaign, found: Figures) -> str:
    if campaign.closed_at is not None:
        return _("Closed at %(moment)s.") % {"moment": _moment(campaign.closed_at)}
    return _(
        "Needs: no device on an older key (now %(old)d), none whose certificate of an older key has ended "
        "(now %(ended)d), no CA below an older key (now %(authorities)d)."
    ) % {"old": found.on_old, "ended": found.expired, "authorities": found.authorities}


def _moment(at: datetime) -> str:
    return f"{timezone.localtime(at):%Y-%m-%d %H:%M}"


# --- Over time, by state, by wave ------------------------------------------------------------------------


def _chart(campaign: RekeyCampaign, found: Figures, now: datetime) -> SafeString | str:
    samples = CampaignSample.objects.filter(campaign=campaign).values_list("at", "on_old", "failed")
    points = [curve.Point(*row) for row in samples]
    if State(campaign.state) in RUNNING:
        points.append(curve.Point(now, found.on_old, found.failures))
    return curve.draw(points, activated_at=campaign.activated_at) if points else ""


_RENEWAL_TONES = {
    RenewalState.COMPLETED: "good",
    RenewalState.ACKNOWLEDGED: "info",
    RenewalState.SENT: "info",
    RenewalState.PLANNED: "wait",
    RenewalState.FAILED: "bad",
    RenewalState.CANCELLED: "off",
}


def _renewal_shares(campaign: RekeyCampaign) -> Iterator[Share]:
    counted = dict(
        IdentityRenewal.objects.filter(campaign=campaign)
        .order_by()
        .values_list("state")
        .annotate(count=Count("pk"))
    )
    address = f"{reverse('admin:renewal_identityrenewal_changelist')}?campaign__id__exact={campaign.pk}"
    for state, tone in _RENEWAL_TONES.items():
        if counted.get(state):
            yield Share(str(state.label), counted[state], tone, f"{address}&state__exact={state}")


_DELIVERY_SHARES = (
    (gettext_lazy("done"), "good", (DeliveryState.ACKNOWLEDGED,)),
    (gettext_lazy("under way"), "info", (DeliveryState.SENT, DeliveryState.UNCERTAIN)),
    (gettext_lazy("waiting"), "wait", (DeliveryState.QUEUED, DeliveryState.NOT_NOW)),
    (gettext_lazy("failed"), "bad", (DeliveryState.ERROR, DeliveryState.FORMAT_ERROR)),
    (gettext_lazy("ended"), "off", (DeliveryState.EXPIRED, DeliveryState.CANCELLED)),
)


def _waves(campaign: RekeyCampaign) -> Iterator[Wave]:
    rows = list(campaign.waves.select_related("command").defer("command__payload_sealed")[:MOST_ROWS])
    counted: dict[int, dict[str, int]] = {}
    for command, state, count in (
        CommandDelivery.objects.filter(command__in=[row.command_id for row in rows])
        .order_by()
        .values_list("command", "state")
        .annotate(count=Count("pk"))
    ):
        counted.setdefault(command, {})[state] = count
    for row in rows:
        states = counted.get(row.command_id, {})
        shares = (
            Share(label, sum(states.get(state, 0) for state in of), tone)
            for label, tone, of in _DELIVERY_SHARES
        )
        yield Wave(row, tuple(share for share in shares if share.count))


# --- Devices ---------------------------------------------------------------------------------------------


def _failures(campaign: RekeyCampaign, now: datetime) -> Iterator[Failure]:
    """Who failed last comes first."""
    if State(campaign.state) in BEFORE_ACTIVATION:
        refused = refused_roots(campaign).order_by("-completed_at", "-pk")
        rows: Any = without_root(campaign, now)
        rows = rows.annotate(
            latest_reason=Subquery(refused.values("reason")[:1]),
            device_errors=Subquery(refused.values("result__error_chain")[:1]),
            hopeless=Value(False),
        )
    else:
        failed = failed_renewals(campaign).order_by("-finished_at", "-pk")
        rows = not_asked(campaign, now)
        rows = rows.annotate(
            latest_reason=Subquery(failed.values("error")[:1]),
            device_errors=Value(None, output_field=JSONField()),
            hopeless=is_hopeless(campaign),
        )
    chosen = rows.filter(failures__gt=0).select_related("device").order_by("-failed_at", "pk")
    for row in chosen[:MOST_ROWS]:
        said = [error.get("message") for error in row.device_errors or [] if error.get("message")]
        yield Failure(
            row.device,
            row.latest_reason or "; ".join(said) or _("no reason given"),
            row.failures,
            row.failed_at,
            row.hopeless or row.failures > len(pacing.CAMPAIGN_PAUSES),
        )


def _ended(campaign: RekeyCampaign, now: datetime) -> QuerySet[Identity]:
    """Devices that are refused, because their certificate of an older key has ended."""
    return (
        Identity.objects.filter(
            Q(certificate__issuer_key__in=[key.pk for key in generations.older_keys(campaign.new_key)]),
            state=IdentityState.ACTIVE,
            enrollment__channel=Channel.DEVICE,
            enrollment__state=EnrollmentState.ENROLLED,
            certificate__not_after__lte=now,
        )
        .select_related("enrollment__device", "certificate")
        .defer("certificate__der")
        .order_by("-certificate__not_after", "pk")[:MOST_ROWS]
    )


def last_figures() -> dict[str, Subquery]:
    """For lists: the devices on an older and on the new key, as they were counted last."""
    last = CampaignSample.objects.filter(campaign=OuterRef("pk")).order_by("-id")
    return {
        "last_old": Subquery(last.values("on_old")[:1]),
        "last_new": Subquery(last.values("on_new")[:1]),
        "last_failed": Subquery(last.values("failed")[:1]),
    }
