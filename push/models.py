"""Push certificates, and one row per enrollment that says whether a push is due."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Enrollment


class PushCertificateState(models.TextChoices):
    REQUESTED = "REQUESTED", _("request made, certificate not yet imported")
    ACTIVE = "ACTIVE", _("active")
    REPLACED = "REPLACED", _("replaced")


class PushCertificate(models.Model):
    """An APNs client certificate: its topic decides which devices it can wake."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    state = models.CharField(
        _("state"),
        max_length=10,
        choices=PushCertificateState.choices,
        default=PushCertificateState.REQUESTED,
    )
    topic = models.CharField(_("topic"), max_length=200, blank=True)
    common_name = models.CharField(_("name"), max_length=200, blank=True)
    serial_number = models.CharField(_("serial number"), max_length=40, blank=True)
    not_before = models.DateTimeField(_("valid from"), null=True, blank=True)
    not_after = models.DateTimeField(_("valid until"), null=True, blank=True)
    csr = models.BinaryField(editable=False, default=b"", help_text="PKCS #10, DER")
    signed_request = models.BinaryField(
        editable=False,
        default=b"",
        help_text="What Apple's portal takes: Base64 of a property list with the request, signed by a vendor",
    )
    signed_by = models.CharField(_("request signed by"), max_length=200, blank=True)
    der = models.BinaryField(editable=False, default=b"", help_text="certificate, DER")
    chain = models.BinaryField(editable=False, default=b"", help_text="PEM certificates above it")
    private_key_sealed = models.BinaryField(
        editable=False, help_text="PKCS #8 DER, sealed with context push.pushcertificate.private_key:<uuid>"
    )
    held_reason = models.CharField(
        _("why pushes are held"), max_length=300, blank=True, help_text=_("APNs refused this certificate.")
    )
    held_at = models.DateTimeField(_("held since"), null=True, blank=True)
    failures = models.PositiveIntegerField(
        _("failures in a row"), default=0, help_text=_("Batches in a row that APNs could not take.")
    )
    paused_until = models.DateTimeField(_("resting until"), null=True, blank=True)
    trouble = models.CharField(
        _("trouble"), max_length=300, blank=True, help_text=_("Why APNs could not be reached, until it can.")
    )
    warned_days = models.PositiveSmallIntegerField(
        null=True, editable=False, help_text="Of which of the days before its end a warning is on record"
    )
    activated_at = models.DateTimeField(_("active since"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("push certificate")
        verbose_name_plural = _("push certificates")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["topic"],
                condition=models.Q(state="ACTIVE"),
                name="push_certificate_one_active_per_topic",
            )
        ]

    def __str__(self) -> str:
        return self.topic or str(_("push certificate request"))


class VendorCertificate(models.Model):
    """An MDM vendor certificate of Apple's: with its key requests for push certificates are signed here."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    common_name = models.CharField(_("name"), max_length=200, blank=True)
    serial_number = models.CharField(_("serial number"), max_length=40, blank=True)
    not_before = models.DateTimeField(_("valid from"))
    not_after = models.DateTimeField(_("valid until"))
    der = models.BinaryField(editable=False, help_text="certificate, DER")
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    chain = models.BinaryField(editable=False, default=b"", help_text="PEM certificates above it")
    private_key_sealed = models.BinaryField(
        editable=False, help_text="PKCS #8 DER, sealed with context push.vendorcertificate.private_key:<uuid>"
    )
    retired_at = models.DateTimeField(_("out of use since"), null=True, blank=True)
    warned_days = models.PositiveSmallIntegerField(
        null=True, editable=False, help_text="Of which of the days before its end a warning is on record"
    )
    created_at = models.DateTimeField(_("imported"), auto_now_add=True)

    class Meta:
        verbose_name = _("MDM vendor certificate")
        verbose_name_plural = _("MDM vendor certificates")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.common_name or self.serial_number


class PushState(models.TextChoices):
    IDLE = "IDLE", _("nothing to do")
    DUE = "DUE", _("due")
    HELD = "HELD", _("held: the push certificate does not work")


class PushRequest(models.Model):
    """The outbox: at most one push is pending per enrollment. The row is reused for ever."""

    # PostgreSQL checks it where an enrollment is deleted (database.parent_checks).
    enrollment = models.OneToOneField(
        Enrollment,
        on_delete=models.CASCADE,
        related_name="push",
        primary_key=True,
        verbose_name=_("enrollment"),
        db_constraint=False,
    )
    state = models.CharField(_("state"), max_length=5, choices=PushState.choices, default=PushState.IDLE)
    due_at = models.DateTimeField(_("due"), null=True, blank=True)
    requested_at = models.DateTimeField(_("requested"), null=True, blank=True)
    lease_until = models.DateTimeField(_("leased until"), null=True, blank=True)
    lease_owner = models.UUIDField(null=True, blank=True, editable=False)
    attempts = models.IntegerField(
        _("attempts"), default=0, help_text=_("Pushes since there was last nothing to do.")
    )
    last_sent_at = models.DateTimeField(_("last sent"), null=True, blank=True)
    last_result = models.CharField(_("last answer"), max_length=200, blank=True)
    last_apns_id = models.UUIDField(_("apns-id"), null=True, blank=True)

    class Meta:
        verbose_name = _("push")
        verbose_name_plural = _("pushes")
        indexes = [
            models.Index(fields=["due_at"], condition=models.Q(state="DUE"), name="push_due"),
        ]

    def __str__(self) -> str:
        return str(self.enrollment)


class PushPace(models.Model):
    """One row: what of the pace of pushes all processes share. See :mod:`push.pace`."""

    ONLY = 1

    id = models.PositiveSmallIntegerField(primary_key=True, default=ONLY, editable=False)
    spent_until = models.DateTimeField(null=True, blank=True)
    web_busy_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("pace of pushes")
        verbose_name_plural = _("pace of pushes")

    def __str__(self) -> str:
        return f"spent until {self.spent_until}"
