"""What all views of the API have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from rest_framework import exceptions, generics
from rest_framework.request import Request
from rest_framework.views import APIView

from api.authentication import TokenAuthentication, remote_address
from api.filters import FilterBackend
from api.models import ApiToken
from api.pagination import AllowedOrdering, NewestFirst
from api.parsing import StrictJSONParser
from api.permissions import HasScope
from api.schema import ApiSchema
from audit.recording import Actor


class Guarded(APIView):
    """A view for token holders. ``scopes``: the scope that each method needs."""

    scopes: Mapping[str, str] = {}
    authentication_classes = [TokenAuthentication]
    permission_classes = [HasScope]
    parser_classes = [StrictJSONParser]
    metadata_class = None  # no OPTIONS
    schema = ApiSchema()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if "\x00" in request.META.get("QUERY_STRING", "") or "%00" in request.META.get("QUERY_STRING", ""):
            raise exceptions.ValidationError({"detail": "A parameter holds a NUL."})


class ListOf(Guarded, generics.ListAPIView[Any]):
    """A list by cursor. Parameters that it doesn't know are an error: a mistyped filter must not show all."""

    filter_backends = [FilterBackend, AllowedOrdering]
    pagination_class = NewestFirst
    ordering_fields: tuple[str, ...] = ()

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        filterset = getattr(self, "filterset_class", None)
        known = {"cursor", "page_size", "ordering", *(filterset.base_filters if filterset else ())}
        if unknown := sorted(set(self.request.query_params) - known):
            raise exceptions.ValidationError(
                {name: [f"No such parameter. Known: {', '.join(sorted(known))}."] for name in unknown}
            )
        return super().filter_queryset(queryset)


class DetailOf(Guarded, generics.RetrieveAPIView[Any]):
    """One object; 404 where there is none."""


def actor_of(request: Request) -> Actor:
    """The token, as the record names it."""
    token = request.auth
    assert isinstance(token, ApiToken), "the view is guarded"  # noqa: S101
    return Actor(
        name=f"API token {token.name} ({token.user.get_username()})",
        user_id=token.user_id,
        remote_addr=remote_address(request),
    )
