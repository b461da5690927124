"""One-time challenges and the record of every SCEP transaction (RFC 8894)."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from pki.core.names import Name
from pki.models import Certificate, Issuer, Purpose


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
    validity_days = models.PositiveIntegerField(_("days of validity"), null=True, blank=True)
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
        return tuple((key, value) for key, value in self.subject)

    @property
    def alternative_names(self) -> tuple[tuple[str, str], ...]:
        """The alternative names as pairs of kind and value."""
        return tuple((kind, value) for kind, value in self.subject_alternative_name)


class TransactionStatus(models.TextChoices):
    """pkiStatus of the reply (RFC 8894 section 3.2.1.3)."""

    SUCCESS = "SUCCESS", _("certificate issued")
    FAILURE = "FAILURE", _("refused")
    PENDING = "PENDING", _("waiting for approval")


class Transaction(models.Model):
    """One PKIOperation whose outer signature verified, with its outcome and the reason for a refusal."""

    issuer = models.ForeignKey(Issuer, on_delete=models.PROTECT, related_name="+", verbose_name=_("issuer"))
    transaction_id = models.CharField(_("transaction id"), max_length=256, db_index=True)
    message_type = models.CharField(_("message type"), max_length=20)
    status = models.CharField(_("status"), max_length=8, choices=TransactionStatus.choices)
    fail_info = models.CharField(_("failInfo"), max_length=20, blank=True)
    reason = models.CharField(_("reason"), max_length=500, blank=True)
    csr_sha256 = models.CharField(_("SHA-256 of the request"), max_length=64, blank=True)
    csr_subject = models.CharField(_("subject asked for"), max_length=500, blank=True)
    csr_key = models.CharField(_("key of the request"), max_length=40, blank=True)
    signer_sha256 = models.CharField(_("SHA-256 of the signer"), max_length=64, blank=True)
    signer_key_sha256 = models.CharField(_("SHA-256 of the signer's key"), max_length=64, blank=True)
    signer_subject = models.CharField(_("signer"), max_length=500, blank=True)
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
    )
    remote_addr = models.CharField(_("address"), max_length=45, blank=True)
    user_agent = models.CharField(_("client"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("at"), db_index=True)
    repeats = models.PositiveIntegerField(
        _("repeats"),
        default=0,
        help_text=_("How often the same request came again and got the same certificate."),
    )

    class Meta:
        verbose_name = _("SCEP transaction")
        verbose_name_plural = _("SCEP transactions")
        ordering = ["-id"]
        constraints = [
            # The same request signed by the same certificate has one outcome: its certificate.
            models.UniqueConstraint(
                fields=["issuer", "transaction_id", "csr_sha256", "signer_sha256"],
                condition=models.Q(status="SUCCESS"),
                name="scep_one_success_for_a_request",
            )
        ]

    def __str__(self) -> str:
        return f"{self.message_type} {self.transaction_id}"
