"""Re-key campaigns for administrators: begin one, watch it, pause, retry, activate, close."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor
from pki.models import Issuer, IssuerKind, IssuerState
from pki.outlook import Statement
from renewal import campaign_page, campaigns
from renewal.admin_parts import Act, AskingAdmin, posted, sentence
from renewal.campaign_words import activation_statements, beginning_statements, closing_statements
from renewal.campaigns import CampaignRefused, Preview
from renewal.core import pacing
from renewal.core.steps import AFTER_ACTIVATION, BEFORE_ACTIVATION, RUNNING, State
from renewal.figures import figures
from renewal.forms import InsistForm, RateForm, StartForm, WhichIssuerForm
from renewal.models import RekeyCampaign

FACTS = (
    "issuer",
    "new_key",
    "state",
    "threshold_percent",
    "by_itself",
    "devices_per_minute",
    "created_by",
    "created_at",
    "ready_at",
    "activated_at",
    "drained_at",
    "closed_at",
    "aborted_at",
)


@admin.register(RekeyCampaign)
class RekeyCampaignAdmin(AskingAdmin):
    """The list, the page of one campaign, and the pages that ask before they act."""

    list_display = ["name", "state", "pace", "last_old", "last_new", "created_at", "created_by"]
    list_filter = ["state", "issuer"]
    list_select_related = ["issuer", "new_key"]
    search_fields = ["issuer__name", "issuer__slug", "created_by"]
    fields = FACTS
    readonly_fields = FACTS

    def get_queryset(self, request: HttpRequest) -> QuerySet[RekeyCampaign]:
        rows: QuerySet[RekeyCampaign] = super().get_queryset(request)
        return rows.defer("new_key__private_key_sealed").annotate(**campaign_page.last_figures())

    def get_urls(self) -> list[URLPattern]:
        pages: dict[str, Callable[..., HttpResponse]] = {
            "pause": self.pause_view,
            "resume": self.resume_view,
            "retry": self.retry_view,
            "activate": self.activate_view,
            "close": self.close_view,
            "abort": self.abort_view,
        }
        view = self.admin_site.admin_view
        return [
            path("start/", view(self.start_view), name="renewal_rekeycampaign_start"),
            *(
                path(f"<int:pk>/{name}/", view(page), name=f"renewal_rekeycampaign_{name}")
                for name, page in pages.items()
            ),
            *super().get_urls(),
        ]

    def has_lead_permission(self, request: HttpRequest) -> bool:
        """Who may lead a campaign: it changes the keys of the issuer too."""
        return request.user.has_perm("renewal.change_rekeycampaign") and request.user.has_perm(
            "pki.change_issuer"
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {"may_start": self.has_lead_permission(request), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def facts(self, request: HttpRequest, obj: RekeyCampaign) -> dict[str, Any]:
        """How far it is, above its fields."""
        may_change = self.has_lead_permission(request)
        return {
            "page": campaign_page.page_of(obj, timezone.now(), may_change=may_change),
            "may_permit": request.user.has_perm("renewal.add_renewalpermit"),
        }

    @admin.display(description=_("campaign"))
    def name(self, campaign: RekeyCampaign) -> str:
        return gettext("%(issuer)s, key %(generation)d") % {
            "issuer": campaign.issuer.name,
            "generation": campaign.new_key.generation,
        }

    @admin.display(description=_("pace"))
    def pace(self, campaign: RekeyCampaign) -> str:
        if State(campaign.state) not in RUNNING:
            return "-"
        if campaign.paused_at is not None:
            return gettext("paused")
        return gettext("%(count)d a minute") % {"count": campaign.devices_per_minute}

    @admin.display(description=_("the new key takes over"))
    def by_itself(self, campaign: RekeyCampaign) -> str:
        if campaign.activate_automatically:
            return gettext("by itself, when enough devices have the new root")
        return gettext("when an administrator activates it")

    @admin.display(description=_("on an older key"))
    def last_old(self, campaign: RekeyCampaign) -> Any:
        return getattr(campaign, "last_old", None)

    @admin.display(description=_("on the new key"))
    def last_new(self, campaign: RekeyCampaign) -> Any:
        return getattr(campaign, "last_new", None)

    # --- beginning ---

    def start_view(self, request: HttpRequest) -> HttpResponse:
        """Choose the issuer, read what will happen, begin."""
        if not self.has_lead_permission(request):
            raise PermissionDenied
        fit, unfit = _issuers()
        chosen = _chosen(request, [preview.issuer for preview in fit])
        if chosen is None:
            context = {
                **self._context(request),
                "unfit": unfit,
                "form": WhichIssuerForm(issuers=[preview.issuer for preview in fit]) if fit else None,
            }
            return TemplateResponse(request, "admin/renewal/rekeycampaign/which.html", context)
        preview = next(preview for preview in fit if preview.issuer == chosen)
        form: Any = StartForm(posted(request), initial={"new_key": preview.new_key.pk})
        if preview.is_active:
            for name in ("threshold_percent", "activate_automatically"):
                del form.fields[name]
        if request.method == "POST" and form.is_valid():
            try:
                campaign = self._start(request, preview, form.cleaned_data)
            except CampaignRefused as refused:
                form.add_error(None, sentence(refused.reason))
            else:
                self.message_user(request, gettext("The campaign has begun."))
                return HttpResponseRedirect(self._page(campaign))
        visible = [name for name, one in form.fields.items() if not one.widget.is_hidden]
        context = {
            **self._context(request),
            "preview": preview,
            "statements": list(beginning_statements(preview)),
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": visible})], {}, (), self),
            "others": len(fit) > 1,
        }
        return TemplateResponse(request, "admin/renewal/rekeycampaign/start.html", context)

    def _start(self, request: HttpRequest, preview: Preview, wanted: dict[str, Any]) -> RekeyCampaign:
        if wanted["new_key"] != preview.new_key.pk:
            raise CampaignRefused("the keys of the issuer have changed meanwhile: look at it again")
        return campaigns.start(
            preview.issuer,
            actor=Actor.of_request(request),
            now=timezone.now(),
            devices_per_minute=wanted["devices_per_minute"],
            threshold_percent=wanted.get("threshold_percent") or 95,
            activate_automatically=bool(wanted.get("activate_automatically")),
        )

    # --- leading ---

    def pause_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        campaign = self._campaign(request, pk)

        def do(_wanted: dict[str, Any]) -> str:
            campaigns.pause(campaign, actor=Actor.of_request(request), now=timezone.now())
            return gettext("Paused.")

        statement = Statement(
            "info",
            gettext("No more devices are asked until you resume. Those asked before may still come."),
        )
        return self._ask_about(
            request,
            campaign,
            title=gettext("Pause the campaign"),
            button=gettext("Pause"),
            do=do,
            statements=[statement],
        )

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        campaign = self._campaign(request, pk)
        paused = campaign.paused_at is not None

        def do(wanted: dict[str, Any]) -> str:
            campaigns.resume(
                campaign,
                actor=Actor.of_request(request),
                now=timezone.now(),
                devices_per_minute=wanted["devices_per_minute"],
            )
            return gettext("The campaign goes on.")

        return self._ask_about(
            request,
            campaign,
            title=gettext("Resume the campaign") if paused else gettext("Change the rate"),
            button=gettext("Resume") if paused else gettext("Save"),
            form=RateForm(posted(request), initial={"devices_per_minute": campaign.devices_per_minute}),
            do=do,
        )

    def retry_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        campaign = self._campaign(request, pk)
        found = figures(campaign, timezone.now())

        def do(_wanted: dict[str, Any]) -> str:
            campaigns.retry(campaign, actor=Actor.of_request(request), now=timezone.now())
            return gettext("They are asked again in the next waves.")

        statement = Statement(
            "info",
            ngettext(
                "%(count)d device that failed is asked again, as if for the first time.",
                "%(count)d devices that failed are asked again, as if for the first time.",
                found.failures,
            )
            % {"count": found.failures},
        )
        return self._ask_about(
            request,
            campaign,
            title=gettext("Retry failures"),
            button=gettext("Retry"),
            do=do,
            statements=[statement],
        )

    def activate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        campaign = self._campaign(request, pk)
        if State(campaign.state) not in BEFORE_ACTIVATION:
            raise Http404
        found = figures(campaign, timezone.now())
        early = not pacing.is_reached(found.installed, found.on_old, campaign.threshold_percent)
        form = (
            InsistForm(posted(request), slug=campaign.issuer.slug) if early else forms.Form(posted(request))
        )

        def do(_wanted: dict[str, Any]) -> str:
            campaigns.activate(campaign, actor=Actor.of_request(request), now=timezone.now(), force=early)
            return gettext("The new key is in use. Devices get their new certificates in waves.")

        return self._ask_about(
            request,
            campaign,
            title=gettext("Activate the new key"),
            button=gettext("Activate"),
            form=form,
            do=do,
            statements=list(activation_statements(found, early=early)),
            danger=early,
        )

    def close_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        campaign = self._campaign(request, pk)
        if State(campaign.state) not in AFTER_ACTIVATION:
            raise Http404
        found = figures(campaign, timezone.now())
        cuts_off = bool(found.on_old or found.expired or found.authorities)
        form = (
            InsistForm(posted(request), slug=campaign.issuer.slug)
            if cuts_off
            else forms.Form(posted(request))
        )

        def do(_wanted: dict[str, Any]) -> str:
            campaigns.close(campaign, actor=Actor.of_request(request), now=timezone.now(), force=cuts_off)
            return gettext("The older keys are closed.")

        return self._ask_about(
            request,
            campaign,
            title=gettext("Close the older keys"),
            button=gettext("Close"),
            form=form,
            do=do,
            statements=list(closing_statements(found)),
            danger=cuts_off,
        )

    def abort_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        campaign = self._campaign(request, pk)

        def do(_wanted: dict[str, Any]) -> str:
            campaigns.abort(campaign, actor=Actor.of_request(request), now=timezone.now())
            return gettext("The campaign is given up.")

        statements = [
            Statement("wait", gettext("What devices have not fetched yet is taken back.")),
            Statement(
                "info",
                gettext(
                    "Keys stay as they are: a new one that is in use stays so, and older ones stay trusted. "
                    "You can begin another campaign later."
                ),
            ),
        ]
        return self._ask_about(
            request,
            campaign,
            title=gettext("Give the campaign up"),
            button=gettext("Give up"),
            do=do,
            statements=statements,
            danger=True,
        )

    # --- pieces ---

    def _campaign(self, request: HttpRequest, pk: int) -> RekeyCampaign:
        campaign: RekeyCampaign | None = self.get_object(request, str(pk))
        if campaign is None:
            raise Http404
        if not self.has_lead_permission(request):
            raise PermissionDenied
        if State(campaign.state) not in RUNNING:
            raise Http404
        return campaign

    def _ask_about(
        self,
        request: HttpRequest,
        campaign: RekeyCampaign,
        *,
        title: str,
        button: str,
        do: Callable[[dict[str, Any]], str],
        form: forms.Form | None = None,
        statements: Iterable[Statement] = (),
        danger: bool = False,
    ) -> HttpResponse:
        """Ask before an act on a campaign, by a button alone where there is no form, and come back to it."""
        act = Act(
            title=title,
            button=button,
            form=forms.Form(posted(request)) if form is None else form,
            do=do,
            back=self._page(campaign),
            crumb=str(campaign),
            statements=statements,
            danger=danger,
        )
        return self.ask(request, act)

    def _page(self, campaign: RekeyCampaign) -> str:
        return reverse("admin:renewal_rekeycampaign_change", args=[campaign.pk])

    def _context(self, request: HttpRequest) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Begin a re-key campaign"),
        }

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


# --- Which issuers ---------------------------------------------------------------------------------------


def _issuers() -> tuple[list[Preview], list[tuple[Issuer, str]]]:
    """Those whose devices can be brought to a newer key, and the others with the reason why not."""
    now = timezone.now()
    fit, unfit = [], []
    candidates = Issuer.objects.filter(state=IssuerState.ACTIVE).exclude(kind=IssuerKind.TRUST_ONLY)
    for issuer in candidates.order_by("name"):
        if campaigns.running(issuer) is not None:
            unfit.append((issuer, sentence(gettext("a campaign is under way"))))
            continue
        try:
            fit.append(campaigns.preview(issuer, now))
        except CampaignRefused as refused:
            unfit.append((issuer, sentence(refused.reason)))
    return fit, unfit


def _chosen(request: HttpRequest, issuers: list[Issuer]) -> Issuer | None:
    """The one that was asked for; the only one, if there is but one."""
    wanted = request.GET.get("issuer", "")
    found = next((issuer for issuer in issuers if str(issuer.pk) == wanted), None)
    return found or (issuers[0] if len(issuers) == 1 and not wanted else None)
