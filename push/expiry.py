"""Warnings before push certificates and vendor certificates end: on record once each, and by e-mail."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.mail import send_mail
from django.db import models, transaction
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from audit.recording import SERVER, record
from push.certificates import EXPIRY_ALARMS, devices_of
from push.models import PushCertificate, PushCertificateState, VendorCertificate

logger = logging.getLogger(__name__)

EXPIRED = 0
THRESHOLDS = (*(alarm.days for alarm in EXPIRY_ALARMS), EXPIRED)
"""Days before the end at which a warning is due: 60, 30, 7, 1, and when it has come."""


@dataclass(frozen=True)
class Warning:
    """One warning. ``threshold``: which of :data:`THRESHOLDS` it is; ``devices``: who hang on it."""

    name: str
    kind: str
    not_after: datetime
    threshold: int
    devices: int

    @property
    def subject(self) -> str:
        if self.threshold == EXPIRED:
            return _("%(kind)s has expired: %(name)s") % {"kind": self.kind, "name": self.name}
        days = ngettext("%d day", "%d days", self.threshold) % self.threshold
        return _("%(kind)s ends within %(days)s: %(name)s") % {
            "kind": self.kind,
            "days": days,
            "name": self.name,
        }

    @property
    def text(self) -> str:
        lines = [self.subject, "", _("Last moment: %s UTC") % f"{self.not_after:%Y-%m-%d %H:%M}"]
        if self.devices:
            lines.append(
                ngettext(
                    "%d enrolled device can then not be woken.",
                    "%d enrolled devices can then not be woken.",
                    self.devices,
                )
                % self.devices
            )
        lines += ["", _("What to do: %s") % f"{settings.BRAMLEY_PUBLIC_URL}/admin/push/"]
        return "\n".join(lines) + "\n"


def threshold_of(left: timedelta) -> int | None:
    """The smallest of :data:`THRESHOLDS` that has been reached with this time left; None before the first."""
    if left <= timedelta(0):
        return EXPIRED
    reached = [days for days in THRESHOLDS if days and left <= timedelta(days=days)]
    return min(reached, default=None)


def warn(now: datetime) -> list[Warning]:
    """Record every warning that is due and not on record yet; then send them by e-mail. Returns them.

    Twice at once does no harm: who marks the row first has the warning.
    """
    warnings = [*_of_push_certificates(now), *_of_vendor_certificates(now)]
    if warnings and settings.BRAMLEY_ALERT_EMAILS:
        _send(warnings)
    return warnings


def _of_push_certificates(now: datetime) -> list[Warning]:
    found = []
    rows = PushCertificate.objects.filter(
        state=PushCertificateState.ACTIVE, not_after__lte=now + EXPIRY_ALARMS[0]
    ).defer("private_key_sealed", "chain", "der")
    for row in rows.order_by("not_after", "pk"):
        if row.not_after is not None and (threshold := threshold_of(row.not_after - now)) is not None:
            warning = Warning(
                row.topic, _("Push certificate"), row.not_after, threshold, devices_of(row.topic)
            )
            if _mark(row, "push_certificate", warning, {"topic": row.topic}, now):
                found.append(warning)
    return found


def _of_vendor_certificates(now: datetime) -> list[Warning]:
    found = []
    rows = VendorCertificate.objects.filter(
        retired_at__isnull=True, not_after__lte=now + EXPIRY_ALARMS[0]
    ).defer("private_key_sealed", "chain", "der")
    for row in rows.order_by("not_after", "pk"):
        if (threshold := threshold_of(row.not_after - now)) is not None:
            warning = Warning(str(row), _("MDM vendor certificate"), row.not_after, threshold, 0)
            if _mark(row, "vendor_certificate", warning, {}, now):
                found.append(warning)
    return found


def _mark(row: models.Model, noun: str, warning: Warning, details: dict[str, str], now: datetime) -> bool:
    """Whether this call put the warning on record."""
    with transaction.atomic():
        unmarked = Q(warned_days__isnull=True) | Q(warned_days__gt=warning.threshold)
        if not type(row)._default_manager.filter(unmarked, pk=row.pk).update(warned_days=warning.threshold):
            return False
        record(
            f"{noun}.expired" if warning.threshold == EXPIRED else f"{noun}.expires_soon",
            actor=SERVER,
            target=row,
            details={
                **details,
                "not_after": warning.not_after.isoformat(),
                "within_days": warning.threshold,
                "devices": warning.devices,
            },
            at=now,
        )
    return True


def _send(warnings: list[Warning]) -> None:
    """One e-mail for all of them. What cannot be sent is in the log; the record and the console have it."""
    subject = warnings[0].subject
    if len(warnings) > 1:
        subject = _("%d certificates need attention") % len(warnings)
    try:
        send_mail(
            f"[Bramley] {subject}".replace("\n", " ").replace("\r", " "),
            "\n".join(warning.text for warning in warnings),
            settings.BRAMLEY_ALERT_FROM,
            list(settings.BRAMLEY_ALERT_EMAILS),
        )
    except OSError as error:  # smtplib's errors are OSError
        logger.error("a warning of expiry could not be sent by e-mail: %s", error)
