"""Lists, newest first, by cursor: the same cost on page 1000, and nothing shown twice while rows arrive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework import exceptions
from rest_framework.filters import OrderingFilter
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

if TYPE_CHECKING:  # the framework's views import this module by its name in the settings
    from rest_framework.views import APIView


class NewestFirst(CursorPagination):
    """``?cursor=…`` as the answers give it, ``?page_size=`` up to 500."""

    ordering = "-id"
    page_size_query_param = "page_size"
    max_page_size = 500

    def paginate_queryset(
        self, queryset: QuerySet[Any] | Sequence[Any], request: Request, view: APIView | None = None
    ) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, ValidationError, OverflowError):
            # A cursor that somebody wrote by hand.
            raise exceptions.NotFound("Invalid cursor") from None


class AllowedOrdering(OrderingFilter):
    """``?ordering=`` with the names that the view lists, and no others; ties by newest first."""

    def get_ordering(self, request: Request, queryset: QuerySet[Any], view: APIView) -> list[str]:
        wanted = request.query_params.get(self.ordering_param, "").strip()
        if not wanted:
            return ["-id"]
        allowed = ("id", *getattr(view, "ordering_fields", ()))
        if wanted.removeprefix("-") not in allowed:
            raise exceptions.ValidationError({self.ordering_param: [f"One of: {', '.join(allowed)}."]})
        return [wanted] if wanted.removeprefix("-") == "id" else [wanted, "-id"]
