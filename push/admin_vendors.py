"""MDM vendor certificates in the admin: imported with their key, which is never shown; taken out of use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from audit.admin import ReadOnlyAdmin
from audit.recording import Actor
from push import vendors
from push.admin_parts import badge, content, left_in_words, may, urgency, verify_may
from push.certificates import PushCertificateRefused
from push.core.pushcert import MAX_SIZE
from push.models import VendorCertificate

if TYPE_CHECKING:  # generic for the type checker only
    _Rows: TypeAlias = QuerySet[VendorCertificate]
else:
    _Rows = QuerySet

MODEL = "vendorcertificate"


class VendorForm(forms.Form):
    """A vendor's certificate, and what it takes to read it."""

    file = forms.FileField(
        label=_("certificate file"),
        help_text=_(
            "A PKCS #12 file (.p12, .pfx) with certificate and key, or the certificate (.cer, .pem)."
        ),
    )
    key_file = forms.FileField(
        label=_("private key file"),
        required=False,
        help_text=_("If the key is not in the file above."),
    )
    password = forms.CharField(
        label=_("password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("Of the PKCS #12 file or of the private key, if it has one."),
    )


@admin.register(VendorCertificate)
class VendorCertificateAdmin(ReadOnlyAdmin):
    list_display = ["common_name", "standing", "serial_number", "created_at"]
    list_display_links = ["common_name"]
    search_fields = ["common_name", "serial_number", "sha256"]
    fieldsets = [
        (None, {"fields": ["common_name", "standing", "retired_at"]}),
        (_("Validity"), {"fields": ["not_before", "not_after"]}),
        (_("Identification"), {"fields": ["serial_number", "fingerprint", "created_at"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> _Rows:
        rows: _Rows = super().get_queryset(request)
        return rows.defer("private_key_sealed", "chain", "der")

    def get_urls(self) -> list[URLPattern]:
        def view(route: str, function: Any, name: str) -> Any:
            return path(route, self.admin_site.admin_view(function), name=f"push_vendorcertificate_{name}")

        return [
            view("import/", self.import_page, "import"),
            view("<int:pk>/retire/", self.retire_page, "retire"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {"may_import": may(request, "add", MODEL), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def facts(self, request: HttpRequest, obj: VendorCertificate) -> dict[str, Any]:
        return {"may_change": may(request, "change", MODEL)}

    @method_decorator(sensitive_post_parameters("password"))
    def import_page(self, request: HttpRequest) -> HttpResponse:
        """Keep a vendor's certificate with its key."""
        verify_may(request, "add", MODEL)
        form = VendorForm(request.POST, request.FILES) if request.method == "POST" else VendorForm()
        if form.is_bound and form.is_valid():
            values = form.cleaned_data
            try:
                made = vendors.import_vendor(
                    content(values["file"], MAX_SIZE),
                    password=values["password"],
                    private_key=content(values["key_file"], MAX_SIZE) if values["key_file"] else b"",
                    actor=Actor.of_request(request),
                    now=timezone.now(),
                )
            except PushCertificateRefused as refused:
                form.add_error(None, refused.reason)
            else:
                text = gettext("Requests for push certificates can be signed here now.")
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:push_vendorcertificate_change", args=[made.pk]))
        fields = ["file", "key_file", "password"]
        context = {
            **self._context(request, gettext("Import an MDM vendor certificate")),
            "form": form,
            "adminform": AdminForm(cast("Any", form), [(None, {"fields": fields})], {}, (), self),
        }
        return TemplateResponse(request, "admin/push/vendorcertificate/import.html", context)

    def retire_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Sign nothing with it any more."""
        row: VendorCertificate | None = self.get_object(request, str(pk))
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        verify_may(request, "change", MODEL)
        if request.method == "POST":
            try:
                vendors.retire_vendor(row, actor=Actor.of_request(request), now=timezone.now())
            except PushCertificateRefused as refused:
                self.message_user(request, refused.reason, messages.ERROR)
            else:
                text = gettext("The vendor certificate is out of use.")
                self.message_user(request, text, messages.SUCCESS)
            return HttpResponseRedirect(reverse("admin:push_vendorcertificate_change", args=[row.pk]))
        context = {
            **self._context(request, gettext("Take this vendor certificate out of use?")),
            "text": gettext(
                "No request is signed with it any more. Push certificates that were asked for with it stay "
                "good, and can be renewed with a request that another vendor signs."
            ),
            "button": gettext("Take out of use"),
            "original": row,
        }
        return TemplateResponse(request, "admin/push/pushcertificate/confirm.html", context)

    def _context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "opts": self.opts, "title": title}

    @admin.display(description=_("condition"))
    def standing(self, row: VendorCertificate) -> SafeString:
        if row.retired_at is not None:
            return badge("off", gettext("out of use"), "")
        left = row.not_after - timezone.now()
        return badge(urgency(left), left_in_words(left), f"{row.not_after:%d %B %Y}")

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, row: VendorCertificate) -> SafeString:
        text = ":".join(row.sha256[at : at + 2] for at in range(0, 64, 2)).upper()
        return format_html("<code>{}</code>", text)
