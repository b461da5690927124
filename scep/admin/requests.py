"""Every PKIOperation, with the reason that devices show to nobody."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.formats import date_format
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from django.utils.translation import gettext_lazy as _

from audit.admin import ReadOnlyAdmin, WhenFilter
from scep.admin.parts import link
from scep.core.attributes import FailInfo, MessageType
from scep.models import Transaction, TransactionStatus

FAIL_INFO_IN_WORDS = {
    FailInfo.BAD_ALG: _("algorithm or key not accepted"),
    FailInfo.BAD_MESSAGE_CHECK: _("not decrypted, or altered"),
    FailInfo.BAD_REQUEST: _("not permitted"),
    FailInfo.BAD_TIME: _("time not accepted"),
    FailInfo.BAD_CERT_ID: _("unknown certificate"),
}


class CreatedAtFilter(WhenFilter):
    field_name = "created_at"


class FailInfoFilter(admin.SimpleListFilter):
    """failInfo, with what it stands for."""

    title = _("failInfo")
    parameter_name = "fail_info"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(info.label, f"{info.label}: {words}") for info, words in FAIL_INFO_IN_WORDS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(fail_info=self.value()) if self.value() else queryset


class MessageTypeFilter(admin.SimpleListFilter):
    """What was asked for."""

    title = _("message type")
    parameter_name = "message_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(kind.label, kind.label) for kind in MessageType if kind is not MessageType.CERT_REP]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset.filter(message_type=self.value()) if self.value() else queryset


@admin.register(Transaction)
class TransactionAdmin(ReadOnlyAdmin):
    """Every PKIOperation whose signature verified, with the reason that devices show to nobody."""

    list_display = [
        "created_at",
        "status",
        "why",
        "csr_subject",
        "message_type",
        "service",
        "remote_addr",
    ]
    list_display_links = ["created_at"]
    list_filter = ["status", FailInfoFilter, MessageTypeFilter, CreatedAtFilter, "service"]
    list_select_related = ["service", "certificate"]
    search_fields = [
        "transaction_id",
        "csr_subject",
        "signer_subject",
        "remote_addr",
        "certificate__subject",
        "certificate__serial_number",
    ]
    search_help_text = _("Transaction id, subject, address, serial number of the certificate")
    fieldsets = [
        (
            None,
            {
                "fields": [
                    "created_at",
                    "status",
                    "why",
                    "certificate_link",
                    "challenge_link",
                    "decision",
                    "repeats",
                    "last_asked_at",
                ]
            },
        ),
        (
            _("What was asked for"),
            {
                "fields": [
                    "message_type",
                    "csr_subject",
                    "csr_names",
                    "csr_extensions",
                    "csr_key",
                    "csr_sha256",
                ]
            },
        ),
        (
            _("Who asked"),
            {"fields": ["signer_subject", "signer_sha256", "signer_key_sha256", "remote_addr", "user_agent"]},
        ),
        (
            _("Message"),
            {
                "fields": [
                    "transaction_id",
                    "service",
                    "issuer",
                    "digest",
                    "cipher",
                    "recipient_sha256",
                    "fail_info",
                ]
            },
        ),
    ]

    def facts(self, request: HttpRequest, obj: Transaction) -> dict[str, Any]:
        waits = obj.status == TransactionStatus.PENDING
        return {"waits": waits and request.user.has_perm("scep.view_pendingrequest")}

    @admin.display(description=_("reason"), ordering="reason")
    def why(self, transaction: Transaction) -> str:
        return transaction.reason or "-"

    @admin.display(description=_("certificate"))
    def certificate_link(self, transaction: Transaction) -> SafeString | str:
        return link("admin:pki_certificate_change", transaction.certificate)

    @admin.display(description=_("challenge"))
    def challenge_link(self, transaction: Transaction) -> SafeString | str:
        return link("admin:scep_challenge_change", transaction.challenge)

    @admin.display(description=_("decision"))
    def decision(self, transaction: Transaction) -> str:
        if transaction.decided_at is None:
            return "-"
        when = date_format(localtime(transaction.decided_at), "DATETIME_FORMAT")
        return f"{transaction.decided_by}, {when}" if transaction.decided_by else when
