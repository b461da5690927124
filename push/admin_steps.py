"""From a request to a push certificate, step by step, on one page: for the first set-up and for renewals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import AdminSite
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from audit.recording import Actor
from push import certificates, vendors
from push.admin_parts import content, may, verify_may
from push.certificates import PushCertificateRefused, TopicChange
from push.core import pushcert, vendor
from push.models import PushCertificate, PushCertificateState, VendorCertificate

PORTAL = "https://identity.apple.com/pushcert"


class RequestForm(forms.Form):
    """The name for a certificate request."""

    common_name = forms.CharField(
        label=_("name"),
        max_length=pushcert.MAX_COMMON_NAME,
        help_text=_("Whatever tells you later what it is for, such as the name of your organisation."),
    )


class SignedRequestForm(forms.Form):
    """What a vendor returned."""

    signed = forms.FileField(label=_("signed request"))


class AnswerForm(forms.Form):
    """What Apple's portal gave for a request of ours: the key is here already."""

    certificate = forms.FileField(label=_("certificate from Apple (.pem)"))
    confirm_topic_change = forms.BooleanField(
        label=_("I know that the devices of the old topic cannot be woken with this certificate."),
        required=False,
        widget=forms.HiddenInput,
    )

    def ask_to_confirm(self) -> None:
        """Show the box to tick; the file has to be chosen again, for browsers forget it."""
        self.fields["confirm_topic_change"].widget = forms.CheckboxInput()


class StepPages:
    """The pages, for the admin of push certificates."""

    admin_site: AdminSite
    opts: Any
    message_user: Callable[..., None]
    get_object: Callable[..., Any]
    has_view_permission: Callable[..., bool]

    def request_page(self, request: HttpRequest) -> HttpResponse:
        """Step 1: make a request; ``?renews=`` names the certificate in use that it shall renew."""
        verify_may(request, "add")
        renews = self._renewed(request)
        form = RequestForm(
            request.POST if request.method == "POST" else None,
            initial={"common_name": renews.common_name if renews is not None else ""},
        )
        if form.is_bound and form.is_valid():
            try:
                made = certificates.create_request(
                    form.cleaned_data["common_name"], Actor.of_request(request), renews=renews
                )
            except PushCertificateRefused as refused:
                form.add_error("common_name", refused.reason)
            else:
                text = gettext("The request is made. Download it, or have it signed here.")
                self.message_user(request, text, messages.SUCCESS)
                return _to_steps(made.pk)
        return self._steps(request, None, renews, make_form=form)

    def steps_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Steps 2 to 4, for one request."""
        row = self._row(request, pk)
        if request.method != "POST":
            return self._steps(request, row, _in_use(row))
        verify_may(request, "add")
        act = {"sign": self._sign, "signed": self._keep_signed, "answer": self._take_answer}.get(
            request.POST.get("step", "")
        )
        if act is None:
            raise Http404
        return act(request, row)

    def _sign(self, request: HttpRequest, row: PushCertificate) -> HttpResponse:
        signer = VendorCertificate.objects.filter(pk=_number(request.POST.get("vendor")) or 0).first()
        try:
            if signer is None:
                raise PushCertificateRefused(gettext("There is no such vendor certificate."))
            vendors.sign_request(row, signer, actor=Actor.of_request(request), now=timezone.now())
        except PushCertificateRefused as refused:
            self.message_user(request, refused.reason, messages.ERROR)
        else:
            text = gettext("The request is signed. Download it, and upload it at Apple's portal.")
            self.message_user(request, text, messages.SUCCESS)
        return _to_steps(row.pk)

    def _keep_signed(self, request: HttpRequest, row: PushCertificate) -> HttpResponse:
        form = SignedRequestForm(request.POST, request.FILES)
        if form.is_valid():
            data = content(form.cleaned_data["signed"], vendor.MAX_SIZE)
            try:
                vendors.import_signed_request(data, row, actor=Actor.of_request(request), now=timezone.now())
            except PushCertificateRefused as refused:
                form.add_error("signed", refused.reason)
            else:
                text = gettext("The vendor's signature is good. Upload the signed request at Apple's portal.")
                self.message_user(request, text, messages.SUCCESS)
                return _to_steps(row.pk)
        return self._steps(request, row, _in_use(row), signed_form=form)

    def _take_answer(self, request: HttpRequest, row: PushCertificate) -> HttpResponse:
        form = AnswerForm(request.POST, request.FILES)
        change: TopicChange | None = None
        if form.is_valid():
            try:
                made = certificates.import_certificate(
                    content(form.cleaned_data["certificate"], pushcert.MAX_SIZE),
                    confirm_topic_change=form.cleaned_data["confirm_topic_change"],
                    actor=Actor.of_request(request),
                    now=timezone.now(),
                )
            except TopicChange as refused:
                change = refused
            except PushCertificateRefused as refused:
                form.add_error("certificate", refused.reason)
            else:
                self.say_imported(request, made)
                return _to_steps(made.pk)
        if change is not None or form["confirm_topic_change"].value() not in {None, "", False}:
            form.ask_to_confirm()
        return self._steps(request, row, _in_use(row), answer_form=form, topic_change=change)

    def say_imported(self, request: HttpRequest, made: PushCertificate) -> None:
        """That it is in use, and what is doubtful about it."""
        text = gettext("The push certificate is in use until %(end)s.") % {
            "end": f"{made.not_after:%d %B %Y}"
        }
        self.message_user(request, text, messages.SUCCESS)
        if warning := certificates.provenance_of(made, timezone.now()).warning:
            self.message_user(request, warning, messages.WARNING)

    def download_signed_request(self, request: HttpRequest, pk: int) -> HttpResponse:
        """What Apple's portal takes."""
        row = self._row(request, pk)
        if not row.signed_request:
            raise Http404
        return HttpResponse(
            bytes(row.signed_request),
            content_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="push-{row.pk}-signed.plist"'},
        )

    def _renewed(self, request: HttpRequest) -> PushCertificate | None:
        number = _number(request.GET.get("renews"))
        if number is None:
            return None
        row = PushCertificate.objects.filter(pk=number, state=PushCertificateState.ACTIVE).first()
        if row is None:
            raise Http404
        return row

    def _row(self, request: HttpRequest, pk: int) -> PushCertificate:
        row: PushCertificate | None = self.get_object(request, str(pk))
        if row is None or not row.csr:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return row

    def _steps(
        self,
        request: HttpRequest,
        row: PushCertificate | None,
        renews: PushCertificate | None,
        **more: Any,
    ) -> TemplateResponse:
        now = timezone.now()
        open_ones = PushCertificate.objects.filter(state=PushCertificateState.REQUESTED)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": gettext("Renew the push certificate")
            if renews
            else gettext("Set up the push certificate"),
            "row": row,
            "renews": renews,
            "devices": certificates.devices_of(renews.topic) if renews is not None else 0,
            "done": row is not None and row.state != PushCertificateState.REQUESTED,
            "in_use": row is not None and row.state == PushCertificateState.ACTIVE,
            "others": open_ones.exclude(pk=row.pk) if row is not None else open_ones,
            "active": PushCertificate.objects.filter(state=PushCertificateState.ACTIVE).exists(),
            "vendors": vendors.usable_vendors(now),
            "may_add": may(request, "add"),
            "may_add_vendor": may(request, "add", "vendorcertificate"),
            "portal": PORTAL,
            "signed_form": SignedRequestForm(),
            "answer_form": AnswerForm(),
            **more,
        }
        return TemplateResponse(request, "admin/push/pushcertificate/steps.html", context)


def _in_use(row: PushCertificate) -> PushCertificate | None:
    """The certificate that a request shall renew."""
    if row.state != PushCertificateState.REQUESTED or not row.topic:
        return None
    return certificates.active(row.topic)


def _to_steps(pk: int) -> HttpResponse:
    return HttpResponseRedirect(reverse("admin:push_pushcertificate_steps", args=[pk]))


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 19 else None
