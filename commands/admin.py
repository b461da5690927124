"""Commands for administrators: what was sent, how far it got, what each device answered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _t
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from audit.admin import ReadOnlyAdmin, WhenFilter
from audit.recording import Actor
from commands import admin_send, queue
from commands.core.catalogue import REQUEST_TYPES
from commands.core.masking import readable
from commands.core.plist import PlistError
from commands.models import Command, CommandDelivery, CommandResult, DeliveryState
from vault.sealed import SealError

TONES = {
    DeliveryState.ACKNOWLEDGED: "good",
    DeliveryState.QUEUED: "info",
    DeliveryState.SENT: "info",
    DeliveryState.NOT_NOW: "wait",
    DeliveryState.UNCERTAIN: "wait",
    DeliveryState.ERROR: "bad",
    DeliveryState.FORMAT_ERROR: "bad",
    DeliveryState.EXPIRED: "off",
    DeliveryState.CANCELLED: "off",
}
SHORT = {
    DeliveryState.SENT: _("sent"),
    DeliveryState.NOT_NOW: _("device busy"),
    DeliveryState.UNCERTAIN: _("uncertain"),
    DeliveryState.FORMAT_ERROR: _("malformed"),
}


@dataclass(frozen=True)
class Share:
    """The part of a command's devices that is in one state, for the progress bar."""

    label: str | Promise
    count: int
    tone: str
    url: str

    @property
    def css(self) -> str:
        return self.tone


def shares(command_id: int, counts: dict[str, int]) -> list[Share]:
    """The states of a command in the order of the bar, each linked to its deliveries."""
    listed = reverse("admin:commands_commanddelivery_changelist")
    return [
        Share(
            label=SHORT.get(state, state.label),
            count=counts[state],
            tone=tone,
            url=f"{listed}?command__id__exact={command_id}&state__exact={state.value}",
        )
        for state, tone in TONES.items()
        if counts.get(state)
    ]


def progress_of(command_ids: Iterable[int]) -> dict[int, dict[str, int]]:
    """How many deliveries of each command are in each state: one query."""
    found: dict[int, dict[str, int]] = {}
    rows = (
        CommandDelivery.objects.filter(command_id__in=list(command_ids))
        .order_by()
        .values_list("command_id", "state")
        .annotate(count=Count("pk"))
    )
    for command_id, state, count in rows:
        found.setdefault(command_id, {})[state] = count
    return found


def title_of(request_type: str) -> str:
    """A command in words, where it is known."""
    known = REQUEST_TYPES.get(request_type)
    return _t(known.title) if known else ""


def uuid_in(search_term: str) -> UUID | None:
    """The CommandUUID that somebody looks for, if it is one."""
    try:
        return UUID(search_term.strip())
    except ValueError:
        return None


class CommandChangeList(ChangeList):
    """The list with the progress of its page, in one query more."""

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        counts = progress_of(command.pk for command in self.result_list)
        for command in self.result_list:
            command.counts = counts.get(command.pk, {})


class RequestTypeFilter(admin.SimpleListFilter):
    """Which command; those that were ever sent."""

    title = _("command")
    parameter_name = "request_type"
    lookup = "request_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = Command.objects.order_by().values_list("request_type", flat=True).distinct()
        return [(name, name) for name in sorted(names)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(**{self.lookup: self.value()}) if self.value() else queryset


class StateFilter(admin.SimpleListFilter):
    """States in the short words of the list."""

    title = _("state")
    parameter_name = "state__exact"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(state.value, SHORT.get(state, state.label)) for state in TONES]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(state=self.value()) if self.value() else queryset


class DeliveredTypeFilter(RequestTypeFilter):
    lookup = "command__request_type"


class CreatedAtFilter(WhenFilter):
    field_name = "created_at"


class SentAtFilter(WhenFilter):
    title = _("sent")
    parameter_name = "sent"
    field_name = "sent_at"


@admin.register(Command)
class CommandAdmin(ReadOnlyAdmin):
    """Commands with their progress. They are made by "Send a command", and never changed."""

    list_display = ["what", "progress", "targets", "created_at", "created_by", "source"]
    list_display_links = ["what"]
    list_filter = [RequestTypeFilter, "source", CreatedAtFilter, "at_most_once"]
    list_per_page = 50
    search_fields = ["request_type", "created_by"]
    search_help_text = _("Command, person, CommandUUID")
    fieldsets = [
        (None, {"fields": ["what", "progress"]}),
        (_("Content"), {"fields": ["payload"]}),
        (
            _("About it"),
            {
                "fields": [
                    *("created_at", "created_by", "source", "targets", "at_most_once"),
                    *("not_before", "expires_at", "cancelled_at", "filled_by", "uuid"),
                ]
            },
        ),
    ]
    change_form_template = "admin/commands/command/change_form.html"
    change_list_template = "admin/commands/command/change_list.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Command]:
        return super().get_queryset(request).defer("payload_sealed")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Command], search_term: str
    ) -> tuple[QuerySet[Command], bool]:
        if command_uuid := uuid_in(search_term):
            return queryset.filter(uuid=command_uuid), False
        return super().get_search_results(request, queryset, search_term)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return CommandChangeList

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("send/", view(admin_send.send), name="commands_command_send"),
            path("<int:pk>/cancel/", view(self.cancel_view), name="commands_command_cancel"),
            *super().get_urls(),
        ]

    def facts(self, request: HttpRequest, obj: Command) -> dict[str, Any]:
        counts = progress_of([obj.pk]).get(obj.pk, {})
        waiting = counts.get("QUEUED", 0) + counts.get("NOT_NOW", 0) + counts.get("SENT", 0)
        return {
            "may_cancel": bool(waiting) and request.user.has_perm("commands.change_command"),
            "uncertain": counts.get("UNCERTAIN", 0),
        }

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then take the command back from every device that has not got it."""
        if not request.user.has_perm("commands.change_command"):
            raise PermissionDenied
        command = Command.objects.filter(pk=pk).first()
        if command is None:
            raise Http404
        if request.method == "POST":
            count = queue.cancel(command, Actor.of_request(request), timezone.now())
            text = ngettext("Taken back from %(count)d device.", "Taken back from %(count)d devices.", count)
            messages.success(request, text % {"count": count})
            return HttpResponseRedirect(reverse("admin:commands_command_change", args=[pk]))
        counts = progress_of([pk]).get(pk, {})
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _t("Cancel a command"),
            "command": command,
            "command_title": title_of(command.request_type) or command.request_type,
            "waiting": counts.get("QUEUED", 0) + counts.get("NOT_NOW", 0),
            "with_device": counts.get("SENT", 0),
        }
        return TemplateResponse(request, "admin/commands/command/cancel.html", context)

    @admin.display(description=_("command"), ordering="request_type")
    def what(self, command: Command) -> SafeString | str:
        title = title_of(command.request_type)
        if not title:
            return command.request_type
        return format_html('{} <span class="quiet">{}</span>', title, command.request_type)

    @admin.display(description=_("progress"))
    def progress(self, command: Command) -> str:
        counts = getattr(command, "counts", None)
        if counts is None:
            counts = progress_of([command.pk]).get(command.pk, {})
        return render_to_string("admin/commands/progress.html", {"parts": shares(command.pk, counts)})

    @admin.display(description=_("what devices are told"))
    def payload(self, command: Command) -> SafeString | str:
        return request_text(command)


@admin.register(CommandDelivery)
class CommandDeliveryAdmin(ReadOnlyAdmin):
    """One command and one device: where it stands, what was asked, what was answered."""

    list_display = ["what", "device", "state", "why", "sent_at", "completed_at"]
    list_display_links = ["what"]
    list_filter = [StateFilter, DeliveredTypeFilter, SentAtFilter]
    list_select_related = ["command", "enrollment__device", "result"]
    list_per_page = 50
    search_fields = [
        "enrollment__device__serial_number",
        "enrollment__device__udid",
        "enrollment__device__name",
        "enrollment__user_short_name",
    ]
    search_help_text = _("Device name, serial number, UDID, user; CommandUUID")
    actions = ["let_go_again", "give_up"]
    fieldsets = [
        (None, {"fields": ["command_link", "device", "state", "why"]}),
        (_("The device's answer"), {"fields": ["errors", "answer"]}),
        (_("What it was told"), {"fields": ["request"]}),
        (
            _("When"),
            {
                "fields": [
                    *("queued_at", "sent_at", "sent_count", "not_now_at", "not_now_count"),
                    *("completed_at", "epoch"),
                ]
            },
        ),
    ]
    change_form_template = "admin/commands/commanddelivery/change_form.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[CommandDelivery]:
        return super().get_queryset(request).defer("command__payload_sealed", "result__report_sealed")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[CommandDelivery], search_term: str
    ) -> tuple[QuerySet[CommandDelivery], bool]:
        if command_uuid := uuid_in(search_term):
            # It may be the UDID of a Mac as well.
            named = Q(command__uuid=command_uuid) | Q(enrollment__device__udid__iexact=search_term.strip())
            return queryset.filter(named), False
        return super().get_search_results(request, queryset, search_term)

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest | None = None) -> bool:
        # The links of other pages to the deliveries of one command, device or enrolment.
        return lookup in {
            *("command__id__exact", "enrollment__id__exact", "enrollment__device__id__exact", "state__in"),
        } or super().lookup_allowed(lookup, value, request)  # type: ignore[arg-type]

    def get_urls(self) -> list[URLPattern]:
        decide = self.admin_site.admin_view(require_POST(self.decide_view))
        return [
            path("<int:pk>/decide/", decide, name="commands_commanddelivery_decide"),
            *super().get_urls(),
        ]

    def facts(self, request: HttpRequest, obj: CommandDelivery) -> dict[str, Any]:
        uncertain = obj.state == DeliveryState.UNCERTAIN
        return {"may_decide": uncertain and self.may_decide(request), "uncertain": uncertain}

    def decide_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Let an uncertain command go again, or give it up."""
        if not self.may_decide(request):
            raise PermissionDenied
        delivery = CommandDelivery.objects.filter(pk=pk).first()
        resend, give_up = "resend" in request.POST, "give_up" in request.POST
        if delivery is None or resend == give_up:
            raise Http404
        self.decide(request, [delivery], resend=resend)
        return HttpResponseRedirect(reverse("admin:commands_commanddelivery_change", args=[pk]))

    def may_decide(self, request: HttpRequest) -> bool:
        """Who may send it anew may let it go again."""
        return request.user.has_perm("commands.change_commanddelivery")

    def decide(self, request: HttpRequest, deliveries: Iterable[CommandDelivery], *, resend: bool) -> None:
        """Decide each, and say what came of it."""
        decided = 0
        problems: set[str] = set()
        for delivery in deliveries:
            try:
                queue.decide_uncertain(
                    delivery, resend=resend, actor=Actor.of_request(request), now=timezone.now()
                )
                decided += 1
            except queue.NotUncertain as refused:
                problems.add(str(refused))
        if decided and resend:
            text = ngettext("%(count)d goes out again.", "%(count)d go out again.", decided)
            messages.success(request, text % {"count": decided})
        elif decided:
            text = ngettext("%(count)d was given up.", "%(count)d were given up.", decided)
            messages.success(request, text % {"count": decided})
        for problem in sorted(problems):
            messages.warning(request, _t("Not changed: %(problem)s.") % {"problem": problem})

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        return super().get_actions(request) if self.may_decide(request) else {}

    @admin.action(description=_("Let uncertain commands go out again"))
    def let_go_again(self, request: HttpRequest, queryset: QuerySet[CommandDelivery]) -> None:
        self.decide(request, queryset.filter(state=DeliveryState.UNCERTAIN), resend=True)

    @admin.action(description=_("Give uncertain commands up"))
    def give_up(self, request: HttpRequest, queryset: QuerySet[CommandDelivery]) -> None:
        self.decide(request, queryset.filter(state=DeliveryState.UNCERTAIN), resend=False)

    @admin.display(description=_("command"), ordering="command__request_type")
    def what(self, delivery: CommandDelivery) -> str:
        return title_of(delivery.command.request_type) or delivery.command.request_type

    @admin.display(description=_("command"))
    def command_link(self, delivery: CommandDelivery) -> SafeString | str:
        return link("admin:commands_command_change", delivery.command_id, self.what(delivery))

    @admin.display(description=_("device"), ordering="enrollment__device__name")
    def device(self, delivery: CommandDelivery) -> SafeString | str:
        enrollment = delivery.enrollment
        return link("admin:devices_device_change", enrollment.device_id, str(enrollment))

    @admin.display(description=_("reason"))
    def why(self, delivery: CommandDelivery) -> str:
        result = result_of(delivery)
        if result is None or not result.error_chain:
            return delivery.reason or "-"
        return str(result.error_chain[0].get("message") or "")[:200] or "-"

    @admin.display(description=_("queued"))
    def queued_at(self, delivery: CommandDelivery) -> Any:
        return render_to_string("admin/commands/moment.html", {"value": delivery.command.created_at})

    @admin.display(description=_("errors"))
    def errors(self, delivery: CommandDelivery) -> str:
        result = result_of(delivery)
        chain = result.error_chain if result else []
        return render_to_string("admin/commands/errors.html", {"errors": chain}) if chain else "-"

    @admin.display(description=_("answer"))
    def answer(self, delivery: CommandDelivery) -> SafeString | str:
        result = result_of(delivery)
        return answer_text(result) if result else _t("none yet")

    @admin.display(description=_("request"))
    def request(self, delivery: CommandDelivery) -> SafeString | str:
        return request_text(delivery.command)


def result_of(delivery: CommandDelivery) -> CommandResult | None:
    """The answer, if there is one."""
    try:
        return delivery.result
    except CommandResult.DoesNotExist:
        return None


def request_text(command: Command) -> SafeString | str:
    """The Command dictionary, masked."""
    try:
        return _shown(*readable(queue.open_payload(command)))
    except (SealError, PlistError):
        return _t("It cannot be decrypted with the keys of this server.")


def answer_text(result: CommandResult) -> SafeString | str:
    """What the device answered, masked."""
    try:
        return _shown(*readable(queue.open_report(result)))
    except (SealError, PlistError):
        return _t("It cannot be decrypted with the keys of this server.")


def _shown(text: str, cut: bool) -> SafeString:
    return format_html("<pre>{}{}</pre>", text, "\n…" if cut else "")


def link(name: str, key: int, text: str) -> SafeString | str:
    """A link to an admin page, or the text alone where that page does not exist."""
    try:
        return format_html('<a href="{}">{}</a>', reverse(name, args=[key]), text)
    except NoReverseMatch:
        return text
