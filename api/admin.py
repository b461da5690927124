"""API tokens for administrators: made with scopes, shown once, revoked."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from api import tokens
from api.models import ApiToken
from api.scopes import SCOPES
from audit.recording import Actor, record

if TYPE_CHECKING:  # generic for the type checker only
    _Admin: TypeAlias = admin.ModelAdmin[ApiToken]
else:
    _Admin = admin.ModelAdmin

LIFETIMES = (30, 90, 365, 730)


class TokenForm(forms.Form):
    """What the token is for, what it may do, and how long."""

    name = forms.CharField(
        label=_("name"), max_length=100, help_text=_("Which system uses it. Shown in the record.")
    )
    user = forms.ModelChoiceField(
        label=_("user"),
        queryset=User.objects.filter(is_active=True),
        help_text=_("The token can do no more than this user."),
    )
    scopes = forms.MultipleChoiceField(
        label=_("may"),
        choices=lambda: [(scope.name, scope.title) for scope in SCOPES.values()],
        widget=forms.CheckboxSelectMultiple,
    )
    lifetime = forms.TypedChoiceField(
        label=_("expires"),
        coerce=int,
        choices=[
            *((days, ngettext("after %d day", "after %d days", days) % days) for days in LIFETIMES),
            (0, _("never")),
        ],
        initial=365,
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("user", user)
        if not user.is_superuser:
            # A token acts as its user: nobody makes one that can do more than themselves.
            self.fields["user"].queryset = User.objects.filter(pk=user.pk)  # type: ignore[attr-defined]


class StateFilter(admin.SimpleListFilter):
    """Usable, expired, revoked."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("usable", gettext("usable")),
            ("expired", gettext("expired")),
            ("revoked", gettext("revoked")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        now = timezone.now()
        match self.value():
            case "usable":
                return queryset.filter(revoked_at=None).exclude(expires_at__lte=now)
            case "expired":
                return queryset.filter(revoked_at=None, expires_at__lte=now)
            case "revoked":
                return queryset.exclude(revoked_at=None)
        return queryset


@admin.register(ApiToken)
class ApiTokenAdmin(_Admin):
    list_display = ["name", "prefix_shown", "user", "state_shown", "last_used_at", "expires_at", "created_at"]
    list_filter = [StateFilter]
    list_select_related = ["user"]
    search_fields = ["name", "prefix", "user__username"]
    search_help_text = _("Name, beginning of the token, user")
    actions = ["revoke"]
    fieldsets = [
        (None, {"fields": ["name", "prefix_shown", "user", "state_shown", "scopes_in_words"]}),
        (_("When"), {"fields": ["created_at", "last_used_at", "expires_at", "revoked_at"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        """Tokens of their own; of everybody for superusers."""
        rows = super().get_queryset(request)
        if not isinstance(request.user, User):
            return rows.none()
        return rows if request.user.is_superuser else rows.filter(user=request.user)

    def has_change_permission(self, request: HttpRequest, obj: ApiToken | None = None) -> bool:
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Asked by the action: the right to change tokens is the right to revoke them."""
        return request.user.has_perm("api.change_apitoken")

    def get_urls(self) -> list[URLPattern]:
        revoke = path(
            "<int:pk>/revoke/", self.admin_site.admin_view(self.revoke_view), name="api_apitoken_revoke"
        )
        return [revoke, *super().get_urls()]

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Make a token. The answer to the POST itself shows it: it is kept nowhere."""
        if not self.has_add_permission(request) or not isinstance(request.user, User):
            raise PermissionDenied
        form = TokenForm(request.POST or None, user=request.user)
        if request.method == "POST" and form.is_valid():
            token, text = _create(request, form.cleaned_data)
            api_url = f"{settings.BRAMLEY_PUBLIC_URL}{reverse('api:device-list')}"
            return self._page(
                request, "created", token.name, {"token": token, "text": text, "api_url": api_url}
            )
        fieldsets = [(None, {"fields": list(form.fields)})]
        context = {"adminform": AdminForm(cast(Any, form), fieldsets, {}, (), self), "form": form}
        return self._page(request, "add", gettext("Make an API token"), context)

    def revoke_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask, then revoke."""
        token = self.get_queryset(request).filter(pk=pk).first()
        if token is None or not self.has_revoke_permission(request):
            raise PermissionDenied
        if request.method != "POST":
            return self._page(request, "revoke", gettext("Revoke this token?"), {"token": token})
        tokens.revoke(token, actor=Actor.of_request(request), now=timezone.now())
        self.message_user(
            request, gettext("%(name)s is revoked: it is refused from now on.") % {"name": token}
        )
        return HttpResponseRedirect(reverse("admin:api_apitoken_changelist"))

    def delete_model(self, request: HttpRequest, obj: ApiToken) -> None:
        record(
            "api_token.deleted", actor=Actor.of_request(request), target=obj, details={"prefix": obj.prefix}
        )
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        for token in queryset:
            self.delete_model(request, token)

    @admin.action(description=_("Revoke the chosen tokens"), permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> None:
        now = timezone.now()
        ended = sum(tokens.revoke(token, actor=Actor.of_request(request), now=now) for token in queryset)
        self.message_user(
            request,
            ngettext("%d token revoked.", "%d tokens revoked.", ended) % ended,
            messages.SUCCESS if ended else messages.WARNING,
        )

    @admin.display(description=_("begins with"), ordering="prefix")
    def prefix_shown(self, token: ApiToken) -> str:
        return f"bramley_{token.prefix}_…"

    @admin.display(description=_("state"))
    def state_shown(self, token: ApiToken) -> str:
        if token.revoked_at is not None:
            return gettext("revoked")
        if token.expires_at is not None and token.expires_at <= timezone.now():
            return gettext("expired")
        return gettext("usable") if token.user.is_active else gettext("user not active")

    @admin.display(description=_("may"))
    def scopes_in_words(self, token: ApiToken) -> SafeString:
        rows = ((SCOPES[name].title if name in SCOPES else "", name) for name in token.scopes)
        return format_html_join("", "<div>{} <code>{}</code></div>", rows)

    def _page(self, request: HttpRequest, name: str, title: str, context: dict[str, Any]) -> HttpResponse:
        return TemplateResponse(
            request,
            f"admin/api/apitoken/{name}.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": title,
                "has_view_permission": self.has_view_permission(request),
                **context,
            },
        )


def _create(request: HttpRequest, wanted: dict[str, Any]) -> tuple[ApiToken, str]:
    now = timezone.now()
    return tokens.create(
        wanted["name"],
        user=wanted["user"],
        scopes=wanted["scopes"],
        expires_at=now + timedelta(days=wanted["lifetime"]) if wanted["lifetime"] else None,
        actor=Actor.of_request(request),
        now=now,
    )
