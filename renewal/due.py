"""Whose certificate ends soon: renewed by the server before it does, some devices at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db.models import (
    DateTimeField,
    Exists,
    F,
    FloatField,
    Func,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Value,
)
from django.db.models.functions import Coalesce

from audit.recording import SERVER
from devices.models import Channel, EnrollmentState, Identity, IdentityState
from enrollment.models import EnrollmentProfile, EnrollmentSession
from renewal import attempts, identities
from renewal.core.pacing import EXPIRY_PAUSES
from renewal.core.steps import BEFORE_ACTIVATION
from renewal.models import RekeyCampaign, RenewalReason

AT_ONCE = 300
"""Devices that are asked in one run. The sweep runs every five minutes: a fleet is renewed over days."""
NOT_IN_VAIN = timedelta(days=30)
"""Where a re-key is about to come, a certificate that lasts longer than this waits for the new key."""


class Seconds(Func):
    """A duration as a number of seconds."""

    template = "(%(expressions)s / 1000000.0)"
    output_field = FloatField()

    def as_postgresql(self, compiler: Any, connection: Any, **context: Any) -> Any:
        return self.as_sql(compiler, connection, template="EXTRACT(EPOCH FROM %(expressions)s)", **context)


def due(now: datetime) -> QuerySet[Identity]:
    """The identities in use whose time to be renewed has come, and for which nothing is under way.

    Those that end first come first. One that has ended already is none of them: its device is refused.
    """
    session = EnrollmentSession.objects.filter(uuid=OuterRef("enrollment__binding"))
    default = EnrollmentProfile._meta.get_field("renew_at_percent").default
    mine = OuterRef("enrollment")
    of_certificate = attempts.failed(mine, certificate_before=OuterRef("certificate"))
    rows = Identity.objects.filter(
        state=IdentityState.ACTIVE,
        enrollment__channel=Channel.DEVICE,
        enrollment__state=EnrollmentState.ENROLLED,
        certificate__not_after__gt=now,
    ).annotate(
        percent=Coalesce(Subquery(session.values("profile__renew_at_percent")[:1]), Value(default)),
        left=Seconds(F("certificate__not_after") - Value(now, output_field=DateTimeField())),
        life=Seconds(F("certificate__not_after") - F("certificate__not_before")),
    )
    ending = rows.filter(left__lte=F("life") * F("percent") / 100)
    rows = attempts.with_failures(ending, of_certificate)
    return rows.filter(
        attempts.may_try(now, EXPIRY_PAUSES, give_up=False),
        ~attempts.being_renewed(mine),
        ~Exists(of_certificate.filter(permanent=True)),
        ~_waits_for_a_new_key(now),
    ).order_by("certificate__not_after", "pk")


def _waits_for_a_new_key(now: datetime) -> Q:
    """A campaign of the issuer will renew it soon, with the new key."""
    issuers = RekeyCampaign.objects.filter(state__in=[state.value for state in BEFORE_ACTIVATION])
    return Q(
        certificate__issuer_key__issuer__in=issuers.values("issuer"),
        certificate__not_after__gt=now + NOT_IN_VAIN,
    )


def renew_due(now: datetime, *, limit: int = AT_ONCE) -> int:
    """Plan the renewal of up to ``limit`` identities. Returns how many. Twice at once does no harm."""
    ids = list(due(now).values_list("enrollment_id", flat=True)[:limit])
    if not ids:
        return 0
    return len(identities.plan(ids, reason=RenewalReason.EXPIRY, actor=SERVER, now=now).renewals)
