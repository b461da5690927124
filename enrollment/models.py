"""The ways in: enrolment profiles, and one session for each attempt to enrol."""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from devices.models import DeviceGroup
from pki.models import Issuer

ALL_ACCESS_RIGHTS = 8191


class Access(models.TextChoices):
    """What a person shows before the download."""

    OPEN = "OPEN", _("nothing: whoever has the address may enrol")
    CODE = "CODE", _("a code")
    LOGIN = "LOGIN", _("who they are, by signing in")


class IdentityProvider(models.Model):
    """Where people sign in with OpenID Connect before they enrol."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(_("name"), max_length=100, help_text=_("On the button: “Sign in with …”."))
    issuer = models.URLField(
        _("issuer"),
        max_length=300,
        help_text=_("As the provider writes it, such as https://login.example.com/realms/staff."),
    )
    client_id = models.CharField(_("client id"), max_length=200)
    client_secret_sealed = models.BinaryField(
        editable=False,
        default=b"",
        help_text="Sealed with context enrollment.identityprovider.client_secret:<uuid>; empty: none",
    )
    groups_claim = models.CharField(
        _("claim with the groups"),
        max_length=100,
        blank=True,
        default="groups",
        help_text=_("Which claim of the ID token lists the groups of a person. Empty: none does."),
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("sign-in provider")
        verbose_name_plural = _("sign-in providers")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class PayloadCipher(models.TextChoices):
    """How the payloads of a profile are encrypted; the names are those of ``pki.core.cms``."""

    AES_128 = "aes128_cbc", _("AES with 128 bits")
    AES_256 = "aes256_cbc", _("AES with 256 bits")
    TRIPLE_DES = "des_ede3_cbc", _("Triple DES, for devices that know nothing newer")


class EnrollmentProfile(models.Model):
    """How devices may enrol at ``/enroll/<slug>/`` and what they get there."""

    slug = models.SlugField(
        _("short name"), unique=True, help_text=_("Part of the address: /enroll/<short name>/")
    )
    name = models.CharField(_("name"), max_length=200)
    organization = models.CharField(_("organisation"), max_length=200, blank=True)
    description = models.TextField(
        _("description"), blank=True, help_text=_("Shown to people before they enrol, and in the profile.")
    )
    enabled = models.BooleanField(_("enabled"), default=True)
    allow_direct = models.BooleanField(_("direct profile"), default=True)
    allow_ota = models.BooleanField(_("over the air"), default=True)
    issuer = models.ForeignKey(
        Issuer, on_delete=models.PROTECT, related_name="+", verbose_name=_("issuer of device identities")
    )
    topic = models.CharField(
        _("push topic"), max_length=200, blank=True, help_text=_("Empty: that of the only push certificate.")
    )
    access_rights = models.PositiveIntegerField(_("access rights"), default=ALL_ACCESS_RIGHTS)
    check_out_when_removed = models.BooleanField(_("device says when the profile is removed"), default=True)
    pin_tls = models.BooleanField(
        _("only the roots of this profile count for the server's TLS"),
        default=False,
        db_default=False,
        help_text=_(
            "The device then believes the server only if its certificate ends in one of them, whatever else "
            "it trusts. If you change the root without renewing the profiles first, devices lose contact."
        ),
    )
    pin_unrevoked = models.BooleanField(
        _("and only with proof that the certificate is not revoked"),
        default=False,
        db_default=False,
        help_text=_(
            "Counts together with the line above. The device then asks the CA of the server's certificate, "
            "and gives up where it gets no answer. Not for a certificate of our own issuers: their answers "
            "come from this very server."
        ),
    )
    payload_cipher = models.CharField(
        _("encryption over the air"),
        max_length=12,
        choices=PayloadCipher.choices,
        default=PayloadCipher.AES_128,
        help_text=_("How the final profile is encrypted to the device. Every current system takes AES."),
    )
    access = models.CharField(_("people show"), max_length=5, choices=Access.choices, default=Access.OPEN)
    allow_accounts = models.BooleanField(
        _("accounts of this server"),
        default=True,
        help_text=_("People sign in with a name and password of this server. They need no rights here."),
    )
    identity_provider = models.ForeignKey(
        IdentityProvider,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="profiles",
        verbose_name=_("sign-in provider"),
    )
    people_groups = models.TextField(
        _("only people of these groups"),
        blank=True,
        help_text=_("Names of groups, one on each line; one of them is enough. Empty: everybody."),
    )
    max_enrollments = models.PositiveIntegerField(
        _("at most"),
        null=True,
        blank=True,
        help_text=_("How many devices may enrol here in all. Empty: any number."),
    )
    closes_at = models.DateTimeField(
        _("closes"), null=True, blank=True, help_text=_("Nobody enrols after that. Empty: it stays open.")
    )
    only_listed = models.BooleanField(
        _("only listed devices"),
        default=False,
        help_text=_("Only devices whose serial numbers are listed here."),
    )
    groups = models.ManyToManyField(
        DeviceGroup,
        blank=True,
        related_name="enrollment_profiles",
        verbose_name=_("device groups"),
        help_text=_("Devices that enrol here join these groups."),
    )
    renew_at_percent = models.PositiveSmallIntegerField(
        _("renew certificates at"),
        default=33,
        db_default=33,
        validators=[MinValueValidator(5), MaxValueValidator(90)],
        help_text=_(
            "Percent of its life that a device's certificate has left when the server renews it by itself."
        ),
    )
    payload_uuid = models.UUIDField(default=uuid.uuid4, editable=False)
    session_minutes = models.PositiveIntegerField(_("minutes that a download stays usable"), default=60)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        verbose_name = _("enrolment profile")
        verbose_name_plural = _("enrolment profiles")
        ordering = ["slug"]

    def __str__(self) -> str:
        return self.name


class ListedDevice(models.Model):
    """A device that may enrol where only listed ones may; by its serial number in normal form."""

    profile = models.ForeignKey(
        EnrollmentProfile, on_delete=models.CASCADE, related_name="listed_devices", verbose_name=_("profile")
    )
    serial_number = models.CharField(_("serial number"), max_length=64)

    class Meta:
        verbose_name = _("listed device")
        verbose_name_plural = _("listed devices")
        ordering = ["serial_number"]
        constraints = [
            models.UniqueConstraint(fields=["profile", "serial_number"], name="listed_device_once")
        ]

    def __str__(self) -> str:
        return self.serial_number


class EnrollmentCode(models.Model):
    """A code that lets people enrol: once, a number of times, or any number of times until it ends."""

    profile = models.ForeignKey(
        EnrollmentProfile,
        on_delete=models.CASCADE,
        related_name="codes",
        verbose_name=_("enrolment profile"),
    )
    label = models.CharField(
        _("for whom"), max_length=200, blank=True, help_text=_("Whatever tells you later whom it is for.")
    )
    value_hash = models.BinaryField(
        max_length=32, unique=True, editable=False, help_text="Keyed hash of the profile's id and the code."
    )
    max_uses = models.PositiveIntegerField(_("works"), null=True, blank=True, default=1)
    uses = models.PositiveIntegerField(_("used"), default=0)
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    withdrawn_at = models.DateTimeField(_("withdrawn"), null=True, blank=True)
    created_at = models.DateTimeField(_("created"))
    created_by = models.CharField(_("created by"), max_length=200)

    class Meta:
        verbose_name = _("enrolment code")
        verbose_name_plural = _("enrolment codes")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.label or f"{self._meta.verbose_name} {self.pk}"


class BlockedDevice(models.Model):
    """A serial number or UDID that stays out, however it is written."""

    identifier = models.CharField(
        _("serial number or UDID"), max_length=64, help_text=_("Case, spaces and hyphens do not matter.")
    )
    normal = models.CharField(max_length=64, unique=True, editable=False)
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    created_at = models.DateTimeField(_("blocked"))
    created_by = models.CharField(_("blocked by"), max_length=200)

    class Meta:
        verbose_name = _("blocked device")
        verbose_name_plural = _("blocked devices")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.identifier


class PersonSource(models.TextChoices):
    """By what it is known who enrolled."""

    ACCOUNT = "ACCOUNT", _("account of this server")
    OPENID = "OPENID", _("sign-in provider")


class Flow(models.TextChoices):
    DIRECT = "DIRECT", _("direct profile")
    OTA = "OTA", _("over the air")


class SessionState(models.TextChoices):
    """How far an attempt got; the table of allowed moves is in ``enrollment.core.session``."""

    OFFERED = "OFFERED", _("profile downloaded")
    IDENTIFIED = "IDENTIFIED", _("device identified")
    OTA_CERTIFIED = "OTA_CERTIFIED", _("certificate for the enrolment issued")
    DELIVERED = "DELIVERED", _("management profile delivered")
    CERTIFIED = "CERTIFIED", _("certificate issued")
    AUTHENTICATED = "AUTHENTICATED", _("device authenticated")
    COMPLETED = "COMPLETED", _("enrolled")
    FAILED = "FAILED", _("failed")
    EXPIRED = "EXPIRED", _("expired")


class EnrollmentSession(models.Model):
    """One attempt to enrol: from the download to the first TokenUpdate.

    ``uuid`` is the *binding* that the challenge, the certificate and the enrollment carry. What a device says
    of itself over the air is kept as it said it, the serial number in its normal form.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    profile = models.ForeignKey(
        EnrollmentProfile,
        on_delete=models.CASCADE,
        related_name="sessions",
        verbose_name=_("enrolment profile"),
    )
    flow = models.CharField(_("way"), max_length=6, choices=Flow.choices, default=Flow.DIRECT)
    state = models.CharField(
        _("state"), max_length=13, choices=SessionState.choices, default=SessionState.OFFERED
    )
    reason = models.CharField(_("reason"), max_length=300, blank=True)
    expected_udid = models.CharField(
        _("expected UDID"), max_length=64, blank=True, help_text=_("Only this device may use the session.")
    )
    expected_serial_number = models.CharField(_("expected serial number"), max_length=64, blank=True)
    pre_approved = models.BooleanField(
        _("approved beforehand"),
        default=False,
        help_text=_(
            "An administrator made it for the expected device: it may replace that device's enrollment."
        ),
    )
    # Who enrols, and by what they were let in.
    person = models.CharField(_("person"), max_length=200, blank=True)
    person_source = models.CharField(_("known by"), max_length=7, choices=PersonSource.choices, blank=True)
    person_id = models.CharField(
        _("id of the person"), max_length=300, blank=True, help_text=_("User id, or issuer and subject.")
    )
    code = models.ForeignKey(
        EnrollmentCode,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="sessions",
        verbose_name=_("code"),
    )
    ticket = models.UUIDField(
        null=True, unique=True, editable=False, help_text="The ticket of the download: each counts once."
    )
    udid = models.CharField(_("UDID"), max_length=64, blank=True)
    serial_number = models.CharField(_("serial number"), max_length=64, blank=True)
    product = models.CharField(_("model"), max_length=64, blank=True)
    version = models.CharField(_("system build"), max_length=64, blank=True)
    imei = models.CharField(_("IMEI"), max_length=64, blank=True)
    meid = models.CharField(_("MEID"), max_length=64, blank=True)
    remote_addr = models.CharField(_("address"), max_length=45, blank=True)
    user_agent = models.CharField(_("client"), max_length=200, blank=True)

    # Over the air. Phase 1: the challenge. Phase 2: the message that used it, and who signed that.
    challenge_hash = models.BinaryField(
        max_length=32, null=True, unique=True, editable=False, help_text="Keyed hash of the challenge."
    )
    identified_at = models.DateTimeField(_("identified"), null=True, blank=True)
    message_sha256 = models.CharField(_("SHA-256 of the message"), max_length=64, blank=True)
    device_ca_sha256 = models.CharField(_("SHA-256 of the device CA"), max_length=64, blank=True)
    device_certificate_sha256 = models.CharField(
        _("SHA-256 of the device certificate"), max_length=64, blank=True
    )
    # Phase 3: to which certificate the profile was given, and how.
    delivered_at = models.DateTimeField(_("delivered"), null=True, blank=True)
    delivered_to_sha256 = models.CharField(_("SHA-256 of the recipient"), max_length=64, blank=True)
    delivered_cipher = models.CharField(
        _("encrypted with"), max_length=12, choices=PayloadCipher.choices, blank=True
    )
    not_encrypted_reason = models.CharField(_("not encrypted because"), max_length=200, blank=True)
    answer_sealed = models.BinaryField(
        null=True,
        editable=False,
        help_text="The last answer over the air, for a device that lost it; sealed with context "
        "enrollment.enrollmentsession.answer:<uuid>, gone when the device has what it needs.",
    )

    told = models.JSONField(
        null=True,
        editable=False,
        help_text="What the MDM payload said that an update must not change, and the SHA-256 of the "
        "certificate that signed it. NULL: it was not kept then.",
    )

    refusal_reason = models.CharField(_("last refusal"), max_length=300, blank=True)
    refused_at = models.DateTimeField(_("last refused"), null=True, blank=True)
    created_at = models.DateTimeField(_("started"), db_index=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)
    expires_at = models.DateTimeField(_("expires"))

    class Meta:
        verbose_name = _("enrolment session")
        verbose_name_plural = _("enrolment sessions")
        ordering = ["-id"]

    def __str__(self) -> str:
        who = self.person or self.serial_number or self.expected_serial_number or self.uuid.hex[:12]
        return f"{self.profile.name}: {who}"


class DeviceAuthority(models.Model):
    """A CA whose certificates count as those of devices, beside Apple's own: for tests and simulators.

    Apple's is built in (:data:`pki.core.device_identity.APPLE_DEVICE_CA`).
    """

    name = models.CharField(_("name"), max_length=200)
    enabled = models.BooleanField(_("trusted"), default=True)
    trusted_until = models.DateTimeField(
        _("trusted until"),
        null=True,
        blank=True,
        help_text=_("Empty: as long as it is trusted and its certificate is valid."),
    )
    subject = models.CharField(_("subject"), max_length=500)
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    der = models.BinaryField(editable=False)
    not_before = models.DateTimeField(_("valid from"))
    not_after = models.DateTimeField(_("valid until"))
    created_at = models.DateTimeField(_("added"))
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)

    class Meta:
        verbose_name = _("device CA")
        verbose_name_plural = _("device CAs")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name


class DeviceSigner(models.Model):
    """A certificate that a device was made with, and whom it claimed to be.

    Such a certificate proves an Apple device, not which one: what it said first is what it has to go on
    saying. Known by its key as well, which a renewed certificate keeps.
    """

    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    public_key_sha256 = models.CharField(_("SHA-256 of the public key"), max_length=64, db_index=True)
    subject = models.CharField(_("subject"), max_length=500, blank=True)
    authority = models.CharField(_("device CA"), max_length=200)
    serial_number = models.CharField(_("serial number"), max_length=64, db_index=True)
    udid = models.CharField(_("UDID"), max_length=64)
    first_seen_at = models.DateTimeField(_("first seen"))
    last_seen_at = models.DateTimeField(_("last seen"))

    class Meta:
        verbose_name = _("device certificate")
        verbose_name_plural = _("device certificates")
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.serial_number} ({self.sha256[:16]})"
