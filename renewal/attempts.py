"""What was tried before, as part of a query: how often it failed, when last, and whether to try again now.

Need is seen from the facts (a certificate that ends, a device on an old key), never from a list of work: so
nothing is lost with a worker, and nothing is done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Exists, IntegerField, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce

from renewal.models import OPEN_RENEWALS, IdentityRenewal, RenewalState


def failed(enrollment: OuterRef, **of: Any) -> QuerySet[IdentityRenewal]:
    """The failed attempts for the enrollment of the outer query, for :func:`with_failures`."""
    return IdentityRenewal.objects.filter(enrollment=enrollment, state=RenewalState.FAILED, **of)


def with_failures(
    rows: QuerySet[Any], failures: QuerySet[Any], *, group: str = "enrollment", when: str = "finished_at"
) -> QuerySet[Any]:
    """``rows`` with ``failures`` (how many) and ``failed_at`` (when last), by a correlated query."""
    grouped = failures.order_by().values(group)
    annotated: QuerySet[Any] = rows.annotate(
        failures=Coalesce(
            Subquery(grouped.annotate(count=Count("pk")).values("count"), output_field=IntegerField()), 0
        ),
        failed_at=Subquery(grouped.annotate(last=Max(when)).values("last")),
    )
    return annotated


def may_try(now: datetime, pauses: Sequence[timedelta], *, give_up: bool) -> Q:
    """Rows of :func:`with_failures` whose pause is over. ``give_up``: after the last pause, no more."""
    rested = Q(failures=0)
    for number, pause in enumerate(pauses, 1):
        rested |= Q(failures=number, failed_at__lte=now - pause)
    return rested if give_up else rested | Q(failures__gt=len(pauses), failed_at__lte=now - pauses[-1])


def being_renewed(enrollment: OuterRef) -> Exists:
    """Whether an attempt is open for the enrollment of the outer query."""
    return Exists(IdentityRenewal.objects.filter(enrollment=enrollment, state__in=OPEN_RENEWALS))
