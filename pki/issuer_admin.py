"""The pages of an issuer: its certificates, keys and lists, and what may be done with them."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor, record
from pki import issuer_page, issuers, subordinate, trust
from pki.admin_cells import certificate_file, lines, link_to
from pki.issuer_forms import MAX_UPLOAD, IssuerForm, NewIssuerForm, TrustForm
from pki.issuer_life import LifePages
from pki.models import (
    Crl,
    Issuer,
    IssuerCertificate,
    IssuerKeyState,
    IssuerKind,
    Purpose,
)
from pki.records import grouped


class IssuerAdmin(LifePages):
    form = IssuerForm
    list_display = ["name", "slug", "kind", "state", "valid_until", "crl_shown"]
    list_filter = ["kind", "state"]
    search_fields = ["name", "slug", "keys__certificates__subject", "keys__certificates__sha256"]
    readonly_fields = ["slug", "kind", "state", "parent", "chain", "addresses", "crl", "created_at"]
    fieldsets = [
        (None, {"fields": ["name", "slug", "kind", "parent", "state", "created_at"]}),
        (_("All certificates of its keys"), {"fields": ["chain"]}),
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
        issuers: QuerySet[Issuer] = super().get_queryset(request)
        return issuers.annotate(
            valid_until=Subquery(certificates.values("not_after")[:1]),
            crl_until=Subquery(lists.values("next_update")[:1]),
            crl_number=Subquery(lists.values("number")[:1]),
        )

    def get_urls(self) -> list[URLPattern]:
        return [
            path("trust/", self.admin_site.admin_view(self.trust_view), name="pki_issuer_trust"),
            path(
                "certificate/<int:pk>/download.<str:form>",
                self.admin_site.admin_view(self.download),
                name="pki_issuer_download",
            ),
            *self.life_urls(),
            *super().get_urls(),
        ]

    def get_form(
        self, request: HttpRequest, obj: Issuer | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        return super().get_form(request, obj, change, **({} if obj else {"form": NewIssuerForm}), **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Issuer | None = None) -> Any:
        if obj:
            return super().get_fieldsets(request, obj)
        names = ["kind", "parent", "name", "slug", "organization", "algorithm", "years", "key_location"]
        return [(None, {"fields": names})]

    def get_readonly_fields(self, request: HttpRequest, obj: Issuer | None = None) -> Any:
        return self.readonly_fields if obj else []

    def get_prepopulated_fields(self, request: HttpRequest, obj: Issuer | None = None) -> Any:
        return {} if obj else {"slug": ["name"]}

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
        try:
            return super().changeform_view(request, object_id, form_url, extra)
        except issuers.IssuerRefused as refused:
            # What the form cannot know: somebody was faster, the parent has ended, the token is away.
            self.message_user(request, refused.reason, messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def facts(self, request: HttpRequest, obj: Issuer) -> dict[str, Any]:
        """The page of the CA above its settings."""
        may_change = self.has_change_permission(request, obj)
        return {"page": issuer_page.page_of(obj, timezone.now(), may_change=may_change)}

    def save_form(self, request: HttpRequest, form: Any, change: bool) -> Any:
        """A new issuer is made as a whole by the use case."""
        if change:
            return super().save_form(request, form, change)
        form.save_m2m = lambda: None
        return _make_issuer(request, form.cleaned_data)

    def save_model(self, request: HttpRequest, obj: Issuer, form: Any, change: bool) -> None:
        if not change:
            return
        before = Issuer.objects.filter(pk=obj.pk).values(*form.changed_data).first() or {}
        obj.save(update_fields=form.changed_data)
        changed = {name: {"before": before[name], "after": getattr(obj, name)} for name in form.changed_data}
        if changed:
            record("issuer.changed", actor=Actor.of_request(request), target=obj, details=changed)
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
                    actor=Actor.of_request(request),
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
        return certificate_file(bytes(row.der), row.issuer_key.issuer.slug, form)

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
        return lines(_authority(row) for row in rows)

    @admin.display(description=_("addresses"))
    def addresses(self, issuer: Issuer) -> SafeString | str:
        if issuer.kind == IssuerKind.TRUST_ONLY:
            return "-"
        found = [
            (gettext("Certificate"), issuers.certificate_url(issuer)),
            ("OCSP", issuers.ocsp_url(issuer)),
        ]
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
        return lines(_list_state(row) for row in newest.values())


def _make_issuer(request: HttpRequest, wanted: dict[str, Any]) -> Issuer:
    common: dict[str, Any] = {
        "organization": wanted["organization"],
        "algorithm": wanted["algorithm"],
        "key_location": wanted["key_location"].strip(),
        "actor": Actor.of_request(request),
        "now": timezone.now(),
    }
    if wanted["kind"] == IssuerKind.SUBORDINATE:
        return subordinate.create_subordinate(
            wanted["slug"], wanted["name"], parent=wanted["parent"], years=wanted["years"], **common
        )
    if wanted["kind"] == IssuerKind.EXTERNAL:
        return subordinate.create_external(wanted["slug"], wanted["name"], **common)
    return issuers.create_issuer(wanted["slug"], wanted["name"], years=wanted["years"], **common)


def _authority(row: IssuerCertificate) -> SafeString:
    return format_html(
        "<p><strong>{}</strong> ({})<br>{}: {}<br>{}: <code>{}</code><br>{}: <code>{}</code><br>"
        '<a href="{}">PEM</a> · <a href="{}">DER</a></p>',
        row.subject,
        _what_it_is(row),
        gettext("valid until"),
        f"{row.not_after:%Y-%m-%d}",
        gettext("SHA-256 fingerprint"),
        grouped(row.sha256),
        gettext("serial number"),
        row.serial_number,
        reverse("admin:pki_issuer_download", args=[row.pk, "pem"]),
        reverse("admin:pki_issuer_download", args=[row.pk, "der"]),
    )


def _what_it_is(row: IssuerCertificate) -> str:
    """Of which key, and whether it is the one handed out, one that a renewal replaced, or a link."""
    kind = row.get_kind_display()
    if row.kind in issuers.OWN_KINDS and not row.is_current:
        kind = gettext("replaced")
    if row.revoked_at:
        kind = gettext("%(kind)s, revoked") % {"kind": kind}
    return gettext("key %(generation)d, %(kind)s") % {
        "generation": row.issuer_key.generation,
        "kind": kind,
    }


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
    return link_to("admin:pki_crl_change", crl.pk, text)
