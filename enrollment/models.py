"""The ways in: enrolment profiles, and one session for each attempt to enrol."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from pki.models import Issuer

ALL_ACCESS_RIGHTS = 8191


class EnrollmentProfile(models.Model):
    """How devices may enrol at ``/enroll/<slug>/`` and what they get there."""

    slug = models.SlugField(
        _("short name"), unique=True, help_text=_("Part of the address: /enroll/<short name>/")
    )
    name = models.CharField(_("name"), max_length=200)
    organization = models.CharField(_("organisation"), max_length=200, blank=True)
    description = models.TextField(
        _("description"), blank=True, help_text=_("Shown to people before they enrol, and in the profile.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    allow_direct = models.BooleanField(_("direct profile"), default=True)
    allow_ota = models.BooleanField(_("over the air"), default=True)
    issuer = models.ForeignKey(
        Issuer, on_delete=models.PROTECT, related_name="+", verbose_name=_("issuer of device identities")
    )
    topic = models.CharField(
        _("push topic"), max_length=200, blank=True, help_text=_("Empty: that of the only push certificate.")
    )
    access_rights = models.PositiveIntegerField(_("access rights"), default=ALL_ACCESS_RIGHTS)
    check_out_when_removed = models.BooleanField(_("device says when the profile is removed"), default=True)
    payload_uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    session_minutes = models.PositiveIntegerField(_("minutes that a download stays usable"), default=60)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("enrolment profile")
        verbose_name_plural = _("enrolment profiles")
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.name


class Flow(models.TextChoices):
    DIRECT = "DIRECT", _("direct profile")
    OTA = "OTA", _("over the air")


class SessionState(models.TextChoices):
    """How far an attempt got; the table of allowed moves is in ``enrollment.core.session``."""

    OFFERED = "OFFERED", _("profile downloaded")
    CERTIFIED = "CERTIFIED", _("certificate issued")
    AUTHENTICATED = "AUTHENTICATED", _("device authenticated")
    COMPLETED = "COMPLETED", _("enrolled")
    FAILED = "FAILED", _("failed")
    EXPIRED = "EXPIRED", _("expired")


class EnrollmentSession(models.Model):
    """One attempt to enrol: from the download to the first TokenUpdate.

    ``uuid`` is the *binding* that the challenge, the certificate and the enrollment carry.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    profile = models.ForeignKey(
        EnrollmentProfile,
        on_delete=models.CASCADE,
        related_name="sessions",
        verbose_name=_("enrolment profile"),
    )
    flow = models.CharField(_("way"), max_length=6, choices=Flow.choices, default=Flow.DIRECT)
    state = models.CharField(
        _("state"), max_length=13, choices=SessionState.choices, default=SessionState.OFFERED
    )
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    expected_udid = models.CharField(
        _("expected UDID"), max_length=64, blank=True, help_text=_("Only this device may use the session.")
    )
    expected_serial_number = models.CharField(_("expected serial number"), max_length=64, blank=True)
    pre_approved = models.BooleanField(
        _("approved beforehand"),
        default=False,
        help_text=_(
            "An administrator made it for the expected device: it may replace that device's enrollment."
        ),
    )
    udid = models.CharField(_("UDID"), max_length=64, blank=True)
    serial_number = models.CharField(_("serial number"), max_length=64, blank=True)
    remote_addr = models.CharField(_("address"), max_length=45, blank=True)
    user_agent = models.CharField(_("client"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("started"), db_index=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)
    expires_at = models.DateTimeField(_("expires"))

    class Meta:
        verbose_name = _("enrolment session")
        verbose_name_plural = _("enrolment sessions")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.profile.slug} {self.uuid}"
