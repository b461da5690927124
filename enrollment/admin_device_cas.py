"""Device CAs and device certificates in the admin: who is believed that something is a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit import recording
from audit.admin import ReadOnlyAdmin
from audit.recording import Actor
from enrollment import device_authorities
from enrollment.device_authorities import MAX_FILE, AuthorityRefused
from enrollment.models import DeviceAuthority, DeviceSigner
from pki.core.device_identity import APPLE_DEVICE_CA
from pki.records import grouped

if TYPE_CHECKING:  # generic for the type checker only
    _SignerAdmin: TypeAlias = admin.ModelAdmin[DeviceSigner]
else:
    _SignerAdmin = admin.ModelAdmin


class TrustForm(forms.Form):
    """The certificate of a CA, and for how long it is trusted."""

    file = forms.FileField(
        label=_("certificate file"), help_text=_("The CA's certificate, PEM or DER. No private key.")
    )
    name = forms.CharField(
        label=_("name"),
        max_length=200,
        required=False,
        help_text=_("Empty: what the certificate calls itself."),
    )
    until = forms.DateTimeField(
        label=_("trusted until"),
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}),
        help_text=_("Empty: until you switch it off."),
    )


@admin.register(DeviceAuthority)
class DeviceAuthorityAdmin(ReadOnlyAdmin):
    list_display = ["name", "standing", "trusted_until", "not_after", "last_used_at"]
    list_filter = ["enabled"]
    search_fields = ["name", "subject", "sha256"]
    actions = ["switch_on", "switch_off"]
    fieldsets = [
        (None, {"fields": ["name", "standing", "trusted_until", "last_used_at", "created_at"]}),
        (_("Certificate"), {"fields": ["subject", "fingerprint", "not_before", "not_after"]}),
    ]
    readonly_fields = ["standing", "fingerprint"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[DeviceAuthority]:
        rows: QuerySet[DeviceAuthority] = super().get_queryset(request).defer("der")
        return rows

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "trust/", self.admin_site.admin_view(self.trust_page), name="enrollment_deviceauthority_trust"
            ),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {
            "may_trust": _may_trust(request),
            "apple": APPLE_DEVICE_CA,
            "apple_fingerprint": grouped(APPLE_DEVICE_CA.sha256),
            **(extra_context or {}),
        }
        return super().changelist_view(request, extra)

    def has_switch_permission(self, request: HttpRequest) -> bool:
        """Asked by the actions."""
        return request.user.has_perm("enrollment.change_deviceauthority")

    def trust_page(self, request: HttpRequest) -> HttpResponse:
        """Trust one more device CA."""
        if not _may_trust(request):
            raise PermissionDenied
        form: Any = TrustForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            try:
                authority = device_authorities.trust(
                    form.cleaned_data["file"].read(MAX_FILE + 1),
                    name=form.cleaned_data["name"].strip(),
                    until=form.cleaned_data["until"],
                    actor=Actor.of_request(request),
                    now=timezone.now(),
                )
            except AuthorityRefused as refused:
                form.add_error("file", refused.reason)
            else:
                text = gettext("%(name)s is trusted to identify devices.") % {"name": authority.name}
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(
                    reverse("admin:enrollment_deviceauthority_change", args=[authority.pk])
                )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Trust a device CA"),
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": list(form.fields)})], {}, (), self),
        }
        return TemplateResponse(request, "admin/enrollment/deviceauthority/trust.html", context)

    @admin.display(description=_("state"))
    def standing(self, authority: DeviceAuthority) -> str:
        now = timezone.now()
        if not authority.enabled:
            return gettext("switched off")
        if authority.trusted_until is not None and authority.trusted_until <= now:
            return gettext("its time is over")
        if not authority.not_before <= now <= authority.not_after:
            return gettext("its certificate is not valid now")
        return gettext("trusted")

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, authority: DeviceAuthority) -> SafeString:
        return format_html("<code>{}</code>", grouped(authority.sha256))

    @admin.action(description=_("Trust the chosen CAs again"), permissions=["switch"])
    def switch_on(self, request: HttpRequest, queryset: QuerySet[DeviceAuthority]) -> None:
        self._switch(request, queryset, enabled=True)

    @admin.action(description=_("Trust the chosen CAs no longer"), permissions=["switch"])
    def switch_off(self, request: HttpRequest, queryset: QuerySet[DeviceAuthority]) -> None:
        self._switch(request, queryset, enabled=False)

    def _switch(self, request: HttpRequest, queryset: QuerySet[DeviceAuthority], *, enabled: bool) -> None:
        rows = list(queryset)
        for authority in rows:
            device_authorities.switch(
                authority, enabled=enabled, actor=Actor.of_request(request), now=timezone.now()
            )
        text = (
            ngettext("%d device CA is trusted.", "%d device CAs are trusted.", len(rows))
            if enabled
            else ngettext(
                "%d device CA is trusted no longer.", "%d device CAs are trusted no longer.", len(rows)
            )
        )
        self.message_user(request, text % len(rows), messages.SUCCESS)


@admin.register(DeviceSigner)
class DeviceSignerAdmin(_SignerAdmin):
    """What device certificates claimed. One can be forgotten, where a device rightly got another name."""

    show_full_result_count = False
    list_display = ["serial_number", "udid", "authority", "first_seen_at", "last_seen_at"]
    list_filter = ["authority"]
    search_fields = ["serial_number", "udid", "sha256"]
    search_help_text = _("Serial number, UDID, fingerprint")
    fieldsets = [
        (None, {"fields": ["serial_number", "udid", "first_seen_at", "last_seen_at"]}),
        (_("Certificate"), {"fields": ["authority", "subject", "sha256", "public_key_sha256"]}),
    ]

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: DeviceSigner) -> None:
        recording.record(
            "device_certificate.forgotten",
            actor=Actor.of_request(request),
            target=obj,
            details={"sha256": obj.sha256, "serial_number": obj.serial_number, "udid": obj.udid},
        )
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[DeviceSigner]) -> None:
        for signer in queryset:
            self.delete_model(request, signer)


def _may_trust(request: HttpRequest) -> bool:
    return request.user.has_perm("enrollment.add_deviceauthority")
