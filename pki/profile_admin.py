"""Certificate profiles for administrators: what certificates for a purpose hold, with a sample beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from django.contrib import admin
from django.contrib.admin.helpers import AdminErrorList, AdminForm
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor
from pki import profile_records, profiles
from pki.core.profile import BUILT_IN, Rules
from pki.models import CertificateProfile, Issuer, Purpose
from pki.profile_forms import ProfileForm
from pki.profile_preview import PreviewRefused, Sample, sample

if TYPE_CHECKING:  # generic for the type checker only
    _Admin: TypeAlias = admin.ModelAdmin[CertificateProfile]
else:
    _Admin = admin.ModelAdmin

_RULE_FIELDS = [name for name in ProfileForm.Meta.fields if name not in ("purpose", "issuer")]


class ProfileAdmin(_Admin):
    form = ProfileForm
    list_display = ["purpose", "issuer_shown", "days_shown", "usage_shown", "key_shown"]
    list_display_links = ["purpose"]
    list_select_related = ["issuer"]
    show_full_result_count = False
    fieldsets = [
        (None, {"fields": ["purpose", "issuer", "validity_days"]}),
        (_("Key"), {"fields": ["min_rsa_bits", "ec_allowed", "key_usage", "extended_key_usage"]}),
        (
            _("Name"),
            {"fields": ["subject_attributes", "organization", "organizational_unit", "country"]},
        ),
        (_("Alternative names"), {"fields": ["alternative_names"]}),
        (_("Addresses"), {"fields": ["crl_address", "authority_address"]}),
    ]

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "built-in/<slug:purpose>/",
                self.admin_site.admin_view(self.built_in_view),
                name="pki_certificateprofile_built_in",
            ),
            *super().get_urls(),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: CertificateProfile | None = None) -> list[str]:
        """What a profile is for stays: make another one for another purpose."""
        return ["purpose", "issuer_shown"] if obj else []

    def get_fieldsets(self, request: HttpRequest, obj: CertificateProfile | None = None) -> Any:
        if obj is None:
            return self.fieldsets
        return [(None, {"fields": ["purpose", "issuer_shown", "validity_days"]}), *self.fieldsets[1:]]

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_dbfield(db_field, request, **kwargs)
        for name in ("can_add_related", "can_change_related", "can_view_related"):
            if hasattr(field.widget, name):  # issuers have pages of their own
                setattr(field.widget, name, False)
        return field

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """A new profile starts with what holds now for its purpose."""
        purpose = _purpose(request.GET.get("purpose", "")) or Purpose.MDM_IDENTITY
        start = profiles.new_profile(purpose)
        return {name: getattr(start, name) for name in ("purpose", *_RULE_FIELDS)}

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With the purposes for which the built-in rules hold."""
        ruled = set(CertificateProfile.objects.filter(issuer=None).values_list("purpose", flat=True))
        built_in = [(purpose, _summary(BUILT_IN[purpose])) for purpose in Purpose if purpose not in ruled]
        return super().changelist_view(request, {"built_in": built_in, **(extra_context or {})})

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        extra = {"show_save_and_add_another": False, "show_save_and_continue": False, **(extra_context or {})}
        if request.method == "POST" and "_preview" in request.POST:
            return self._preview_view(request, object_id, extra)
        if object_id is not None and request.method == "GET":
            profile = self.get_object(request, object_id)
            if profile is not None and self.has_view_permission(request, profile):
                extra.update(_shown(profiles.rules_of(profile), profile.issuer))
        return super().changeform_view(request, object_id, form_url, extra)

    def _preview_view(
        self, request: HttpRequest, object_id: str | None, extra: dict[str, Any]
    ) -> HttpResponse:
        """The form as it was filled in, and a sample by it. Nothing is stored."""
        profile = self.get_object(request, object_id) if object_id else None
        if object_id and profile is None:
            raise Http404
        allowed = (
            self.has_change_permission(request, profile) if profile else self.has_add_permission(request)
        )
        if not allowed:
            raise PermissionDenied
        form: Any = self.get_form(request, profile, change=profile is not None)(
            request.POST, instance=profile or CertificateProfile()
        )
        if form.is_valid():
            extra = {
                **extra,
                **_shown(profiles.rules_of(form.instance), form.instance.issuer),
                "unsaved": True,
            }
        fieldsets: Any = self.get_fieldsets(request, profile)
        readonly = self.get_readonly_fields(request, profile)
        adminform = AdminForm(form, fieldsets, {}, readonly, model_admin=self)
        title = gettext("Change %s") if profile else gettext("Add %s")
        context = {
            **self.admin_site.each_context(request),
            "title": title % self.opts.verbose_name,
            "adminform": adminform,
            "object_id": object_id,
            "original": profile,
            "is_popup": False,
            "to_field": None,
            "media": self.media + adminform.media,
            "inline_admin_formsets": [],
            "errors": AdminErrorList(form, []),
            "preserved_filters": self.get_preserved_filters(request),
            **extra,
        }
        return self.render_change_form(
            request, context, add=profile is None, change=profile is not None, obj=profile
        )

    def built_in_view(self, request: HttpRequest, purpose: str) -> HttpResponse:
        """A sample by the rules that hold where there is no profile."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        known = _purpose(purpose)
        if known is None:
            raise Http404
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("%(purpose)s: the built-in rules")
            % {"purpose": f"{str(known.label)[:1].upper()}{str(known.label)[1:]}"},
            "purpose": known,
            "may_add": self.has_add_permission(request),
            **_shown(BUILT_IN[known], None),
        }
        return TemplateResponse(request, "admin/pki/certificateprofile/built_in.html", context)

    # --- keeping it ---

    def save_model(self, request: HttpRequest, obj: CertificateProfile, form: Any, change: bool) -> None:
        profile_records.save(obj, form.changed_data, new=not change, actor=Actor.of_request(request))

    def delete_model(self, request: HttpRequest, obj: CertificateProfile) -> None:
        profile_records.remove(obj, actor=Actor.of_request(request))

    def get_actions(self, request: HttpRequest) -> Any:
        """One by one: each removal brings other rules into force."""
        return {}

    # --- cells ---

    @admin.display(description=_("holds at"), ordering="issuer__name")
    def issuer_shown(self, profile: CertificateProfile) -> str:
        return profile.issuer.name if profile.issuer else gettext("every issuer")

    @admin.display(description=_("valid for"), ordering="validity_days")
    def days_shown(self, profile: CertificateProfile) -> str:
        return _days(profile.validity_days)

    @admin.display(description=_("purposes in the certificate"))
    def usage_shown(self, profile: CertificateProfile) -> str:
        return ", ".join(profile.extended_key_usage) or gettext("no purpose named")

    @admin.display(description=_("keys"))
    def key_shown(self, profile: CertificateProfile) -> str:
        return _keys(profiles.rules_of(profile))


def _shown(rules: Rules, issuer: Issuer | None) -> dict[str, Sample | str]:
    try:
        return {"sample": sample(rules, issuer, now=timezone.now())}
    except PreviewRefused as refused:
        return {"no_sample": refused.reason}


def _purpose(value: str) -> Purpose | None:
    return Purpose(value) if value in Purpose.values else None


def _summary(rules: Rules) -> str:
    usages = ", ".join(rules.extended_key_usage) or gettext("no purpose named")
    return f"{usages}; {_days(rules.validity_days)}; {_keys(rules)}"


def _days(days: int | None) -> str:
    return gettext("%(days)d days") % {"days": days} if days else gettext("as the issuer says")


def _keys(rules: Rules) -> str:
    text = (
        gettext("RSA from %(bits)d bits, elliptic curves")
        if rules.ec_allowed
        else gettext("RSA from %(bits)d bits")
    )
    return text % {"bits": rules.min_rsa_bits}
