"""Challenges by state. Their values are shown once, where they are made, and never here."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor
from pki import issuers
from pki.models import Issuer, IssuerKind, IssuerState, Purpose
from scep import challenges
from scep.admin.requests import CreatedAtFilter
from scep.models import Challenge

if TYPE_CHECKING:  # generic for the type checker only
    _Admin: TypeAlias = admin.ModelAdmin[Challenge]
else:
    _Admin = admin.ModelAdmin

MAX_SHOWN_AT_ONCE = 500


class ChallengeState(admin.SimpleListFilter):
    """Unused, used, expired."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("unused", gettext("unused")), ("used", gettext("used")), ("expired", gettext("expired"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case "unused":
                return queryset.filter(consumed_at=None, expires_at__gt=now)
            case "used":
                return queryset.exclude(consumed_at=None)
            case "expired":
                return queryset.filter(consumed_at=None, expires_at__lte=now)
        return queryset


class MintForm(forms.Form):
    """What the certificates will hold, and how many challenges to make."""

    count = forms.IntegerField(label=_("number"), min_value=1, max_value=MAX_SHOWN_AT_ONCE, initial=1)
    common_name = forms.CharField(
        label=_("common name"),
        max_length=64,
        required=False,
        help_text=_(
            "Of the certificate, whatever the device asks for. {n} in it stands for 1, 2, …; "
            "left empty, each gets a random name."
        ),
    )
    dns_name = forms.CharField(
        label=_("DNS name"),
        max_length=253,
        required=False,
        help_text=_("Alternative name of the certificate."),
    )
    minutes = forms.IntegerField(
        label=_("minutes until they expire"), min_value=1, max_value=24 * 60, initial=60
    )
    purpose = forms.ChoiceField(
        label=_("purpose"),
        choices=[(str(purpose), purpose.label) for purpose in (Purpose.MDM_IDENTITY, Purpose.SERVER_TLS)],
        initial=str(Purpose.MDM_IDENTITY),
    )
    issuer = forms.ModelChoiceField(
        label=_("issuer"),
        queryset=Issuer.objects.filter(state=IssuerState.ACTIVE).exclude(kind=IssuerKind.TRUST_ONLY),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        with suppress(issuers.IssuerMissing):
            self.initial.setdefault("issuer", issuers.default_issuer())


@admin.register(Challenge)
class ChallengeAdmin(_Admin):
    """Challenges by state. Their values are shown once, where they are made, and never here."""

    list_display = ["subject_text", "state_shown", "purpose", "expires_at", "created_at", "created_by"]
    list_display_links = ["subject_text"]
    list_filter = [ChallengeState, "purpose", CreatedAtFilter, "issuer"]
    search_fields = ["subject_text", "created_by", "transactions__transaction_id"]
    search_help_text = _("Subject, who made it, transaction id")
    list_select_related = ["issuer"]
    show_full_result_count = False
    actions = ["withdraw"]
    fieldsets = [
        (None, {"fields": ["subject_text", "names_shown", "state_shown", "purpose", "issuer"]}),
        (_("When"), {"fields": ["created_at", "expires_at", "consumed_at"]}),
        (_("For what"), {"fields": ["created_by", "binding", "validity_days", "requests"]}),
    ]
    readonly_fields = ["subject_text", "created_at"]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {"counts": _counts(), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def has_change_permission(self, request: HttpRequest, obj: Challenge | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Challenge | None = None) -> bool:
        return False

    def has_withdraw_permission(self, request: HttpRequest) -> bool:
        """Asked by the action: the right to change challenges is the right to withdraw them."""
        return request.user.has_perm("scep.change_challenge")

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Mint challenges. The answer to the POST itself shows the values: they are kept nowhere."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = MintForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            try:
                minted = _mint(request, form)
            except challenges.ChallengeError as error:
                form.add_error(None, error.reason)
            else:
                return self._page(request, "minted", gettext("Challenges"), {"minted": minted})
        fieldsets = [(None, {"fields": list(form.fields)})]
        adminform = AdminForm(form, fieldsets, {}, (), self)  # type: ignore[arg-type]  # any form will do
        context = {"adminform": adminform, "form": form, "add": True}
        return self._page(request, "mint", gettext("Make challenges"), context)

    def _page(self, request: HttpRequest, name: str, title: str, context: dict[str, Any]) -> HttpResponse:
        return TemplateResponse(
            request,
            f"admin/scep/challenge/{name}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "has_view_permission": self.has_view_permission(request),
                **context,
            },
        )

    @admin.action(description=_("Withdraw the chosen challenges"), permissions=["withdraw"])
    def withdraw(self, request: HttpRequest, queryset: QuerySet[Challenge]) -> None:
        now = timezone.now()
        ended = sum(
            challenges.withdraw(challenge, actor=Actor.of_request(request), now=now) for challenge in queryset
        )
        self.message_user(
            request,
            ngettext("%d unused challenge withdrawn.", "%d unused challenges withdrawn.", ended) % ended,
            messages.SUCCESS if ended else messages.WARNING,
        )

    @admin.display(description=_("alternative names"))
    def names_shown(self, challenge: Challenge) -> str:
        return ", ".join(f"{kind}:{value}" for kind, value in challenge.alternative_names) or "-"

    @admin.display(description=_("state"), ordering="consumed_at")
    def state_shown(self, challenge: Challenge) -> str:
        if challenge.consumed_at is not None:
            return gettext("used")
        return gettext("expired") if challenge.expires_at <= timezone.now() else gettext("unused")

    @admin.display(description=_("requests"))
    def requests(self, challenge: Challenge) -> SafeString | str:
        address = reverse("admin:scep_transaction_changelist")
        count = challenge.transactions.count()
        if not count:
            return "-"
        return format_html('<a href="{}?challenge__id__exact={}">{}</a>', address, challenge.pk, count)


def _mint(request: HttpRequest, form: MintForm) -> list[tuple[Challenge, str]]:
    wanted = form.cleaned_data
    return challenges.create_challenges(
        challenges.numbered(wanted["common_name"], wanted["count"]),
        issuer=wanted["issuer"],
        purpose=Purpose(wanted["purpose"]),
        san=[("DNS", wanted["dns_name"])] if wanted["dns_name"] else [],
        ttl=timedelta(minutes=wanted["minutes"]),
        actor=Actor.of_request(request),
        now=timezone.now(),
    )


def _counts() -> dict[str, int]:
    """How many challenges are in each state."""
    now = timezone.now()
    counted = Challenge.objects.aggregate(
        UNUSED=Count("pk", filter=Q(consumed_at=None, expires_at__gt=now)),
        USED=Count("pk", filter=Q(consumed_at__isnull=False)),
        EXPIRED=Count("pk", filter=Q(consumed_at=None, expires_at__lte=now)),
    )
    return {state: number for state, number in counted.items() if number}
