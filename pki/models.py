"""Issuers, their keys and certificates, the certificates they issued, and their CRLs."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from pki.records import common_name


class Purpose(models.TextChoices):
    """What a certificate may be used for; checked wherever one is presented."""

    OTA_IDENTITY = "OTA_IDENTITY", _("over-the-air enrolment")
    MDM_IDENTITY = "MDM_IDENTITY", _("device identity")
    PROFILE_SIGNING = "PROFILE_SIGNING", _("profile signing")
    SCEP_RECIPIENT = "SCEP_RECIPIENT", _("SCEP recipient")
    OCSP_SIGNING = "OCSP_SIGNING", _("OCSP signing")
    SERVER_TLS = "SERVER_TLS", _("server TLS")


class IssuerKind(models.TextChoices):
    ROOT = "ROOT", _("root of our own")
    SUBORDINATE = "SUBORDINATE", _("subordinate of an issuer of ours")
    EXTERNAL = "EXTERNAL", _("subordinate of an external root")
    TRUST_ONLY = "TRUST_ONLY", _("trusted only: issued elsewhere")


class IssuerState(models.TextChoices):
    """DRAFT and AWAITING: a subordinate of an external root that has no certificate yet."""

    DRAFT = "DRAFT", _("draft: its request is to be fetched")
    AWAITING = "AWAITING", _("awaiting its signed certificate")
    ACTIVE = "ACTIVE", _("active")
    RETIRED = "RETIRED", _("retired: issues nothing new")
    REVOKED = "REVOKED", _("revoked")


class Issuer(models.Model):
    """A certificate authority: a name that stays while keys and certificates come and go."""

    slug = models.SlugField(
        _("short name"), unique=True, help_text=_("Part of addresses, as in /scep/bramley/.")
    )
    name = models.CharField(_("name"), max_length=200)
    subject_der = models.BinaryField(
        editable=False,
        default=b"",
        help_text="DER of the Name in its certificates; it never changes. Empty where it is only trusted.",
    )
    kind = models.CharField(_("kind"), max_length=12, choices=IssuerKind.choices, default=IssuerKind.ROOT)
    parent = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="subordinates",
        verbose_name=_("issued by"),
        help_text=_("The issuer of ours that signs its certificates."),
    )
    path_length = models.PositiveSmallIntegerField(
        _("levels of CAs below"), null=True, blank=True, help_text=_("Empty: as many as you like.")
    )
    state = models.CharField(
        _("state"), max_length=8, choices=IssuerState.choices, default=IssuerState.ACTIVE
    )
    trusted_for = models.JSONField(
        _("trusted for"), default=list, help_text=_("Purposes for which its certificates are accepted.")
    )
    leaf_validity_days = models.PositiveIntegerField(_("days that a certificate is valid"), default=730)
    crl_validity_days = models.PositiveIntegerField(_("days that a CRL is valid"), default=7)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    retired_at = models.DateTimeField(_("retired"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)

    class Meta:
        verbose_name = _("issuer")
        verbose_name_plural = _("issuers")
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.name


class IssuerKeyState(models.TextChoices):
    NEXT = "NEXT", _("next")
    CURRENT = "CURRENT", _("current")
    PREVIOUS = "PREVIOUS", _("previous, still trusted")
    CLOSED = "CLOSED", _("closed")


class IssuerKey(models.Model):
    """One key generation of an issuer. Renewal keeps it, re-key adds one."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    issuer = models.ForeignKey(
        Issuer, on_delete=models.PROTECT, related_name="keys", verbose_name=_("issuer")
    )
    generation = models.PositiveIntegerField(_("generation"), default=1)
    state = models.CharField(
        _("state"), max_length=8, choices=IssuerKeyState.choices, default=IssuerKeyState.CURRENT
    )
    algorithm = models.CharField(_("algorithm"), max_length=20)
    private_key_sealed = models.BinaryField(
        null=True,
        editable=False,
        help_text="PKCS #8 DER, sealed with context pki.issuerkey.private_key:<uuid>",
    )
    key_location = models.CharField(
        _("kept in a token"),
        max_length=500,
        blank=True,
        default="",
        editable=False,
        help_text=_("PKCS #11 URI (RFC 7512) of the private key. Empty: it is kept here, encrypted."),
    )
    public_key = models.BinaryField(editable=False, help_text="SubjectPublicKeyInfo, DER")
    key_identifier = models.BinaryField(editable=False, max_length=20, help_text="subjectKeyIdentifier")
    crl_number = models.PositiveBigIntegerField(_("last CRL number"), default=0)
    crl_due = models.BooleanField(
        _("a CRL is due"),
        default=False,
        editable=False,
        help_text=_("Something was revoked and the list could not be signed then."),
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    activate_at = models.DateTimeField(_("activate at"), null=True, blank=True)
    activated_at = models.DateTimeField(_("in use from"), null=True, blank=True)
    replaced_at = models.DateTimeField(_("in use until"), null=True, blank=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    signing_request = models.BinaryField(
        editable=False, default=b"", help_text="PKCS #10 DER: the newest one made for an external CA"
    )
    requested_at = models.DateTimeField(
        _("request made"),
        null=True,
        blank=True,
        help_text=_("A certificate for this request is awaited. Empty once it has been imported."),
    )

    class Meta:
        verbose_name = _("issuer key")
        verbose_name_plural = _("issuer keys")
        ordering = ["issuer", "-generation"]
        constraints = [
            models.UniqueConstraint(fields=["issuer", "generation"], name="issuer_key_generation"),
            models.UniqueConstraint(
                fields=["issuer"], condition=models.Q(state="CURRENT"), name="issuer_one_current_key"
            ),
            models.UniqueConstraint(
                fields=["issuer"], condition=models.Q(state="NEXT"), name="issuer_one_next_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.issuer.slug} {self.generation}"

    @property
    def is_ours(self) -> bool:
        """Whether its private key is at our hand, here or in a token. :data:`pki.keys.OURS` for queries."""
        return self.private_key_sealed is not None or bool(self.key_location)


class IssuerCertificateKind(models.TextChoices):
    SELF_SIGNED = "SELF_SIGNED", _("self-signed")
    SUBORDINATE = "SUBORDINATE", _("issued by another CA")
    OLD_WITH_NEW = "OLD_WITH_NEW", _("link: old key signed by new")
    NEW_WITH_OLD = "NEW_WITH_OLD", _("link: new key signed by old")


class RevocationReason(models.TextChoices):
    """RFC 5280 section 5.3.1, by its names there."""

    UNSPECIFIED = "unspecified", _("unspecified")
    KEY_COMPROMISE = "keyCompromise", _("key compromise")
    CA_COMPROMISE = "cACompromise", _("CA compromise")
    AFFILIATION_CHANGED = "affiliationChanged", _("affiliation changed")
    SUPERSEDED = "superseded", _("superseded")
    CESSATION = "cessationOfOperation", _("cessation of operation")
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn", _("privilege withdrawn")


class IssuerCertificate(models.Model):
    """A CA certificate for one issuer key. Several over time: renewals and links.

    ``signed_by``: the key of ours that signed it, where that is another one than its own. Such a certificate
    stands on the CRL of that key once it is revoked.
    """

    issuer_key = models.ForeignKey(
        IssuerKey, on_delete=models.PROTECT, related_name="certificates", verbose_name=_("issuer key")
    )
    signed_by = models.ForeignKey(
        IssuerKey,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="authorities",
        verbose_name=_("signed by"),
    )
    kind = models.CharField(_("kind"), max_length=12, choices=IssuerCertificateKind.choices)
    is_current = models.BooleanField(
        _("current"), default=True, help_text=_("The one handed out for this key.")
    )
    der = models.BinaryField(editable=False)
    chain = models.BinaryField(
        editable=False,
        default=b"",
        help_text="PEM certificates above it up to an external root, nearest first",
    )
    subject = models.CharField(_("subject"), max_length=500)
    serial_number = models.CharField(_("serial number"), max_length=40)
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    not_before = models.DateTimeField(_("valid from"))
    not_after = models.DateTimeField(_("valid until"))
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    revocation_reason = models.CharField(
        _("reason"), max_length=20, choices=RevocationReason.choices, blank=True
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("issuer certificate")
        verbose_name_plural = _("issuer certificates")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["issuer_key"],
                condition=models.Q(is_current=True, kind__in=["SELF_SIGNED", "SUBORDINATE"]),
                name="issuer_key_one_current_certificate",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.subject} ({self.serial_number})"


class CertificateStatus(models.TextChoices):
    ISSUED = "ISSUED", _("issued")
    SUPERSEDED = "SUPERSEDED", _("superseded")
    REVOKED = "REVOKED", _("revoked")


class Certificate(models.Model):
    """An issued certificate, or one of a trusted foreign issuer that a device presented.

    ``binding`` is an opaque reference: the enrollment session for which it was issued. Higher apps give it
    and read it; nothing here knows what it means.
    """

    issuer_key = models.ForeignKey(
        IssuerKey,
        on_delete=models.PROTECT,
        related_name="issued",
        verbose_name=_("issuer key"),
        # Keys are never deleted; the check would lock one row for all that is issued at the same time.
        db_constraint=False,
    )
    serial_number = models.CharField(_("serial number"), max_length=40, help_text=_("Hexadecimal."))
    purpose = models.CharField(_("purpose"), max_length=20, choices=Purpose.choices)
    status = models.CharField(
        _("status"), max_length=10, choices=CertificateStatus.choices, default=CertificateStatus.ISSUED
    )
    foreign = models.BooleanField(
        _("issued elsewhere"), default=False, help_text=_("Presented by a device, issued by a trusted CA.")
    )
    subject = models.CharField(_("subject"), max_length=500)
    subject_alternative_name = models.CharField(_("alternative names"), max_length=500, blank=True)
    der = models.BinaryField(editable=False)
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    public_key_sha256 = models.CharField(_("SHA-256 of the public key"), max_length=64, db_index=True)
    not_before = models.DateTimeField(_("valid from"))
    not_after = models.DateTimeField(_("valid until"), db_index=True)
    binding = models.UUIDField(_("binding"), null=True, blank=True, db_index=True)
    renewed_from = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="renewals",
        verbose_name=_("renewed from"),
        db_index=False,
    )
    first_used_at = models.DateTimeField(_("first used"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    revocation_reason = models.CharField(
        _("reason"), max_length=20, choices=RevocationReason.choices, blank=True
    )
    created_at = models.DateTimeField(_("issued"), auto_now_add=True)

    class Meta:
        verbose_name = _("certificate")
        verbose_name_plural = _("certificates")
        ordering = ["-id"]
        constraints = [
            # Ours never repeat. Other CAs did use a serial number twice: those are told apart by fingerprint.
            models.UniqueConstraint(
                fields=["issuer_key", "serial_number"],
                condition=models.Q(foreign=False),
                name="certificate_serial_once",
            )
        ]
        indexes = [
            models.Index(
                fields=["issuer_key"], condition=models.Q(status="REVOKED"), name="certificate_revoked"
            ),
            models.Index(fields=["serial_number"], name="certificate_serial"),
            models.Index(
                fields=["renewed_from"],
                condition=models.Q(renewed_from__isnull=False),
                name="certificate_renewed_from",
            ),
            # How many hang on a key generation, and when they end.
            models.Index(
                fields=["issuer_key", "not_after"],
                condition=models.Q(status="ISSUED"),
                name="certificate_live",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.serial_number})"

    @property
    def name(self) -> str:
        """What people know it by: the common name, else the whole subject, else the alternative names."""
        return common_name(self.subject) or self.subject or self.subject_alternative_name or "-"


class CertificateProfile(models.Model):
    """What certificates for one purpose look like, at every issuer or at one.

    Where there is no row for a purpose the rules are those of :data:`pki.core.profile.BUILT_IN`.
    """

    purpose = models.CharField(_("purpose"), max_length=20, choices=Purpose.choices)
    issuer = models.ForeignKey(
        Issuer,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="profiles",
        verbose_name=_("issuer"),
        help_text=_("Empty: every issuer that has no rules of its own for this purpose."),
    )
    validity_days = models.PositiveIntegerField(
        _("days that a certificate is valid"),
        null=True,
        blank=True,
        help_text=_("Empty: as the issuer says."),
    )
    key_usage = models.JSONField(_("the key may be used for"), default=list)
    extended_key_usage = models.JSONField(_("purposes in the certificate"), default=list, blank=True)
    subject_attributes = models.JSONField(_("parts of the name that are kept"), default=list, blank=True)
    organization = models.CharField(_("organisation"), max_length=64, blank=True)
    organizational_unit = models.CharField(_("organisational unit"), max_length=64, blank=True)
    country = models.CharField(_("country"), max_length=2, blank=True)
    alternative_names = models.JSONField(_("kinds of alternative names"), default=list, blank=True)
    min_rsa_bits = models.PositiveIntegerField(_("smallest RSA key"), default=2048)
    ec_allowed = models.BooleanField(_("elliptic curve keys (P-256, P-384) too"), default=True)
    crl_address = models.BooleanField(_("address of the CRL"), default=True)
    authority_address = models.BooleanField(
        _("address of the issuer's certificate, and of OCSP"), default=True
    )
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    updated_at = models.DateTimeField(_("changed"), auto_now=True)

    class Meta:
        verbose_name = _("certificate profile")
        verbose_name_plural = _("certificate profiles")
        ordering = ["purpose", "issuer"]
        constraints = [
            models.UniqueConstraint(fields=["purpose", "issuer"], name="certificate_profile_of_issuer"),
            models.UniqueConstraint(
                fields=["purpose"], condition=models.Q(issuer=None), name="certificate_profile_of_all"
            ),
        ]

    def __str__(self) -> str:
        purpose = Purpose(self.purpose).label
        return f"{purpose} ({self.issuer})" if self.issuer else str(purpose)


class HeldKey(models.Model):
    """The private key of a certificate that this server itself uses (profile signing, TLS, OCSP, SCEP)."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    certificate = models.OneToOneField(
        Certificate, on_delete=models.PROTECT, related_name="held_key", verbose_name=_("certificate")
    )
    private_key_sealed = models.BinaryField(
        editable=False, help_text="PKCS #8 DER, sealed with context pki.heldkey.private_key:<uuid>"
    )

    class Meta:
        verbose_name = _("held key")
        verbose_name_plural = _("held keys")

    def __str__(self) -> str:
        return str(self.certificate)


class ProfileSigner(models.Model):
    """Who signs profiles: an issuer of ours, or a certificate that was imported with its key and chain.

    One is in use. Where there is none the default issuer signs. An issuer's own signing certificate is made
    and renewed by itself (:mod:`pki.signing`), so such a row holds neither certificate nor key.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    issuer = models.ForeignKey(
        Issuer,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("issuer"),
        help_text=_("Empty: the certificate was imported."),
    )
    subject = models.CharField(_("subject"), max_length=500, blank=True)
    issued_by = models.CharField(_("issued by"), max_length=500, blank=True)
    serial_number = models.CharField(_("serial number"), max_length=40, blank=True)
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, blank=True, db_index=True)
    not_before = models.DateTimeField(_("valid from"), null=True, blank=True)
    not_after = models.DateTimeField(_("valid until"), null=True, blank=True)
    der = models.BinaryField(editable=False, default=b"")
    chain = models.BinaryField(
        editable=False, default=b"", help_text="PEM: the certificates above it, the nearest first."
    )
    private_key_sealed = models.BinaryField(
        null=True,
        editable=False,
        help_text="PKCS #8 DER, sealed with context pki.profilesigner.private_key:<uuid>",
    )
    in_use = models.BooleanField(_("in use"), default=False)
    used_since = models.DateTimeField(_("in use since"), null=True, blank=True)
    used_until = models.DateTimeField(_("in use until"), null=True, blank=True)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    class Meta:
        verbose_name = _("signer of profiles")
        verbose_name_plural = _("signers of profiles")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["in_use"], condition=models.Q(in_use=True), name="profile_signer_one_in_use"
            )
        ]

    def __str__(self) -> str:
        return str(self.issuer) if self.issuer else common_name(self.subject) or self.subject


class TlsAnchor(models.Model):
    """A root that devices need to believe the server's TLS, where that is none which they have already.

    Enrolment profiles carry it. The root of an issuer of ours that signs the server's own certificate
    (``start --tls``) goes along without a row here.
    """

    name = models.CharField(_("name"), max_length=200)
    subject = models.CharField(_("subject"), max_length=500)
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    not_after = models.DateTimeField(_("valid until"))
    der = models.BinaryField(editable=False)
    created_at = models.DateTimeField(_("added"), auto_now_add=True)

    class Meta:
        verbose_name = _("root for TLS")
        verbose_name_plural = _("roots for TLS")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name


class Crl(models.Model):
    """A published CRL; numbers of one issuer key only rise."""

    issuer_key = models.ForeignKey(
        IssuerKey, on_delete=models.PROTECT, related_name="crls", verbose_name=_("issuer key")
    )
    number = models.PositiveBigIntegerField(_("number"))
    this_update = models.DateTimeField(_("this update"))
    next_update = models.DateTimeField(_("next update"))
    der = models.BinaryField(editable=False)
    entries = models.PositiveIntegerField(_("entries"))

    class Meta:
        verbose_name = _("CRL")
        verbose_name_plural = _("CRLs")
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["issuer_key", "number"], name="crl_number_once")]

    def __str__(self) -> str:
        return f"{self.issuer_key} CRL {self.number}"
