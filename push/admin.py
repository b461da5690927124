"""Push certificates and the outbox of pushes, for administrators."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import urlencode

from cryptography.hazmat.primitives.hashes import SHA256, Hash
from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from audit.admin import ReadOnlyAdmin, WhenFilter
from audit.recording import Actor
from devices.models import Enrollment, EnrollmentState
from push import admin_vendors, certificates, provenance, topics  # noqa: F401 - the first registers
from push.admin_parts import badge, content, left_in_words, may, moment, urgency, verify_may
from push.admin_steps import StepPages
from push.certificates import PushCertificateRefused, TopicChange
from push.core.pushcert import MAX_SIZE
from push.models import PushCertificate, PushCertificateState, PushRequest, PushState

if TYPE_CHECKING:  # generic for the type checker only
    _Rows: TypeAlias = QuerySet[PushCertificate]
else:
    _Rows = QuerySet


class ImportForm(forms.Form):
    """A certificate, and what it takes to read it."""

    file = forms.FileField(
        label=_("certificate file"),
        help_text=_("What Apple's portal gave you (.pem), or a PKCS #12 file (.p12, .pfx) with its key."),
    )
    key_file = forms.FileField(
        label=_("private key file"),
        required=False,
        help_text=_(
            "Only if the request was made elsewhere and the key is not in the file above. "
            "For a request that was made here, leave it empty: the key never left this server."
        ),
    )
    password = forms.CharField(
        label=_("password"),
        required=False,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("Of the PKCS #12 file or of the private key, if it has one."),
    )
    confirm_topic_change = forms.BooleanField(
        label=_("I know that the devices of the old topic cannot be woken with this certificate."),
        required=False,
        widget=forms.HiddenInput,
    )

    def ask_to_confirm(self) -> None:
        """Show the box to tick; the file has to be chosen again, for browsers forget it."""
        self.fields["confirm_topic_change"].widget = forms.CheckboxInput()


@admin.register(PushCertificate)
class PushCertificateAdmin(StepPages, ReadOnlyAdmin):
    list_display = ["name", "state", "topic_shown", "devices", "expiry", "condition"]
    list_display_links = ["name"]
    list_filter = ["state"]
    search_fields = ["topic", "common_name", "serial_number"]
    fieldsets = [
        (None, {"fields": ["name", "state", "condition", "next_step"]}),
        (_("Topic"), {"fields": ["topic_shown", "ways_to_enrol", "devices", "pushes"]}),
        (_("Validity"), {"fields": ["not_before", "not_after", "expiry", "activated_at"]}),
        (_("Trouble"), {"fields": ["held_reason", "held_at", "trouble", "paused_until"]}),
        (
            _("Identification"),
            {"fields": ["issuer", "serial_number", "fingerprint", "signed_by", "created_at"]},
        ),
    ]

    def get_queryset(self, request: HttpRequest) -> _Rows:
        rows: _Rows = super().get_queryset(request)
        listening = (
            Enrollment.objects.filter(topic=OuterRef("topic"), state=EnrollmentState.ENROLLED)
            .order_by()
            .values("topic")
            .annotate(number=Count("pk"))
            .values("number")
        )
        return rows.defer("private_key_sealed", "signed_request").annotate(
            listening=Coalesce(Subquery(listening, output_field=IntegerField()), 0)
        )

    def get_urls(self) -> list[URLPattern]:
        def view(route: str, function: Any, name: str) -> Any:
            return path(route, self.admin_site.admin_view(function), name=f"push_pushcertificate_{name}")

        return [
            view("request/", self.request_page, "request"),
            view("import/", self.import_page, "import"),
            view("<int:pk>/steps/", self.steps_page, "steps"),
            view("<int:pk>/request.pem", self.download_request, "csr"),
            view("<int:pk>/signed-request/", self.download_signed_request, "signed_request"),
            view("<int:pk>/discard/", self.discard_page, "discard"),
            view("<int:pk>/try-again/", self.try_again_page, "try_again"),
            view("<int:pk>/retire/", self.retire_page, "retire"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        extra = {"may_import": may(request, "add"), **(extra_context or {})}
        return super().changelist_view(request, extra)

    def facts(self, request: HttpRequest, obj: PushCertificate) -> dict[str, Any]:
        return {"may_import": may(request, "add"), "may_change": may(request, "change")}

    # Pages

    @method_decorator(sensitive_post_parameters("password"))
    def import_page(self, request: HttpRequest) -> HttpResponse:
        """Take a certificate into use."""
        verify_may(request, "add")
        form = ImportForm(request.POST, request.FILES) if request.method == "POST" else ImportForm()
        if form.is_bound and form.is_valid():
            imported = self._import(request, form)
            if imported is not None:
                self.say_imported(request, imported)
                return HttpResponseRedirect(reverse("admin:push_pushcertificate_change", args=[imported.pk]))
        if form.is_bound and form["confirm_topic_change"].value() not in {None, "", False}:
            form.ask_to_confirm()
        fields = ["file", "key_file", "password", "confirm_topic_change"]
        return self._page(request, "import", gettext("Import a push certificate"), form, fields)

    def _import(self, request: HttpRequest, form: ImportForm) -> PushCertificate | None:
        values = form.cleaned_data
        try:
            return certificates.import_certificate(
                content(values["file"], MAX_SIZE),
                password=values["password"],
                private_key=content(values["key_file"], MAX_SIZE) if values["key_file"] else b"",
                confirm_topic_change=values["confirm_topic_change"],
                actor=Actor.of_request(request),
                now=timezone.now(),
            )
        except TopicChange as change:
            form.add_error(None, change.reason)
            form.ask_to_confirm()
        except PushCertificateRefused as refused:
            form.add_error(None, refused.reason)
        return None

    def download_request(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The certificate request as PEM."""
        certificate = self._certificate(request, pk)
        if not certificate.csr:
            raise Http404
        return HttpResponse(
            certificates.request_pem(certificate),
            content_type="application/pkcs10",
            headers={"Content-Disposition": f'attachment; filename="push-{certificate.pk}.csr"'},
        )

    def discard_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Throw away an open request with its key."""
        certificate = self._certificate(request, pk)
        verify_may(request, "change")
        if certificate.state != PushCertificateState.REQUESTED:
            raise Http404
        return self._confirmed(
            request,
            certificate,
            title=gettext("Discard this request?"),
            text=gettext(
                "The key that was made for it is deleted. A certificate that Apple makes from this request "
                "cannot be used then. The certificates in use stay as they are."
            ),
            button=gettext("Discard"),
            act=lambda: self._discard(request, certificate),
            after=reverse("admin:push_pushcertificate_changelist"),
        )

    def _discard(self, request: HttpRequest, certificate: PushCertificate) -> str:
        certificates.discard_request(certificate, actor=Actor.of_request(request), now=timezone.now())
        return gettext("The request is discarded.")

    def try_again_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Send what is held, with the same certificate."""
        certificate = self._certificate(request, pk)
        verify_may(request, "change")
        return self._confirmed(
            request,
            certificate,
            title=gettext("Try this push certificate again?"),
            text=gettext(
                "Everything that is held for it is sent now. If Apple still refuses the certificate, "
                "it is held again."
            ),
            button=gettext("Try again"),
            act=lambda: self._try_again(request, certificate),
        )

    def _try_again(self, request: HttpRequest, certificate: PushCertificate) -> str:
        released = certificates.release(certificate, actor=Actor.of_request(request), now=timezone.now())
        return ngettext("%d push is due.", "%d pushes are due.", released) % released

    def retire_page(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Take a certificate out of use."""
        certificate = self._certificate(request, pk)
        verify_may(request, "change")
        devices = certificates.devices_of(certificate.topic)
        return self._confirmed(
            request,
            certificate,
            title=gettext("Take this push certificate out of use?"),
            text=ngettext(
                "%d enrolled device listens to its topic, and cannot be woken without it.",
                "%d enrolled devices listen to its topic, and cannot be woken without it.",
                devices,
            )
            % devices,
            button=gettext("Take out of use"),
            act=lambda: self._retire(request, certificate),
        )

    def _retire(self, request: HttpRequest, certificate: PushCertificate) -> str:
        certificates.retire(certificate, actor=Actor.of_request(request), now=timezone.now())
        return gettext("The push certificate is out of use.")

    def _confirmed(
        self,
        request: HttpRequest,
        certificate: PushCertificate,
        *,
        title: str,
        text: str,
        button: str,
        act: Any,
        after: str = "",
    ) -> HttpResponse:
        """Ask first; act on the answer; back to the certificate, with what happened or why not."""
        if request.method == "POST":
            try:
                self.message_user(request, act(), messages.SUCCESS)
            except PushCertificateRefused as refused:
                self.message_user(request, refused.reason, messages.ERROR)
            return HttpResponseRedirect(
                after or reverse("admin:push_pushcertificate_change", args=[certificate.pk])
            )
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "text": text,
            "button": button,
            "original": certificate,
        }
        return TemplateResponse(request, "admin/push/pushcertificate/confirm.html", context)

    def _page(
        self, request: HttpRequest, name: str, title: str, form: forms.Form, fields: list[str]
    ) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "form": form,
            "adminform": AdminForm(cast("Any", form), [(None, {"fields": fields})], {}, (), self),
            "active": PushCertificate.objects.filter(state=PushCertificateState.ACTIVE).first(),
        }
        return TemplateResponse(request, f"admin/push/pushcertificate/{name}.html", context)

    def _certificate(self, request: HttpRequest, pk: int) -> PushCertificate:
        certificate: PushCertificate | None = self.get_object(request, str(pk))
        if certificate is None:
            raise Http404
        if not self.has_view_permission(request, certificate):
            raise PermissionDenied
        return certificate

    # Cells

    @admin.display(description=_("name"), ordering="common_name")
    def name(self, certificate: PushCertificate) -> str:
        return certificate.common_name or certificate.topic or "-"

    @admin.display(description=_("topic"), ordering="topic")
    def topic_shown(self, certificate: PushCertificate) -> str:
        if certificate.state == PushCertificateState.REQUESTED and certificate.topic:
            return gettext("renews %s") % certificate.topic
        return certificate.topic or gettext("not known yet")

    @admin.display(description=_("devices"))
    def devices(self, certificate: PushCertificate) -> str:
        """How many listen to the topic. The number comes with the row."""
        number: int = getattr(certificate, "listening", 0)
        return str(number) if certificate.topic else "-"

    @admin.display(description=_("ways to enrol"))
    def ways_to_enrol(self, certificate: PushCertificate) -> SafeString | str:
        if certificate.state != PushCertificateState.ACTIVE:
            return "-"
        ways = topics.ways_to_enrol(certificate.topic)
        if not ways:
            return gettext("None: new devices get another topic.")
        return format_html_join(
            ", ",
            '<a href="{}">{}</a>{}',
            (
                (way.url, way.name, "" if way.chosen else gettext(" (takes the newest certificate)"))
                for way in ways
            ),
        )

    @admin.display(description=_("issued by"))
    def issuer(self, certificate: PushCertificate) -> SafeString | str:
        if not certificate.der:
            return "-"
        told = certificates.provenance_of(certificate, timezone.now())
        if told.verified:
            return badge("good", gettext("verified"), told.issuer, shown=True)
        return badge("wait", gettext("not verified"), told.warning, shown=True)

    @admin.display(description=_("expires"), ordering="not_after")
    def expiry(self, certificate: PushCertificate) -> SafeString | str:
        if certificate.not_after is None:
            return "-"
        left = certificate.not_after - timezone.now()
        text = left_in_words(left)
        tone = urgency(left) if certificate.state == PushCertificateState.ACTIVE else "off"
        return badge(tone, text, f"{certificate.not_after:%d %B %Y}")

    @admin.display(description=_("condition"))
    def condition(self, certificate: PushCertificate) -> SafeString | str:
        if certificate.state != PushCertificateState.ACTIVE:
            return "-"
        if certificate.held_at is not None:
            return badge("bad", gettext("pushes held"), certificate.held_reason, shown=True)
        if certificate.not_after is not None and certificate.not_after <= timezone.now():
            return badge("bad", gettext("expired"), "")
        if provenance.is_apples_apns():
            told = certificates.provenance_of(certificate, timezone.now())
            if not told.says_apple:
                return badge("bad", gettext("not from Apple"), told.warning)
        if certificate.trouble:
            return badge("wait", gettext("APNs cannot be reached"), certificate.trouble, shown=True)
        return badge("good", gettext("works"), gettext("No fault is known."))

    @admin.display(description=_("next step"))
    def next_step(self, certificate: PushCertificate) -> str:
        if certificate.state == PushCertificateState.REQUESTED:
            return gettext(
                "Go on with the steps: have an MDM vendor sign the request, upload that at "
                "identity.apple.com/pushcert, and bring the certificate that Apple gives you."
            )
        if certificate.state == PushCertificateState.REPLACED:
            return gettext("None: it is kept for the record.")
        if certificate.held_at is not None:
            return gettext(
                "Pushes wait, none is lost. Import a certificate of the same topic that Apple accepts, "
                "or try this one again."
            )
        return gettext(
            "Renew it before it expires, at identity.apple.com/pushcert, with the Apple Account that made "
            "it: with another one the topic changes, and every device has to enrol again."
        )

    @admin.display(description=_("pushes"))
    def pushes(self, certificate: PushCertificate) -> SafeString | str:
        if not certificate.topic:
            return "-"
        counts = dict(
            PushRequest.objects.filter(enrollment__topic=certificate.topic)
            .order_by()
            .values_list("state")
            .annotate(Count("pk"))
        )
        address = reverse("admin:push_pushrequest_changelist")
        return format_html_join(
            " · ",
            '<a href="{}?{}">{}: {}</a>',
            (
                (
                    address,
                    urlencode({"state__exact": state.value, "q": certificate.topic}),
                    state.label,
                    counts.get(state.value, 0),
                )
                for state in PushState
            ),
        )

    @admin.display(description=_("SHA-256 fingerprint"))
    def fingerprint(self, certificate: PushCertificate) -> SafeString | str:
        if not certificate.der:
            return "-"
        digest = Hash(SHA256())
        digest.update(bytes(certificate.der))
        return format_html("<code>{}</code>", digest.finalize().hex(":").upper())


class SentFilter(WhenFilter):
    title = _("last sent")
    field_name = "last_sent_at"


@admin.register(PushRequest)
class PushRequestAdmin(ReadOnlyAdmin):
    list_display = ["device", "state", "due", "attempts", "last_sent_at", "last_result"]
    list_display_links = ["device"]
    list_filter = ["state", SentFilter, "enrollment__channel"]
    list_select_related = ["enrollment__device"]
    ordering = ["-due_at"]
    search_fields = [
        "enrollment__device__serial_number",
        "enrollment__device__udid",
        "enrollment__device__name",
        "=enrollment__topic",
    ]
    search_help_text = _("Device (serial number, UDID, name) or the whole topic")
    fieldsets = [
        (None, {"fields": ["enrollment_link", "state", "topic"]}),
        (_("Next push"), {"fields": ["due_shown", "requested_at", "lease_until"]}),
        (_("Last push"), {"fields": ["last_sent_at", "last_result", "last_apns_id", "attempts"]}),
        (_("Token"), {"fields": ["token_updated", "token_dead"]}),
    ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[PushRequest]:
        rows: QuerySet[PushRequest] = super().get_queryset(request)
        return rows.defer("enrollment__push_token", "enrollment__push_magic")

    @admin.display(description=_("device"), ordering="enrollment__device__serial_number")
    def device(self, row: PushRequest) -> str:
        return str(row.enrollment)

    @admin.display(description=_("due"), ordering="due_at")
    def due(self, row: PushRequest) -> datetime | None:
        return row.due_at if row.state == PushState.DUE else None

    @admin.display(description=_("due"))
    def due_shown(self, row: PushRequest) -> str:
        return moment(self.due(row))

    @admin.display(description=_("enrolment"))
    def enrollment_link(self, row: PushRequest) -> SafeString | str:
        try:
            address = reverse("admin:devices_enrollment_change", args=[row.enrollment_id])
        except NoReverseMatch:
            return str(row.enrollment)
        return format_html('<a href="{}">{}</a>', address, row.enrollment)

    @admin.display(description=_("topic"))
    def topic(self, row: PushRequest) -> str:
        return row.enrollment.topic or "-"

    @admin.display(description=_("token updated"))
    def token_updated(self, row: PushRequest) -> str:
        return moment(row.enrollment.token_updated_at)

    @admin.display(description=_("token dead"))
    def token_dead(self, row: PushRequest) -> str:
        return moment(row.enrollment.token_dead_at)
