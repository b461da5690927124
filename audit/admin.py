"""The record, for reading only: what people did, and what was refused to devices and strangers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from audit.models import AuditEvent, Refusal
from audit.wording import action_in_words, kind_in_words, surface_in_words, target_url

# A spreadsheet takes a cell that starts so for a formula (threats H2).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


if TYPE_CHECKING:  # generic for the type checker only
    _Admin: TypeAlias = admin.ModelAdmin[Any]
else:
    _Admin = admin.ModelAdmin


class RowPageAdmin(_Admin):
    """An admin whose page of one row tells more than the row's fields."""

    def facts(self, request: HttpRequest, obj: Any) -> dict[str, Any]:
        """What the page's template gets beside what Django gives it; ``obj`` may be seen by who asks."""
        return {}

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **options: Any
    ) -> HttpResponse:
        if options.get("obj") is not None:
            context |= self.facts(request, options["obj"])
        return super().render_change_form(request, context, *args, **options)


class ReadOnlyAdmin(RowPageAdmin):
    """Rows that are written once, by the server: nobody adds, changes or deletes them here."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class ActionFilter(admin.SimpleListFilter):
    """Actions in words. The names of actions are few; their rows are many, so they are taken by the index."""

    title = _("what")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        actions = set(AuditEvent.objects.order_by().values_list("action", flat=True).distinct())
        return sorted(((action, action_in_words(action)) for action in actions), key=lambda pair: pair[1])

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(action=self.value()) if self.value() else queryset


class WhenFilter(admin.SimpleListFilter):
    """The last hour, day, week."""

    title = _("when")
    parameter_name = "when"
    field_name = "at"
    spans: dict[str, tuple[str | Promise, timedelta]] = {
        "hour": (_("last hour"), timedelta(hours=1)),
        "day": (_("last 24 hours"), timedelta(days=1)),
        "week": (_("last 7 days"), timedelta(days=7)),
        "month": (_("last 30 days"), timedelta(days=30)),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, str(title)) for key, (title, _span) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in self.spans:
            return queryset
        _title, span = self.spans[str(self.value())]
        return queryset.filter(**{f"{self.field_name}__gte": timezone.now() - span})


class LastAtFilter(WhenFilter):
    field_name = "last_at"


class SurfaceFilter(admin.SimpleListFilter):
    """Where the request came in."""

    title = _("where")
    parameter_name = "surface"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        surfaces = Refusal.objects.order_by().values_list("surface", flat=True).distinct()
        return sorted((surface, surface_in_words(surface)) for surface in surfaces)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(surface=self.value()) if self.value() else queryset


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ["at", "what", "about", "actor", "outcome", "reason"]
    list_display_links = ["what"]
    list_filter = [WhenFilter, "outcome", ActionFilter]
    search_fields = ["actor", "target_label", "reason", "remote_addr", "action", "target_id"]
    search_help_text = _("Person, target, reason, address")
    actions = ["download_csv"]
    fieldsets = [
        (None, {"fields": ["at", "what", "outcome", "reason"]}),
        (_("Who"), {"fields": ["actor", "user", "remote_addr"]}),
        (_("About what"), {"fields": ["about", "target_kind", "target_id"]}),
        (_("Details"), {"fields": ["details_in_full", "action"]}),
    ]

    def facts(self, request: HttpRequest, obj: AuditEvent) -> dict[str, Any]:
        return {"heading": f"{action_in_words(obj.action)}: {obj.target_label}".rstrip(": ")}

    @admin.display(description=_("what"), ordering="action")
    def what(self, event: AuditEvent) -> str:
        return action_in_words(event.action)

    @admin.display(description=_("about"), ordering="target_label")
    def about(self, event: AuditEvent) -> SafeString | str:
        return _about(event, event.target_label)

    @admin.display(description=_("details"))
    def details_in_full(self, event: AuditEvent) -> SafeString | str:
        if not event.details:
            return "-"
        return format_html("<pre>{}</pre>", json.dumps(event.details, indent=2, ensure_ascii=False))

    @admin.action(description=_("Download as CSV"), permissions=["view"])
    def download_csv(self, request: HttpRequest, queryset: QuerySet[AuditEvent]) -> HttpResponseBase:
        return StreamingHttpResponse(
            csv_lines(queryset),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="bramley-audit.csv"'},
        )


@admin.register(Refusal)
class RefusalAdmin(ReadOnlyAdmin):
    list_display = ["last_at", "where", "reason", "detail", "about", "remote_addr", "count"]
    list_display_links = ["reason"]
    list_filter = [LastAtFilter, SurfaceFilter, "reason"]
    search_fields = ["reason", "detail", "remote_addr", "target_id"]
    search_help_text = _("Reason, detail, address")
    fieldsets = [
        (None, {"fields": ["where", "reason", "detail", "count", "minute", "last_at"]}),
        (_("Who"), {"fields": ["remote_addr", "about"]}),
    ]

    @admin.display(description=_("where"), ordering="surface")
    def where(self, refusal: Refusal) -> str:
        return surface_in_words(refusal.surface)

    @admin.display(description=_("about"))
    def about(self, refusal: Refusal) -> SafeString | str:
        return _about(refusal, kind_in_words(refusal))


def _about(row: AuditEvent | Refusal, label: str) -> SafeString | str:
    url = target_url(row)
    if not url:
        return label or "-"
    return format_html('<a href="{}">{}</a>', url, label or row.target_id)


def csv_lines(events: QuerySet[AuditEvent]) -> Iterator[str]:
    """The record as CSV, line by line, newest first; text that a spreadsheet would calculate is disarmed."""
    writer = csv.writer(_Echo())
    yield writer.writerow(
        [
            "at",
            "actor",
            "address",
            "action",
            "outcome",
            "target kind",
            "target id",
            "target",
            "reason",
            "details",
        ]
    )
    for event in events.iterator(chunk_size=1000):
        cells = [
            event.at.isoformat(),
            event.actor,
            event.remote_addr,
            event.action,
            event.outcome,
            event.target_kind,
            event.target_id,
            event.target_label,
            event.reason,
            json.dumps(event.details, ensure_ascii=False) if event.details else "",
        ]
        yield writer.writerow([disarmed(cell) for cell in cells])


def disarmed(cell: str) -> str:
    """Text with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


class _Echo:
    """A file for csv.writer that hands back what is written."""

    def write(self, line: str) -> str:
        return line
