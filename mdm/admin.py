"""Pages of devices and of their enrollments, for administrators.

They stand here and not in :mod:`devices`, because they show and do what belongs to higher apps: commands,
pushes, admission.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME, AdminForm
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Exists, OuterRef, Prefetch, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST

from audit.admin import ReadOnlyAdmin, RowPageAdmin
from audit.models import Outcome
from audit.recording import Actor, record
from commands.admin_send import address_for
from commands.models import OUTSTANDING, CommandDelivery
from devices import escrow, groups, registry
from devices.models import (
    LIVE_STATES,
    Channel,
    Device,
    DeviceGroup,
    Enrollment,
    EnrollmentState,
    EscrowedSecret,
    Identity,
    IdentityState,
)
from enrollment.models import EnrollmentSession
from mdm import admin_leaving, people, quarantine, questions, rivals
from mdm.device_page import device_page
from push import outbox
from vault.sealed import SealError

_TONES = {
    EnrollmentState.ENROLLED: "good",
    EnrollmentState.AUTHENTICATED: "info",
    EnrollmentState.QUARANTINED: "wait",
    EnrollmentState.REFUSED: "bad",
    EnrollmentState.TURN_AWAY: "wait",
}
_SHORT: dict[str, str | Promise] = {
    EnrollmentState.AUTHENTICATED: _("authenticated"),
    EnrollmentState.QUARANTINED: _("quarantined"),
    EnrollmentState.REFUSED: _("refused"),
    EnrollmentState.REPLACED: _("replaced"),
    EnrollmentState.TURN_AWAY: _("to be turned away"),
    EnrollmentState.TURNED_AWAY: _("turned away"),
}


def _panel(form: forms.Form, *fields: str) -> AdminForm:
    """A plain form in the look of the admin's own."""
    return AdminForm(form, [(None, {"fields": list(fields)})], {})  # type: ignore[arg-type]


def _badge(state: str) -> SafeString | str:
    if not state:
        return "-"
    label = EnrollmentState(state).label
    return format_html(
        '<span class="badge tone-{}" title="{}">{}</span>',
        _TONES.get(EnrollmentState(state), "off"),
        label,
        _SHORT.get(state, label),
    )


# --- Devices ---------------------------------------------------------------------------------------------


class StateFilter(admin.SimpleListFilter):
    """By the state of the device channel's enrolments."""

    title = _("enrolment")
    parameter_name = "enrolment"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            (EnrollmentState.ENROLLED, gettext("enrolled")),
            (EnrollmentState.AUTHENTICATED, gettext("waiting for push token")),
            (EnrollmentState.QUARANTINED, gettext("held in quarantine")),
            ("none", gettext("not enrolled")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        of_device = Enrollment.objects.filter(device=OuterRef("pk"), channel=Channel.DEVICE)
        if self.value() == "none":
            return queryset.filter(~Exists(of_device.filter(state__in=LIVE_STATES)))
        return queryset.filter(Exists(of_device.filter(state=self.value()))) if self.value() else queryset


class LastSeenFilter(admin.SimpleListFilter):
    """By the time of the last contact of the live enrolment."""

    title = _("last seen")
    parameter_name = "seen"
    spans: dict[str, tuple[str | Promise, int | None, int | None]] = {
        "day": (_("in the last 24 hours"), None, 1),
        "week": (_("1 to 7 days ago"), 1, 7),
        "month": (_("7 to 30 days ago"), 7, 30),
        "longer": (_("more than 30 days ago"), 30, None),
    }

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(key, str(title)) for key, (title, _from, _to) in self.spans.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in self.spans:
            return queryset
        _title, at_least, at_most = self.spans[str(self.value())]
        now, seen = timezone.now(), Q(channel=Channel.DEVICE, state__in=LIVE_STATES)
        if at_least is not None:
            seen &= Q(last_seen_at__lt=now - timedelta(days=at_least))
        if at_most is not None:
            seen &= Q(last_seen_at__gte=now - timedelta(days=at_most))
        return queryset.filter(Exists(Enrollment.objects.filter(seen, device=OuterRef("pk"))))


@admin.register(Device)
class DeviceAdmin(RowPageAdmin):
    """What a device says about itself is for reading; only its groups are edited."""

    list_display = [
        "shown_name",
        "serial_number",
        "hardware",
        "system",
        "state",
        "user",
        "last_seen",
        "pending",
    ]
    list_filter = [StateFilter, LastSeenFilter, "platform", "groups", "supervised"]
    search_fields = [
        "serial_number",
        "udid",
        "name",
        "model_name",
        "product_name",
        "imei",
        "enrollments__user_short_name",
        "enrollments__user_long_name",
    ]
    search_help_text = _("Name, serial number, UDID, model, IMEI, user, who enrolled it")
    list_per_page = 50
    show_full_result_count = False
    actions = [
        *("send_command", "push_now", "refresh_inventory"),
        *("add_to_group", "remove_from_group", "unenrol"),
    ]
    filter_horizontal = ["groups"]
    fieldsets = [
        (
            _("Device"),
            {
                "fields": [
                    "name",
                    "serial_number",
                    "udid",
                    "user_enrollment",
                    "hardware",
                    "system",
                    "build_version",
                    "supervised",
                    "imei",
                    "meid",
                    "created_at",
                ]
            },
        ),
        (_("Groups"), {"fields": ["groups"], "classes": ["collapse"]}),
    ]
    readonly_fields = [
        "name",
        "serial_number",
        "udid",
        "user_enrollment",
        "hardware",
        "system",
        "build_version",
        "supervised",
        "imei",
        "meid",
        "created_at",
    ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Devices come by enrolling."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Device | None = None) -> bool:
        """What happened stays on record."""
        return False

    def has_command_permission(self, request: HttpRequest) -> bool:
        """Asked by the actions that give devices something to do."""
        return request.user.has_perm("commands.add_command")

    def has_unenrol_permission(self, request: HttpRequest) -> bool:
        """Asked by the action."""
        return admin_leaving.may_unenrol(request)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Device], search_term: str
    ) -> tuple[QuerySet[Device], bool]:
        """Also by who enrolled the device."""
        found, duplicates = super().get_search_results(request, queryset, search_term)
        if not search_term.strip():
            return found, duplicates
        return people.found_by_person(queryset, search_term.strip(), or_else=found), False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Device]:
        """With state, last contact and what is waiting, at no query more for each row."""
        current = Enrollment.objects.filter(device=OuterRef("pk"), channel=Channel.DEVICE).order_by("-pk")
        live = current.filter(state__in=LIVE_STATES)
        # Whoever says to be this device has not enrolled it.
        let_in = current.exclude(state__in=(EnrollmentState.QUARANTINED, EnrollmentState.REFUSED))
        waiting = (
            CommandDelivery.objects.filter(enrollment__device=OuterRef("pk"), state__in=OUTSTANDING)
            .order_by()
            .values("enrollment__device")
            .annotate(count=Count("pk"))
        )
        users = Enrollment.objects.filter(channel=Channel.USER, state=EnrollmentState.ENROLLED).order_by("pk")
        devices: QuerySet[Device] = super().get_queryset(request)
        return (
            devices.defer("information", "security")
            .annotate(
                live_state=Subquery(live.values("state")[:1]),
                last_state=Subquery(current.values("state")[:1]),
                seen_at=Subquery(live.values("last_seen_at")[:1]),
                binding=Subquery(let_in.values("binding")[:1]),
                waiting=Subquery(waiting.values("count")[:1]),
            )
            .annotate(person=people.person("binding"))
            .prefetch_related(Prefetch("enrollments", queryset=users, to_attr="user_enrollments"))
        )

    @admin.display(description=_("name"), ordering="name")
    def shown_name(self, device: Device) -> str:
        return str(device)

    @admin.display(description=_("model"), ordering="model_name")
    def hardware(self, device: Device) -> str:
        names = [name for name in (device.model_name, device.product_name) if name]
        return f"{names[0]} ({names[1]})" if len(names) > 1 else "".join(names) or "-"

    @admin.display(description=_("system"), ordering="os_version")
    def system(self, device: Device) -> str:
        return f"{device.platform} {device.os_version}".strip() or "-"

    @admin.display(description=_("enrolment"))
    def state(self, device: Device) -> SafeString | str:
        return _badge(getattr(device, "live_state", None) or getattr(device, "last_state", None) or "")

    @admin.display(description=_("user"))
    def user(self, device: Device) -> str:
        users: Sequence[Enrollment] = getattr(device, "user_enrollments", ())
        names = [user.user_short_name or user.user_id for user in users]
        return ", ".join(names) or getattr(device, "person", None) or "-"

    @admin.display(description=_("last seen"), ordering="seen_at")
    def last_seen(self, device: Device) -> Any:
        return getattr(device, "seen_at", None)

    @admin.display(description=_("pending"), ordering="waiting")
    def pending(self, device: Device) -> int | str:
        return getattr(device, "waiting", None) or "-"

    # One device

    def facts(self, request: HttpRequest, obj: Device) -> dict[str, Any]:
        return {
            "page": device_page(obj, timezone.now()),
            "show_save_and_continue": False,
            "may_command": self.has_command_permission(request),
            "may_reveal": _may_reveal(request),
            "send_url": address_for(request, [obj.pk]),
            "may_see_record": request.user.has_perm("audit.view_auditevent"),
            "may_unenrol": admin_leaving.may_unenrol(request),
            "may_block": admin_leaving.may_block(request),
            "may_unblock": admin_leaving.may_unblock(request),
        }

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        device: Device = form.instance
        before = set(device.groups.values_list("name", flat=True))
        super().save_related(request, form, formsets, change)
        after = set(device.groups.values_list("name", flat=True))
        if before != after:
            record(
                "device.groups_changed",
                actor=Actor.of_request(request),
                target=device,
                details={"added": sorted(after - before), "removed": sorted(before - after)},
            )

    def get_urls(self) -> list[URLPattern]:
        """Two buttons of a device's page, as POST."""
        own = [
            path(
                "<int:pk>/push/",
                self.admin_site.admin_view(require_POST(self.push_view)),
                name="devices_device_push",
            ),
            path(
                "<int:pk>/refresh/",
                self.admin_site.admin_view(require_POST(self.refresh_view)),
                name="devices_device_refresh",
            ),
            *admin_leaving.urls(self),
        ]
        return [*own, *super().get_urls()]

    def push_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Wake one device."""
        return self._act_on(request, pk, self._push)

    def refresh_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask one device what it is."""
        return self._act_on(request, pk, self._refresh)

    def _act_on(self, request: HttpRequest, pk: int, act: Any) -> HttpResponse:
        if not self.has_command_permission(request):
            raise PermissionDenied
        if not Device.objects.filter(pk=pk).exists():
            raise Http404
        act(request, Device.objects.filter(pk=pk))
        return HttpResponseRedirect(reverse("admin:devices_device_change", args=[pk]))

    # Many devices

    @admin.action(description=_("Send a command…"), permissions=["command"])
    def send_command(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse:
        ids = list(queryset.order_by("pk").values_list("pk", flat=True))
        return HttpResponseRedirect(address_for(request, ids))

    @admin.action(description=_("Push now"), permissions=["command"])
    def push_now(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        self._push(request, queryset)

    @admin.action(description=_("Refresh inventory"), permissions=["command"])
    def refresh_inventory(self, request: HttpRequest, queryset: QuerySet[Device]) -> None:
        self._refresh(request, queryset)

    @admin.action(description=_("Put into a group…"), permissions=["change"])
    def add_to_group(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        return self._with_group(request, queryset, "add_to_group")

    @admin.action(description=_("Take out of a group…"), permissions=["change"])
    def remove_from_group(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        return self._with_group(request, queryset, "remove_from_group")

    @admin.action(description=_("Unenrol…"), permissions=["unenrol"])
    def unenrol(self, request: HttpRequest, queryset: QuerySet[Device]) -> HttpResponse | None:
        ids = list(queryset.order_by("pk").values_list("pk", flat=True)[: 2 * admin_leaving.MOST_AT_ONCE])
        return admin_leaving.LeavingPages(self).choose(request, ids)

    def _push(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        """Wake the devices; who has no living push token is left out, and counted."""
        chosen = devices.count()
        with transaction.atomic():
            requested = outbox.request_push(_enrolled(devices), now=timezone.now())
            record(
                "push.requested",
                actor=Actor.of_request(request),
                target=devices.get() if chosen == 1 else None,
                details={"devices": chosen, "pushes": requested},
            )
        self._report(
            request,
            requested,
            chosen,
            ngettext("A push is due to %(count)d device.", "Pushes are due to %(count)d devices.", requested),
        )

    def _refresh(self, request: HttpRequest, devices: QuerySet[Device]) -> None:
        """Queue the questions; who is being asked already is left out, and counted."""
        with transaction.atomic():
            asked = questions.ask_inventory(
                _enrolled(devices), timezone.now(), actor=Actor.of_request(request)
            )
        self._report(
            request,
            asked,
            devices.count(),
            ngettext(
                "%(count)d device is asked for its inventory.",
                "%(count)d devices are asked for their inventory.",
                asked,
            ),
        )

    def _report(self, request: HttpRequest, done: int, wanted: int, text: str) -> None:
        said = text % {"count": done}
        if left := wanted - done:
            said += " " + ngettext(
                "%(count)d cannot be reached or is waiting for that already.",
                "%(count)d cannot be reached or are waiting for that already.",
                left,
            ) % {"count": left}
        self.message_user(request, said, messages.SUCCESS if done else messages.WARNING)

    def _with_group(
        self, request: HttpRequest, queryset: QuerySet[Device], action: str
    ) -> HttpResponse | None:
        form = GroupForm(request.POST if "group" in request.POST else None)
        if not form.is_valid():
            adding = action == "add_to_group"
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": gettext("Put devices into a group") if adding else gettext("Take out of a group"),
                "adminform": _panel(form, "group"),
                "form": form,
                "count": queryset.count(),
                "action": action,
                "checkbox_name": ACTION_CHECKBOX_NAME,
                "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
                "select_across": request.POST.get("select_across", "0"),
            }
            return TemplateResponse(request, "admin/devices/device/choose_group.html", context)
        group: DeviceGroup = form.cleaned_data["group"]
        ids = queryset.order_by("pk").values_list("pk", flat=True)
        if action == "add_to_group":
            changed = groups.add_devices(group, ids, actor=Actor.of_request(request))
            text = ngettext(
                "%(count)d device was put into %(group)s.",
                "%(count)d devices were put into %(group)s.",
                changed,
            )
        else:
            changed = groups.remove_devices(group, ids, actor=Actor.of_request(request))
            text = ngettext(
                "%(count)d device was taken out of %(group)s.",
                "%(count)d devices were taken out of %(group)s.",
                changed,
            )
        self.message_user(request, text % {"count": changed, "group": group}, messages.SUCCESS)
        return None


class GroupForm(forms.Form):
    """Which group."""

    group = forms.ModelChoiceField(label=_("group"), queryset=DeviceGroup.objects.all())


def _enrolled(devices: QuerySet[Device]) -> list[int]:
    return list(
        Enrollment.objects.filter(
            device__in=devices.order_by().values("pk"),
            channel=Channel.DEVICE,
            state=EnrollmentState.ENROLLED,
        ).values_list("pk", flat=True)
    )


# --- Enrollments -----------------------------------------------------------------------------------------


class DecisionForm(forms.Form):
    """Why an enrolment is refused."""

    reason = forms.CharField(label=_("reason"), required=False, max_length=200)


def _is_held(enrollment: Enrollment) -> bool:
    """Whether there is something to decide about it; that is decided for a device, not for its users."""
    return enrollment.state == EnrollmentState.QUARANTINED and enrollment.channel == Channel.DEVICE


@admin.register(Enrollment)
class EnrollmentAdmin(ReadOnlyAdmin):
    """Each life of a device under management. Those that are held are admitted or refused here."""

    list_display = [
        *("device", "channel", "user_id", "person", "state", "remark"),
        *("last_seen_at", "enrolled_at", "ended_at"),
    ]
    list_filter = ["state", "channel", "device__platform"]
    search_fields = [
        "device__serial_number",
        "device__udid",
        "device__name",
        "user_short_name",
        "user_long_name",
        "user_id",
    ]
    search_help_text = _("Device name, serial number, UDID, user, who enrolled it")
    list_select_related = ["device"]
    list_per_page = 50
    fieldsets = [
        (None, {"fields": ["device_link", "channel", "state", "state_reason"]}),
        (_("User"), {"fields": ["user_id", "user_short_name", "user_long_name", "not_on_console"]}),
        (
            _("Identity"),
            {"fields": ["certificates", "session", "epoch", "uuid"]},
        ),
        (
            _("Push"),
            {"fields": ["topic", "has_token", "token_updated_at", "token_dead_at", "push_state"]},
        ),
        (
            _("When"),
            {
                "fields": [
                    "authenticated_at",
                    "enrolled_at",
                    "last_seen_at",
                    "awaiting_configuration",
                    "erase_acknowledged_at",
                    "ended_at",
                ]
            },
        ),
    ]
    readonly_fields = ["uuid", "device_link", "certificates", "session", "has_token", "push_state"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Enrollment]:
        """With who enrolled."""
        rows: QuerySet[Enrollment] = super().get_queryset(request)
        return rows.annotate(who=people.person("binding"))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Enrollment], search_term: str
    ) -> tuple[QuerySet[Enrollment], bool]:
        """Also by who enrolled."""
        found, duplicates = super().get_search_results(request, queryset, search_term)
        if not search_term.strip():
            return found, duplicates
        return people.found_by_person(queryset, search_term.strip(), or_else=found), False

    @admin.display(description=_("reason"))
    def remark(self, enrollment: Enrollment) -> str:
        """Why it is as it is; of one that is held, what it says to be."""
        said = enrollment.said if enrollment.state == EnrollmentState.QUARANTINED else None
        if said is None:
            return enrollment.state_reason or "-"
        return ", ".join(
            said[name] for name in ("serial_number", "product_name", "os_version") if said.get(name)
        )

    @admin.display(description=_("person"))
    def person(self, enrollment: Enrollment) -> str:
        return getattr(enrollment, "who", None) or "-"

    def get_fieldsets(self, request: HttpRequest, obj: Enrollment | None = None) -> Any:
        """Nothing about a user where it is the device's own channel."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or obj.channel == Channel.USER:
            return fieldsets
        return [(title, options) for title, options in fieldsets if "user_id" not in options["fields"]]

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """The right to change enrolments is the right to admit and refuse."""
        return request.user.has_perm("devices.change_enrollment")

    def facts(self, request: HttpRequest, obj: Enrollment) -> dict[str, Any]:
        may_decide = {"may_decide": self.has_decide_permission(request)}
        return {**may_decide, "comparison": rivals.compare(obj)} if _is_held(obj) else may_decide

    @admin.display(description=_("device"))
    def device_link(self, enrollment: Enrollment) -> SafeString:
        return _link("admin:devices_device_change", enrollment.device_id, str(enrollment.device))

    @admin.display(description=_("certificates"))
    def certificates(self, enrollment: Enrollment) -> SafeString | str:
        owner = enrollment.parent or enrollment
        pins = Identity.objects.select_related("certificate").filter(enrollment=owner).order_by("-pk")
        rows = format_html_join(
            "",
            "<div>{} {}</div>",
            (
                (
                    _link("admin:pki_certificate_change", pin.certificate_id, str(pin.certificate)),
                    gettext("in use") if pin.state == IdentityState.ACTIVE else pin.get_state_display(),
                )
                for pin in pins
            ),
        )
        return rows or "-"

    @admin.display(description=_("enrolment session"))
    def session(self, enrollment: Enrollment) -> SafeString | str:
        row = (
            EnrollmentSession.objects.filter(uuid=enrollment.binding).first() if enrollment.binding else None
        )
        return _link("admin:enrollment_enrollmentsession_change", row.pk, str(row)) if row else "-"

    @admin.display(description=_("has a push token"), boolean=True)
    def has_token(self, enrollment: Enrollment) -> bool:
        return bool(enrollment.push_token)

    @admin.display(description=_("push"))
    def push_state(self, enrollment: Enrollment) -> str:
        push = getattr(enrollment, "push", None)
        return push.get_state_display() if push else "-"

    # Quarantine

    def get_urls(self) -> list[URLPattern]:
        """The page that decides about an enrolment that is held."""
        own = [
            path(
                "<int:pk>/decide/<str:decision>/",
                self.admin_site.admin_view(self.decide_view),
                name="devices_enrollment_decide",
            )
        ]
        return [*own, *super().get_urls()]

    def decide_view(self, request: HttpRequest, pk: int, decision: str) -> HttpResponse:
        """Ask, and with POST admit or refuse."""
        if not self.has_decide_permission(request):
            raise PermissionDenied
        enrollment = Enrollment.objects.select_related("device").filter(pk=pk).first()
        if enrollment is None or decision not in {"admit", "refuse"}:
            raise Http404
        if request.method == "GET" and not _is_held(enrollment):
            self.message_user(request, gettext("This enrolment is not held any more."), messages.ERROR)
            return HttpResponseRedirect(reverse("admin:devices_enrollment_change", args=[pk]))
        form = DecisionForm(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            self._decide(request, enrollment, decision, form.cleaned_data["reason"])
            return HttpResponseRedirect(reverse("admin:devices_enrollment_change", args=[pk]))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Admit") if decision == "admit" else gettext("Refuse"),
            "decision": decision,
            "enrollment": enrollment,
            "comparison": rivals.compare(enrollment),
            "form": form,
            "adminform": _panel(form, "reason"),
        }
        return TemplateResponse(request, "admin/devices/enrollment/decide.html", context)

    def _decide(self, request: HttpRequest, enrollment: Enrollment, decision: str, reason: str) -> None:
        actor, now = Actor.of_request(request), timezone.now()
        try:
            if decision == "admit":
                quarantine.admit(enrollment, actor=actor, now=now)
                self.message_user(request, gettext("Admitted. It replaces the earlier enrolment."))
            else:
                quarantine.refuse(enrollment, actor=actor, now=now, reason=reason)
                self.message_user(request, gettext("Refused. Its certificate no longer counts."))
        except registry.Refused:
            self.message_user(request, gettext("This enrolment is not held any more."), messages.ERROR)


def _link(name: str, pk: int, label: str) -> SafeString:
    try:
        return format_html('<a href="{}">{}</a>', reverse(name, args=[pk]), label)
    except NoReverseMatch:
        return format_html("{}", label)


# --- Escrow ----------------------------------------------------------------------------------------------


def _may_reveal(request: HttpRequest) -> bool:
    return request.user.has_perm("devices.reveal_escrowedsecret")


class RevealForm(forms.Form):
    """Who looks, and why."""

    reason = forms.CharField(label=_("reason"), max_length=200, help_text=_("Kept in the record."))
    password = forms.CharField(
        label=_("your password"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )


@admin.register(EscrowedSecret)
class EscrowedSecretAdmin(ReadOnlyAdmin):
    """That there is a secret; what it is only on request, with a record."""

    list_display = ["kind", "device", "deposited_at", "withdrawn_at"]
    list_filter = ["kind", ("withdrawn_at", admin.EmptyFieldListFilter)]
    search_fields = [
        "enrollment__device__serial_number",
        "enrollment__device__udid",
        "enrollment__device__name",
    ]
    search_help_text = _("Device name, serial number, UDID")
    list_select_related = ["enrollment__device"]
    fieldsets = [
        (None, {"fields": ["kind", "device_link", "deposited_at", "withdrawn_at", "epoch", "value"]})
    ]
    readonly_fields = ["device_link", "value"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[EscrowedSecret]:
        secrets: QuerySet[EscrowedSecret] = super().get_queryset(request)
        return secrets.defer("value_sealed")

    @admin.display(description=_("device"))
    def device(self, secret: EscrowedSecret) -> str:
        return str(secret.enrollment.device)

    @admin.display(description=_("device"))
    def device_link(self, secret: EscrowedSecret) -> SafeString:
        device = secret.enrollment.device
        return _link("admin:devices_device_change", device.pk, str(device))

    @admin.display(description=_("value"))
    def value(self, secret: EscrowedSecret) -> str:
        return "••••••••"

    def facts(self, request: HttpRequest, obj: EscrowedSecret) -> dict[str, Any]:
        return {"may_reveal": _may_reveal(request)}

    def get_urls(self) -> list[URLPattern]:
        """The page that shows a value."""
        own = [
            path(
                "<int:pk>/reveal/",
                self.admin_site.admin_view(sensitive_post_parameters("password")(self.reveal_view)),
                name="devices_escrowedsecret_reveal",
            )
        ]
        return [*own, *super().get_urls()]

    def reveal_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask for a reason and the password, and with POST show the value, once."""
        if not _may_reveal(request):
            raise PermissionDenied
        secret = EscrowedSecret.objects.select_related("enrollment__device").filter(pk=pk).first()
        if secret is None:
            raise Http404
        form = RevealForm(request.POST if request.method == "POST" else None)
        value = self._revealed(request, secret, form) if request.method == "POST" else None
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Show a secret"),
            "secret": secret,
            "form": form,
            "adminform": _panel(form, "reason", "password"),
            "value": value,
        }
        return TemplateResponse(request, "admin/devices/escrowedsecret/reveal.html", context)

    def _revealed(self, request: HttpRequest, secret: EscrowedSecret, form: RevealForm) -> str | None:
        """The value as Base64; None if the form is not in order."""
        if not form.is_valid():
            return None
        actor, reason = Actor.of_request(request), form.cleaned_data["reason"]
        if not request.user.check_password(form.cleaned_data["password"]):
            form.add_error("password", gettext("That is not your password."))
            record(
                "secret.revealed",
                actor=actor,
                target=secret,
                outcome=Outcome.REFUSED,
                reason="wrong password",
            )
            return None
        try:
            value = escrow.reveal(secret, actor, reason=reason)
        except SealError:
            form.add_error(None, gettext("It cannot be decrypted with the keys of this server."))
            return None
        return base64.b64encode(value).decode()
