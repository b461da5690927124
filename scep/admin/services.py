"""SCEP services: the rules of each address, explained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from audit import recording
from audit.admin import RowPageAdmin
from audit.recording import Actor
from pki import issuers
from pki.core.certificates import describe
from pki.models import Issuer, IssuerKind
from scep import approvals, recipients, services, webhooks
from scep.core import capabilities, webhook
from scep.core.webhook import AddressRefused
from scep.models import ApprovalChoice, Mode, ScepService

if TYPE_CHECKING:  # generic for the type checker only
    _Form: TypeAlias = forms.ModelForm[ScepService]
else:
    _Form = forms.ModelForm

KEYWORDS = {
    "AES": _("AES: encrypted with AES, as everything current does"),
    "DES3": _("DES3: encrypted with triple DES. Old routers and printers know nothing else"),
    "POSTPKIOperation": _("POSTPKIOperation: messages by POST"),
    "Renewal": _("Renewal: a certificate in force renews itself, without a challenge"),
    "GetNextCACert": _("GetNextCACert: the next CA certificate is announced before it is used"),
    "SHA-256": _("SHA-256: signed with SHA-256"),
    "SHA-384": _("SHA-384: signed with SHA-384. strongSwan 5.9 uses AES only where this is listed"),
    "SHA-512": _("SHA-512: signed with SHA-512, which Apple devices prefer"),
}


MODES_SHORT = {Mode.BOUND: _("made here"), Mode.WEBHOOK: _("webhook"), Mode.NONE: _("none")}
APPROVAL_SHORT = {
    ApprovalChoice.NEVER: _("no"),
    ApprovalChoice.WITHOUT_CHALLENGE: _("without challenge"),
    ApprovalChoice.ALWAYS: _("all"),
}


class ServiceForm(_Form):
    """Every switch says what it is for; the defaults are right for Apple devices."""

    capabilities = forms.MultipleChoiceField(
        label=_("what clients may use"),
        choices=[(keyword, KEYWORDS[keyword]) for keyword in capabilities.KEYWORDS],
        widget=forms.CheckboxSelectMultiple,
        help_text=_("What is checked is told to clients; what is not is refused, whoever asks."),
    )

    class Meta:
        model = ScepService
        fields = [
            "slug",
            "issuer",
            "enabled",
            "challenge_mode",
            "webhook_url",
            "approval",
            "pending_days",
            "purpose",
            "validity_days",
            "proposal",
            "renewal_window_days",
            "ca_form",
            "ra_certificate",
            "capabilities",
            "accept_sha1",
            "allow_get",
            "clock_minutes",
        ]
        help_texts = {
            "challenge_mode": _(
                "Challenges made here are good once, for one certificate whose contents are decided when the "
                "challenge is made. Enrolment profiles need these."
            ),
            "webhook_url": _(
                "For “another system is asked”: it gets the challenge and the request, and answers whether "
                "and what to issue. https; addresses inside your network have to be allowed by "
                "BRAMLEY_WEBHOOK_NETWORKS."
            ),
            "approval": _(
                "A request that waits is in the list “Waiting for approval”; the client asks again by "
                "itself. Apple devices give up after half a minute: for them approve the enrolment, not the "
                "request."
            ),
            "pending_days": _("Then the request is refused, and the client has to ask anew."),
            "purpose": _(
                "Of certificates that an administrator or another system allows. A device identity may "
                "enrol for management. Challenges made here name their own purpose."
            ),
            "validity_days": _("Empty: as the issuer says."),
            "proposal": _(
                "The names in a request are claims: nothing of them is issued that you do not approve."
            ),
            "renewal_window_days": _("Empty: at any time. A certificate renews itself once."),
            "ca_form": _("Apple devices want the certificate alone; certmonger wants the chain."),
            "ra_certificate": _(
                "Messages are decrypted and signed by a certificate of the service's own instead of the CA's "
                "key, made and renewed by itself. So it is anyway where the CA's key is in a token or on an "
                "elliptic curve. Apple devices are content with either."
            ),
            "accept_sha1": _("For clients of before 2017. Nobody is invited to use it."),
            "allow_get": _("certmonger and old clients send their messages by GET."),
            "clock_minutes": _("Empty: not looked at. New devices often have wrong clocks."),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "issuer" in self.fields:
            own = Issuer.objects.exclude(kind=IssuerKind.TRUST_ONLY)
            self.fields["issuer"].queryset = own  # type: ignore[attr-defined]
        for name, most in services.LIMITS.items():
            if name in self.fields:
                field = self.fields[name]
                field.widget.attrs.update(min=1, max=most)
                field.validators.append(_between(1, most))

    def clean_webhook_url(self) -> str:
        url: str = self.cleaned_data["webhook_url"].strip()
        if url:
            try:
                webhook.decode_address(url)
            except AddressRefused as refused:
                raise ValidationError(str(refused)) from None
        return url

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        issuer = cleaned.get("issuer") or (self.instance.issuer if self.instance.pk else None)
        slug = cleaned.get("slug") or self.instance.slug
        if issuer is not None and slug:
            try:
                services.verify(slug, issuer)
            except services.ServiceRefused as refused:
                raise ValidationError(refused.reason) from None
        return cleaned


@admin.register(ScepService)
class ScepServiceAdmin(RowPageAdmin):
    """Services are made and turned off, never deleted: their history stays."""

    form = ServiceForm
    list_display = ["slug", "issuer", "enabled", "challenge", "wait", "waiting", "address"]
    list_filter = ["enabled", "challenge_mode", "issuer"]
    list_select_related = ["issuer"]
    search_fields = ["slug", "issuer__name"]
    actions = None
    fieldsets = [
        (None, {"fields": ["slug", "issuer", "enabled"]}),
        (_("What clients find there"), {"fields": ["address", "told", "fingerprints"]}),
        (
            _("Who gets a certificate"),
            {"fields": ["challenge_mode", "webhook_url", "approval", "pending_days"]},
        ),
        (
            _("What it holds, where an administrator or a webhook decides"),
            {"fields": ["purpose", "validity_days", "proposal"]},
        ),
        (_("Renewal"), {"fields": ["renewal_window_days"]}),
        (_("CA certificates"), {"fields": ["ca_form", "ra_certificate"]}),
        (
            _("Algorithms and old clients"),
            {"fields": ["capabilities", "accept_sha1", "allow_get", "clock_minutes"]},
        ),
    ]
    shown = ("address", "told", "fingerprints")

    def get_queryset(self, request: HttpRequest) -> QuerySet[ScepService]:
        queryset: QuerySet[ScepService] = super().get_queryset(request)
        waiting = (
            approvals.open_requests(timezone.now())
            .filter(service=OuterRef("pk"))
            .order_by()
            .values("service")
            .annotate(number=Count("pk"))
            .values("number")
        )
        return queryset.annotate(waiting=Coalesce(Subquery(waiting), 0))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        services.ensure()
        return super().changelist_view(request, extra_context)

    def get_readonly_fields(self, request: HttpRequest, obj: ScepService | None = None) -> list[str]:
        # The address is out there, and its issuer's certificate in profiles.
        return [*self.shown, *(["slug", "issuer"] if obj else [])]

    def get_fieldsets(self, request: HttpRequest, obj: ScepService | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        return fieldsets if obj else [part for part in fieldsets if part[1]["fields"][0] != "address"]

    def has_delete_permission(self, request: HttpRequest, obj: ScepService | None = None) -> bool:
        return False

    def has_secret_permission(self, request: HttpRequest) -> bool:
        """Who may change services may see their webhook's secret."""
        return request.user.has_perm("scep.change_scepservice")

    def save_model(self, request: HttpRequest, obj: ScepService, form: Any, change: bool) -> None:
        services.save(obj, actor=Actor.of_request(request))

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Our own record says it."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Our own record says it."""

    def facts(self, request: HttpRequest, obj: ScepService) -> dict[str, Any]:
        has_secret = obj.challenge_mode == Mode.WEBHOOK
        return {"may_see_secret": has_secret and self.has_secret_permission(request)}

    # --- what is shown ---

    @admin.display(description=_("challenge"), ordering="challenge_mode")
    def challenge(self, service: ScepService) -> str:
        return str(MODES_SHORT[Mode(service.challenge_mode)])

    @admin.display(description=_("approval"), ordering="approval")
    def wait(self, service: ScepService) -> str:
        return str(APPROVAL_SHORT[ApprovalChoice(service.approval)])

    @admin.display(description=_("waiting"), ordering="waiting")
    def waiting(self, service: ScepService) -> SafeString | str:
        number: int = getattr(service, "waiting", 0)
        if not number:
            return "-"
        address = reverse("admin:scep_pendingrequest_changelist")
        return format_html('<a href="{}?service__id__exact={}">{}</a>', address, service.pk, number)

    @admin.display(description=_("address"))
    def address(self, service: ScepService) -> str:
        return services.address(service)

    @admin.display(description=_("capabilities (GetCACaps)"))
    def told(self, service: ScepService) -> str:
        next_ca = recipients.has_next(service.issuer)
        return ", ".join(capabilities.advertised(service.capabilities, next_ca=next_ca)) or "-"

    @admin.display(description=_("SHA-256 of its certificates (GetCACert)"))
    def fingerprints(self, service: ScepService) -> SafeString | str:
        """For people who configure clients: they compare it (RFC 8894 section 2.2)."""
        try:
            found = recipients.ca_certificates(service, timezone.now()).certificates
        except (issuers.IssuerMissing, recipients.NotReady) as fault:
            return str(fault)
        lines = [describe(der) for der in found]
        return format_html(
            "<br>".join("{}: <code>{}</code>" for _line in lines),
            *(part for facts in lines for part in (facts.subject, facts.sha256)),
        )

    # --- the webhook's secret ---

    def get_urls(self) -> list[URLPattern]:
        return [
            path(
                "<int:pk>/secret/",
                self.admin_site.admin_view(self.secret),
                name="scep_scepservice_secret",
            ),
            *super().get_urls(),
        ]

    def secret(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The secret with which questions are signed: shown on request, and recorded."""
        if not self.has_secret_permission(request):
            raise PermissionDenied
        service = ScepService.objects.filter(pk=pk, challenge_mode=Mode.WEBHOOK).first()
        if service is None:
            raise Http404
        value = ""
        if request.method == "POST":
            renew = "renew" in request.POST
            if renew:
                webhooks.give_secret(service)
                service.save(update_fields=["webhook_secret_sealed"])
                self.message_user(
                    request,
                    gettext(
                        "A new secret. The receiver needs it now: with the old one it refuses every question."
                    ),
                    messages.WARNING,
                )
            recording.record(
                "scep_service.secret_renewed" if renew else "scep_service.secret_shown",
                actor=Actor.of_request(request),
                target=service,
            )
            value = webhooks.secret(service)
        return TemplateResponse(
            request,
            "admin/scep/scepservice/secret.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": gettext("Secret of the webhook"),
                "service": service,
                "value": value,
            },
        )


def _between(least: int, most: int) -> Any:
    def verify(value: int | None) -> None:
        if value is not None and not least <= value <= most:
            raise ValidationError(gettext("Between %(least)d and %(most)d.") % {"least": least, "most": most})

    return verify
