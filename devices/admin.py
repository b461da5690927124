"""Groups of devices. The pages of devices themselves show what higher apps know: :mod:`mdm.admin`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlencode

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor, record
from devices.models import DeviceGroup

if TYPE_CHECKING:  # generic for the type checker only
    _Admin: TypeAlias = admin.ModelAdmin[DeviceGroup]
else:
    _Admin = admin.ModelAdmin


@admin.register(DeviceGroup)
class DeviceGroupAdmin(_Admin):
    """Devices are put into groups in the list of devices."""

    list_display = ["name", "description", "members"]
    search_fields = ["name", "description"]
    fields = ["name", "description", "members"]
    readonly_fields = ["members"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeviceGroup]:
        groups: QuerySet[DeviceGroup] = super().get_queryset(request)
        return groups.annotate(size=Count("devices"))

    @admin.display(description=_("devices"), ordering="size")
    def members(self, group: DeviceGroup) -> SafeString | str:
        if not group.pk:
            return "-"
        query = urlencode({"groups__id__exact": group.pk})
        return format_html(
            '<a href="{}?{}">{}</a>',
            reverse("admin:devices_device_changelist"),
            query,
            getattr(group, "size", 0),
        )

    def save_model(self, request: HttpRequest, obj: DeviceGroup, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if not change or form.changed_data:
            record(
                "device_group.changed" if change else "device_group.created",
                actor=Actor.of_user(request.user),
                target=obj,
                details={"changed": list(form.changed_data)} if change else None,
            )

    def delete_model(self, request: HttpRequest, obj: DeviceGroup) -> None:
        record("device_group.deleted", actor=Actor.of_user(request.user), target=obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[DeviceGroup]) -> None:
        for group in queryset:
            self.delete_model(request, group)
