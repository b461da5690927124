"""Issuers, certificates and CRLs for administrators. Rows are facts: nothing of them is edited here."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME, AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Model, OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit.admin import ReadOnlyAdmin, WhenFilter
from audit.recording import Actor, record
from pki import issuers, trust
from pki.core.certificates import describe, encode_pem
from pki.core.names import NameRefused, verify_name_value
from pki.core.scan import Malformed
from pki.keys import ALGORITHMS
from pki.models import (
    Certificate,
    CertificateStatus,
    Crl,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    Purpose,
    RevocationReason,
)
from pki.records import grouped, normal_hexadecimal
from pki.revocation import revoke_all

if TYPE_CHECKING:  # generic for the type checker only
    _IssuerAdmin: TypeAlias = admin.ModelAdmin[Issuer]
    _KeyInline: TypeAlias = admin.TabularInline[IssuerKey, Issuer]
    _IssuerForm: TypeAlias = forms.ModelForm[Issuer]
else:
    _IssuerAdmin = admin.ModelAdmin
    _KeyInline = admin.TabularInline
    _IssuerForm = forms.ModelForm

SHOWN_NAMES = 10
SHOWN_DIGITS = 12
MAX_LEAF_DAYS = 3653
MAX_CRL_DAYS = 90
MAX_UPLOAD = 1 << 20


# --- Certificates ----------------------------------------------------------------------------------------


class IssuedFilter(WhenFilter):
    title = _("issued")
    field_name = "created_at"


class ExpiryFilter(admin.SimpleListFilter):
    """Certificates in force by the time that is left to them."""

    title = _("expiry")
    parameter_name = "expiry"
    spans = {"30": 30, "90": 90}

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("valid", gettext("in force")),
            ("30", gettext("expires within 30 days")),
            ("90", gettext("expires within 90 days")),
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
    list_filter = ["status", "purpose", ExpiryFilter, IssuedFilter, "issuer_key__issuer", "foreign"]
    list_select_related = ["issuer_key__issuer"]
    search_fields = ["subject", "subject_alternative_name", "serial_number", "sha256"]
    search_help_text = _("Subject, serial number, SHA-256 fingerprint")
    actions = ["revoke"]
    fieldsets = [
        (None, {"fields": ["subject_shown", "names_shown", "status", "purpose", "issuer"]}),
        (_("Validity"), {"fields": ["not_before", "not_after"]}),
        (_("Revocation"), {"fields": ["revoked_at", "revocation_reason"]}),
        (_("Identification"), {"fields": ["serial_number", "fingerprint", "key", "key_fingerprint"]}),
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
        """Serial numbers and fingerprints are found as other programs write them: ``0a:1b:…``."""
        found, duplicates = super().get_search_results(request, queryset, search_term)
        wanted = normal_hexadecimal(search_term)
        if wanted and wanted != search_term:
            found |= queryset.filter(Q(serial_number=wanted) | Q(sha256=wanted.lower()))
        return found, duplicates

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

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        extra = {"may_revoke": self.has_revoke_permission(request), **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    def download(self, request: HttpRequest, pk: int, form: str) -> HttpResponse:
        """The certificate as PEM or DER."""
        certificate = self._certificate(request, pk)
        return _certificate_file(bytes(certificate.der), certificate.serial_number, form)

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
                actor=_actor(request),
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
        return _link("admin:pki_issuer_change", issuer.pk, issuer.name)

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, certificate: Certificate) -> SafeString:
        return _code(grouped(certificate.sha256))

    @admin.display(description=_("SHA-256 of the public key"))
    def key_fingerprint(self, certificate: Certificate) -> SafeString:
        return _code(grouped(certificate.public_key_sha256))

    @admin.display(description=_("key"))
    def key(self, certificate: Certificate) -> str:
        try:
            return describe(bytes(certificate.der)).key
        except Malformed:
            return "-"

    @admin.display(description=_("SCEP requests"))
    def requests(self, certificate: Certificate) -> SafeString | str:
        return _list_link("admin:scep_transaction_changelist", "certificate__id__exact", certificate.pk)

    @admin.display(description=_("enrolment attempt"))
    def session(self, certificate: Certificate) -> SafeString | str:
        if certificate.binding is None:
            return "-"
        return _list_link("admin:enrollment_enrollmentsession_changelist", "uuid", certificate.binding)

    @admin.display(description=_("renews"))
    def renewed_from_link(self, certificate: Certificate) -> SafeString | str:
        before = certificate.renewed_from
        return _link("admin:pki_certificate_change", before.pk, str(before)) if before else "-"

    @admin.display(description=_("renewed by"))
    def renewed_by(self, certificate: Certificate) -> SafeString | str:
        return _lines(
            _link("admin:pki_certificate_change", row.pk, str(row)) for row in certificate.renewals.all()
        )

    @admin.display(description=_("download"))
    def downloads(self, certificate: Certificate) -> SafeString:
        return format_html_join(
            " · ",
            '<a href="{}">{}</a>',
            (
                (reverse("admin:pki_certificate_download", args=[certificate.pk, form]), form.upper())
                for form in ("pem", "der")
            ),
        )


# --- Issuers ---------------------------------------------------------------------------------------------


class IssuerForm(_IssuerForm):
    """What may change of an issuer: how it is called, for what it is trusted, how long things are valid."""

    trusted_for = forms.MultipleChoiceField(
        label=_("trusted for"),
        choices=Purpose.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Certificates of this issuer are accepted for these purposes."),
    )
    leaf_validity_days = forms.IntegerField(
        label=_("days that a certificate is valid"), min_value=1, max_value=MAX_LEAF_DAYS
    )
    crl_validity_days = forms.IntegerField(
        label=_("days that a CRL is valid"), min_value=2, max_value=MAX_CRL_DAYS
    )

    class Meta:
        model = Issuer
        fields = ["name", "trusted_for", "leaf_validity_days", "crl_validity_days"]


class NewIssuerForm(_IssuerForm):
    """A new root of our own."""

    organization = forms.CharField(label=_("organisation"), max_length=64, required=False)
    algorithm = forms.ChoiceField(
        label=_("key"),
        choices=[(name, name) for name in ALGORITHMS],
        initial=issuers.DEFAULT_ALGORITHM,
        help_text=_("Devices that enrol by SCEP need an issuer with an RSA key."),
    )
    years = forms.IntegerField(
        label=_("years that its certificate is valid"), min_value=1, max_value=issuers.MAX_YEARS, initial=10
    )

    class Meta:
        model = Issuer
        fields = ["name", "slug"]

    def clean_name(self) -> str:
        return _certifiable(self.cleaned_data["name"])

    def clean_organization(self) -> str:
        organization: str = self.cleaned_data["organization"].strip()
        return _certifiable(organization) if organization else ""


class TrustForm(forms.Form):
    """A CA of another system, whose certificates devices present."""

    file = forms.FileField(
        label=_("certificate file"),
        help_text=_("The CA's certificate and those above it, PEM or DER. No private key is needed."),
    )
    purpose = forms.ChoiceField(label=_("trusted for"), choices=Purpose.choices, initial=Purpose.MDM_IDENTITY)
    name = forms.CharField(label=_("name"), max_length=200, required=False)


class IssuerKeyInline(_KeyInline):
    model = IssuerKey
    fields = ["generation", "state", "algorithm", "identifier", "activate_at", "created_at"]
    readonly_fields = ["generation", "state", "algorithm", "identifier", "activate_at", "created_at"]
    extra = 0
    verbose_name_plural = _("keys")

    def get_queryset(self, request: HttpRequest) -> QuerySet[IssuerKey]:
        return super().get_queryset(request).defer("private_key_sealed")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.display(description=_("key identifier"))
    def identifier(self, issuer_key: IssuerKey) -> SafeString:
        return _code(grouped(bytes(issuer_key.key_identifier).hex()))


@admin.register(Issuer)
class IssuerAdmin(_IssuerAdmin):
    form = IssuerForm
    list_display = ["name", "slug", "kind", "state", "valid_until", "crl_shown"]
    list_filter = ["kind", "state"]
    search_fields = ["name", "slug", "keys__certificates__subject", "keys__certificates__sha256"]
    inlines = [IssuerKeyInline]
    readonly_fields = ["slug", "kind", "state", "chain", "addresses", "crl", "counts", "created_at"]
    fieldsets = [
        (None, {"fields": ["name", "slug", "kind", "state", "created_at"]}),
        (_("Certificates"), {"fields": ["chain", "counts"]}),
        (_("For relying parties"), {"fields": ["addresses", "crl"]}),
        (_("Settings"), {"fields": ["trusted_for", "leaf_validity_days", "crl_validity_days"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Issuer]:
        """With what the list shows of each, in one query."""
        certificates = IssuerCertificate.objects.filter(
            issuer_key__issuer=OuterRef("pk"), issuer_key__state=IssuerKeyState.CURRENT, is_current=True
        )
        lists = Crl.objects.filter(
            issuer_key__issuer=OuterRef("pk"), issuer_key__state=IssuerKeyState.CURRENT
        ).order_by("-number")
        return (
            super()
            .get_queryset(request)
            .annotate(
                valid_until=Subquery(certificates.values("not_after")[:1]),
                crl_until=Subquery(lists.values("next_update")[:1]),
                crl_number=Subquery(lists.values("number")[:1]),
            )
        )

    def get_urls(self) -> list[URLPattern]:
        return [
            path("trust/", self.admin_site.admin_view(self.trust_view), name="pki_issuer_trust"),
            path(
                "certificate/<int:pk>/download.<str:form>",
                self.admin_site.admin_view(self.download),
                name="pki_issuer_download",
            ),
            *super().get_urls(),
        ]

    def get_form(
        self, request: HttpRequest, obj: Issuer | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        return super().get_form(request, obj, change, **({} if obj else {"form": NewIssuerForm}), **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Issuer | None = None) -> Any:
        if obj:
            return super().get_fieldsets(request, obj)
        return [(None, {"fields": ["name", "slug", "organization", "algorithm", "years"]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Issuer | None = None) -> Any:
        return self.readonly_fields if obj else []

    def get_prepopulated_fields(self, request: HttpRequest, obj: Issuer | None = None) -> Any:
        return {} if obj else {"slug": ["name"]}

    def get_inlines(self, request: HttpRequest, obj: Issuer | None) -> Any:
        return self.inlines if obj else []

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        extra = {"show_save_and_add_another": False, **(extra_context or {})}
        return super().changeform_view(request, object_id, form_url, extra)

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        """A new issuer is made as a whole by the use case; a refusal is shown at the form."""
        if change:
            return super().save_form(request, form, change)
        wanted = form.cleaned_data
        form.save_m2m = lambda: None
        return issuers.create_issuer(
            wanted["slug"],
            wanted["name"],
            organization=wanted["organization"],
            algorithm=wanted["algorithm"],
            years=wanted["years"],
            actor=_actor(request),
        )

    def save_model(self, request: HttpRequest, obj: Issuer, form: Any, change: bool) -> None:
        if not change:
            return
        before = Issuer.objects.filter(pk=obj.pk).values(*form.changed_data).first() or {}
        obj.save(update_fields=form.changed_data)
        changed = {name: {"before": before[name], "after": getattr(obj, name)} for name in form.changed_data}
        if changed:
            record("issuer.changed", actor=_actor(request), target=obj, details=changed)
            trust.forget_anchors()

    def trust_view(self, request: HttpRequest) -> HttpResponse:
        """Trust the CA of another system."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form: Any = TrustForm(request.POST or None, request.FILES or None)
        if request.method == "POST" and form.is_valid():
            try:
                issuer = trust.trust_issuer(
                    form.cleaned_data["file"].read(MAX_UPLOAD + 1),
                    purpose=Purpose(form.cleaned_data["purpose"]),
                    actor=_actor(request),
                    name=form.cleaned_data["name"],
                )
            except trust.TrustRefused as refused:
                form.add_error("file", refused.reason)
            else:
                self.message_user(
                    request, gettext("%(name)s is trusted.") % {"name": issuer.name}, messages.SUCCESS
                )
                return HttpResponseRedirect(reverse("admin:pki_issuer_change", args=[issuer.pk]))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Trust another CA"),
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": list(form.fields)})], {}, (), self),
        }
        return TemplateResponse(request, "admin/pki/issuer/trust.html", context)

    def download(self, request: HttpRequest, pk: int, form: str) -> HttpResponse:
        """A CA certificate as PEM or DER."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = IssuerCertificate.objects.select_related("issuer_key__issuer").filter(pk=pk).first()
        if row is None:
            raise Http404
        return _certificate_file(bytes(row.der), row.issuer_key.issuer.slug, form)

    @admin.display(description=_("valid until"), ordering="valid_until")
    def valid_until(self, issuer: Issuer) -> Any:
        return getattr(issuer, "valid_until", None)

    @admin.display(description=_("CRL"))
    def crl_shown(self, issuer: Issuer) -> str:
        number, until = getattr(issuer, "crl_number", None), getattr(issuer, "crl_until", None)
        if number is None or until is None:
            return "-"
        if until < timezone.now():
            return gettext("number %(number)d, overdue") % {"number": number}
        return gettext("number %(number)d") % {"number": number}

    @admin.display(description=_("certificates"))
    def chain(self, issuer: Issuer) -> SafeString | str:
        """Every certificate of every key with its fingerprint, to be compared with what devices show."""
        rows = (
            IssuerCertificate.objects.filter(issuer_key__issuer=issuer)
            .select_related("issuer_key")
            .defer("issuer_key__private_key_sealed")
            .order_by("-issuer_key__generation", "-is_current", "-not_after")
        )
        return _lines(_authority(row) for row in rows)

    @admin.display(description=_("addresses"))
    def addresses(self, issuer: Issuer) -> SafeString | str:
        if issuer.kind == IssuerKind.TRUST_ONLY:
            return "-"
        found = [(gettext("Certificate"), issuers.certificate_url(issuer))]
        found += [
            (gettext("CRL of key %(generation)d") % {"generation": key.generation}, issuers.crl_url(key))
            for key in issuer.keys.defer("private_key_sealed").select_related("issuer")
        ]
        return format_html_join("", '<div>{}: <a href="{}">{}</a></div>', ((n, u, u) for n, u in found))

    @admin.display(description=_("CRL"))
    def crl(self, issuer: Issuer) -> SafeString | str:
        newest: dict[int, Crl] = {}
        for row in Crl.objects.filter(issuer_key__issuer=issuer).defer("der").select_related("issuer_key"):
            newest.setdefault(row.issuer_key_id, row)
        return _lines(_list_state(row) for row in newest.values())

    @admin.display(description=_("issued"))
    def counts(self, issuer: Issuer) -> SafeString | str:
        now = timezone.now()
        count = Certificate.objects.filter(issuer_key__issuer=issuer).aggregate(
            all=Count("pk"),
            valid=Count("pk", filter=Q(status=CertificateStatus.ISSUED, not_after__gte=now)),
            revoked=Count("pk", filter=Q(status=CertificateStatus.REVOKED)),
        )
        text = gettext("%(all)d in all, %(valid)d in force, %(revoked)d revoked") % count
        address = reverse("admin:pki_certificate_changelist")
        return format_html('<a href="{}?issuer_key__issuer__id__exact={}">{}</a>', address, issuer.pk, text)


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
        return _file(bytes(crl.der), "application/pkix-crl", name)

    @admin.display(description=_("size"))
    def size(self, crl: Crl) -> str:
        return gettext("%(count)d bytes") % {"count": len(bytes(crl.der))}

    @admin.display(description=_("file"))
    def file(self, crl: Crl) -> SafeString | str:
        return _link("admin:pki_crl_download", crl.pk, "DER")


# --- Pieces ----------------------------------------------------------------------------------------------


def _actor(request: HttpRequest) -> Actor:
    return Actor.of_user(request.user, request.META.get("REMOTE_ADDR", ""))


def _certifiable(value: str) -> str:
    """What may stand in the name of a certificate."""
    try:
        verify_name_value(value)
    except NameRefused as refused:
        raise forms.ValidationError(
            gettext("It stands in the certificate, which cannot hold it: %(reason)s.")
            % {"reason": refused.reason}
        ) from refused
    return value


def _code(text: str) -> SafeString:
    return format_html("<code>{}</code>", text)


def _lines(lines: Any) -> SafeString | str:
    return format_html_join("", "<div>{}</div>", ((line,) for line in lines)) or "-"


def _link(view: str, pk: Any, text: str) -> SafeString | str:
    try:
        return format_html('<a href="{}">{}</a>', reverse(view, args=[pk]), text)
    except NoReverseMatch:
        return text


def _list_link(view: str, parameter: str, value: Any) -> SafeString | str:
    try:
        return format_html('<a href="{}?{}={}">{}</a>', reverse(view), parameter, value, gettext("show"))
    except NoReverseMatch:
        return str(value)


def _authority(row: IssuerCertificate) -> SafeString:
    return format_html(
        "<p><strong>{}</strong>{}<br>{}: {}<br>{}: <code>{}</code><br>{}: <code>{}</code><br>"
        '<a href="{}">PEM</a> · <a href="{}">DER</a></p>',
        row.subject,
        "" if row.is_current else gettext(" (replaced)"),
        gettext("valid until"),
        f"{row.not_after:%Y-%m-%d}",
        gettext("SHA-256 fingerprint"),
        grouped(row.sha256),
        gettext("serial number"),
        row.serial_number,
        reverse("admin:pki_issuer_download", args=[row.pk, "pem"]),
        reverse("admin:pki_issuer_download", args=[row.pk, "der"]),
    )


def _list_state(crl: Crl) -> SafeString | str:
    text = ngettext(
        "key %(generation)d: number %(number)d, %(entries)d entry, valid until %(until)s",
        "key %(generation)d: number %(number)d, %(entries)d entries, valid until %(until)s",
        crl.entries,
    ) % {
        "generation": crl.issuer_key.generation,
        "number": crl.number,
        "entries": crl.entries,
        "until": f"{crl.next_update:%Y-%m-%d %H:%M} UTC",
    }
    if crl.next_update < timezone.now():
        text = gettext("%(state)s: overdue, are the workers running?") % {"state": text}
    return _link("admin:pki_crl_change", crl.pk, text)


def _certificate_file(der: bytes, name: str, form: str) -> HttpResponse:
    if form == "pem":
        return _file(encode_pem(der).encode(), "application/x-pem-file", f"{name}.pem")
    if form == "der":
        return _file(der, "application/pkix-cert", f"{name}.cer")
    raise Http404


def _file(content: bytes, content_type: str, name: str) -> HttpResponse:
    return HttpResponse(
        content,
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )
