"""Who enrolled a device: the person who signed in, or whom the code was for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar
from uuid import UUID

from django.db.models import CharField, Model, OuterRef, Q, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce, NullIf

from devices.models import Enrollment
from enrollment.models import EnrollmentSession

Row = TypeVar("Row", bound=Model)


def person(binding: str) -> Coalesce:
    """An expression for lists: the name of who enrolled, else the label of the code; NULL where neither is.

    ``binding``: the column of the outer query that holds the binding.
    """
    session = EnrollmentSession.objects.filter(uuid=OuterRef(binding))
    return Coalesce(
        NullIf(Subquery(session.values("person")[:1]), Value("")),
        NullIf(Subquery(session.values("code__label")[:1]), Value("")),
        output_field=CharField(),
    )


def sessions_of(enrollments: Iterable[Enrollment]) -> dict[UUID, EnrollmentSession]:
    """The attempts that these enrollments came from, by binding; in one query."""
    bindings = {row.binding for row in enrollments if row.binding is not None}
    sessions = EnrollmentSession.objects.select_related("profile", "code").filter(uuid__in=bindings)
    return {session.uuid: session for session in sessions}


def found_by_person(rows: QuerySet[Row], term: str, *, or_else: QuerySet[Row]) -> QuerySet[Row]:
    """Of ``rows`` those in ``or_else``, and those whom somebody enrolled whose name has ``term`` in it.

    ``rows`` have a column or annotation ``binding``.
    """
    sessions = EnrollmentSession.objects.filter(Q(person__icontains=term) | Q(code__label__icontains=term))
    theirs = Q(binding__in=sessions.order_by().values("uuid"))
    return rows.filter(Q(pk__in=or_else.order_by().values("pk")) | theirs)
