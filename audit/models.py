"""The append-only record of who did what, and the counted record of what was refused."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _


class Outcome(models.TextChoices):
    DONE = "DONE", _("done")
    REFUSED = "REFUSED", _("refused")
    FAILED = "FAILED", _("failed")


class AuditEvent(models.Model):
    """One thing that somebody did or tried. Rows are written once and never changed."""

    at = models.DateTimeField(_("at"), db_index=True)
    actor = models.CharField(
        _("actor"), max_length=200, help_text=_("User, API token, device or part of the server.")
    )
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        verbose_name=_("user"),
        related_name="+",
        db_index=False,
    )
    action = models.CharField(_("action"), max_length=80, db_index=True)
    outcome = models.CharField(_("outcome"), max_length=8, choices=Outcome.choices, default=Outcome.DONE)
    target_kind = models.CharField(_("target kind"), max_length=40, blank=True)
    target_id = models.CharField(_("target id"), max_length=64, blank=True)
    target_label = models.CharField(_("target"), max_length=200, blank=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    remote_addr = models.CharField(_("address"), max_length=45, blank=True)
    details = models.JSONField(_("details"), default=dict, blank=True)

    class Meta:
        verbose_name = _("audit event")
        verbose_name_plural = _("audit events")
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["target_kind", "target_id"], name="audit_by_target"),
            models.Index(fields=["user"], condition=models.Q(user__isnull=False), name="audit_by_user"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target_label}".strip()


class Refusal(models.Model):
    """Refused requests of devices and strangers, counted by minute, reason and address.

    Counted, so that a flood of them fills a few rows and not the disk (threats J3).
    """

    minute = models.DateTimeField(_("minute"))
    surface = models.CharField(_("where"), max_length=20, help_text=_("mdm, scep, enroll, api"))
    reason = models.CharField(_("reason"), max_length=80)
    remote_addr = models.CharField(_("address"), max_length=45, blank=True)
    count = models.PositiveIntegerField(_("count"), default=0)
    detail = models.CharField(_("last detail"), max_length=500, blank=True)
    target_kind = models.CharField(_("target kind"), max_length=40, blank=True)
    target_id = models.CharField(_("target id"), max_length=64, blank=True)
    last_at = models.DateTimeField(_("last at"))

    class Meta:
        verbose_name = _("refused request")
        verbose_name_plural = _("refused requests")
        ordering = ["-last_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["minute", "surface", "reason", "remote_addr", "target_kind", "target_id"],
                name="refusal_one_row_a_minute",
            )
        ]
        indexes = [models.Index(fields=["-last_at"], name="refusal_newest")]

    def __str__(self) -> str:
        return f"{self.surface}: {self.reason} ({self.count})"
