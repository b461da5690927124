"""The admin site: its order, its names, its home page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.admin import AdminSite
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from console import home
from console.sections import NAMES, OTHER, SECTIONS, Section


class BramleyAdminSite(AdminSite):
    site_header = _("Bramley")
    site_title = _("Bramley")
    index_title = _("Home")
    site_url = None
    enable_nav_sidebar = True

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> list[Any]:
        """The sections of :mod:`console.sections`, holding what this person may see."""
        apps = self._build_app_dict(request, app_label)
        by_label = {
            model["model"]._meta.label_lower: model for app in apps.values() for model in app["models"]
        }
        for label, name in NAMES.items():
            if label in by_label:
                by_label[label]["name"] = name
        sections = [_listed(section, by_label, section.models) for section in SECTIONS]
        named = {label for section in SECTIONS for label in section.models}
        sections.append(_listed(OTHER, by_label, [label for label in sorted(by_label) if label not in named]))
        return [section for section in sections if section["models"]]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """Home: what needs attention, what expires, what is left to set up, what happened."""
        board = home.board(request.user, timezone.now())
        return super().index(request, {"board": board, **(extra_context or {})})


def _listed(section: Section, by_label: dict[str, Any], labels: Iterable[str]) -> dict[str, Any]:
    return {
        "name": section.title,
        "app_label": section.slug,
        "icon": section.icon,
        "app_url": "",
        "has_module_perms": True,
        "models": [by_label[label] for label in labels if label in by_label],
    }
