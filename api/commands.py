"""Commands: send, watch, cancel."""

from __future__ import annotations

import uuid
from typing import Any

from django.db.models import Count, QuerySet
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from api import answers, filters, idempotency, plist_json
from api.scopes import COMMANDS_READ, COMMANDS_WRITE
from api.targets import Targets, audience
from api.views import DetailOf, Guarded, ListOf, actor_of
from commands import queue
from commands.models import Command, CommandDelivery, CommandSource, DeliveryState
from devices.models import Device

PAYLOAD_HELP = (
    'The keys of Apple\'s Command dictionary beside RequestType. Data is {"$data": "<base64>"}, '
    'a date is {"$date": "<ISO 8601 with zone>"}.'
)


class CommandSerializer(serializers.ModelSerializer[Command]):
    command_uuid = serializers.UUIDField(source="uuid", read_only=True)

    class Meta:
        model = Command
        fields = [
            "id",
            "command_uuid",
            "request_type",
            "at_most_once",
            "source",
            "created_by",
            "created_at",
            "not_before",
            "expires_at",
            "cancelled_at",
            "targets",
        ]


class CommandDetailSerializer(CommandSerializer):
    counts = serializers.SerializerMethodField(help_text="Deliveries by state; states without any are 0.")

    class Meta(CommandSerializer.Meta):
        fields = [*CommandSerializer.Meta.fields, "counts"]

    def get_counts(self, command: Command) -> dict[str, int]:
        found = dict(command.deliveries.order_by().values_list("state").annotate(number=Count("pk")))
        return {state.value: found.get(state.value, 0) for state in DeliveryState}


class CommandFilter(filters.Filters):
    request_type = filters.CharFilter()
    source = filters.ChoiceFilter(choices=CommandSource.choices)
    created_after = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="gte")
    created_before = filters.IsoDateTimeFilter(field_name="created_at", lookup_expr="lt")

    class Meta:
        model = Command
        fields: list[str] = []


class EnqueueRequest(serializers.Serializer[Any]):
    request_type = serializers.CharField(max_length=80)
    payload = serializers.DictField(default=dict, help_text=PAYLOAD_HELP)
    targets = Targets()
    not_before = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="Handed out no sooner."
    )
    expires_at = serializers.DateTimeField(
        required=False, allow_null=True, default=None, help_text="Handed out no later."
    )

    def validate_payload(self, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(plist_json.to_plist(payload))
        except plist_json.NotAPropertyList as problem:
            raise serializers.ValidationError(str(problem)) from None


class SkippedSerializer(serializers.Serializer[Any]):
    target = serializers.CharField()
    reason = serializers.CharField()


class EnqueuedSerializer(serializers.Serializer[Any]):
    command_uuid = serializers.UUIDField()
    queued = serializers.IntegerField()
    skipped = SkippedSerializer(many=True)
    warnings = serializers.ListField(child=serializers.CharField())


class CommandList(ListOf):
    scopes = {"GET": COMMANDS_READ, "POST": COMMANDS_WRITE}
    serializer_class = CommandSerializer
    filterset_class = CommandFilter

    def get_queryset(self) -> QuerySet[Command]:
        return Command.objects.defer("payload_sealed")

    @extend_schema(operation_id="commands_list")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """List commands."""
        return super().get(*args, **kwargs)

    @extend_schema(
        operation_id="commands_enqueue",
        request=EnqueueRequest,
        responses={201: EnqueuedSerializer},
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                str,
                OpenApiParameter.HEADER,
                description="The same request again under the same key queues nothing more.",
            )
        ],
        examples=[
            OpenApiExample(
                "Ask one device for its battery",
                {
                    "request_type": "DeviceInformation",
                    "payload": {"Queries": ["BatteryLevel"]},
                    "targets": {"serial_numbers": ["C02XK1JKJG5H"]},
                },
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        """Queue a command for devices. They are woken, and fetch it when they connect."""
        wanted = EnqueueRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        answer = idempotency.once(request, lambda: _enqueue(request, wanted.validated_data), timezone.now())
        return Response(answer, status=status.HTTP_201_CREATED)


def _enqueue(request: Request, wanted: dict[str, Any]) -> dict[str, Any]:
    enrollment_ids, skipped = audience(wanted["targets"])
    try:
        done = queue.enqueue(
            wanted["request_type"],
            wanted["payload"],
            enrollment_ids,
            source=CommandSource.API,
            actor=actor_of(request),
            now=timezone.now(),
            not_before=wanted["not_before"],
            expires_at=wanted["expires_at"],
        )
    except queue.InvalidCommand as invalid:
        raise serializers.ValidationError({"detail": str(invalid)}) from None
    return {
        "command_uuid": str(done.command.uuid),
        "queued": done.queued,
        "skipped": [{"target": miss.target, "reason": miss.reason} for miss in [*skipped, *done.skipped]],
        "warnings": list(done.warnings),
    }


class CommandDetail(DetailOf):
    scopes = {"GET": COMMANDS_READ}
    serializer_class = CommandDetailSerializer
    lookup_field = "uuid"

    def get_queryset(self) -> QuerySet[Command]:
        return Command.objects.defer("payload_sealed")

    @extend_schema(operation_id="commands_retrieve")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """One command, with the number of its deliveries in each state."""
        return super().get(*args, **kwargs)


class CommandCancel(Guarded):
    scopes = {"POST": COMMANDS_WRITE}

    class Cancelled(serializers.Serializer[Any]):
        cancelled = serializers.IntegerField(help_text="Deliveries that were still outstanding.")

    @extend_schema(operation_id="commands_cancel", request=None, responses={200: Cancelled})
    def post(self, request: Request, uuid: uuid.UUID) -> Response:
        """Cancel what has not been answered yet. What a device has already fetched, it may still do."""
        command = get_object_or_404(Command, uuid=uuid)
        return Response({"cancelled": queue.cancel(command, actor_of(request), timezone.now())})


class DeliverySerializer(serializers.ModelSerializer[CommandDelivery]):
    command_uuid = serializers.UUIDField(source="command.uuid", read_only=True)
    request_type = serializers.CharField(source="command.request_type", read_only=True)
    device = serializers.IntegerField(source="enrollment.device_id", read_only=True)
    serial_number = serializers.CharField(source="enrollment.device.serial_number", read_only=True)
    status = serializers.SerializerMethodField(help_text="As the device said; empty until it answers.")
    error_chain = serializers.SerializerMethodField()

    class Meta:
        model = CommandDelivery
        fields = [
            "id",
            "command_uuid",
            "request_type",
            "device",
            "serial_number",
            "enrollment",
            "state",
            "reason",
            "sent_count",
            "sent_at",
            "not_now_at",
            "not_now_count",
            "completed_at",
            "status",
            "error_chain",
        ]

    def get_status(self, delivery: CommandDelivery) -> str:
        result = getattr(delivery, "result", None)
        return result.status if result else ""

    def get_error_chain(self, delivery: CommandDelivery) -> list[dict[str, Any]]:
        result = getattr(delivery, "result", None)
        return list(result.error_chain) if result else []


class DeliveryDetailSerializer(DeliverySerializer):
    report = serializers.SerializerMethodField(
        help_text="The device's answer; secrets in it are masked. null until it answers."
    )

    class Meta(DeliverySerializer.Meta):
        fields = [*DeliverySerializer.Meta.fields, "report"]

    def get_report(self, delivery: CommandDelivery) -> dict[str, Any] | None:
        result = getattr(delivery, "result", None)
        return (
            None
            if result is None
            else dict(plist_json.to_json(answers.without_secrets(queue.open_report(result))))
        )


class DeliveryFilter(filters.Filters):
    state = filters.MultipleChoiceFilter(choices=DeliveryState.choices)

    class Meta:
        model = CommandDelivery
        fields: list[str] = []


class CommandDeliveryList(ListOf):
    scopes = {"GET": COMMANDS_READ}
    serializer_class = DeliverySerializer
    filterset_class = DeliveryFilter

    def get_queryset(self) -> QuerySet[CommandDelivery]:
        if getattr(self, "swagger_fake_view", False):
            return CommandDelivery.objects.none()
        return deliveries().filter(command=get_object_or_404(Command, uuid=self.kwargs["uuid"]))

    @extend_schema(operation_id="commands_deliveries_list")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """The deliveries of a command: one for each enrolment."""
        return super().get(*args, **kwargs)


class DeviceDeliveryList(ListOf):
    scopes = {"GET": COMMANDS_READ}
    serializer_class = DeliverySerializer
    filterset_class = DeliveryFilter

    def get_queryset(self) -> QuerySet[CommandDelivery]:
        if getattr(self, "swagger_fake_view", False):
            return CommandDelivery.objects.none()
        device = get_object_or_404(Device.objects.only("pk"), pk=self.kwargs["pk"])
        return deliveries().filter(enrollment__device=device)

    @extend_schema(operation_id="devices_commands_list")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """What a device was told, on all its channels."""
        return super().get(*args, **kwargs)


class DeliveryDetail(DetailOf):
    scopes = {"GET": COMMANDS_READ}
    serializer_class = DeliveryDetailSerializer

    def get_queryset(self) -> QuerySet[CommandDelivery]:
        if getattr(self, "swagger_fake_view", False):
            return CommandDelivery.objects.none()
        rows = CommandDelivery.objects.select_related("command", "enrollment__device", "result")
        return rows.filter(command__uuid=self.kwargs["uuid"])

    @extend_schema(operation_id="commands_deliveries_retrieve")
    def get(self, *args: Any, **kwargs: Any) -> Any:
        """One delivery, with the device's whole answer."""
        return super().get(*args, **kwargs)


def deliveries() -> QuerySet[CommandDelivery]:
    """Deliveries with what a list of them needs at hand, in one query."""
    return CommandDelivery.objects.select_related("command", "enrollment__device", "result").defer(
        "command__payload_sealed",
        "enrollment__device__information",
        "enrollment__device__security",
        "result__report_sealed",
    )
