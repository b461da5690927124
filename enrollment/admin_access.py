"""Who may enrol, for administrators: codes, sign-in providers, blocked devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.db.models import F, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from audit.recording import Actor, record
from devices.models import Device
from enrollment import blocking, codes, openid
from enrollment.blocking import BlockRefused
from enrollment.codes import MAX_AT_ONCE, CodeRefused
from enrollment.core.access import MAX_CODE, MAX_IDENTIFIER
from enrollment.models import Access, BlockedDevice, EnrollmentCode, EnrollmentProfile, IdentityProvider
from enrollment.openid import SignInFailed

if TYPE_CHECKING:  # generic for the type checker only
    _CodeAdmin: TypeAlias = admin.ModelAdmin[EnrollmentCode]
    _ProviderAdmin: TypeAlias = admin.ModelAdmin[IdentityProvider]
    _BlockedAdmin: TypeAlias = admin.ModelAdmin[BlockedDevice]
    _ProviderForm: TypeAlias = forms.ModelForm[IdentityProvider]
else:
    _CodeAdmin = _ProviderAdmin = _BlockedAdmin = admin.ModelAdmin
    _ProviderForm = forms.ModelForm


def own_page(
    model_admin: Any, request: HttpRequest, template: str, title: str, form: forms.Form, **more: Any
) -> TemplateResponse:
    """A page of ours with one form, in the look of the admin."""
    fieldsets = [(None, {"fields": list(form.fields)})]
    return TemplateResponse(
        request,
        f"admin/enrollment/{template}",
        {
            **model_admin.admin_site.each_context(request),
            "opts": model_admin.opts,
            "title": title,
            "form": form,
            "adminform": AdminForm(form, fieldsets, {}, (), model_admin),  # type: ignore[arg-type]
            **more,
        },
    )


# --- Codes -----------------------------------------------------------------------------------------------


class MintForm(forms.Form):
    """One code for many people, or many codes for one person each."""

    profile = forms.ModelChoiceField(label=_("enrolment profile"), queryset=EnrollmentProfile.objects.all())
    count = forms.IntegerField(
        label=_("number of codes"),
        min_value=1,
        max_value=MAX_AT_ONCE,
        initial=1,
        help_text=_("A code for each person can be withdrawn for that person alone."),
    )
    max_uses = forms.IntegerField(
        label=_("devices for each code"),
        min_value=1,
        max_value=1_000_000,
        initial=1,
        required=False,
        help_text=_("How many downloads one code lets through. Empty: any number."),
    )
    expires_at = forms.SplitDateTimeField(
        label=_("expires"),
        required=False,
        widget=AdminSplitDateTime,
        help_text=_("Empty: never, until it is withdrawn."),
    )
    label = forms.CharField(
        label=_("for whom"),
        max_length=190,
        required=False,
        help_text=_("Whatever tells you later whom they are for. Several codes are numbered."),
    )
    chosen = forms.CharField(
        label=_("code of your own"),
        max_length=MAX_CODE,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        help_text=_(
            "At least 8 letters and digits. Empty: a random code, which nobody guesses. "
            "Case, spaces and hyphens do not matter."
        ),
    )


class CodeState(admin.SimpleListFilter):
    """Works, used up, expired, withdrawn."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("works", gettext("works")),
            ("used", gettext("used up")),
            ("expired", gettext("expired")),
            ("withdrawn", gettext("withdrawn")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        used, expired = Q(max_uses__isnull=False, uses__gte=F("max_uses")), Q(expires_at__lte=now)
        match self.value():
            case "works":
                return queryset.filter(withdrawn_at=None).exclude(used).exclude(expired)
            case "used":
                return queryset.filter(used)
            case "expired":
                return queryset.filter(expired)
            case "withdrawn":
                return queryset.exclude(withdrawn_at=None)
        return queryset


@admin.register(EnrollmentCode)
class EnrollmentCodeAdmin(_CodeAdmin):
    """Codes by state. What people type is shown once, where it is made, and never here."""

    list_display = ["whom", "profile", "state_shown", "used", "expires_at", "created_at", "created_by"]
    list_filter = [CodeState, "profile"]
    search_fields = ["label", "created_by"]
    search_help_text = _("For whom, who made it")
    list_select_related = ["profile"]
    show_full_result_count = False
    actions = ["withdraw"]
    fieldsets = [
        (None, {"fields": ["whom", "profile", "state_shown", "used", "sessions_link"]}),
        (_("When"), {"fields": ["created_at", "created_by", "expires_at", "withdrawn_at"]}),
    ]
    readonly_fields = ["created_at", "created_by"]

    def has_change_permission(self, request: HttpRequest, obj: EnrollmentCode | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: EnrollmentCode | None = None) -> bool:
        return False

    def has_withdraw_permission(self, request: HttpRequest) -> bool:
        """Asked by the action."""
        return request.user.has_perm("enrollment.change_enrollmentcode")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Make codes. The answer to the POST itself shows them: they are kept nowhere."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        wanted = request.GET.get("profile", "")
        initial = {"profile": wanted} if wanted.isdigit() else {}
        form = MintForm(request.POST or None, initial=initial)
        if request.method == "POST" and form.is_valid():
            values = form.cleaned_data
            try:
                minted = codes.mint(
                    values["profile"],
                    count=values["count"],
                    label=values["label"],
                    chosen=values["chosen"],
                    max_uses=values["max_uses"],
                    expires_at=values["expires_at"],
                    actor=Actor.of_request(request),
                    now=timezone.now(),
                )
            except CodeRefused as refused:
                form.add_error(None, refused.reason)
            else:
                return self._minted(request, form, values["profile"], minted)
        return own_page(
            self, request, "enrollmentcode/mint.html", gettext("Make enrolment codes"), form, media=self.media
        )

    def _minted(
        self, request: HttpRequest, form: forms.Form, profile: EnrollmentProfile, minted: list[Any]
    ) -> HttpResponse:
        return own_page(
            self,
            request,
            "enrollmentcode/minted.html",
            gettext("Enrolment codes"),
            form,
            minted=minted,
            profile=profile,
            needs_codes=profile.access == Access.CODE,
            page=reverse("enrollment:page", args=[profile.slug]),
        )

    @admin.action(description=_("Withdraw the chosen codes"), permissions=["withdraw"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[EnrollmentCode]) -> None:
        now = timezone.now()
        ended = sum(codes.withdraw(code, actor=Actor.of_request(request), now=now) for code in queryset)
        self.message_user(
            request,
            ngettext("%d code withdrawn.", "%d codes withdrawn.", ended) % ended,
            messages.SUCCESS if ended else messages.WARNING,
        )

    @admin.display(description=_("for whom"), ordering="label")
    def whom(self, code: EnrollmentCode) -> str:
        return str(code)

    @admin.display(description=_("state"))
    def state_shown(self, code: EnrollmentCode) -> SafeString:
        tone, word = "off", gettext("used up")
        if code.withdrawn_at is not None:
            word = gettext("withdrawn")
        elif code.max_uses is None or code.uses < code.max_uses:
            if code.expires_at is not None and code.expires_at <= timezone.now():
                word = gettext("expired")
            else:
                tone, word = "good", gettext("works")
        return format_html('<span class="badge tone-{}">{}</span>', tone, word)

    @admin.display(description=_("used"), ordering="uses")
    def used(self, code: EnrollmentCode) -> str:
        if code.max_uses is None:
            return ngettext("%d time", "%d times", code.uses) % code.uses
        return gettext("%(uses)d of %(most)d") % {"uses": code.uses, "most": code.max_uses}

    @admin.display(description=_("attempts"))
    def sessions_link(self, code: EnrollmentCode) -> SafeString | str:
        count = code.sessions.count()
        if not count:
            return "-"
        address = reverse("admin:enrollment_enrollmentsession_changelist")
        return format_html('<a href="{}?code__id__exact={}">{}</a>', address, code.pk, count)


# --- Sign-in providers -----------------------------------------------------------------------------------


class IdentityProviderForm(_ProviderForm):
    """The client's secret is written, never shown."""

    issuer = forms.URLField(
        label=_("issuer"),
        max_length=300,
        assume_scheme="https",
        help_text=IdentityProvider._meta.get_field("issuer").help_text,
    )
    client_secret = forms.CharField(
        label=_("client secret"),
        max_length=500,
        required=False,
        strip=True,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("Kept encrypted. Empty: the present one stays; a public client has none."),
    )

    class Meta:
        model = IdentityProvider
        fields = ["name", "issuer", "client_id", "client_secret", "groups_claim", "enabled"]

    def clean_issuer(self) -> str:
        issuer: str = self.cleaned_data["issuer"]
        try:
            openid.verify_address(issuer, issuer)
        except SignInFailed as failed:
            raise forms.ValidationError(gettext("It starts with https://, without a password.")) from failed
        return issuer

    def save(self, commit: bool = True) -> IdentityProvider:
        if secret := self.cleaned_data["client_secret"]:
            self.instance.client_secret_sealed = openid.seal_secret(self.instance, secret)
        return super().save(commit)


@admin.register(IdentityProvider)
class IdentityProviderAdmin(_ProviderAdmin):
    form = IdentityProviderForm
    list_display = ["name", "issuer", "enabled", "used_by"]
    search_fields = ["name", "issuer"]
    fieldsets = [
        (None, {"fields": ["name", "enabled"]}),
        (_("To register there"), {"fields": ["return_address"]}),
        (_("From there"), {"fields": ["issuer", "client_id", "client_secret", "groups_claim"]}),
    ]
    readonly_fields = ["return_address"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[IdentityProvider]:
        rows: QuerySet[IdentityProvider] = super().get_queryset(request)
        return rows.prefetch_related("profiles")

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                "<int:pk>/test/",
                self.admin_site.admin_view(self.test_view),
                name="enrollment_identityprovider_test",
            )
        ]
        return [*own, *super().get_urls()]

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return sensitive_post_parameters("client_secret")(super().changeform_view)(request, *args, **kwargs)

    def test_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask the provider what it says of itself."""
        provider = IdentityProvider.objects.filter(pk=pk).first()
        if provider is None:
            raise Http404
        if not self.has_change_permission(request, provider) or request.method != "POST":
            raise PermissionDenied
        try:
            known = openid.metadata(provider)
        except SignInFailed as failed:
            said = ": ".join(part for part in (failed.reason, failed.detail) if part)
            text = gettext("It does not answer as it should: %(why)s.") % {"why": said}
            self.message_user(request, text, messages.ERROR)
        else:
            text = gettext("It answers. People are sent to %(address)s.")
            self.message_user(request, text % {"address": known.authorization_endpoint}, messages.SUCCESS)
        return HttpResponseRedirect(reverse("admin:enrollment_identityprovider_change", args=[pk]))

    def save_model(self, request: HttpRequest, obj: IdentityProvider, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        record(
            "identity_provider.changed" if change else "identity_provider.created",
            actor=Actor.of_request(request),
            target=obj,
            details={"changed": list(form.changed_data)},
        )

    def delete_model(self, request: HttpRequest, obj: IdentityProvider) -> None:
        record("identity_provider.deleted", actor=Actor.of_request(request), target=obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[IdentityProvider]) -> None:
        for provider in queryset:
            self.delete_model(request, provider)

    @admin.display(description=_("return address"))
    def return_address(self, provider: IdentityProvider) -> SafeString:
        return format_html("<code>{}</code>", openid.return_address())

    @admin.display(description=_("used by"))
    def used_by(self, provider: IdentityProvider) -> SafeString | str:
        links = [
            (reverse("admin:enrollment_enrollmentprofile_change", args=[profile.pk]), profile.name)
            for profile in provider.profiles.all()
        ]
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "-"


# --- Blocked devices -------------------------------------------------------------------------------------


class BlockForm(forms.Form):
    """Which, and why."""

    identifiers = forms.CharField(
        label=_("serial numbers or UDIDs"),
        widget=forms.Textarea(attrs={"rows": 4}),
        max_length=50_000,
        help_text=_("One on each line. Case, spaces and hyphens do not matter."),
    )
    reason = forms.CharField(label=_("reason"), max_length=300, required=False)

    def clean_identifiers(self) -> list[str]:
        lines = [line.strip() for line in self.cleaned_data["identifiers"].splitlines() if line.strip()]
        for line in lines:
            if len(line) > 2 * MAX_IDENTIFIER:
                raise forms.ValidationError(gettext("“%(line)s” is too long.") % {"line": line[:40]})
        return lines


@admin.register(BlockedDevice)
class BlockedDeviceAdmin(_BlockedAdmin):
    """Devices that stay out, however they come."""

    list_display = ["identifier", "reason", "created_at", "created_by"]
    search_fields = ["identifier", "normal", "reason"]
    search_help_text = _("Serial number, UDID, reason")
    fields = ["identifier", "devices", "reason", "created_at", "created_by"]
    readonly_fields = ["devices"]
    actions = ["unblock"]

    def has_change_permission(self, request: HttpRequest, obj: BlockedDevice | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: BlockedDevice | None = None) -> bool:
        """Letting a device in again is an act with a name of its own."""
        return False

    def has_unblock_permission(self, request: HttpRequest) -> bool:
        """Asked by the action."""
        return request.user.has_perm("enrollment.delete_blockeddevice")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Block by what an administrator types or pastes."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = BlockForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            names, reason = form.cleaned_data["identifiers"], form.cleaned_data["reason"]
            try:
                blocked = blocking.block_all(
                    names, reason=reason, actor=Actor.of_request(request), now=timezone.now()
                )
            except BlockRefused as refused:
                form.add_error("identifiers", refused.reason)
            else:
                count = len(blocked)
                text = ngettext("%d device stays out.", "%d devices stay out.", count) % count
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:enrollment_blockeddevice_changelist"))
        return own_page(self, request, "blockeddevice/block.html", gettext("Block devices"), form)

    @admin.display(description=_("known here as"))
    def devices(self, blocked: BlockedDevice) -> SafeString | str:
        """The devices with this serial number or UDID, as devices themselves write them."""
        bare = blocked.identifier.replace("-", "").replace(" ", "")
        known = Device.objects.filter(
            Q(serial_number__iexact=bare) | Q(udid__iexact=blocked.identifier) | Q(udid__iexact=bare)
        )
        links = [(reverse("admin:devices_device_change", args=[row.pk]), str(row)) for row in known[:20]]
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "-"

    @admin.action(description=_("Let the chosen devices in again"), permissions=["unblock"])
    def unblock(self, request: HttpRequest, queryset: QuerySet[BlockedDevice]) -> None:
        count = blocking.unblock(queryset, actor=Actor.of_request(request), now=timezone.now())
        text = ngettext("%d device may enrol again.", "%d devices may enrol again.", count) % count
        self.message_user(request, text, messages.SUCCESS)
