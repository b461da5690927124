"""SCEP services, one-time challenges, and the record of every SCEP transaction (RFC 8894)."""

from __future__ import annotations

import uuid
from functools import lru_cache
from typing import ClassVar

from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from pki.core.names import Name
from pki.models import Certificate, Issuer, Purpose
from scep.core import capabilities
from scep.core.decision import Approval, ChallengeMode, Rules


class Mode(models.TextChoices):
    """:class:`scep.core.decision.ChallengeMode`, for people."""

    BOUND = ChallengeMode.BOUND.value, _("one-time challenges made here")
    WEBHOOK = ChallengeMode.WEBHOOK.value, _("another system is asked (webhook)")
    NONE = ChallengeMode.NONE.value, _("none: an administrator approves each request")


class ApprovalChoice(models.TextChoices):
    """:class:`scep.core.decision.Approval`, for people."""

    NEVER = Approval.NEVER.value, _("no: a good challenge is enough, without one it is refused")
    WITHOUT_CHALLENGE = Approval.WITHOUT_CHALLENGE.value, _("only requests without a challenge")
    ALWAYS = Approval.ALWAYS.value, _("every first request")


class Proposal(models.TextChoices):
    """What of a request's names the administrator finds in the form, to approve or change it."""

    SUBJECT_AND_NAMES = "SUBJECT_AND_NAMES", _("the subject and the alternative names asked for")
    SUBJECT = "SUBJECT", _("only the subject asked for")
    NOTHING = "NOTHING", _("nothing: the administrator writes it")


class CaForm(models.TextChoices):
    """How GetCACert answers."""

    SINGLE = "SINGLE", _("the issuing certificate alone")
    CHAIN = "CHAIN", _("the whole chain up to the root")


def default_capabilities() -> list[str]:
    """Everything that is enforced."""
    return list(capabilities.KEYWORDS)


class ScepService(models.Model):
    """A SCEP address and its rules. Several may stand before one issuer."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    slug = models.SlugField(_("short name"), unique=True, help_text=_("Part of the address: /scep/NAME/."))
    issuer = models.ForeignKey(
        Issuer, on_delete=models.PROTECT, related_name="scep_services", verbose_name=_("issuer")
    )
    enabled = models.BooleanField(
        _("enabled"), default=True, help_text=_("Off: the address answers “not found”.")
    )
    challenge_mode = models.CharField(_("challenge"), max_length=8, choices=Mode.choices, default=Mode.BOUND)
    approval = models.CharField(
        _("wait for approval"), max_length=20, choices=ApprovalChoice.choices, default=ApprovalChoice.NEVER
    )
    purpose = models.CharField(
        _("purpose"),
        max_length=20,
        choices=[(purpose.value, purpose.label) for purpose in (Purpose.SERVER_TLS, Purpose.MDM_IDENTITY)],
        default=Purpose.SERVER_TLS,
    )
    validity_days = models.PositiveIntegerField(_("days of validity"), null=True, blank=True)
    proposal = models.CharField(
        _("proposed for approval"),
        max_length=20,
        choices=Proposal.choices,
        default=Proposal.SUBJECT_AND_NAMES,
    )
    pending_days = models.PositiveSmallIntegerField(_("days until an open request lapses"), default=7)
    renewal_window_days = models.PositiveSmallIntegerField(
        _("renewal at most this many days before the end"), null=True, blank=True
    )
    webhook_url = models.CharField(_("webhook address"), max_length=500, blank=True)
    webhook_secret_sealed = models.BinaryField(
        null=True, editable=False, help_text="Sealed with context scep.scepservice.webhook_secret:<uuid>"
    )
    ca_form = models.CharField(
        _("GetCACert answers with"), max_length=8, choices=CaForm.choices, default=CaForm.SINGLE
    )
    ra_certificate = models.BooleanField(_("certificate of its own (RA)"), default=False)
    capabilities = models.JSONField(_("capabilities"), default=default_capabilities)
    accept_sha1 = models.BooleanField(_("accept SHA-1"), default=True)
    allow_get = models.BooleanField(_("PKIOperation by GET"), default=True)
    clock_minutes = models.PositiveSmallIntegerField(
        _("minutes that a client's clock may be off"), null=True, blank=True
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("SCEP service")
        verbose_name_plural = _("SCEP services")
        ordering = ["slug"]
        constraints = [
            # Issuing to whoever asks is no setting.
            models.CheckConstraint(
                condition=~models.Q(challenge_mode=Mode.NONE) | models.Q(approval=ApprovalChoice.ALWAYS),
                name="scep_service_is_no_open_door",
                violation_error_message=_("Without a challenge every request has to wait for approval."),
            ),
            models.CheckConstraint(
                condition=~models.Q(challenge_mode=Mode.WEBHOOK) | ~models.Q(webhook_url=""),
                name="scep_service_webhook_has_address",
                violation_error_message=_("Who is to be asked? The address of the webhook is missing."),
            ),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def rules(self) -> Rules:
        """What decides about requests."""
        return _rules(self.challenge_mode, self.approval, "Renewal" in self.capabilities)

    def clean(self) -> None:
        allowed = set(self.capabilities)
        if not allowed <= set(capabilities.KEYWORDS):
            raise ValidationError({"capabilities": _("Unknown capability.")})
        if not capabilities.ciphers(allowed):
            raise ValidationError({"capabilities": _("Choose at least one of AES and DES3.")})
        if not capabilities.digests(allowed, sha1=False):
            raise ValidationError(
                {"capabilities": _("Choose at least one digest: SHA-256, SHA-384, SHA-512.")}
            )
        if not self.allow_get and "POSTPKIOperation" not in allowed:
            raise ValidationError(
                {"allow_get": _("Requests have to come somehow: allow GET, or POSTPKIOperation.")}
            )


@lru_cache(maxsize=64)
def _rules(mode: str, approval: str, renewal: bool) -> Rules:
    return Rules(ChallengeMode(mode), Approval(approval), renewal=renewal)


class Challenge(models.Model):
    """A one-time challengePassword. It says what the certificate will hold; the CSR gives only the key.

    The value itself is not stored: ``value_hash`` is its keyed hash (HMAC-SHA256).
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    value_hash = models.BinaryField(max_length=32, unique=True, editable=False)
    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="+", verbose_name=_("issuer"))
    purpose = models.CharField(
        _("purpose"), max_length=20, choices=Purpose.choices, default=Purpose.MDM_IDENTITY
    )
    binding = models.UUIDField(
        _("binding"),
        null=True,
        blank=True,
        db_index=True,
        help_text=_("Enrollment session for which it was made."),
    )
    subject = models.JSONField(
        _("subject"), help_text=_("List of [attribute, value] pairs: CN, O, OU, serialNumber, …")
    )
    subject_alternative_name = models.JSONField(
        _("alternative names"),
        default=list,
        blank=True,
        help_text=_("List of [kind, value]: DNS, URI, email"),
    )
    validity_days = models.IntegerField(_("days of validity"), null=True, blank=True)
    subject_text = models.CharField(_("subject"), max_length=500, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    created_by = models.CharField(_("created by"), max_length=200, blank=True)
    expires_at = models.DateTimeField(_("expires"), db_index=True)
    consumed_at = models.DateTimeField(_("used"), null=True, blank=True)

    class Meta:
        verbose_name = _("challenge")
        verbose_name_plural = _("challenges")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.subject_text

    @property
    def subject_name(self) -> Name:
        """The subject as a name: JSON has no tuples."""
        return pairs(self.subject)

    @property
    def alternative_names(self) -> tuple[tuple[str, str], ...]:
        """The alternative names as pairs of kind and value."""
        return pairs(self.subject_alternative_name)


class TransactionStatus(models.TextChoices):
    """pkiStatus of the reply (RFC 8894 section 3.2.1.3)."""

    SUCCESS = "SUCCESS", _("granted")
    FAILURE = "FAILURE", _("refused")
    PENDING = "PENDING", _("waiting for approval")


class Transaction(models.Model):
    """One PKIOperation whose outer signature verified, with its outcome and the reason for a refusal.

    One that waits for approval keeps its row: an administrator turns PENDING into SUCCESS or FAILURE, and the
    client's polls are counted on it.

    On PostgreSQL nothing checks that service, issuer and certificate are there: they are never deleted. That
    check would lock their rows for each enrolment, those of service and issuer for all of them at once.
    """

    service = models.ForeignKey(
        ScepService,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("service"),
        db_constraint=False,
    )
    issuer = models.ForeignKey(
        Issuer,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("issuer"),
        db_index=False,
        db_constraint=False,
    )
    transaction_id = models.CharField(_("transaction id"), max_length=256, db_index=True)
    message_type = models.CharField(_("message type"), max_length=20)
    status = models.CharField(_("status"), max_length=8, choices=TransactionStatus.choices)
    fail_info = models.CharField(_("failInfo"), max_length=20, blank=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    csr_sha256 = models.CharField(_("SHA-256 of the request"), max_length=64, blank=True)
    csr_subject = models.CharField(_("subject asked for"), max_length=500, blank=True)
    csr_names = models.CharField(_("alternative names asked for"), max_length=500, blank=True)
    csr_extensions = models.CharField(_("extensions asked for"), max_length=500, blank=True)
    csr_key = models.CharField(_("key of the request"), max_length=40, blank=True)
    csr_public_key = models.BinaryField(
        null=True, editable=False, help_text="DER of the SubjectPublicKeyInfo, while a request is open"
    )
    signer_sha256 = models.CharField(_("SHA-256 of the signer"), max_length=64, blank=True)
    signer_key_sha256 = models.CharField(_("SHA-256 of the signer's key"), max_length=64, blank=True)
    signer_subject = models.CharField(_("signer"), max_length=500, blank=True)
    recipient_sha256 = models.CharField(_("SHA-256 of the recipient"), max_length=64, blank=True)
    digest = models.CharField(_("digest"), max_length=10, blank=True)
    cipher = models.CharField(_("cipher"), max_length=20, blank=True)
    challenge = models.ForeignKey(
        Challenge,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="transactions",
        verbose_name=_("challenge"),
    )
    certificate = models.ForeignKey(
        Certificate,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="scep_transactions",
        verbose_name=_("certificate"),
        db_constraint=False,
    )
    proposed_subject = models.JSONField(_("proposed subject"), default=list, blank=True)
    proposed_names = models.JSONField(_("proposed alternative names"), default=list, blank=True)
    proposed_days = models.IntegerField(_("proposed days of validity"), null=True, blank=True)
    expires_at = models.DateTimeField(_("lapses"), null=True, blank=True)
    decided_at = models.DateTimeField(_("decided"), null=True, blank=True)
    decided_by = models.CharField(_("decided by"), max_length=200, blank=True)
    remote_addr = models.CharField(_("address"), max_length=45, blank=True)
    user_agent = models.CharField(_("client"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("at"), db_index=True)
    repeats = models.IntegerField(
        _("repeats"), default=0, help_text=_("How often the same was asked again and got the same answer.")
    )
    last_asked_at = models.DateTimeField(_("last asked"), null=True, blank=True)

    class Meta:
        verbose_name = _("SCEP transaction")
        verbose_name_plural = _("SCEP transactions")
        ordering = ["-id"]
        constraints = [
            # The same request signed by the same certificate has one outcome: its certificate.
            models.UniqueConstraint(
                fields=["issuer", "transaction_id", "csr_sha256", "signer_sha256"],
                condition=models.Q(status="SUCCESS") & ~models.Q(csr_sha256=""),
                name="scep_one_success_for_a_request",
            ),
            models.UniqueConstraint(
                fields=["service", "transaction_id", "csr_sha256", "signer_sha256"],
                condition=models.Q(status="PENDING"),
                name="scep_one_open_request",
            ),
        ]
        indexes = [
            models.Index(
                fields=["service", "expires_at"],
                condition=models.Q(status="PENDING"),
                name="scep_open_requests",
            )
        ]

    def __str__(self) -> str:
        return f"{self.message_type} {self.transaction_id}"

    @property
    def proposed_name(self) -> Name:
        """The subject that the administrator finds in the form."""
        return pairs(self.proposed_subject)

    @property
    def proposed_alternative_names(self) -> tuple[tuple[str, str], ...]:
        """The alternative names that the administrator finds in the form."""
        return pairs(self.proposed_names)


class _Waiting(models.Manager["PendingRequest"]):
    def get_queryset(self) -> models.QuerySet[PendingRequest]:
        return super().get_queryset().filter(status=TransactionStatus.PENDING)


class PendingRequest(Transaction):
    """The transactions that wait for an administrator, for a list of their own."""

    objects: ClassVar[_Waiting] = _Waiting()

    class Meta:
        proxy = True
        verbose_name = _("request waiting for approval")
        verbose_name_plural = _("requests waiting for approval")


def pairs(value: list[list[str]]) -> tuple[tuple[str, str], ...]:
    """Pairs as JSON keeps them, as tuples."""
    return tuple((first, second) for first, second in value)
