"""A command says what to do; a delivery holds its state for one enrollment."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import Enrollment


class CommandSource(models.TextChoices):
    ADMIN = "ADMIN", _("administrator")
    API = "API", _("API")
    CLI = "CLI", _("command line")
    SERVER = "SERVER", _("server")


class Command(models.Model):
    """What to do, for one or many enrollments. ``uuid`` is the CommandUUID that devices see."""

    uuid = models.UUIDField("CommandUUID", default=uuid.uuid4, unique=True, editable=False)
    request_type = models.CharField(_("command"), max_length=80, db_index=True)
    payload_sealed = models.BinaryField(
        editable=False,
        help_text="XML plist of the Command dictionary, sealed with context commands.command.payload:<uuid>",
    )
    at_most_once = models.BooleanField(
        _("at most once"),
        default=False,
        help_text=_("Never handed out a second time unless an administrator says so."),
    )
    source = models.CharField(_("source"), max_length=6, choices=CommandSource.choices)
    created_by = models.CharField(_("created by"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("created"), db_index=True)
    not_before = models.DateTimeField(_("not before"), null=True, blank=True)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    cancelled_at = models.DateTimeField(_("cancelled"), null=True, blank=True)
    filled_by = models.CharField(
        _("filled in by"),
        max_length=40,
        blank=True,
        default="",
        db_default="",
        help_text=_("What fills in, for each device, the values that differ, when it fetches the command."),
    )
    targets = models.IntegerField(_("targets"), default=0)

    class Meta:
        verbose_name = _("command")
        verbose_name_plural = _("commands")
        ordering = ["-id"]
        indexes = [
            # For the sweep: most commands have neither.
            models.Index(
                fields=["not_before"], condition=models.Q(not_before__isnull=False), name="command_not_before"
            ),
            models.Index(
                fields=["expires_at"], condition=models.Q(expires_at__isnull=False), name="command_expires_at"
            ),
        ]

    def __str__(self) -> str:
        return self.request_type


class DeliveryState(models.TextChoices):
    QUEUED = "QUEUED", _("queued")
    SENT = "SENT", _("sent, waiting for the answer")
    NOT_NOW = "NOT_NOW", _("device is busy, will be tried again")
    UNCERTAIN = "UNCERTAIN", _("handed out once, no answer: an administrator decides")
    ACKNOWLEDGED = "ACKNOWLEDGED", _("done")
    ERROR = "ERROR", _("error")
    FORMAT_ERROR = "FORMAT_ERROR", _("the device calls the command malformed")
    EXPIRED = "EXPIRED", _("expired")
    CANCELLED = "CANCELLED", _("cancelled")


OUTSTANDING = (DeliveryState.QUEUED, DeliveryState.SENT, DeliveryState.NOT_NOW)


class CommandDelivery(models.Model):
    """One command for one enrollment. ``id`` comes from a database sequence: it is the order of delivery."""

    # By the command, with or without a state: delivery_progress. Every index more is written at each step.
    # No constraint: only the transaction that inserts a command inserts its deliveries, and PostgreSQL would
    # look that one command up again for each of them (tests/commands/test_references.py).
    command = models.ForeignKey(
        Command,
        on_delete=models.CASCADE,
        related_name="deliveries",
        verbose_name=_("command"),
        db_index=False,
        db_constraint=False,
    )
    # PostgreSQL checks it where an enrollment is deleted (database.parent_checks).
    enrollment = models.ForeignKey(
        Enrollment,
        on_delete=models.CASCADE,
        related_name="deliveries",
        verbose_name=_("enrollment"),
        db_index=False,
        db_constraint=False,
    )
    epoch = models.IntegerField(_("epoch"), default=1)
    state = models.CharField(
        _("state"), max_length=12, choices=DeliveryState.choices, default=DeliveryState.QUEUED
    )
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    # Counted upwards only: a constraint that says so is read anew for each row that changes.
    sent_count = models.IntegerField(_("times sent"), default=0)
    sent_at = models.DateTimeField(_("sent"), null=True, blank=True)
    not_now_at = models.DateTimeField(_("NotNow at"), null=True, blank=True)
    not_now_count = models.IntegerField(_("times NotNow"), default=0)
    completed_at = models.DateTimeField(_("completed"), null=True, blank=True)

    class Meta:
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["enrollment", "command"], name="delivery_command_once_per_enrollment"
            )
        ]
        indexes = [
            # The queue: its size is what is outstanding, not what ever was.
            models.Index(
                fields=["enrollment", "id"],
                condition=models.Q(state__in=["QUEUED", "SENT", "NOT_NOW"]),
                name="delivery_outstanding",
            ),
            models.Index(fields=["command", "state"], name="delivery_progress"),
            # What asks for a person, found among millions that do not.
            models.Index(
                fields=["state", "id"],
                condition=models.Q(state__in=["UNCERTAIN", "ERROR", "FORMAT_ERROR"]),
                name="delivery_attention",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.command} → {self.enrollment}"


class CommandResult(models.Model):
    """What the device answered at last. One row per finished delivery."""

    delivery = models.OneToOneField(
        CommandDelivery,
        on_delete=models.CASCADE,
        related_name="result",
        primary_key=True,
        verbose_name=_("delivery"),
    )
    uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    status = models.CharField(_("status"), max_length=20)
    report_sealed = models.BinaryField(
        editable=False,
        help_text="zlib of the XML property list, sealed with context commands.commandresult.report:<uuid>",
    )
    error_chain = models.JSONField(_("errors"), default=list, blank=True)
    received_at = models.DateTimeField(_("received"))

    class Meta:
        verbose_name = _("result")
        verbose_name_plural = _("results")

    def __str__(self) -> str:
        return f"{self.delivery}: {self.status}"
