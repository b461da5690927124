"""Issuers, certificates and CRLs for administrators. Rows are facts: nothing of them is edited here."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME, AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit.admin import ReadOnlyAdmin, WhenFilter
from audit.recording import Actor
from pki import signer_admin
from pki.admin_cells import certificate_file, code, download_links, file_of, lines, link_to, link_to_list
from pki.certificate_words import EXTENDED_KEY_USAGES, KEY_USAGES, in_words
from pki.core.certificate_text import certificate_text, places_of
from pki.core.certificates import describe, key_usages_of
from pki.core.scan import Malformed
from pki.issuer_admin import IssuerAdmin
from pki.models import (
    Certificate,
    CertificateProfile,
    CertificateStatus,
    Crl,
    Issuer,
    IssuerKey,
    Purpose,
    RevocationReason,
)
from pki.profile_admin import ProfileAdmin
from pki.records import grouped
from pki.revocation import revoke_all
from pki.searching import found_by

SHOWN_NAMES = 10
SHOWN_DIGITS = 12


# --- Certificates ----------------------------------------------------------------------------------------


class IssuedFilter(WhenFilter):
    title = _("issued")
    field_name = "created_at"


class ExpiryFilter(admin.SimpleListFilter):
    """Certificates in force by the time that is left to them."""

    title = _("expiry")
    parameter_name = "expiry"
    spans = {"30": 30, "90": 90, "365": 365}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("valid", gettext("in force")),
            ("30", gettext("expires within 30 days")),
            ("90", gettext("expires within 90 days")),
            ("365", gettext("expires within a year")),
            ("expired", gettext("expired")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now, value = timezone.now(), self.value()
        if value == "expired":
            return queryset.filter(not_after__lt=now)
        if value not in {"valid", *self.spans}:
            return queryset
        queryset = queryset.filter(status=CertificateStatus.ISSUED, not_after__gte=now)
        if value in self.spans:
            queryset = queryset.filter(not_after__lt=now + timedelta(days=self.spans[value]))
        return queryset


class GenerationFilter(admin.SimpleListFilter):
    """By the key generation that signed."""

    title = _("key generation")
    parameter_name = "generation"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        rows = IssuerKey.objects.order_by("issuer__slug", "-generation")
        return [
            (str(pk), gettext("%(issuer)s, key %(number)d") % {"issuer": name, "number": number})
            for pk, name, number in rows.values_list("pk", "issuer__name", "generation")
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        known = {pk for pk, _text in self.lookup_choices}
        return queryset.filter(issuer_key=self.value()) if self.value() in known else queryset


class RevocationForm(forms.Form):
    """Why: it is told to everybody who reads the CRL."""

    reason = forms.ChoiceField(
        label=_("reason"), choices=RevocationReason.choices, initial=RevocationReason.UNSPECIFIED
    )


@admin.register(Certificate)
class CertificateAdmin(ReadOnlyAdmin):
    list_display = [
        "name_shown",
        "purpose",
        "status",
        "issuer",
        "serial_number_short",
        "created_at",
        "not_after",
    ]
    list_display_links = ["name_shown"]
    list_filter = [
        "status",
        "purpose",
        ExpiryFilter,
        IssuedFilter,
        "issuer_key__issuer",
        GenerationFilter,
        "foreign",
    ]
    list_select_related = ["issuer_key__issuer"]
    search_fields = ["subject", "subject_alternative_name", "serial_number", "sha256"]
    search_help_text = _(
        "Serial number or SHA-256 fingerprint (whole, or from eight digits on), part of a name; "
        "of a device: serial number, UDID, part of its name"
    )
    actions = ["revoke"]
    fieldsets = [
        (None, {"fields": ["subject_shown", "names_shown", "status", "purpose", "issuer"]}),
        (_("Validity"), {"fields": ["not_before", "not_after"]}),
        (_("Revocation"), {"fields": ["revoked_at", "revocation_reason"]}),
        (_("Identification"), {"fields": ["serial_number", "fingerprint", "key", "key_fingerprint"]}),
        (_("In the certificate"), {"fields": ["key_usage", "extended_key_usage", "places", "text"]}),
        (
            _("Origin"),
            {
                "fields": [
                    "created_at",
                    "first_used_at",
                    "origin",
                    "requests",
                    "session",
                    "renewed_from_link",
                    "renewed_by",
                ]
            },
        ),
        (_("Download"), {"fields": ["downloads"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Certificate]:
        queryset: QuerySet[Certificate] = super().get_queryset(request)
        return queryset.defer("issuer_key__private_key_sealed", "issuer_key__public_key")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        return found_by(search_term, queryset), False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Asked by the action: the right to change certificates is the right to revoke them."""
        return request.user.has_perm("pki.change_certificate")

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "<int:pk>/revoke/", self.admin_site.admin_view(self.revoke_one), name="pki_certificate_revoke"
            ),
            path(
                "<int:pk>/download.<str:form>",
                self.admin_site.admin_view(self.download),
                name="pki_certificate_download",
            ),
            *super().get_urls(),
        ]

    def facts(self, request: HttpRequest, obj: Certificate) -> dict[str, Any]:
        return {"may_revoke": self.has_revoke_permission(request)}

    def download(self, request: HttpRequest, pk: int, form: str) -> HttpResponse:
        """The certificate as PEM or DER."""
        certificate = self._certificate(request, pk)
        return certificate_file(bytes(certificate.der), certificate.serial_number, form)

    def revoke_one(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask for the reason, then revoke one certificate."""
        certificate = self._certificate(request, pk)
        if not self.has_revoke_permission(request):
            raise PermissionDenied
        rows = Certificate.objects.filter(pk=certificate.pk)
        back = reverse("admin:pki_certificate_change", args=[pk])
        page = self._revoke(request, rows, confirmed=request.method == "POST", back=back)
        return page or HttpResponseRedirect(back)

    @admin.action(description=_("Revoke the chosen certificates…"), permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Certificate]) -> HttpResponse | None:
        back = reverse("admin:pki_certificate_changelist")
        return self._revoke(request, queryset, confirmed="confirmed" in request.POST, back=back)

    def _revoke(
        self, request: HttpRequest, queryset: QuerySet[Certificate], *, confirmed: bool, back: str
    ) -> HttpResponse | None:
        """The page that asks, or None when it is done."""
        affected = queryset.exclude(status=CertificateStatus.REVOKED)
        count = affected.count()
        if not count:
            self.message_user(request, gettext("All of them are revoked already."), messages.WARNING)
            return None
        form: Any = RevocationForm(request.POST if confirmed else None)
        if confirmed and form.is_valid():
            revoked = revoke_all(
                list(affected.values_list("pk", flat=True)),
                reason=RevocationReason(form.cleaned_data["reason"]),
                actor=Actor.of_request(request),
                now=timezone.now(),
            )
            text = ngettext("%d certificate revoked.", "%d certificates revoked.", revoked) % revoked
            self.message_user(request, text, messages.SUCCESS)
            return None
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": ngettext("Revoke %d certificate?", "Revoke %d certificates?", count) % count,
            "count": count,
            "shown": affected.order_by("subject", "pk")[:SHOWN_NAMES],
            "more": max(0, count - SHOWN_NAMES),
            "identities": affected.filter(purpose=Purpose.MDM_IDENTITY).count(),
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": ["reason"]})], {}, (), self),
            "selected": request.POST.getlist(ACTION_CHECKBOX_NAME),
            "select_across": request.POST.get("select_across", "0"),
            "checkbox_name": ACTION_CHECKBOX_NAME,
            "back": back,
        }
        return TemplateResponse(request, "admin/pki/certificate/revoke.html", context)

    def _certificate(self, request: HttpRequest, pk: int) -> Certificate:
        certificate: Certificate | None = self.get_object(request, str(pk))
        if certificate is None:
            raise Http404
        if not self.has_view_permission(request, certificate):
            raise PermissionDenied
        return certificate

    def get_fieldsets(self, request: HttpRequest, obj: Certificate | None = None) -> Any:
        """Revocation is shown where there was one."""
        revoked = obj is not None and obj.status == CertificateStatus.REVOKED
        return [
            (title, options)
            for title, options in self.fieldsets
            if revoked or "revoked_at" not in options["fields"]
        ]

    @admin.display(description=_("name"), ordering="subject")
    def name_shown(self, certificate: Certificate) -> SafeString:
        return format_html('<span title="{}">{}</span>', certificate.subject, certificate.name)

    @admin.display(description=_("subject"))
    def subject_shown(self, certificate: Certificate) -> str:
        return certificate.subject or gettext("none")

    @admin.display(description=_("alternative names"))
    def names_shown(self, certificate: Certificate) -> str:
        return certificate.subject_alternative_name or gettext("none")

    @admin.display(description=_("serial number"), ordering="serial_number")
    def serial_number_short(self, certificate: Certificate) -> SafeString:
        number = certificate.serial_number
        shown = number if len(number) <= SHOWN_DIGITS else f"{number[:SHOWN_DIGITS]}…"
        return format_html('<code title="{}">{}</code>', number, shown)

    @admin.display(description=_("issued by"))
    def origin(self, certificate: Certificate) -> str:
        return gettext("another system") if certificate.foreign else gettext("this system")

    @admin.display(description=_("issuer"), ordering="issuer_key__issuer__name")
    def issuer(self, certificate: Certificate) -> SafeString | str:
        issuer = certificate.issuer_key.issuer
        return link_to("admin:pki_issuer_change", issuer.pk, issuer.name)

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, certificate: Certificate) -> SafeString:
        return code(grouped(certificate.sha256))

    @admin.display(description=_("SHA-256 of the public key"))
    def key_fingerprint(self, certificate: Certificate) -> SafeString:
        return code(grouped(certificate.public_key_sha256))

    @admin.display(description=_("key"))
    def key(self, certificate: Certificate) -> str:
        try:
            return describe(bytes(certificate.der)).key
        except Malformed:
            return "-"

    @admin.display(description=_("the key may be used for"))
    def key_usage(self, certificate: Certificate) -> str:
        try:
            return in_words(key_usages_of(bytes(certificate.der)) or (), KEY_USAGES)
        except Malformed:
            return "-"

    @admin.display(description=_("purposes in the certificate"))
    def extended_key_usage(self, certificate: Certificate) -> str:
        try:
            return in_words(describe(bytes(certificate.der)).extended_key_usage, EXTENDED_KEY_USAGES)
        except Malformed:
            return "-"

    @admin.display(description=_("addresses"))
    def places(self, certificate: Certificate) -> SafeString | str:
        """As they are in it: of another system's certificate they are no links of ours."""
        try:
            found = places_of(bytes(certificate.der))
        except Malformed:
            return "-"
        named = ((gettext("CRL"), found.crl), ("OCSP", found.ocsp), (gettext("issuer"), found.issuer))
        return lines(f"{name}: {', '.join(places)}" for name, places in named if places)

    @admin.display(description=_("as text"))
    def text(self, certificate: Certificate) -> SafeString | str:
        try:
            text = certificate_text(bytes(certificate.der))
        except Malformed:
            return "-"
        return format_html("<details><summary>{}</summary><pre>{}</pre></details>", gettext("show"), text)

    @admin.display(description=_("SCEP requests"))
    def requests(self, certificate: Certificate) -> SafeString | str:
        return link_to_list("admin:scep_transaction_changelist", "certificate__id__exact", certificate.pk)

    @admin.display(description=_("enrolment attempt"))
    def session(self, certificate: Certificate) -> SafeString | str:
        if certificate.binding is None:
            return "-"
        return link_to_list("admin:enrollment_enrollmentsession_changelist", "uuid", certificate.binding)

    @admin.display(description=_("renews"))
    def renewed_from_link(self, certificate: Certificate) -> SafeString | str:
        before = certificate.renewed_from
        return link_to("admin:pki_certificate_change", before.pk, str(before)) if before else "-"

    @admin.display(description=_("renewed by"))
    def renewed_by(self, certificate: Certificate) -> SafeString | str:
        return lines(
            link_to("admin:pki_certificate_change", row.pk, str(row)) for row in certificate.renewals.all()
        )

    @admin.display(description=_("download"))
    def downloads(self, certificate: Certificate) -> SafeString:
        return download_links("admin:pki_certificate_download", certificate.pk)


# --- CRLs ------------------------------------------------------------------------------------------------


@admin.register(Crl)
class CrlAdmin(ReadOnlyAdmin):
    list_display = ["number", "issuer_key", "this_update", "next_update", "entries"]
    list_filter = ["issuer_key__issuer"]
    list_select_related = ["issuer_key__issuer"]
    fieldsets = [
        (None, {"fields": ["issuer_key", "number", "entries", "this_update", "next_update", "size"]}),
        (_("Download"), {"fields": ["file"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Crl]:
        queryset: QuerySet[Crl] = super().get_queryset(request)
        return queryset.defer("der", "issuer_key__private_key_sealed")

    def get_urls(self) -> list[URLPattern]:
        download = self.admin_site.admin_view(self.download)
        return [path("<int:pk>/download.crl", download, name="pki_crl_download"), *super().get_urls()]

    def download(self, request: HttpRequest, pk: int) -> HttpResponse:
        """One published list, DER."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        crl = Crl.objects.select_related("issuer_key__issuer").filter(pk=pk).first()
        if crl is None:
            raise Http404
        name = f"{crl.issuer_key.issuer.slug}-{crl.issuer_key.generation}-{crl.number}.crl"
        return file_of(bytes(crl.der), "application/pkix-crl", name)

    @admin.display(description=_("size"))
    def size(self, crl: Crl) -> str:
        return gettext("%(count)d bytes") % {"count": len(bytes(crl.der))}

    @admin.display(description=_("file"))
    def file(self, crl: Crl) -> SafeString | str:
        return link_to("admin:pki_crl_download", crl.pk, "DER")


admin.site.register(Issuer, IssuerAdmin)
admin.site.register(CertificateProfile, ProfileAdmin)

__all__ = ["CertificateAdmin", "CrlAdmin", "signer_admin"]
