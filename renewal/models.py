"""New certificates for devices in management: each attempt, permits for late ones, and re-key campaigns."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from commands.models import Command
from devices.models import Enrollment
from pki.models import Certificate, Issuer, IssuerKey


class RenewalReason(models.TextChoices):
    EXPIRY = "EXPIRY", _("the certificate ends soon")
    CAMPAIGN = "CAMPAIGN", _("re-key campaign")
    MANUAL = "MANUAL", _("asked for by an administrator")


class RenewalState(models.TextChoices):
    PLANNED = "PLANNED", _("waits for the device to connect")
    SENT = "SENT", _("profile handed to the device")
    ACKNOWLEDGED = "ACKNOWLEDGED", _("profile installed")
    COMPLETED = "COMPLETED", _("new certificate in use")
    FAILED = "FAILED", _("failed")
    CANCELLED = "CANCELLED", _("no longer needed")


OPEN_RENEWALS = (RenewalState.PLANNED, RenewalState.SENT, RenewalState.ACKNOWLEDGED)


class CampaignState(models.TextChoices):
    """How far a campaign got; the table of allowed moves is in ``renewal.core.steps``."""

    DISTRIBUTING = "DISTRIBUTING", _("distributing the new root")
    READY = "READY", _("ready to activate the new key")
    REISSUING = "REISSUING", _("giving devices new certificates")
    DRAINED = "DRAINED", _("no device is left on the old key")
    CLOSED = "CLOSED", _("closed")
    ABORTED = "ABORTED", _("given up")


class RekeyCampaign(models.Model):
    """Everything around the change of an issuer's key, while thousands of its certificates are out.

    The rows are the truth: any process may die at any time, and the next tick goes on from them.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="+", verbose_name=_("issuer"))
    new_key = models.ForeignKey(
        IssuerKey, on_delete=models.PROTECT, related_name="+", verbose_name=_("new key")
    )
    state = models.CharField(
        _("state"), max_length=12, choices=CampaignState.choices, default=CampaignState.DISTRIBUTING
    )
    threshold_percent = models.PositiveSmallIntegerField(
        _("enough are"),
        default=95,
        help_text=_("Percent of the devices that have to have the new root before its key is activated."),
    )
    activate_automatically = models.BooleanField(
        _("activate by itself"),
        default=False,
        help_text=_("As soon as enough devices have the new root. Otherwise it waits for you."),
    )
    devices_per_minute = models.PositiveIntegerField(
        _("devices a minute"), default=60, help_text=_("How many devices are asked in a minute.")
    )
    paused_at = models.DateTimeField(_("paused"), null=True, blank=True)
    paused_by = models.CharField(_("paused by"), max_length=200, blank=True)
    last_wave_at = models.DateTimeField(null=True, blank=True, editable=False)
    sampled_at = models.DateTimeField(null=True, blank=True, editable=False)
    retry_from = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Failures before this moment no longer count."
    )
    created_by = models.CharField(_("started by"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("started"))
    ready_at = models.DateTimeField(_("enough have the root since"), null=True, blank=True)
    activated_at = models.DateTimeField(_("new key in use since"), null=True, blank=True)
    drained_at = models.DateTimeField(_("no device left since"), null=True, blank=True)
    closed_at = models.DateTimeField(_("old key closed"), null=True, blank=True)
    aborted_at = models.DateTimeField(_("given up"), null=True, blank=True)

    class Meta:
        verbose_name = _("re-key campaign")
        verbose_name_plural = _("re-key campaigns")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["issuer"],
                condition=Q(state__in=["DISTRIBUTING", "READY", "REISSUING", "DRAINED"]),
                name="campaign_one_running_per_issuer",
            )
        ]

    def __str__(self) -> str:
        return f"{self.issuer.name}, key {self.new_key.generation}"


class WaveKind(models.TextChoices):
    ROOT = "ROOT", _("new root")
    IDENTITY = "IDENTITY", _("new certificate")


class CampaignWave(models.Model):
    """Devices that were asked together: one command."""

    campaign = models.ForeignKey(
        RekeyCampaign, on_delete=models.CASCADE, related_name="waves", verbose_name=_("campaign")
    )
    number = models.PositiveIntegerField(_("number"))
    kind = models.CharField(_("for"), max_length=8, choices=WaveKind.choices)
    command = models.ForeignKey(
        Command, on_delete=models.PROTECT, related_name="+", verbose_name=_("command")
    )
    devices = models.PositiveIntegerField(_("devices"))
    created_at = models.DateTimeField(_("at"))

    class Meta:
        verbose_name = _("wave")
        verbose_name_plural = _("waves")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["campaign", "number"], name="campaign_wave_number_once")
        ]

    def __str__(self) -> str:
        return f"{self.campaign} {self.number}"


class CampaignSample(models.Model):
    """The figures of a campaign at one moment, for its chart."""

    campaign = models.ForeignKey(
        RekeyCampaign, on_delete=models.CASCADE, related_name="samples", verbose_name=_("campaign")
    )
    at = models.DateTimeField(_("at"))
    on_old = models.PositiveIntegerField(_("devices on an old key"))
    on_new = models.PositiveIntegerField(_("devices on the new key"))
    installed = models.PositiveIntegerField(_("devices with the new root"))
    failed = models.PositiveIntegerField(_("failed"))

    class Meta:
        verbose_name = _("sample")
        verbose_name_plural = _("samples")
        ordering = ["id"]
        indexes = [models.Index(fields=["campaign", "at"], name="campaign_sample_at")]

    def __str__(self) -> str:
        return f"{self.campaign} {self.at:%Y-%m-%d %H:%M}"


class IdentityRenewal(models.Model):
    """One attempt to give an enrolled device a new certificate without a new enrolment.

    At most one is open for an enrollment. What failed is tried again by another row.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    enrollment = models.ForeignKey(
        Enrollment, on_delete=models.CASCADE, related_name="renewals", verbose_name=_("device")
    )
    reason = models.CharField(_("reason"), max_length=8, choices=RenewalReason.choices)
    state = models.CharField(
        _("state"), max_length=12, choices=RenewalState.choices, default=RenewalState.PLANNED
    )
    attempt = models.PositiveSmallIntegerField(_("attempt"), default=1)
    error = models.CharField(_("what went wrong"), max_length=300, blank=True)
    permanent = models.BooleanField(
        _("not tried again by itself"),
        default=False,
        help_text=_("It would fail again until something else is changed."),
    )
    campaign = models.ForeignKey(
        RekeyCampaign,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="renewals",
        verbose_name=_("campaign"),
    )
    command = models.ForeignKey(
        Command,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("command"),
    )
    certificate_before = models.ForeignKey(
        Certificate,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("certificate before"),
    )
    certificate_after = models.ForeignKey(
        Certificate,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("certificate after"),
    )
    requested_by = models.CharField(_("asked for by"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("planned"))
    sent_at = models.DateTimeField(_("handed out"), null=True, blank=True)
    acknowledged_at = models.DateTimeField(_("installed"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        verbose_name = _("renewal of an identity")
        verbose_name_plural = _("renewals of identities")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["enrollment"],
                condition=Q(state__in=["PLANNED", "SENT", "ACKNOWLEDGED"]),
                name="renewal_one_open_per_enrollment",
            )
        ]
        indexes = [
            models.Index(fields=["campaign", "state"], name="renewal_of_campaign"),
            models.Index(fields=["command", "enrollment"], name="renewal_of_command"),
        ]

    def __str__(self) -> str:
        return str(self.enrollment)


class RenewalPermit(models.Model):
    """An administrator lets a device in whose certificate has ended, for one renewal (decision D2).

    It holds for exactly that certificate, on the connect address only, until it is used or its time is over.
    """

    enrollment = models.ForeignKey(
        Enrollment, on_delete=models.CASCADE, related_name="renewal_permits", verbose_name=_("device")
    )
    certificate = models.ForeignKey(
        Certificate, on_delete=models.PROTECT, related_name="+", verbose_name=_("expired certificate")
    )
    renewal = models.ForeignKey(
        IdentityRenewal, on_delete=models.PROTECT, related_name="permits", verbose_name=_("renewal")
    )
    note = models.CharField(_("why"), max_length=300, blank=True)
    granted_by = models.CharField(_("granted by"), max_length=200)
    granted_at = models.DateTimeField(_("granted"))
    until = models.DateTimeField(_("until"))
    used_at = models.DateTimeField(_("used"), null=True, blank=True)
    withdrawn_at = models.DateTimeField(_("withdrawn"), null=True, blank=True)

    class Meta:
        verbose_name = _("permit for an expired device")
        verbose_name_plural = _("permits for expired devices")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["enrollment"],
                condition=Q(used_at=None, withdrawn_at=None),
                name="renewal_permit_one_open",
            )
        ]

    def __str__(self) -> str:
        return str(self.enrollment)
