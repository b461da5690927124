"""Renewals of device identities for administrators, and permits for devices whose certificate has ended."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor
from devices.models import (
    LIVE_STATES,
    Channel,
    Device,
    Enrollment,
    EnrollmentState,
    Identity,
    IdentityState,
)
from pki.models import Certificate
from pki.outlook import Statement
from renewal import identities, permits
from renewal.admin_parts import REFUSALS, Act, AskingAdmin, posted
from renewal.forms import PermitForm
from renewal.models import IdentityRenewal, RenewalPermit, RenewalState

MOST_AT_ONCE = 500
PERMIT_FACTS = (
    "device_link",
    "standing",
    "expired_certificate",
    "renewal_link",
    "note",
    "granted_by",
    "granted_at",
    "until",
    "used_at",
    "withdrawn_at",
)
RENEWAL_FACTS = (
    "device_link",
    "reason",
    "state",
    "attempt",
    "error",
    "permanent",
    "campaign_link",
    "command_link",
    "before",
    "after",
    "requested_by",
    "created_at",
    "sent_at",
    "acknowledged_at",
    "finished_at",
)


def _link(name: str, pk: int | None, text: Any) -> SafeString | str:
    if pk is None:
        return "-"
    try:
        return format_html('<a href="{}">{}</a>', reverse(f"admin:{name}_change", args=[pk]), text)
    except NoReverseMatch:
        return str(text)


@admin.register(IdentityRenewal)
class IdentityRenewalAdmin(AskingAdmin):
    """Every attempt; and the page that renews one device, or lets an expired one in."""

    list_display = ["device", "state", "error", "reason", "attempt", "created_at", "finished_at"]
    list_filter = ["state", "reason", "campaign"]
    list_select_related = ["enrollment__device"]
    search_fields = [
        "enrollment__device__serial_number",
        "enrollment__device__udid",
        "enrollment__device__name",
    ]
    search_help_text = _("Serial number, UDID or name of the device")
    fields = RENEWAL_FACTS
    readonly_fields = RENEWAL_FACTS
    actions = ["try_again"]

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "device/<int:pk>/",
                self.admin_site.admin_view(self.device_view),
                name="renewal_identityrenewal_device",
            ),
            *super().get_urls(),
        ]

    def has_renew_permission(self, request: HttpRequest) -> bool:
        """Who may have a device renewed."""
        return request.user.has_perm("renewal.add_identityrenewal")

    def facts(self, request: HttpRequest, obj: IdentityRenewal) -> dict[str, Any]:
        """A way to try again, where the device is enrolled and the attempt came to nothing."""
        came_to_nothing = obj.state in (RenewalState.FAILED, RenewalState.CANCELLED)
        if not came_to_nothing or obj.enrollment.state != EnrollmentState.ENROLLED:
            return {}
        return {"again": reverse("admin:renewal_identityrenewal_device", args=[obj.enrollment.device_id])}

    def device_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A new certificate for one device: by a renewal, or by a permit where its certificate has ended."""
        device = Device.objects.filter(pk=pk).first()
        if device is None:
            raise Http404
        enrollment = (
            Enrollment.objects.filter(device=device, channel=Channel.DEVICE, state__in=LIVE_STATES)
            .order_by("-pk")
            .first()
        )
        if enrollment is None or enrollment.state != EnrollmentState.ENROLLED:
            raise Http404
        certificate = _certificate_of(enrollment)
        if certificate is not None and certificate.not_after < timezone.now():
            return self._let_in(request, device, enrollment, certificate)
        return self._renew(request, device, enrollment, certificate)

    def _renew(
        self, request: HttpRequest, device: Device, enrollment: Enrollment, certificate: Certificate | None
    ) -> HttpResponse:
        if not self.has_renew_permission(request):
            raise PermissionDenied

        def do(_wanted: dict[str, Any]) -> str:
            identities.renew(enrollment, actor=Actor.of_request(request), now=timezone.now())
            return gettext("The device gets a new certificate when it next connects; it is being woken.")

        statements = [
            Statement(
                "info",
                gettext("The device installs its management profile again and asks for a new certificate."),
            ),
            Statement(
                "good",
                gettext("It stays enrolled and keeps its commands, its history and its secrets."),
            ),
        ]
        if certificate is not None:
            statements.append(
                Statement(
                    "info",
                    gettext("Its certificate is valid until %(ends)s. It is renewed by itself before that.")
                    % {"ends": _day(certificate)},
                )
            )
        return self.ask(
            request,
            Act(
                gettext("Renew the certificate of a device"),
                gettext("Renew"),
                forms.Form(posted(request)),
                do,
                _page(device),
                str(device),
                statements,
            ),
        )

    def _let_in(
        self, request: HttpRequest, device: Device, enrollment: Enrollment, certificate: Certificate
    ) -> HttpResponse:
        if not request.user.has_perm("renewal.add_renewalpermit"):
            raise PermissionDenied
        form = PermitForm(posted(request))

        def do(wanted: dict[str, Any]) -> str:
            permits.grant(
                enrollment,
                actor=Actor.of_request(request),
                now=timezone.now(),
                time=form.time,
                note=wanted["note"],
            )
            return gettext("The device is let in for one renewal; it is being woken.")

        statements = [
            Statement(
                "bad",
                gettext("The certificate of this device ended on %(ends)s. Whatever it sends is refused.")
                % {"ends": _day(certificate)},
            ),
            Statement(
                "info",
                gettext(
                    "With a permit it may fetch one thing with its ended certificate: its new one. "
                    "Everything else stays refused until it uses the new one. It need not enrol again."
                ),
            ),
            Statement(
                "wait",
                gettext(
                    "Only for a device that you know to be in the right hands: who holds its key comes back "
                    "into management by this."
                ),
            ),
        ]
        earlier = RenewalPermit.objects.filter(enrollment=enrollment, used_at=None, withdrawn_at=None).first()
        if earlier is not None and earlier.until > timezone.now():
            statements.append(
                Statement(
                    "wait",
                    gettext("It has a permit until %(until)s already; another one replaces it.")
                    % {"until": f"{timezone.localtime(earlier.until):%Y-%m-%d %H:%M}"},
                )
            )
        return self.ask(
            request,
            Act(
                gettext("Let this expired device in for one renewal"),
                gettext("Let it in"),
                form,
                do,
                _page(device),
                str(device),
                statements,
            ),
        )

    @admin.action(description=_("Try again"), permissions=["renew"])
    def try_again(self, request: HttpRequest, queryset: QuerySet[IdentityRenewal]) -> None:
        """Each device of these once. Those that are being renewed, or cannot be, are counted."""
        found = queryset.select_related("enrollment").order_by("enrollment_id", "-pk")
        enrollments = {renewal.enrollment_id: renewal.enrollment for renewal in found[:MOST_AT_ONCE]}
        done, last = 0, ""
        for enrollment in enrollments.values():
            try:
                identities.renew(enrollment, actor=Actor.of_request(request), now=timezone.now())
            except REFUSALS as refused:
                last = refused.reason
            else:
                done += 1
        text = ngettext("%(count)d device is asked again.", "%(count)d devices are asked again.", done) % {
            "count": done
        }
        if left := len(enrollments) - done:
            text += " " + ngettext(
                "%(count)d is not: %(reason)s.", "%(count)d are not; the last one because: %(reason)s.", left
            ) % {"count": left, "reason": last}
        if queryset.count() > MOST_AT_ONCE:
            text += " " + gettext(
                "Only the first %(most)d of those chosen were looked at: choose the others anew."
            ) % {"most": MOST_AT_ONCE}
        self.message_user(request, text, messages.SUCCESS if done else messages.WARNING)

    @admin.display(description=_("device"), ordering="enrollment__device__name")
    def device(self, renewal: IdentityRenewal) -> str:
        return str(renewal.enrollment.device)

    @admin.display(description=_("device"))
    def device_link(self, renewal: IdentityRenewal) -> SafeString | str:
        return _link("devices_device", renewal.enrollment.device_id, renewal.enrollment.device)

    @admin.display(description=_("campaign"))
    def campaign_link(self, renewal: IdentityRenewal) -> SafeString | str:
        return _link("renewal_rekeycampaign", renewal.campaign_id, renewal.campaign)

    @admin.display(description=_("command"))
    def command_link(self, renewal: IdentityRenewal) -> SafeString | str:
        return _link("commands_command", renewal.command_id, gettext("InstallProfile"))

    @admin.display(description=_("certificate before"))
    def before(self, renewal: IdentityRenewal) -> SafeString | str:
        return _certificate_link(renewal.certificate_before)

    @admin.display(description=_("certificate after"))
    def after(self, renewal: IdentityRenewal) -> SafeString | str:
        return _certificate_link(renewal.certificate_after)


class PermitStateFilter(admin.SimpleListFilter):
    """Open, used, withdrawn, over."""

    title = _("state")
    parameter_name = "is"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [
            ("open", _("open")),
            ("used", _("used")),
            ("withdrawn", _("withdrawn")),
            ("over", _("its time is over")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        chosen = {
            "open": Q(used_at=None, withdrawn_at=None, until__gt=now),
            "used": Q(used_at__isnull=False),
            "withdrawn": Q(withdrawn_at__isnull=False),
            "over": Q(used_at=None, withdrawn_at=None, until__lte=now),
        }.get(self.value() or "")
        return queryset.filter(chosen) if chosen is not None else queryset


@admin.register(RenewalPermit)
class RenewalPermitAdmin(AskingAdmin):
    """Who was let in, by whom, and what became of it."""

    list_display = ["device", "standing", "until", "granted_by", "granted_at", "note"]
    list_filter = [PermitStateFilter]
    list_select_related = ["enrollment__device"]
    search_fields = [
        "enrollment__device__serial_number",
        "enrollment__device__udid",
        "enrollment__device__name",
        "note",
    ]
    fields = PERMIT_FACTS
    readonly_fields = PERMIT_FACTS

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.withdraw_view)
        return [
            path("<int:pk>/withdraw/", view, name="renewal_renewalpermit_withdraw"),
            *super().get_urls(),
        ]

    def facts(self, request: HttpRequest, obj: RenewalPermit) -> dict[str, Any]:
        may_change = request.user.has_perm("renewal.change_renewalpermit")
        return {"may_withdraw": _is_open(obj) and may_change}

    def withdraw_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Take a permit back before it is used."""
        permit: RenewalPermit | None = self.get_object(request, str(pk))
        if permit is None:
            raise Http404
        if not request.user.has_perm("renewal.change_renewalpermit"):
            raise PermissionDenied
        back = reverse("admin:renewal_renewalpermit_change", args=[permit.pk])
        if not _is_open(permit):
            self.message_user(
                request, gettext("The permit was used, withdrawn, or its time is over."), messages.WARNING
            )
            return HttpResponseRedirect(back)

        def do(_wanted: dict[str, Any]) -> str:
            if not permits.withdraw(permit, actor=Actor.of_request(request), now=timezone.now()):
                raise permits.PermitRefused(gettext("somebody was faster: it was used or withdrawn"))
            return gettext("The permit is withdrawn.")

        statement = Statement("info", gettext("The device is refused again, with its ended certificate."))
        return self.ask(
            request,
            Act(
                gettext("Withdraw the permit"),
                gettext("Withdraw"),
                forms.Form(posted(request)),
                do,
                back,
                str(permit.enrollment.device),
                [statement],
            ),
        )

    @admin.display(description=_("device"), ordering="enrollment__device__name")
    def device(self, permit: RenewalPermit) -> str:
        return str(permit.enrollment.device)

    @admin.display(description=_("device"))
    def device_link(self, permit: RenewalPermit) -> SafeString | str:
        return _link("devices_device", permit.enrollment.device_id, permit.enrollment.device)

    @admin.display(description=_("state"))
    def standing(self, permit: RenewalPermit) -> str:
        if permit.used_at is not None:
            return gettext("used")
        if permit.withdrawn_at is not None:
            return gettext("withdrawn")
        return gettext("open") if permit.until > timezone.now() else gettext("its time is over")

    @admin.display(description=_("expired certificate"))
    def expired_certificate(self, permit: RenewalPermit) -> SafeString | str:
        return _certificate_link(permit.certificate)

    @admin.display(description=_("renewal"))
    def renewal_link(self, permit: RenewalPermit) -> SafeString | str:
        return _link("renewal_identityrenewal", permit.renewal_id, permit.renewal.get_state_display())


def _is_open(permit: RenewalPermit) -> bool:
    return permit.used_at is None and permit.withdrawn_at is None and permit.until > timezone.now()


def _certificate_of(enrollment: Enrollment) -> Certificate | None:
    identity = (
        Identity.objects.filter(enrollment=enrollment, state=IdentityState.ACTIVE)
        .select_related("certificate")
        .order_by("-pk")
        .first()
    )
    return identity.certificate if identity else None


def _certificate_link(certificate: Certificate | None) -> SafeString | str:
    if certificate is None:
        return "-"
    text = gettext("%(serial)s, valid until %(ends)s") % {
        "serial": certificate.serial_number,
        "ends": _day(certificate),
    }
    return _link("pki_certificate", certificate.pk, text)


def _day(certificate: Certificate) -> str:
    return f"{timezone.localtime(certificate.not_after):%Y-%m-%d}"


def _page(device: Device) -> str:
    return reverse("admin:devices_device_change", args=[device.pk])
