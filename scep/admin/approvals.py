"""Requests that wait: seen as what would be issued, approved exactly so, or rejected."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from audit.admin import ReadOnlyAdmin
from audit.recording import Actor
from pki import issuance
from pki.core.names import Name, NameRefused
from pki.issuance import IssuanceRefused
from scep import approvals
from scep.core import names_text
from scep.core.webhook import MAX_DAYS
from scep.models import PendingRequest, Transaction
from scep.transactions import Proposal


class ProposalForm(forms.Form):
    """What the certificate will hold, beside the key of the request."""

    subject = forms.CharField(
        label=_("subject"),
        required=False,
        strip=True,
        widget=forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField", "spellcheck": "false"}),
        help_text=_("One part on each line: CN=router 1, O=Example, C=GB."),
    )
    names = forms.CharField(
        label=_("alternative names"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3, "class": "vLargeTextField", "spellcheck": "false"}),
        help_text=_("One on each line: DNS:router.example, IP:192.0.2.1, URI:…, email:…"),
    )
    days = forms.IntegerField(
        label=_("days of validity"),
        required=False,
        min_value=1,
        max_value=MAX_DAYS,
        help_text=_("Empty: as long as certificates of this issuer are valid."),
    )

    def clean_subject(self) -> Name:
        return self._read(names_text.decode_subject, "subject")

    def clean_names(self) -> tuple[tuple[str, str], ...]:
        return self._read(names_text.decode_names, "names")

    def _read(self, decode: Any, field: str) -> tuple[tuple[str, str], ...]:
        try:
            pairs: tuple[tuple[str, str], ...] = decode(self.cleaned_data[field])
        except NameRefused as refused:
            raise ValidationError(refused.reason) from None
        return pairs

    @property
    def proposal(self) -> Proposal:
        """What the valid form says."""
        wanted = self.cleaned_data
        return Proposal(wanted["subject"], wanted["names"], wanted["days"])


class RejectForm(forms.Form):
    """Why, for the record."""

    reason = forms.CharField(
        label=_("reason"),
        max_length=300,
        required=False,
        help_text=_("For you and your colleagues. Clients are told only that it is not permitted."),
    )


@admin.register(PendingRequest)
class PendingRequestAdmin(ReadOnlyAdmin):
    """The waiting list; its pages decide."""

    list_display = [
        "csr_subject_shown",
        "csr_names",
        "csr_key",
        "service",
        "remote_addr",
        "created_at",
        "expires_at",
    ]
    list_display_links = ["csr_subject_shown"]
    list_filter = ["service"]
    list_select_related = ["service"]
    search_fields = ["csr_subject", "csr_names", "transaction_id", "remote_addr", "csr_sha256"]
    search_help_text = _("Subject, name, transaction id, address, fingerprint of the request")
    ordering = ["id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transaction]:
        queryset: QuerySet[Transaction] = super().get_queryset(request)
        return queryset.filter(pk__in=approvals.open_requests(timezone.now()).values("pk"))

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """The right to change waiting requests is the right to decide about them."""
        return request.user.has_perm("scep.change_pendingrequest")

    @admin.display(description=_("subject asked for"), ordering="csr_subject")
    def csr_subject_shown(self, row: Transaction) -> str:
        return row.csr_subject or gettext("none")

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The request, the certificate that it would get, and the two buttons."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = (
            self.get_queryset(request)
            .select_related("service", "issuer", "challenge")
            .filter(pk=_number(object_id))
            .first()
        )
        if row is None:
            return self._gone(request, object_id)
        if request.method != "POST":
            return self._page(request, row, _initial(row), RejectForm())
        if not self.has_decide_permission(request):
            raise PermissionDenied
        if "reject" in request.POST:
            return self._reject(request, row)
        return self._approve(request, row)

    def _approve(self, request: HttpRequest, row: Transaction) -> HttpResponse:
        """Only what was on the page when the button was pressed: anything else is shown first."""
        form = ProposalForm(request.POST)
        if not form.is_valid():
            return self._page(request, row, form, RejectForm())
        if "approve" not in request.POST or request.POST.get("shown") != _mark(form.proposal):
            return self._page(request, row, form, RejectForm(), changed=True)
        try:
            certificate = approvals.approve(
                row, form.proposal, actor=Actor.of_request(request), now=timezone.now()
            )
        except approvals.DecisionRefused as refused:
            form.add_error(None, refused.reason)
            return self._page(request, row, form, RejectForm())
        self.message_user(
            request,
            gettext("Approved: %(certificate)s. The client fetches it when it asks again.")
            % {"certificate": certificate},
            messages.SUCCESS,
        )
        return self._back()

    def _reject(self, request: HttpRequest, row: Transaction) -> HttpResponse:
        form = RejectForm(request.POST)
        if not form.is_valid():
            return self._page(request, row, _initial(row), form)
        try:
            approvals.reject(
                row, form.cleaned_data["reason"], actor=Actor.of_request(request), now=timezone.now()
            )
        except approvals.DecisionRefused as refused:
            self.message_user(request, refused.reason, messages.ERROR)
        else:
            self.message_user(request, gettext("Rejected."), messages.SUCCESS)
        return self._back()

    def _gone(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """It was decided in the meantime, or never was."""
        if not Transaction.objects.filter(pk=_number(object_id)).exists():
            raise Http404
        self.message_user(request, gettext("This request does not wait any more."), messages.WARNING)
        if request.user.has_perm("scep.view_transaction"):
            return HttpResponseRedirect(reverse("admin:scep_transaction_change", args=[object_id]))
        return self._back()

    def _back(self) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:scep_pendingrequest_changelist"))

    def _page(
        self,
        request: HttpRequest,
        row: Transaction,
        form: ProposalForm,
        reject_form: RejectForm,
        *,
        changed: bool = False,
    ) -> HttpResponse:
        proposal = form.proposal if form.is_bound and form.is_valid() else None
        fields, problem = None, ""
        if proposal is not None:
            grant = approvals.grant_of(row, proposal)
            try:
                fields = issuance.preview(grant, bytes(row.csr_public_key or b""), now=timezone.now())
            except IssuanceRefused as refused:
                problem = refused.reason
        return TemplateResponse(
            request,
            "admin/scep/pendingrequest/decide.html",
            {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": gettext("Approve or reject"),
                "row": row,
                "form": form,
                "reject_form": reject_form,
                "fields": fields,
                "key_usage": sorted(fields.key_usage) if fields else [],
                "subject": names_text.encode_subject(fields.subject).splitlines() if fields else [],
                "names": names_text.encode_names(fields.san).splitlines() if fields else [],
                "problem": problem,
                "changed": changed,
                "shown": _mark(proposal) if proposal else "",
                "key_sha256": hashlib.sha256(bytes(row.csr_public_key or b"")).hexdigest(),
                "may_decide": self.has_decide_permission(request),
            },
        )


def _initial(row: Transaction) -> ProposalForm:
    """The form as the request proposes it, checked already so that it can be previewed."""
    form = ProposalForm(
        {
            "subject": names_text.encode_subject(row.proposed_name),
            "names": names_text.encode_names(row.proposed_alternative_names),
            "days": row.proposed_days or "",
        }
    )
    form.is_valid()
    return form


def _mark(proposal: Proposal) -> str:
    """What the page showed, so that nothing else is approved."""
    shown = json.dumps([proposal.subject, proposal.san, proposal.validity_days])
    return hashlib.sha256(shown.encode()).hexdigest()


def _number(object_id: str) -> int:
    try:
        return int(object_id)
    except ValueError:
        raise Http404 from None
