"""What the home page says, in a fixed small number of queries however many devices there are."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, PermissionsMixin
from django.db.models import Count, Q, Sum
from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _

from audit.models import AuditEvent, Refusal
from audit.wording import action_in_words, target_url
from commands.models import OUTSTANDING, CommandDelivery, DeliveryState
from console import words
from console.charts import Part
from devices.models import Channel, Enrollment, EnrollmentState
from pki.models import (
    Certificate,
    CertificateStatus,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerState,
    ProfileSigner,
    Purpose,
)
from push.models import PushCertificate, PushCertificateState, VendorCertificate
from renewal.campaign_page import last_figures
from renewal.core.steps import RUNNING
from renewal.models import CampaignState, RekeyCampaign
from scep import approvals

SILENT_AFTER = timedelta(days=7)
RENEW_BEFORE = timedelta(days=30)
RECENT_EVENTS = 10

User = AbstractBaseUser | AnonymousUser


@dataclass(frozen=True)
class Tile:
    """One number and the list that it counts. ``tone`` colours it where it asks for attention."""

    title: str
    count: int
    hint: str
    url: str
    tone: str = ""


@dataclass(frozen=True)
class Expiry:
    """Something that ends. ``left`` in words: "in 29 days", "3 days ago"."""

    name: str
    kind: str
    at: datetime
    left: str
    tone: str
    url: str
    note: str = ""


@dataclass(frozen=True)
class Step:
    """One step of the set-up."""

    title: str
    hint: str
    done: bool
    url: str = ""
    link: str = ""
    stays: bool = False
    """Whether the link is there when it is done as well."""


@dataclass(frozen=True)
class Happening:
    """One line of the recent activity."""

    at: datetime
    actor: str
    what: str
    target: str
    url: str
    outcome: str
    outcome_label: str
    reason: str


@dataclass(frozen=True)
class Board:
    """All of the home page. Parts that this person may not see are empty."""

    tiles: list[Tile] = field(default_factory=list)
    expiries: list[Expiry] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    platforms: list[Part] = field(default_factory=list)
    contact: list[Part] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)

    @property
    def steps_done(self) -> int:
        return sum(step.done for step in self.steps)


def board(user: User, now: datetime) -> Board:
    """Gather the home page for this person."""
    fleet = _fleet(now) if _may(user, "devices.view_enrollment") else None
    push_certificates = _push_certificates() if _may(user, "push.view_pushcertificate") else None
    issuers = _issuer_certificates() if _may(user, "pki.view_issuer") else None
    steps: list[Step] = []
    if fleet is not None and push_certificates is not None and issuers is not None:
        push_url = _push_steps(user, push_certificates)
        steps = _steps(bool(issuers), push_certificates, push_url, has_device=bool(fleet["ever"]))
    return Board(
        tiles=[
            *(_device_tiles(fleet, now) if fleet is not None else []),
            *(_command_tiles(now) if _may(user, "commands.view_commanddelivery") else []),
            *(_certificate_tiles(now) if _may(user, "pki.view_certificate") else []),
            *(_request_tiles(now) if _may(user, "scep.view_pendingrequest") else []),
            *(_campaign_tiles() if _may(user, "renewal.view_rekeycampaign") else []),
            *(_refusal_tiles(now) if _may(user, "audit.view_refusal") else []),
        ],
        expiries=sorted(
            [
                *(_push_expiry(certificate, now) for certificate in push_certificates or []),
                *(_vendor_expiries(now) if _may(user, "push.view_vendorcertificate") else []),
                *(_issuer_expiry(certificate, now) for certificate in issuers or []),
                *(_signer_expiries(now) if _may(user, "pki.view_profilesigner") else []),
            ],
            key=lambda expiry: expiry.at,
        ),
        steps=[] if all(step.done for step in steps) else steps,
        platforms=_platforms() if fleet is not None and fleet["enrolled"] else [],
        contact=_contact(fleet) if fleet is not None and fleet["enrolled"] else [],
        happenings=_happenings() if _may(user, "audit.view_auditevent") else [],
    )


# --- devices ---


def _fleet(now: datetime) -> dict[str, int]:
    enrolled = Q(state=EnrollmentState.ENROLLED)

    def seen_within(days: int) -> Q:
        return enrolled & Q(last_seen_at__gte=now - timedelta(days=days))

    return Enrollment.objects.filter(channel=Channel.DEVICE).aggregate(
        ever=Count("id", filter=Q(enrolled_at__isnull=False)),
        enrolled=Count("id", filter=enrolled),
        silent=Count("id", filter=enrolled & Q(last_seen_at__lt=now - SILENT_AFTER)),
        waiting=Count("id", filter=Q(state=EnrollmentState.QUARANTINED)),
        seen_1=Count("id", filter=seen_within(1)),
        seen_7=Count("id", filter=seen_within(7)),
        seen_30=Count("id", filter=seen_within(30)),
    )


def _device_tiles(fleet: dict[str, int], now: datetime) -> list[Tile]:
    enrolled = {"channel__exact": Channel.DEVICE.value, "state__exact": EnrollmentState.ENROLLED.value}
    return [
        Tile(
            _("Enrolled devices"),
            fleet["enrolled"],
            _("under management now"),
            _devices(),
        ),
        Tile(
            _("Not seen for 7 days"),
            fleet["silent"],
            _("enrolled, but silent"),
            _list("devices_enrollment", {**enrolled, "last_seen_at__lt": _stamp(now - SILENT_AFTER)}),
            "wait" if fleet["silent"] else "",
        ),
        Tile(
            _("Waiting for admission"),
            fleet["waiting"],
            _("re-enrolled with an unknown identity"),
            _list(
                "devices_enrollment",
                {"channel__exact": Channel.DEVICE.value, "state__exact": EnrollmentState.QUARANTINED.value},
            ),
            "wait" if fleet["waiting"] else "",
        ),
    ]


def _platforms() -> list[Part]:
    rows = (
        Enrollment.objects.filter(channel=Channel.DEVICE, state=EnrollmentState.ENROLLED)
        .order_by()
        .values_list("device__platform")
        .annotate(number=Count("id"))
        .order_by("-number")
    )
    return [
        Part(platform or _("unknown"), number, "good", _devices(platform__exact=platform))
        for platform, number in rows
    ]


def _contact(fleet: dict[str, int]) -> list[Part]:
    return [
        Part(_("last 24 hours"), fleet["seen_1"], "good", _devices(seen="day")),
        Part(_("1 to 7 days ago"), fleet["seen_7"] - fleet["seen_1"], "good", _devices(seen="week")),
        Part(_("7 to 30 days ago"), fleet["seen_30"] - fleet["seen_7"], "wait", _devices(seen="month")),
        Part(_("longer ago"), fleet["enrolled"] - fleet["seen_30"], "bad", _devices(seen="longer")),
    ]


def _devices(**more: str) -> str:
    """The list of enrolled devices, narrowed down."""
    return _list("devices_device", {"enrolment": EnrollmentState.ENROLLED.value, **more})


# --- commands, certificates, refusals ---


def _command_tiles(now: datetime) -> list[Tile]:
    deliveries = CommandDelivery.objects.order_by()
    failures = (DeliveryState.ERROR, DeliveryState.FORMAT_ERROR)
    since = now - timedelta(days=1)
    outstanding = deliveries.filter(state__in=OUTSTANDING).count()
    failed = deliveries.filter(state__in=failures, completed_at__gte=since).count()
    uncertain = deliveries.filter(state=DeliveryState.UNCERTAIN).count()
    return [
        Tile(
            _("Commands outstanding"),
            outstanding,
            _("queued, sent, or device busy"),
            _list("commands_commanddelivery", {"state__in": ",".join(OUTSTANDING)}),
        ),
        Tile(
            _("Commands failed"),
            failed,
            _("in the last 24 hours"),
            _list(
                "commands_commanddelivery",
                {"state__in": ",".join(failures), "completed_at__gte": _stamp(since)},
            ),
            "bad" if failed else "",
        ),
        Tile(
            _("Commands uncertain"),
            uncertain,
            _("handed out, no answer: decide"),
            _list("commands_commanddelivery", {"state__exact": DeliveryState.UNCERTAIN.value}),
            "wait" if uncertain else "",
        ),
    ]


def _certificate_tiles(now: datetime) -> list[Tile]:
    expiring = Certificate.objects.filter(
        purpose=Purpose.MDM_IDENTITY,
        status=CertificateStatus.ISSUED,
        not_after__gte=now,
        not_after__lt=now + RENEW_BEFORE,
    ).count()
    return [
        Tile(
            _("Identities expiring"),
            expiring,
            _("within 30 days"),
            _list(
                "pki_certificate",
                {
                    "purpose__exact": Purpose.MDM_IDENTITY.value,
                    "status__exact": CertificateStatus.ISSUED.value,
                    "not_after__gte": _stamp(now),
                    "not_after__lt": _stamp(now + RENEW_BEFORE),
                },
            ),
            "wait" if expiring else "",
        )
    ]


def _request_tiles(now: datetime) -> list[Tile]:
    """Only where some wait: most servers have no SCEP service at which people decide."""
    waiting = approvals.open_requests(now).count()
    if not waiting:
        return []
    url = _list("scep_pendingrequest")
    return [Tile(_("Certificate requests"), waiting, _("waiting for approval"), url, "wait")]


def _campaign_tiles() -> list[Tile]:
    """One for each re-key campaign that runs: how many devices are left, and whether it waits for you."""
    running = RekeyCampaign.objects.filter(state__in=[state.value for state in RUNNING])
    rows: Any = running.annotate(**last_figures()).select_related("issuer")
    return [_campaign_tile(campaign, campaign.last_old or 0, campaign.last_failed or 0) for campaign in rows]


def _campaign_tile(campaign: RekeyCampaign, left: int, failed: int) -> Tile:
    waits = campaign.state == CampaignState.DRAINED or (
        campaign.state == CampaignState.READY and not campaign.activate_automatically
    )
    if failed:
        hint = _("left on an older key; %(count)d failed") % {"count": failed}
    elif campaign.paused_at is not None:
        hint = _("left on an older key; paused")
    elif waits:
        hint = _("left on an older key; it waits for you")
    else:
        hint = _("left on an older key")
    return Tile(
        _("Re-key of %(issuer)s") % {"issuer": campaign.issuer.name},
        left,
        hint,
        _object("renewal_rekeycampaign", campaign.pk),
        "bad" if failed else "wait" if waits or campaign.paused_at else "",
    )


def _refusal_tiles(now: datetime) -> list[Tile]:
    refused = Refusal.objects.filter(last_at__gte=now - timedelta(days=1)).aggregate(total=Sum("count"))
    total = refused["total"] or 0
    return [
        Tile(
            _("Refused requests"),
            total,
            _("in the last 24 hours"),
            _list("audit_refusal", {"when": "day"}),
            "wait" if total else "",
        )
    ]


# --- what expires ---


def _push_certificates() -> list[PushCertificate]:
    return list(PushCertificate.objects.exclude(state=PushCertificateState.REPLACED).order_by("not_after"))


def _issuer_certificates() -> list[IssuerCertificate]:
    return list(
        IssuerCertificate.objects.filter(
            is_current=True,
            kind__in=(IssuerCertificateKind.SELF_SIGNED, IssuerCertificateKind.SUBORDINATE),
            issuer_key__issuer__state=IssuerState.ACTIVE,
            issuer_key__private_key_sealed__isnull=False,
        )
        .select_related("issuer_key__issuer")
        .defer("der", "chain", "issuer_key__private_key_sealed")
        .order_by("not_after")
    )


def _push_expiry(certificate: PushCertificate, now: datetime) -> Expiry:
    url = _object("push_pushcertificate", certificate.pk)
    if certificate.state == PushCertificateState.REQUESTED or certificate.not_after is None:
        return Expiry(
            certificate.common_name or _("Push certificate"),
            _("push certificate"),
            certificate.created_at,
            _("waiting for Apple's answer"),
            "info",
            url,
        )
    return Expiry(
        certificate.common_name or certificate.topic,
        _("push certificate"),
        certificate.not_after,
        words.relative(certificate.not_after, now),
        "bad" if certificate.held_at else _urgency(certificate.not_after - now, worry=60, alarm=14),
        url,
        certificate.held_reason,
    )


def _vendor_expiries(now: datetime) -> list[Expiry]:
    return [
        Expiry(
            str(vendor),
            _("MDM vendor certificate"),
            vendor.not_after,
            words.relative(vendor.not_after, now),
            _urgency(vendor.not_after - now, worry=60, alarm=14),
            _object("push_vendorcertificate", vendor.pk),
        )
        for vendor in VendorCertificate.objects.filter(retired_at__isnull=True).defer(
            "der", "chain", "private_key_sealed"
        )
    ]


def _issuer_expiry(certificate: IssuerCertificate, now: datetime) -> Expiry:
    issuer = certificate.issuer_key.issuer
    return Expiry(
        issuer.name,
        _("certificate authority"),
        certificate.not_after,
        words.relative(certificate.not_after, now),
        _urgency(certificate.not_after - now, worry=365, alarm=90),
        _object("pki_issuer", issuer.pk),
    )


def _signer_expiries(now: datetime) -> list[Expiry]:
    """An imported certificate that signs profiles: an issuer's own is renewed by itself."""
    rows = ProfileSigner.objects.filter(in_use=True, not_after__isnull=False).only(
        "subject", "not_after", "issuer"
    )
    return [
        Expiry(
            str(row),
            _("signer of profiles"),
            row.not_after,
            words.relative(row.not_after, now),
            _urgency(row.not_after - now, worry=60, alarm=14),
            _object("pki_profilesigner", row.pk),
        )
        for row in rows
        if row.not_after is not None
    ]


def _urgency(left: timedelta, *, worry: int, alarm: int) -> str:
    if left <= timedelta(days=alarm):
        return "bad"
    return "wait" if left <= timedelta(days=worry) else "good"


# --- set-up ---


def _push_steps(user: User, push_certificates: list[PushCertificate]) -> str:
    """Where the push certificate is set up, or the list for who may not do that."""
    if not _may(user, "push.add_pushcertificate"):
        return _list("push_pushcertificate")
    waiting = [row.pk for row in push_certificates if row.state == PushCertificateState.REQUESTED]
    if waiting:
        return reverse("admin:push_pushcertificate_steps", args=[max(waiting)])
    return reverse("admin:push_pushcertificate_request")


def _steps(
    has_issuer: bool, push_certificates: list[PushCertificate], push_url: str, *, has_device: bool
) -> list[Step]:
    states = {certificate.state for certificate in push_certificates}
    requested = PushCertificateState.REQUESTED in states
    address = settings.BRAMLEY_PUBLIC_URL
    return [
        Step(
            _("Create the certificate authority"),
            _("It issues the identities of your devices."),
            has_issuer,
            _list("pki_issuer"),
            _("Issuers"),
        ),
        Step(
            _("Import the push certificate"),
            _("The request is made. Have it signed, upload it at Apple's portal, then bring the answer.")
            if requested
            else _("Apple issues it for one year. Without it no device can be woken."),
            PushCertificateState.ACTIVE in states,
            push_url,
            _("Step by step"),
        ),
        Step(
            _("Give the server an https address"),
            _("Devices are told %(address)s. Set BRAMLEY_PUBLIC_URL to an address that starts with https://.")
            % {"address": address},
            address.startswith("https://"),
            reverse("admin:pki_tlsanchor_check") if address.startswith("https://") else "",
            _("Will devices trust it?"),
            stays=True,
        ),
        Step(
            _("Enrol the first device"),
            _("Open the enrolment page on the device, or give its address to the person who uses it."),
            has_device,
            _list("enrollment_enrollmentprofile"),
            _("Ways to enrol"),
        ),
    ]


# --- what happened ---


def _happenings() -> list[Happening]:
    return [
        Happening(
            event.at,
            event.actor,
            action_in_words(event.action),
            event.target_label,
            target_url(event),
            event.outcome,
            str(event.get_outcome_display()),
            event.reason,
        )
        for event in AuditEvent.objects.order_by("-id")[:RECENT_EVENTS]
    ]


# --- links ---


def _may(user: User, permission: str) -> bool:
    return isinstance(user, PermissionsMixin) and user.has_perm(permission)


def _list(name: str, query: dict[str, Any] | None = None) -> str:
    """A filtered list; empty where the model has no list."""
    try:
        url = reverse(f"admin:{name}_changelist")
    except NoReverseMatch:
        return ""
    return f"{url}?{urlencode(query)}" if query else url


def _object(name: str, key: int) -> str:
    try:
        return reverse(f"admin:{name}_change", args=[key])
    except NoReverseMatch:
        return ""


def _stamp(at: datetime) -> str:
    """A moment in a query: the same for a minute, so that the link can be kept and shared."""
    return at.replace(second=0, microsecond=0).isoformat()
