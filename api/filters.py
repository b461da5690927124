"""Filters of lists, from a library without types: the one place that meets it."""

from __future__ import annotations

from typing import Any

import django_filters.rest_framework as library  # type: ignore[import-untyped]

FilterBackend = library.DjangoFilterBackend
BooleanFilter = library.BooleanFilter
CharFilter = library.CharFilter
ChoiceFilter = library.ChoiceFilter
IsoDateTimeFilter = library.IsoDateTimeFilter
MultipleChoiceFilter = library.MultipleChoiceFilter
NumberFilter = library.NumberFilter


class Filters(library.FilterSet):  # type: ignore[misc]
    """The parameters of a list. Each is declared; a model's field is none by itself."""

    base_filters: dict[str, Any]
