"""What becomes of a renewal: what the device answers, its new certificate in use, and what nobody tells.

The first two are called by :mod:`mdm`, in the transaction of the device's message; the last is a sweep.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Exists, F, OuterRef, Q, QuerySet, Subquery

from audit.recording import SERVER, record
from commands.core.report import Report, Status
from commands.models import OUTSTANDING, CommandDelivery, DeliveryState
from devices.models import LIVE_STATES, Enrollment, Identity, IdentityState
from pki.models import Certificate
from renewal.models import (
    OPEN_RENEWALS,
    IdentityRenewal,
    RenewalPermit,
    RenewalReason,
    RenewalState,
)

NOT_USED_AFTER = timedelta(hours=24)
"""A device that has installed the profile uses its new certificate at once; a day is patience."""

SENT_BACK = "the device said that the profile is malformed"
NOT_USED = "the device installed the profile, but goes on with its old certificate"
ENDED = "the enrolment ended"


def answered(enrollment: Enrollment, delivery: CommandDelivery, report: Report, now: datetime) -> None:
    """The device answered a command of ours. NotNow says nothing yet: the queue asks again."""
    of_command = IdentityRenewal.objects.filter(enrollment=enrollment, command=delivery.command_id)
    waiting = of_command.filter(state__in=OPEN_RENEWALS)
    if report.status is Status.ACKNOWLEDGED:
        of_command.filter(acknowledged_at=None).update(acknowledged_at=now)
        waiting.update(state=RenewalState.ACKNOWLEDGED)
    elif report.status in (Status.ERROR, Status.COMMAND_FORMAT_ERROR):
        waiting.update(state=RenewalState.FAILED, error=_said(report)[:300], finished_at=now)
    else:
        return
    use_permits(enrollment, now)


def _said(report: Report) -> str:
    """The device's own words, the innermost last."""
    texts = [error.message for error in report.error_chain if error.message]
    return "; ".join(texts) or (SENT_BACK if report.status is Status.COMMAND_FORMAT_ERROR else "error")


def taken_over(enrollment: Enrollment, certificate: Certificate, now: datetime) -> None:
    """A new certificate speaks for the enrollment from now on: whatever was to bring that is done.

    In a campaign only a certificate of the new key is what was wanted.
    """
    enough = ~Q(reason=RenewalReason.CAMPAIGN) | Q(campaign__new_key=certificate.issuer_key_id)
    done = IdentityRenewal.objects.filter(enough, enrollment=enrollment, state__in=OPEN_RENEWALS)
    done.update(state=RenewalState.COMPLETED, certificate_after=certificate, finished_at=now, error="")
    use_permits(enrollment, now)


def use_permits(enrollment: Enrollment, now: datetime) -> None:
    """The one renewal that an expired device was let in for has had its answer."""
    for permit in RenewalPermit.objects.filter(enrollment=enrollment, used_at=None, withdrawn_at=None):
        RenewalPermit.objects.filter(pk=permit.pk).update(used_at=now)
        record("renewal_permit.used", actor=SERVER, target=permit, at=now)


def settle(now: datetime) -> int:
    """Bring open renewals in line with what happened elsewhere. Returns how many it ended.

    Commands are cancelled, devices leave and come anew, and may keep their old certificate after all. Twice
    at once does no harm: every change asks for the state again.
    """
    opened = IdentityRenewal.objects.filter(state__in=OPEN_RENEWALS)
    return sum(
        (
            _complete(opened, now),
            opened.exclude(enrollment__state__in=LIVE_STATES).update(
                state=RenewalState.CANCELLED, error=ENDED, finished_at=now
            ),
            _end_without_command(opened, now),
            _end_unused(opened, now),
        )
    )


def _complete(opened: QuerySet[IdentityRenewal], now: datetime) -> int:
    """Those whose device uses a later certificate already."""
    in_use = Identity.objects.filter(enrollment=OuterRef("enrollment"), state=IdentityState.ACTIVE).order_by(
        "-pk"
    )
    rows = opened.annotate(
        current=Subquery(in_use.values("certificate")[:1]),
        key=Subquery(in_use.values("certificate__issuer_key")[:1]),
    ).filter(current__gt=F("certificate_before"))
    enough = rows.filter(~Q(reason=RenewalReason.CAMPAIGN) | Q(key=F("campaign__new_key")))
    ended = 0
    for pk, current in enough.values_list("pk", "current"):
        ended += opened.filter(pk=pk).update(
            state=RenewalState.COMPLETED, certificate_after_id=current, finished_at=now, error=""
        )
    return ended


def _end_without_command(opened: QuerySet[IdentityRenewal], now: datetime) -> int:
    """Those whose command can no longer reach the device: cancelled, expired, or of an earlier epoch."""
    own = CommandDelivery.objects.filter(command=OuterRef("command"), enrollment=OuterRef("enrollment"))
    reachable = own.filter(
        state__in=[*OUTSTANDING, DeliveryState.ACKNOWLEDGED], epoch=OuterRef("enrollment__epoch")
    )
    lost = opened.filter(~Exists(reachable)).annotate(why=Subquery(own.values("reason")[:1]))
    ended = 0
    for pk, why in lost.values_list("pk", "why"):
        ended += opened.filter(pk=pk).update(
            state=RenewalState.FAILED, error=(why or "the command was ended")[:300], finished_at=now
        )
    return ended


def _end_unused(opened: QuerySet[IdentityRenewal], now: datetime) -> int:
    """Those whose device was in touch since, and with its old certificate."""
    return opened.filter(
        state=RenewalState.ACKNOWLEDGED,
        acknowledged_at__lt=now - NOT_USED_AFTER,
        enrollment__last_seen_at__gt=F("acknowledged_at") + NOT_USED_AFTER / 2,
    ).update(state=RenewalState.FAILED, error=NOT_USED, finished_at=now)


def cancel(renewals: Iterable[IdentityRenewal], why: str, now: datetime) -> int:
    """End open renewals that nobody needs any more."""
    ids = [renewal.pk for renewal in renewals]
    return IdentityRenewal.objects.filter(pk__in=ids, state__in=OPEN_RENEWALS).update(
        state=RenewalState.CANCELLED, error=why[:300], finished_at=now
    )
