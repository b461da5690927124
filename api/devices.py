"""Devices and their inventory."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers

from api import filters
from api.plist_json import to_json
from api.scopes import DEVICES_READ
from api.views import DetailOf, ListOf
from devices.models import LIVE_STATES, Channel, Device, Enrollment, EnrollmentState, Platform


class DeviceEnrollment(serializers.ModelSerializer[Enrollment]):
    """The device's enrolment: the live one, or the last."""

    class Meta:
        model = Enrollment
        fields = ["id", "state", "enrolled_at", "last_seen_at", "awaiting_configuration"]


class DeviceSerializer(serializers.ModelSerializer[Device]):
    groups = serializers.SlugRelatedField[Any](slug_field="name", many=True, read_only=True)
    enrollment = serializers.SerializerMethodField()

    class Meta:
        model = Device
        fields = [
            "id",
            "udid",
            "user_enrollment",
            "serial_number",
            "name",
            "platform",
            "product_name",
            "model_name",
            "os_version",
            "build_version",
            "imei",
            "meid",
            "supervised",
            "groups",
            "enrollment",
            "created_at",
        ]

    @extend_schema_field(DeviceEnrollment(allow_null=True))
    def get_enrollment(self, device: Device) -> dict[str, Any] | None:
        enrollments: list[Enrollment] = getattr(device, "device_channel")  # noqa: B009 - by with_enrollments
        live = [enrollment for enrollment in enrollments if enrollment.state in LIVE_STATES]
        chosen = (live or enrollments)[:1]
        return DeviceEnrollment(chosen[0]).data if chosen else None


class DeviceDetailSerializer(DeviceSerializer):
    information = serializers.SerializerMethodField(help_text="The last DeviceInformation answer.")
    security = serializers.SerializerMethodField(help_text="The last SecurityInfo answer.")

    class Meta(DeviceSerializer.Meta):
        fields = [
            *DeviceSerializer.Meta.fields,
            "information",
            "information_at",
            "security",
            "security_at",
        ]

    def get_information(self, device: Device) -> dict[str, Any]:
        return dict(to_json(device.information))

    def get_security(self, device: Device) -> dict[str, Any]:
        return dict(to_json(device.security))


class DeviceFilter(filters.Filters):
    serial_number = filters.CharFilter(lookup_expr="iexact")
    udid = filters.CharFilter(lookup_expr="iexact")
    platform = filters.ChoiceFilter(choices=[(p.value, p.value) for p in Platform if p.value])
    name = filters.CharFilter(lookup_expr="icontains", help_text="Part of the name.")
    search = filters.CharFilter(
        method="filter_search", help_text="Part of name, serial number, UDID, IMEI or model."
    )
    group = filters.CharFilter(field_name="groups__name", help_text="Name of a group.")
    enrolled = filters.BooleanFilter(method="filter_enrolled", help_text="Under management now.")
    last_seen_after = filters.IsoDateTimeFilter(method="filter_last_seen_after")
    last_seen_before = filters.IsoDateTimeFilter(
        method="filter_last_seen_before", help_text="Silent since then."
    )

    class Meta:
        model = Device
        fields: list[str] = []

    def filter_search(self, queryset: QuerySet[Device], name: str, value: str) -> QuerySet[Device]:
        fields = ("name", "serial_number", "udid", "imei", "model_name")
        return queryset.filter(Q.create([(f"{field}__icontains", value) for field in fields], connector=Q.OR))

    def filter_enrolled(self, queryset: QuerySet[Device], name: str, value: bool) -> QuerySet[Device]:
        enrolled = Exists(_device_channel().filter(device=OuterRef("pk"), state=EnrollmentState.ENROLLED))
        return queryset.filter(enrolled if value else ~enrolled)

    def filter_last_seen_after(
        self, queryset: QuerySet[Device], name: str, value: datetime
    ) -> QuerySet[Device]:
        return queryset.filter(_seen_since(value))

    def filter_last_seen_before(
        self, queryset: QuerySet[Device], name: str, value: datetime
    ) -> QuerySet[Device]:
        return queryset.filter(~_seen_since(value))


class DeviceList(ListOf):
    """Devices, whether enrolled or not."""

    scopes = {"GET": DEVICES_READ}
    serializer_class = DeviceSerializer
    filterset_class = DeviceFilter
    ordering_fields = ("name", "serial_number", "created_at")

    def get_queryset(self) -> QuerySet[Device]:
        return with_enrollments(Device.objects.defer("information", "security"))

    @extend_schema(operation_id="devices_list")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """List devices."""
        return super().get(*args, **kwargs)


class DeviceDetail(DetailOf):
    scopes = {"GET": DEVICES_READ}
    serializer_class = DeviceDetailSerializer

    def get_queryset(self) -> QuerySet[Device]:
        return with_enrollments(Device.objects.all())

    @extend_schema(operation_id="devices_retrieve")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """One device with its inventory."""
        return super().get(*args, **kwargs)


def with_enrollments(devices: QuerySet[Device]) -> QuerySet[Device]:
    """Devices with groups and enrolments at hand: three queries for a page, however long."""
    enrollments = Prefetch("enrollments", _device_channel().order_by("-id"), to_attr="device_channel")
    return devices.prefetch_related("groups", enrollments)


def _device_channel() -> QuerySet[Enrollment]:
    return Enrollment.objects.filter(channel=Channel.DEVICE)


def _seen_since(moment: datetime) -> Exists:
    return Exists(_device_channel().filter(device=OuterRef("pk"), last_seen_at__gte=moment))
