"""The ways in and the attempts, for administrators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Exists, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from audit import recording
from audit.admin import ReadOnlyAdmin, WhenFilter
from audit.recording import Actor
from devices.models import Channel, Enrollment
from enrollment import admin_access, admin_device_cas, admin_tls, completion
from enrollment.access import listed, taken
from enrollment.core.access import MAX_IDENTIFIER, identifiers
from enrollment.core.payloads import RIGHTS, RightsRefused, verify_access_rights
from enrollment.models import (
    Access,
    EnrollmentProfile,
    EnrollmentSession,
    Flow,
    ListedDevice,
    SessionState,
)
from enrollment.progress import held_or_refused, progress
from enrollment.topic import obstacles, topic_of
from pki import issuers
from pki.core.names import NameRefused, verify_name_value
from pki.models import Certificate, Issuer, IssuerKind, ProfileSigner, Purpose
from pki.records import grouped
from scep.models import Transaction, TransactionStatus

if TYPE_CHECKING:  # generic for the type checker only
    _Admin: TypeAlias = admin.ModelAdmin[EnrollmentProfile]
    _Form: TypeAlias = forms.ModelForm[EnrollmentProfile]
else:
    _Admin = admin.ModelAdmin
    _Form = forms.ModelForm

RIGHTS_IN_WORDS = {
    1: _("Inspect installed profiles"),
    2: _("Install and remove profiles"),
    4: _("Lock the device and remove its passcode"),
    8: _("Erase the device"),
    16: _("Ask for device information"),
    32: _("Ask for network information"),
    64: _("Inspect provisioning profiles"),
    128: _("Install and remove provisioning profiles"),
    256: _("Ask for installed apps"),
    512: _("Ask for restrictions"),
    1024: _("Ask for security information"),
    2048: _("Change settings"),
    4096: _("Manage apps"),
}


ACCESS_FIELDS = [
    *("access", "allow_accounts", "identity_provider", "people_groups"),
    *("max_enrollments", "closes_at", "only_listed", "groups"),
]


class EnrollmentProfileForm(_Form):
    """Access rights as check boxes instead of a sum of bits."""

    rights = forms.TypedMultipleChoiceField(
        label=_("Access rights"),
        coerce=int,
        choices=[(bit, RIGHTS_IN_WORDS[bit]) for bit in RIGHTS],
        widget=forms.CheckboxSelectMultiple,
        help_text=_("Devices that are enrolled keep theirs: a right can be taken away later, but not added."),
    )

    serial_numbers = forms.CharField(
        label=_("serial numbers"),
        required=False,
        max_length=500_000,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
        help_text=_("Of the listed devices, one on each line. Case, spaces and hyphens do not matter."),
    )

    class Meta:
        model = EnrollmentProfile
        fields = [
            "name",
            "slug",
            "organization",
            "description",
            "enabled",
            "allow_direct",
            "allow_ota",
            *ACCESS_FIELDS,
            "issuer",
            "topic",
            "check_out_when_removed",
            "renew_at_percent",
            "session_minutes",
            "payload_cipher",
            "pin_tls",
            "pin_unrevoked",
        ]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["rights"] = [bit for bit in RIGHTS if self.instance.access_rights & bit]
        if self.instance.pk:
            self.initial["serial_numbers"] = "\n".join(listed(self.instance)).upper()

    def clean_rights(self) -> int:
        try:
            return verify_access_rights(sum(self.cleaned_data["rights"]))
        except RightsRefused as refused:
            if not refused.right:
                raise forms.ValidationError(gettext("Choose at least one right.")) from refused
            raise forms.ValidationError(
                gettext("“%(right)s” needs “%(needs)s”.")
                % {"right": RIGHTS_IN_WORDS[refused.right], "needs": RIGHTS_IN_WORDS[refused.needs]}
            ) from refused

    def clean_organization(self) -> str:
        organization: str = self.cleaned_data["organization"].strip()
        try:
            if organization:
                verify_name_value(organization)
        except NameRefused as refused:
            raise forms.ValidationError(
                gettext("It stands in certificates, which cannot hold it: %(reason)s.")
                % {"reason": refused.reason}
            ) from refused
        return organization

    def clean_issuer(self) -> Issuer:
        issuer: Issuer = self.cleaned_data["issuer"]
        try:
            algorithm = issuers.current_key(issuer).algorithm
        except issuers.IssuerMissing as missing:
            raise forms.ValidationError(gettext("This issuer has no key to issue with.")) from missing
        if not algorithm.startswith("RSA"):
            raise forms.ValidationError(
                gettext("Devices enrol by SCEP, which needs an issuer with an RSA key.")
            )
        return issuer

    def clean_topic(self) -> str:
        topic: str = self.cleaned_data["topic"].strip()
        if topic and not topic.startswith("com.apple.mgmt."):
            raise forms.ValidationError(gettext("A push topic for management starts with com.apple.mgmt."))
        return topic

    def clean_session_minutes(self) -> int:
        minutes: int = self.cleaned_data["session_minutes"]
        if not 1 <= minutes <= 30 * 24 * 60:
            raise forms.ValidationError(gettext("Between one minute and 30 days (43200)."))
        return minutes

    def clean_serial_numbers(self) -> list[str]:
        found = identifiers(self.cleaned_data["serial_numbers"])
        for one in found:
            if len(one) > MAX_IDENTIFIER:
                raise forms.ValidationError(gettext("“%(line)s” is too long.") % {"line": one[:40]})
        return found

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if values.get("access") == Access.LOGIN and not (
            values.get("allow_accounts") or values.get("identity_provider")
        ):
            self.add_error("identity_provider", gettext("People need somewhere to sign in."))
        return values

    def save(self, commit: bool = True) -> EnrollmentProfile:
        self.instance.access_rights = self.cleaned_data["rights"]
        return super().save(commit)


@admin.register(EnrollmentProfile)
class EnrollmentProfileAdmin(_Admin):
    form = EnrollmentProfileForm
    list_display = ["name", "slug", "enabled", "ways", "access", "issuer", "page_link"]
    list_filter = ["enabled", "access"]
    search_fields = ["name", "slug", "organization"]
    list_select_related = ["issuer"]
    prepopulated_fields = {"slug": ["name"]}
    readonly_fields = ["addresses", "state_of_setup", "topic_in_use", "codes", "places"]
    filter_horizontal = ["groups"]
    fieldsets = [
        (None, {"fields": ["name", "slug", "organization", "description", "enabled"]}),
        (_("Addresses"), {"fields": ["addresses", "state_of_setup"]}),
        (
            _("How devices enrol"),
            {"fields": ["allow_direct", "allow_ota", "session_minutes", "payload_cipher"]},
        ),
        (_("The server's TLS"), {"fields": ["pin_tls", "pin_unrevoked"]}),
        (
            _("Who may enrol"),
            {
                "fields": [
                    *("access", "codes", "allow_accounts", "identity_provider", "people_groups"),
                    *("max_enrollments", "places", "closes_at", "only_listed", "serial_numbers"),
                ]
            },
        ),
        (
            _("What devices get"),
            {
                "fields": [
                    "groups",
                    *("issuer", "renew_at_percent", "topic", "topic_in_use", "rights"),
                    "check_out_when_removed",
                ]
            },
        ),
    ]

    def get_readonly_fields(self, request: HttpRequest, obj: EnrollmentProfile | None = None) -> list[str]:
        # An address that was handed out stays what it is.
        return [*self.readonly_fields, "slug"] if obj else list(self.readonly_fields)

    def get_prepopulated_fields(
        self, request: HttpRequest, obj: EnrollmentProfile | None = None
    ) -> dict[str, Sequence[str]]:
        return {} if obj else {"slug": ["name"]}

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "issuer":
            kwargs["queryset"] = db_field.related_model.objects.exclude(kind=IssuerKind.TRUST_ONLY)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    @admin.display(description=_("ways"))
    def ways(self, profile: EnrollmentProfile) -> str:
        ways = [gettext("direct profile")] * profile.allow_direct + [
            gettext("over the air")
        ] * profile.allow_ota
        return ", ".join(ways) or "-"

    @admin.display(description=_("page"))
    def page_link(self, profile: EnrollmentProfile) -> SafeString:
        return _link(reverse("enrollment:page", args=[profile.slug]), gettext("open"))

    @admin.display(description=_("addresses"))
    def addresses(self, profile: EnrollmentProfile) -> SafeString | str:
        if not profile.pk:
            return gettext("Shown when the profile is saved.")
        rows = [
            (gettext("Page for people"), reverse("enrollment:page", args=[profile.slug])),
        ]
        if profile.allow_direct:
            rows.append(
                (gettext("Download of the profile"), reverse("enrollment:profile", args=[profile.slug]))
            )
        if profile.allow_ota:
            rows.append((gettext("Over the air"), reverse("over_the_air", args=[profile.slug])))
        base = settings.BRAMLEY_PUBLIC_URL
        return format_html_join(
            "", '<div>{}: <a href="{}">{}</a></div>', ((name, path, base + path) for name, path in rows)
        )

    @admin.display(description=_("state of set-up"))
    def state_of_setup(self, profile: EnrollmentProfile) -> SafeString | str:
        found = obstacles(profile)
        if not found:
            return gettext("Ready.")
        return format_html_join("", '<div class="warning">{}</div>', ((text,) for text in found))

    @admin.display(description=_("codes"))
    def codes(self, profile: EnrollmentProfile) -> SafeString | str:
        if not profile.pk:
            return gettext("Made when the profile is saved.")
        working = profile.codes.filter(withdrawn_at=None).count()
        codes = reverse("admin:enrollment_enrollmentcode_changelist")
        make = reverse("admin:enrollment_enrollmentcode_add")
        return format_html(
            '<a href="{}?profile__id__exact={}">{}</a> · <a href="{}?profile={}">{}</a>',
            *(codes, profile.pk, ngettext("%d code", "%d codes", working) % working),
            *(make, profile.pk, gettext("make codes")),
        )

    @admin.display(description=_("taken"))
    def places(self, profile: EnrollmentProfile) -> str:
        return str(taken(profile, timezone.now())) if profile.pk else "-"

    @admin.display(description=_("serial numbers"))
    def serial_numbers(self, profile: EnrollmentProfile) -> str:
        """For who may look only; who may change sees the form's field."""
        return ", ".join(listed(profile)).upper() or "-"

    @admin.display(description=_("topic that devices get"))
    def topic_in_use(self, profile: EnrollmentProfile) -> str:
        return topic_of(profile).value

    def save_model(
        self,
        request: HttpRequest,
        obj: EnrollmentProfile,
        form: Any,
        change: bool,
    ) -> None:
        before: Any = EnrollmentProfile.objects.filter(pk=obj.pk).values().first() or {}
        super().save_model(request, obj, form, change)
        after = EnrollmentProfile.objects.filter(pk=obj.pk).values().get()
        changed = {
            name: {"before": str(before.get(name, "")), "after": str(value)}
            for name, value in after.items()
            if before.get(name) != value
        }
        recording.record(
            "enrollment_profile.changed" if change else "enrollment_profile.created",
            actor=Actor.of_request(request),
            target=obj,
            details=changed,
        )

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        profile: EnrollmentProfile = form.instance
        before, after = set(listed(profile)), set(form.cleaned_data["serial_numbers"])
        if before == after:
            return
        ListedDevice.objects.filter(profile=profile, serial_number__in=before - after).delete()
        ListedDevice.objects.bulk_create(
            [ListedDevice(profile=profile, serial_number=one) for one in sorted(after - before)],
            batch_size=500,
        )
        recording.record(
            "enrollment_profile.devices_listed",
            actor=Actor.of_request(request),
            target=profile,
            details={"added": sorted(after - before)[:100], "removed": sorted(before - after)[:100]},
        )

    def delete_model(self, request: HttpRequest, obj: EnrollmentProfile) -> None:
        recording.record("enrollment_profile.deleted", actor=Actor.of_request(request), target=obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[EnrollmentProfile]) -> None:
        for profile in queryset:
            self.delete_model(request, profile)


class StartedFilter(WhenFilter):
    field_name = "created_at"


@admin.register(EnrollmentSession)
class EnrollmentSessionAdmin(ReadOnlyAdmin):
    """Each attempt with the step where it stopped. Nothing here is edited."""

    list_display = ["created_at", "profile", "state", "where_it_is", "person", "device", "remote_addr"]
    list_filter = [StartedFilter, "state", "profile", "flow"]
    search_fields = [
        *("serial_number", "udid", "expected_serial_number", "expected_udid", "remote_addr"),
        *("person", "code__label"),
    ]
    search_help_text = _("Serial number, UDID, person, code, address")
    list_select_related = ["profile"]
    actions = ["stop"]
    fieldsets = [
        (None, {"fields": ["profile", "flow", "state", "where_it_is", "device"]}),
        (
            _("Who"),
            {
                "fields": [
                    *("person", "person_source", "person_id", "code"),
                    "serial_number",
                    "udid",
                    "product",
                    "version",
                    "imei",
                    "meid",
                    "expected_serial_number",
                    "expected_udid",
                    "pre_approved",
                    "remote_addr",
                    "user_agent",
                ]
            },
        ),
        (_("When"), {"fields": ["created_at", "updated_at", "expires_at"]}),
        (
            _("Certificates"),
            {
                "fields": [
                    *("certificates", "signed_by", "requests"),
                    *("device_certificate_sha256", "identifier"),
                ]
            },
        ),
    ]
    readonly_fields = ["identifier", "where_it_is", "device", "certificates", "signed_by", "requests"]

    def facts(self, request: HttpRequest, obj: EnrollmentSession) -> dict[str, Any]:
        return {"progress": progress(obj)}

    def get_fieldsets(self, request: HttpRequest, obj: EnrollmentSession | None = None) -> Any:
        """What is not known of this attempt takes no room."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None:
            return fieldsets
        return [
            (
                title,
                {**options, "fields": [name for name in options["fields"] if getattr(obj, str(name), True)]},
            )
            for title, options in fieldsets
        ]

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Asked by the action: the right to change sessions is the right to stop them."""
        return request.user.has_perm("enrollment.change_enrollmentsession")

    def get_queryset(self, request: HttpRequest) -> QuerySet[EnrollmentSession]:
        """With what other parts know of the session, so that a list costs no query for each row."""
        enrollments = Enrollment.objects.filter(binding=OuterRef("uuid"), channel=Channel.DEVICE).order_by(
            "-id"
        )
        refused = Transaction.objects.filter(
            challenge__binding=OuterRef("uuid"), status=TransactionStatus.FAILURE
        ).order_by("-id")
        certificates = Certificate.objects.filter(binding=OuterRef("uuid"))
        sessions: QuerySet[EnrollmentSession] = super().get_queryset(request)
        return sessions.annotate(
            device_id=Subquery(enrollments.values("device_id")[:1]),
            enrollment_state=Subquery(enrollments.values("state")[:1]),
            device_name=Subquery(enrollments.values("device__name")[:1]),
            device_serial_number=Subquery(enrollments.values("device__serial_number")[:1]),
            device_udid=Subquery(enrollments.values("device__udid")[:1]),
            certified=Exists(certificates.filter(purpose=Purpose.MDM_IDENTITY)),
            ota_certified=Exists(certificates.filter(purpose=Purpose.OTA_IDENTITY)),
            last_refusal=Subquery(refused.values("reason")[:1]),
        )

    @admin.display(description=_("where it is"))
    def where_it_is(self, session: EnrollmentSession) -> str:
        """The step reached, and what was said when it stopped."""
        refusal = getattr(session, "last_refusal", None) or ""
        if session.reason:
            return ": ".join(part for part in (session.reason, refusal or session.refusal_reason) if part)
        step = self._step(session, refusal)
        if session.refusal_reason and session.state != SessionState.COMPLETED:
            return gettext("%(step)s; refused: %(reason)s") % {
                "step": step,
                "reason": session.refusal_reason,
            }
        return step

    def _step(self, session: EnrollmentSession, refusal: str) -> str:
        """What it waits for. The state may lag behind the certificates, which are issued elsewhere."""
        certified = bool(getattr(session, "certified", False))
        ota_certified = bool(getattr(session, "ota_certified", False))
        match session.state:
            case SessionState.OFFERED if session.flow == Flow.OTA:
                return gettext("profile downloaded, waiting for the device to make itself known")
            case SessionState.IDENTIFIED if not ota_certified and refusal:
                return gettext("certificate refused: %(reason)s") % {"reason": refusal}
            case SessionState.IDENTIFIED if not ota_certified:
                return gettext("device known, waiting for the request for a certificate")
            case SessionState.IDENTIFIED | SessionState.OTA_CERTIFIED:
                return gettext("certificate for the enrolment issued, waiting for the device to come back")
            case SessionState.OFFERED | SessionState.DELIVERED if certified:
                return gettext("certificate issued, waiting for the device to check in")
            case SessionState.OFFERED | SessionState.DELIVERED if refusal:
                return gettext("certificate refused: %(reason)s") % {"reason": refusal}
            case SessionState.OFFERED | SessionState.DELIVERED:
                return gettext("profile downloaded, waiting for the request for a certificate")
            case SessionState.CERTIFIED:
                return gettext("certificate issued, waiting for the device to check in")
            case SessionState.AUTHENTICATED:
                decided = held_or_refused(getattr(session, "enrollment_state", None) or "")
                return decided or gettext("device checked in, waiting for its push token")
        return "-"

    @admin.display(description=_("device"))
    def device(self, session: EnrollmentSession) -> SafeString | str:
        """The device that enrolled by it; else the one it names, if that is known here."""
        device_id = getattr(session, "device_id", None)
        if device_id:
            label = (
                getattr(session, "device_name", "")
                or getattr(session, "device_serial_number", "")
                or getattr(session, "device_udid", "")
            )
            return _link(reverse("admin:devices_device_change", args=[device_id]), label)
        return session.serial_number or session.udid or session.expected_serial_number or "-"

    @admin.display(description=_("session"))
    def identifier(self, session: EnrollmentSession) -> str:
        return str(session.uuid)

    @admin.display(description=_("certificates"))
    def certificates(self, session: EnrollmentSession) -> SafeString | str:
        rows = Certificate.objects.filter(binding=session.uuid)
        return _links((reverse("admin:pki_certificate_change", args=[row.pk]), str(row)) for row in rows)

    @admin.display(description=_("profile signed by"))
    def signed_by(self, session: EnrollmentSession) -> SafeString | str:
        """A person can replace it on the device only by a profile of the same signer."""
        sha256 = (session.told or {}).get("signer")
        if not sha256:
            return "-"
        if own := Certificate.objects.filter(sha256=sha256).first():
            return _link(reverse("admin:pki_certificate_change", args=[own.pk]), str(own))
        if brought := ProfileSigner.objects.filter(sha256=sha256).first():
            return _link(reverse("admin:pki_profilesigner_change", args=[brought.pk]), str(brought))
        return grouped(sha256)

    @admin.display(description=_("requests for a certificate"))
    def requests(self, session: EnrollmentSession) -> SafeString | str:
        rows = Transaction.objects.filter(challenge__binding=session.uuid)
        return _links(
            (
                reverse("admin:scep_transaction_change", args=[row.pk]),
                f"{row.get_status_display()} {row.reason}".strip(),
            )
            for row in rows
        )

    @admin.action(description=_("Stop the chosen sessions"), permissions=["stop"])
    def stop(self, request: HttpRequest, queryset: QuerySet[EnrollmentSession]) -> None:
        now = timezone.now()
        stopped = sum(
            completion.stop(session, actor=Actor.of_request(request), now=now) for session in queryset
        )
        self.message_user(
            request,
            ngettext("%d session stopped.", "%d sessions stopped.", stopped) % stopped,
            messages.SUCCESS if stopped else messages.WARNING,
        )


def _link(address: str, label: str) -> SafeString:
    return format_html('<a href="{}">{}</a>', address, label)


def _links(rows: Any) -> SafeString | str:
    return format_html_join("", '<div><a href="{}">{}</a></div>', rows) or "-"


__all__ = [
    "EnrollmentProfileAdmin",
    "EnrollmentSessionAdmin",
    "admin_access",
    "admin_device_cas",
    "admin_tls",
]
