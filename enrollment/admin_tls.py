"""Roots for the server's TLS in the admin, and the page that says whether devices will trust this server."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from audit.admin import ReadOnlyAdmin
from audit.recording import Actor
from enrollment.elsewhere import elsewhere
from enrollment.models import EnrollmentProfile
from pki import issuers, server_tls
from pki.admin_cells import certificate_file, code, download_links
from pki.core.certificates import describe, encode_pem
from pki.models import Issuer, IssuerKind, IssuerState, TlsAnchor
from pki.records import grouped
from pki.server_tls import AnchorRefused

MAX_FILE = 256 * 1024


class RootForm(forms.Form):
    """A root from a file, from the clipboard, or one of our own."""

    file = forms.FileField(
        label=_("certificate file"),
        required=False,
        help_text=_("The root alone, PEM or DER. Not the server's own certificate, and no private key."),
    )
    text = forms.CharField(
        label=_("or as text"),
        required=False,
        max_length=MAX_FILE,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
        help_text=_("Starts with -----BEGIN CERTIFICATE-----"),
    )
    issuer = forms.ModelChoiceField(
        label=_("or the root of"),
        required=False,
        queryset=Issuer.objects.exclude(kind=IssuerKind.TRUST_ONLY).filter(state=IssuerState.ACTIVE),
        help_text=_("For a proxy whose certificate one of our issuers made."),
    )
    name = forms.CharField(
        label=_("name"),
        max_length=200,
        required=False,
        help_text=_("Empty: what the certificate calls itself."),
    )

    def clean(self) -> dict[str, Any]:
        """Exactly one of the three, as bytes under ``data``."""
        cleaned: dict[str, Any] = super().clean() or {}
        given = [name for name in ("file", "text", "issuer") if cleaned.get(name)]
        if len(given) != 1:
            raise forms.ValidationError(gettext("Give a file, a text or an issuer: one of the three."))
        if file := cleaned.get("file"):
            cleaned["data"] = file.read(MAX_FILE + 1)
        elif issuer := cleaned.get("issuer"):
            cleaned["data"] = encode_pem(issuers.chain(issuer)[-1]).encode()
        else:
            cleaned["data"] = cleaned["text"].encode()
        return cleaned


class RemovalForm(forms.Form):
    """The administrator has read what will happen."""

    understood = forms.BooleanField(label=_("I have read what this does, and want it"))


@admin.register(TlsAnchor)
class TlsAnchorAdmin(ReadOnlyAdmin):
    list_display = ["name", "not_after", "fingerprint_short", "created_at"]
    search_fields = ["name", "subject", "sha256"]
    fieldsets = [
        (None, {"fields": ["name", "subject", "fingerprint", "not_after", "created_at", "downloads"]}),
        (_("Enrolment profiles"), {"fields": ["carried_by"]}),
    ]
    readonly_fields = ["fingerprint", "downloads", "carried_by"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[TlsAnchor]:
        rows: QuerySet[TlsAnchor] = super().get_queryset(request).defer("der")
        return rows

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("check/", view(self.check_page), name="pki_tlsanchor_check"),
            path("add-root/", view(self.add_page), name="pki_tlsanchor_add_root"),
            path("<int:pk>/remove/", view(self.remove_page), name="pki_tlsanchor_remove"),
            path("<int:pk>/download.<str:form>", view(self.download), name="pki_tlsanchor_download"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {
            "may_add_root": request.user.has_perm("pki.add_tlsanchor"),
            "besides": _besides(),
            **(extra_context or {}),
        }
        return super().changelist_view(request, extra)

    def facts(self, request: HttpRequest, obj: TlsAnchor) -> dict[str, Any]:
        return {"may_remove": request.user.has_perm("pki.delete_tlsanchor")}

    # --- pages

    def check_page(self, request: HttpRequest) -> HttpResponse:
        """Open the public addresses, on request only: a page that is merely looked at connects to nothing."""
        # Here, not above: it brings pyOpenSSL, which no other page needs.
        from enrollment import tls_check

        if not self.has_view_permission(request):
            raise PermissionDenied
        checks = None
        if request.method == "POST":
            now = timezone.now()
            checks = tls_check.check_all(now=now, away=lambda: elsewhere(request))
        return self._page(
            request,
            "check.html",
            gettext("Will devices trust this server?"),
            {"addresses": tls_check.addresses(), "checks": checks, "checked_at": timezone.now()},
        )

    def add_page(self, request: HttpRequest) -> HttpResponse:
        """One more root for every enrolment profile."""
        if not request.user.has_perm("pki.add_tlsanchor"):
            raise PermissionDenied
        form: Any = RootForm(*_sent(request))
        if request.method == "POST" and form.is_valid():
            try:
                row = server_tls.add_anchor(
                    form.cleaned_data["data"],
                    name=form.cleaned_data["name"].strip(),
                    actor=Actor.of_request(request),
                    now=timezone.now(),
                )
            except AnchorRefused as refused:
                form.add_error(None, refused.reason)
            else:
                text = gettext("Enrolment profiles carry %(name)s from now on.") % {"name": row.name}
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:pki_tlsanchor_change", args=[row.pk]))
        return self._page(request, "add_root.html", gettext("Add a root for TLS"), {}, form)

    def remove_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Take a root out of later profiles; what the server shows now is looked at first."""
        from enrollment import tls_check

        row = TlsAnchor.objects.filter(pk=pk).first()
        if row is None:
            raise Http404
        if not request.user.has_perm("pki.delete_tlsanchor"):
            raise PermissionDenied
        form: Any = RemovalForm(*_sent(request))
        if request.method == "POST" and form.is_valid():
            server_tls.remove_anchor(row, actor=Actor.of_request(request), now=timezone.now())
            text = gettext("Later profiles do not carry %(name)s.") % {"name": row.name}
            self.message_user(request, text, messages.SUCCESS)
            return HttpResponseRedirect(reverse("admin:pki_tlsanchor_changelist"))
        now = timezone.now()
        checks = tls_check.check_all(now=now, away=lambda: elsewhere(request))
        needed_at = [check.url for check in checks if check.root_sha256 == row.sha256]
        more = {
            "root": row,
            "needed_at": needed_at,
            "unseen": [check.url for check in checks if not check.shown],
            "pinned": EnrollmentProfile.objects.filter(pin_tls=True),
        }
        return self._page(
            request, "remove.html", gettext("Remove %(name)s?") % {"name": row.name}, more, form
        )

    def download(self, request: HttpRequest, pk: int, form: str) -> HttpResponse:
        """The certificate: ``pem`` or ``der``."""
        row = TlsAnchor.objects.filter(pk=pk).first()
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return certificate_file(bytes(row.der), f"root-{row.sha256[:12]}", form)

    def _page(
        self, request: HttpRequest, template: str, title: str, more: dict[str, Any], form: Any = None
    ) -> TemplateResponse:
        context = {**self.admin_site.each_context(request), "opts": self.opts, "title": title, **more}
        if form is not None:
            fieldsets = [(None, {"fields": list(form.fields)})]
            context |= {"form": form, "adminform": AdminForm(form, fieldsets, {}, (), self)}
        return TemplateResponse(request, f"admin/pki/tlsanchor/{template}", context)

    # --- cells

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, row: TlsAnchor) -> SafeString:
        return code(grouped(row.sha256))

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint_short(self, row: TlsAnchor) -> SafeString:
        return format_html('<code title="{}">{}…</code>', grouped(row.sha256), grouped(row.sha256[:16]))

    @admin.display(description=_("download"))
    def downloads(self, row: TlsAnchor) -> SafeString:
        return download_links("admin:pki_tlsanchor_download", row.pk)

    @admin.display(description=_("carried by"))
    def carried_by(self, row: TlsAnchor) -> SafeString | str:
        """All of them; which of them pin it."""
        profiles = EnrollmentProfile.objects.order_by("name")
        return (
            format_html_join(
                "",
                '<div><a href="{}">{}</a>{}</div>',
                (
                    (
                        reverse("admin:enrollment_enrollmentprofile_change", args=[profile.pk]),
                        profile.name,
                        ": " + gettext("only such roots count") if profile.pin_tls else "",
                    )
                    for profile in profiles
                ),
            )
            or "-"
        )


def _besides() -> list[Any]:
    """The roots that go along without a row: that of our own TLS, and those of ``BRAMLEY_TLS_CA_FILE``."""
    try:
        found = server_tls.anchors()
    except issuers.IssuerMissing:
        return []
    rows = set(TlsAnchor.objects.values_list("sha256", flat=True))
    return [facts for facts in map(describe, found) if facts.sha256 not in rows]


def _sent(request: HttpRequest) -> tuple[Any, Any]:
    """Fields and files of a form that was sent, even empty; nothing for one that is only opened."""
    return (request.POST, request.FILES) if request.method == "POST" else (None, None)
