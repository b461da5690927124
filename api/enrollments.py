"""Enrolments: who is, or was, under management."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers

from api import filters
from api.scopes import ENROLLMENTS_READ
from api.views import DetailOf, ListOf
from devices.models import Channel, Enrollment, EnrollmentState, Identity


class IdentitySerializer(serializers.ModelSerializer[Identity]):
    """A certificate pinned to the enrolment."""

    class Meta:
        model = Identity
        fields = ["certificate", "sha256", "state", "pinned_at", "superseded_at"]


class EnrollmentSerializer(serializers.ModelSerializer[Enrollment]):
    serial_number = serializers.CharField(source="device.serial_number", read_only=True)
    udid = serializers.CharField(source="device.udid", read_only=True)
    can_be_pushed = serializers.SerializerMethodField(help_text="There is a push token, and APNs takes it.")

    class Meta:
        model = Enrollment
        fields = [
            "id",
            "device",
            "serial_number",
            "udid",
            "channel",
            "parent",
            "user_id",
            "user_short_name",
            "user_long_name",
            "state",
            "state_reason",
            "epoch",
            "topic",
            "can_be_pushed",
            "awaiting_configuration",
            "not_on_console",
            "authenticated_at",
            "enrolled_at",
            "ended_at",
            "last_seen_at",
            "token_updated_at",
            "token_dead_at",
        ]

    def get_can_be_pushed(self, enrollment: Enrollment) -> bool:
        return (
            enrollment.state == EnrollmentState.ENROLLED
            and enrollment.token_updated_at is not None
            and enrollment.token_dead_at is None
        )


class EnrollmentDetailSerializer(EnrollmentSerializer):
    identities = IdentitySerializer(many=True, read_only=True)

    class Meta(EnrollmentSerializer.Meta):
        fields = [*EnrollmentSerializer.Meta.fields, "identities"]


class EnrollmentFilter(filters.Filters):
    state = filters.MultipleChoiceFilter(choices=EnrollmentState.choices)
    channel = filters.ChoiceFilter(choices=Channel.choices)
    device = filters.NumberFilter(field_name="device_id", help_text="Id of the device.")
    serial_number = filters.CharFilter(field_name="device__serial_number", lookup_expr="iexact")
    udid = filters.CharFilter(field_name="device__udid", lookup_expr="iexact")
    last_seen_after = filters.IsoDateTimeFilter(field_name="last_seen_at", lookup_expr="gte")
    last_seen_before = filters.IsoDateTimeFilter(field_name="last_seen_at", lookup_expr="lt")

    class Meta:
        model = Enrollment
        fields: list[str] = []


class EnrollmentList(ListOf):
    scopes = {"GET": ENROLLMENTS_READ}
    serializer_class = EnrollmentSerializer
    filterset_class = EnrollmentFilter

    def get_queryset(self) -> QuerySet[Enrollment]:
        return Enrollment.objects.select_related("device").defer("device__information", "device__security")

    @extend_schema(operation_id="enrollments_list")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """List enrolments of devices and of users on them."""
        return super().get(*args, **kwargs)


class EnrollmentDetail(DetailOf):
    scopes = {"GET": ENROLLMENTS_READ}
    serializer_class = EnrollmentDetailSerializer

    def get_queryset(self) -> QuerySet[Enrollment]:
        return Enrollment.objects.select_related("device").prefetch_related("identities")

    @extend_schema(operation_id="enrollments_retrieve")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """One enrolment with the identities pinned to it."""
        return super().get(*args, **kwargs)
