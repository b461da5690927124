"""Where a re-key campaign stands, counted from the facts in a few queries however many devices there are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db.models import Count, Exists, OuterRef, Q, QuerySet

from commands.models import OUTSTANDING, CommandDelivery, DeliveryState
from devices.models import Channel, Enrollment, EnrollmentState, Identity, IdentityState
from pki import issuers
from pki.models import Issuer, IssuerKey
from renewal import attempts, generations
from renewal.core.pacing import CAMPAIGN_PAUSES
from renewal.core.steps import BEFORE_ACTIVATION, State
from renewal.models import (
    CampaignSample,
    CampaignWave,
    IdentityRenewal,
    RekeyCampaign,
    WaveKind,
)

SILENT_AFTER = timedelta(days=30)
SAMPLES = 500
"""About how many samples a campaign has, however long it takes: their distance grows with its age."""
SAMPLE_AT_LEAST_EVERY = timedelta(hours=1)

CAME_TO_NOTHING = (
    DeliveryState.ERROR,
    DeliveryState.FORMAT_ERROR,
    DeliveryState.EXPIRED,
    DeliveryState.CANCELLED,
)
GIVEN_UP = Q(failures__gt=len(CAMPAIGN_PAUSES))


@dataclass(frozen=True)
class Figures:
    """Enrolled devices with an identity of the issuer, by what they depend on.

    ``on_old`` and ``on_new``: certificates in force, of an older and of the new key. ``expired``: of an older
    key, and ended: such a device is refused, and needs a permit. ``silent``: of those on an older key, not
    seen for 30 days.

    Before the new key is in use: ``installed``, ``offered``, ``refused`` are the devices that have the new
    root, that were asked and have not answered, that could not install it. Afterwards: ``asked`` are those
    whose new certificate is under way, ``failed`` those whose last attempt failed. ``given_up``: of those
    that failed, whom only an administrator tries again.

    ``leftover``: certificates in force of older keys that no enrolled device uses. ``authorities``: CAs below
    that hang on an older key.
    """

    on_old: int = 0
    on_new: int = 0
    expired: int = 0
    silent: int = 0
    installed: int = 0
    offered: int = 0
    refused: int = 0
    asked: int = 0
    failed: int = 0
    given_up: int = 0
    leftover: int = 0
    authorities: int = 0

    @property
    def devices(self) -> int:
        """All of them that can be reached."""
        return self.on_old + self.on_new

    @property
    def failures(self) -> int:
        """Devices that could not do what they were asked, in whichever step."""
        return self.refused + self.failed


def figures(campaign: RekeyCampaign, now: datetime) -> Figures:
    """Count."""
    found = of_issuer(campaign.issuer, campaign.new_key, now)
    waiting = on_old_keys(campaign, now)
    if State(campaign.state) in BEFORE_ACTIVATION:
        return replace(found, **_roots(campaign, waiting))
    return replace(found, **_renewals(campaign, waiting))


def of_issuer(issuer: Issuer, new_key: IssuerKey, now: datetime) -> Figures:
    """What a re-key of this issuer concerns, with or without a campaign."""
    old = generations.older_keys(new_key)
    on_old = Q(certificate__issuer_key__in=[key.pk for key in old])
    in_force, ended = Q(certificate__not_after__gt=now), Q(certificate__not_after__lte=now)
    long_ago = Q(enrollment__last_seen_at__lt=now - SILENT_AFTER)
    counted = Identity.objects.filter(
        state=IdentityState.ACTIVE,
        enrollment__channel=Channel.DEVICE,
        enrollment__state=EnrollmentState.ENROLLED,
        certificate__issuer_key__issuer=issuer,
    ).aggregate(
        on_old=Count("pk", filter=on_old & in_force),
        on_new=Count("pk", filter=Q(certificate__issuer_key=new_key) & in_force),
        expired=Count("pk", filter=on_old & ended),
        silent=Count("pk", filter=on_old & in_force & long_ago),
    )
    live = sum(issuers.live_certificates(issuer_key, now).count() for issuer_key in old)
    return Figures(
        **counted,
        leftover=max(0, live - counted["on_old"]),
        authorities=sum(issuers.live_subordinates(issuer_key, now).count() for issuer_key in old),
    )


def on_old_keys(campaign: RekeyCampaign, now: datetime) -> QuerySet[Enrollment]:
    """The enrolled devices whose identity in force is of an older key of the issuer."""
    identity = Identity.objects.filter(
        enrollment=OuterRef("pk"),
        state=IdentityState.ACTIVE,
        certificate__issuer_key__in=[key.pk for key in generations.older_keys(campaign.new_key)],
        certificate__not_after__gt=now,
    )
    return Enrollment.objects.filter(Exists(identity), channel=Channel.DEVICE, state=EnrollmentState.ENROLLED)


# The new root


def root_deliveries(campaign: RekeyCampaign) -> QuerySet[CommandDelivery]:
    """The new root on its way to the enrollment of the outer query."""
    waves = CampaignWave.objects.filter(campaign=campaign, kind=WaveKind.ROOT)
    return CommandDelivery.objects.filter(enrollment=OuterRef("pk"), command__in=waves.values("command"))


def refused_roots(campaign: RekeyCampaign) -> QuerySet[CommandDelivery]:
    """Those that came to nothing, since the administrator last asked to try again."""
    refused = root_deliveries(campaign).filter(state__in=CAME_TO_NOTHING)
    return refused.filter(completed_at__gt=campaign.retry_from) if campaign.retry_from else refused


def has_root(campaign: RekeyCampaign) -> Exists:
    """Whether the device of the outer query has installed the new root."""
    return Exists(root_deliveries(campaign).filter(state=DeliveryState.ACKNOWLEDGED))


def is_offered(campaign: RekeyCampaign) -> Exists:
    """Whether it was asked to, and has not answered."""
    return Exists(root_deliveries(campaign).filter(state__in=OUTSTANDING))


def without_root(campaign: RekeyCampaign, now: datetime) -> QuerySet[Enrollment]:
    """Devices that neither have it nor were asked, with their ``failures``."""
    waiting = on_old_keys(campaign, now).filter(~has_root(campaign), ~is_offered(campaign))
    return attempts.with_failures(waiting, refused_roots(campaign), when="completed_at")


def _roots(campaign: RekeyCampaign, waiting: QuerySet[Enrollment]) -> dict[str, int]:
    rows = attempts.with_failures(waiting, refused_roots(campaign), when="completed_at").annotate(
        has=has_root(campaign),
        asked=is_offered(campaign),
        refused=Exists(root_deliveries(campaign).filter(state__in=CAME_TO_NOTHING)),
    )
    neither = Q(has=False, asked=False)
    counted: dict[str, int] = rows.aggregate(
        number_installed=Count("pk", filter=Q(has=True)),
        number_offered=Count("pk", filter=Q(has=False, asked=True)),
        number_refused=Count("pk", filter=neither & Q(refused=True)),
        number_given_up=Count("pk", filter=neither & GIVEN_UP),
    )
    return {name.removeprefix("number_"): number for name, number in counted.items()}


# The new certificates


def failed_renewals(campaign: RekeyCampaign) -> QuerySet[IdentityRenewal]:
    """Failed attempts for the enrollment of the outer query, since the last retry."""
    failed = attempts.failed(OuterRef("pk"), campaign=campaign)
    return failed.filter(finished_at__gt=campaign.retry_from) if campaign.retry_from else failed


def not_asked(campaign: RekeyCampaign, now: datetime) -> QuerySet[Enrollment]:
    """Devices on an older key for whom nothing is under way, with their ``failures``."""
    waiting = on_old_keys(campaign, now).filter(~attempts.being_renewed(OuterRef("pk")))
    return attempts.with_failures(waiting, failed_renewals(campaign))


def is_hopeless(campaign: RekeyCampaign) -> Exists:
    """Whether an attempt failed for a reason that will not go away by itself."""
    return Exists(failed_renewals(campaign).filter(permanent=True))


def _renewals(campaign: RekeyCampaign, waiting: QuerySet[Enrollment]) -> dict[str, int]:
    rows = attempts.with_failures(waiting, failed_renewals(campaign)).annotate(
        asked=attempts.being_renewed(OuterRef("pk")),
        failed=Exists(attempts.failed(OuterRef("pk"), campaign=campaign)),
        hopeless=is_hopeless(campaign),
    )
    counted: dict[str, int] = rows.aggregate(
        number_asked=Count("pk", filter=Q(asked=True)),
        number_failed=Count("pk", filter=Q(asked=False, failed=True)),
        number_given_up=Count("pk", filter=Q(asked=False) & (GIVEN_UP | Q(hopeless=True))),
    )
    return {name.removeprefix("number_"): number for name, number in counted.items()}


# Over time


def sample(campaign: RekeyCampaign, found: Figures, now: datetime, *, at_once: bool = False) -> bool:
    """Keep the figures for the chart, where they changed or a while has passed. True if it did.

    ``at_once``: the campaign has come a step further. Called under the lock of the campaign.
    """
    last = CampaignSample.objects.filter(campaign=campaign).order_by("-id").first()
    new = CampaignSample(
        campaign=campaign,
        at=now,
        on_old=found.on_old,
        on_new=found.on_new,
        installed=found.installed,
        failed=found.failures,
    )
    if last is not None and not at_once:
        distance = now - last.at
        if distance < (now - campaign.created_at) / SAMPLES:
            return False
        if _shown(last) == _shown(new) and distance < SAMPLE_AT_LEAST_EVERY:
            return False
    new.save()
    return True


def _shown(row: CampaignSample) -> tuple[int, int, int, int]:
    return row.on_old, row.on_new, row.installed, row.failed
