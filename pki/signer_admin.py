"""Signers of profiles in the admin: who signs now, what devices make of it, and what a change would do."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
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
from pki import issuers, profile_signers, signer_outlook
from pki.admin_cells import certificate_file, code, download_links, lines
from pki.core.certificates import CertificateFacts, describe
from pki.models import Issuer, IssuerKind, IssuerState, ProfileSigner
from pki.profile_signers import SignerRefused
from pki.records import grouped

MAX_FILE = 256 * 1024


class SignerImportForm(forms.Form):
    """A certificate with its key and chain, as the tools of CAs give it."""

    file = forms.FileField(
        label=_("certificate file"),
        help_text=_("PKCS #12 (.p12, .pfx), or PEM with the certificate, its chain and the key."),
    )
    key = forms.FileField(
        label=_("key file"), required=False, help_text=_("Only where the key is in a file of its own.")
    )
    password = forms.CharField(
        label=_("password of the file"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
    )


class ChoiceForm(forms.Form):
    """Which of our issuers is to sign."""

    issuer = forms.ModelChoiceField(
        label=_("issuer"),
        queryset=Issuer.objects.filter(state=IssuerState.ACTIVE).exclude(kind=IssuerKind.TRUST_ONLY),
        help_text=_("Its signing certificate is made at the first use, and renewed by itself."),
    )


class UnderstoodForm(forms.Form):
    """The administrator has read what the change does."""

    understood = forms.BooleanField(label=_("I have read what this does, and want it"))


@admin.register(ProfileSigner)
class ProfileSignerAdmin(ReadOnlyAdmin):
    list_display = ["name_shown", "kind", "standing", "valid_until", "used_since"]
    list_display_links = ["name_shown"]
    list_select_related = ["issuer"]
    search_fields = ["subject", "issued_by", "sha256", "issuer__name"]
    fieldsets = [
        (None, {"fields": ["name_shown", "kind", "standing", "used_since", "used_until"]}),
        (
            _("Certificate"),
            {"fields": ["issued_by_shown", "fingerprint", "validity", "chain_shown", "downloads"]},
        ),
    ]
    readonly_fields = ["name_shown", "kind", "standing", "issued_by_shown", "fingerprint", "validity"]
    readonly_fields += ["chain_shown", "downloads"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ProfileSigner]:
        rows: QuerySet[ProfileSigner] = super().get_queryset(request).defer("private_key_sealed")
        return rows

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """One at a time, and not the one in use."""
        may = request.user.has_perm("pki.delete_profilesigner")
        return may and isinstance(obj, ProfileSigner) and not obj.in_use

    def delete_model(self, request: HttpRequest, obj: ProfileSigner) -> None:
        try:
            profile_signers.remove(obj, actor=Actor.of_request(request), now=timezone.now())
        except SignerRefused as refused:  # somebody let it sign meanwhile
            raise PermissionDenied(refused.reason) from refused

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("import/", view(self.import_page), name="pki_profilesigner_import"),
            path("use-issuer/", view(self.issuer_page), name="pki_profilesigner_use_issuer"),
            path("use-default/", view(self.default_page), name="pki_profilesigner_use_default"),
            path("<int:pk>/use/", view(self.use_page), name="pki_profilesigner_use"),
            path("<int:pk>/download.<str:form>", view(self.download), name="pki_profilesigner_download"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {
            "signs_now": signer_outlook.signs_now(timezone.now()),
            "is_default": profile_signers.in_use() is None,
            "may_change_signer": _may_change(request),
            "may_import_signer": request.user.has_perm("pki.add_profilesigner"),
            **(extra_context or {}),
        }
        return super().changelist_view(request, extra)

    def facts(self, request: HttpRequest, obj: ProfileSigner) -> dict[str, Any]:
        return {
            "outlook": signer_outlook.outlook(obj, timezone.now()),
            "may_change_signer": _may_change(request),
        }

    # --- pages

    @method_decorator(sensitive_post_parameters("password"))
    def import_page(self, request: HttpRequest) -> HttpResponse:
        """Bring a certificate with its key; it does not sign before that is chosen."""
        if not request.user.has_perm("pki.add_profilesigner"):
            raise PermissionDenied
        form: Any = SignerImportForm(*_sent(request))
        if request.method == "POST" and form.is_valid():
            key = form.cleaned_data["key"]
            try:
                signer = profile_signers.import_signer(
                    form.cleaned_data["file"].read(MAX_FILE + 1),
                    key=key.read(MAX_FILE + 1) if key else b"",
                    password=form.cleaned_data["password"],
                    actor=Actor.of_request(request),
                    now=timezone.now(),
                )
            except SignerRefused as refused:
                form.add_error("file", refused.reason)
            else:
                text = gettext("%(name)s is here. It does not sign yet.") % {"name": signer}
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:pki_profilesigner_change", args=[signer.pk]))
        return self._page(request, gettext("Import a signer of profiles"), form, button=gettext("Import"))

    def use_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Let one that is here sign, after its consequences were read."""
        signer = ProfileSigner.objects.select_related("issuer").filter(pk=pk).first()
        if signer is None:
            raise Http404
        now = timezone.now()
        return self._decide(
            request,
            signer_outlook.outlook(signer, now),
            lambda: profile_signers.use(signer, actor=Actor.of_request(request), now=now),
        )

    def issuer_page(self, request: HttpRequest) -> HttpResponse:
        """Which issuer of ours; then the same page as for every other."""
        if not _may_change(request):
            raise PermissionDenied
        chosen: Any = ChoiceForm(request.GET or None)
        if not request.GET or not chosen.is_valid():
            title = gettext("Let an issuer of ours sign profiles")
            return self._page(request, title, chosen, button=gettext("Go on"), method="get")
        issuer, now = chosen.cleaned_data["issuer"], timezone.now()
        return self._decide(
            request,
            signer_outlook.of_issuer(issuer, now),
            lambda: profile_signers.use_issuer(issuer, actor=Actor.of_request(request), now=now),
        )

    def default_page(self, request: HttpRequest) -> HttpResponse:
        """Back to what signs where nothing was chosen."""
        now = timezone.now()
        try:
            default = issuers.default_issuer()
        except issuers.IssuerMissing as missing:
            raise Http404 from missing
        return self._decide(
            request,
            signer_outlook.of_issuer(default, now),
            lambda: profile_signers.use_default(actor=Actor.of_request(request), now=now),
        )

    def _decide(self, request: HttpRequest, after: signer_outlook.Outlook, act: Any) -> HttpResponse:
        if not _may_change(request):
            raise PermissionDenied
        form: Any = UnderstoodForm(*_sent(request))
        if request.method == "POST" and form.is_valid():
            try:
                act()
            except SignerRefused as refused:
                form.add_error(None, refused.reason)
            else:
                text = gettext("Profiles are signed by %(name)s from now on.") % {"name": after.name}
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:pki_profilesigner_changelist"))
        before = signer_outlook.signs_now(timezone.now())
        more = {
            "before": before,
            "after": after,
            "statements": [*signer_outlook.change(before, after), *after.statements],
        }
        title = gettext("Let %(name)s sign profiles?") % {"name": after.name}
        return self._page(request, title, form, button=gettext("Let it sign"), **more)

    def download(self, request: HttpRequest, pk: int, form: str) -> HttpResponse:
        """The certificate alone, ``pem`` or ``der``; never the key."""
        signer = ProfileSigner.objects.filter(pk=pk).first()
        if signer is None or not signer.der:
            raise Http404
        if not self.has_view_permission(request, signer):
            raise PermissionDenied
        return certificate_file(bytes(signer.der), f"signer-{signer.sha256[:12]}", form)

    def _page(self, request: HttpRequest, title: str, form: Any, **more: Any) -> TemplateResponse:
        fieldsets = [(None, {"fields": list(form.fields)})]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "form": form,
            "adminform": AdminForm(form, fieldsets, {}, (), self),
            "has_file": form.is_multipart(),
            "method": "post",
            **more,
        }
        return TemplateResponse(request, "admin/pki/profilesigner/act.html", context)

    # --- cells

    @admin.display(description=_("signer"), ordering="subject")
    def name_shown(self, signer: ProfileSigner) -> str:
        return str(signer)

    @admin.display(description=_("kind"))
    def kind(self, signer: ProfileSigner) -> str:
        return gettext("issuer of ours") if signer.issuer else gettext("imported")

    @admin.display(description=_("state"))
    def standing(self, signer: ProfileSigner) -> SafeString:
        expired = signer.not_after is not None and signer.not_after <= timezone.now()
        tone, text = ("good", gettext("signs now")) if signer.in_use else ("info", gettext("not in use"))
        if expired:
            tone, text = "bad", gettext("expired")
        return format_html('<span class="badge tone-{}">{}</span>', tone, text)

    @admin.display(description=_("valid until"), ordering="not_after")
    def valid_until(self, signer: ProfileSigner) -> Any:
        return signer.not_after or gettext("renewed by itself")

    @admin.display(description=_("issued by"))
    def issued_by_shown(self, signer: ProfileSigner) -> str:
        facts = _facts(signer)
        return facts.issuer if facts else "-"

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, signer: ProfileSigner) -> SafeString | str:
        facts = _facts(signer)
        return code(grouped(facts.sha256)) if facts else gettext("made at the first use")

    @admin.display(description=_("valid"))
    def validity(self, signer: ProfileSigner) -> str:
        facts = _facts(signer)
        if facts is None:
            return "-"
        begin, end = (timezone.localtime(at) for at in (facts.not_before, facts.not_after))
        return f"{begin:%Y-%m-%d} – {end:%Y-%m-%d}"

    @admin.display(description=_("goes along"))
    def chain_shown(self, signer: ProfileSigner) -> SafeString | str:
        return lines(describe(der).subject for der in signer_outlook.outlook(signer, timezone.now()).chain)

    @admin.display(description=_("download"))
    def downloads(self, signer: ProfileSigner) -> SafeString | str:
        if not signer.der:
            return "-"
        return download_links("admin:pki_profilesigner_download", signer.pk)


def _facts(signer: ProfileSigner) -> CertificateFacts | None:
    return signer_outlook.outlook(signer, timezone.now()).facts


def _may_change(request: HttpRequest) -> bool:
    return request.user.has_perm("pki.change_profilesigner")


def _sent(request: HttpRequest) -> tuple[Any, Any]:
    """Fields and files of a form that was sent, even empty; nothing for one that is only opened."""
    return (request.POST, request.FILES) if request.method == "POST" else (None, None)
