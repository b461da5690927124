"""Devices, their enrollments, the identities pinned to them, groups and escrowed secrets."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from pki.models import Certificate


class Platform(models.TextChoices):
    IOS = "iOS", "iOS"
    IPADOS = "iPadOS", "iPadOS"
    MACOS = "macOS", "macOS"
    TVOS = "tvOS", "tvOS"
    VISIONOS = "visionOS", "visionOS"
    WATCHOS = "watchOS", "watchOS"
    UNKNOWN = "", _("unknown")


class DeviceGroup(models.Model):
    """A named set of devices, for choosing targets."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    description = models.CharField(_("description"), max_length=500, blank=True)

    class Meta:
        verbose_name = _("device group")
        verbose_name_plural = _("device groups")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Device(models.Model):
    """A piece of hardware, named by its UDID (or by an EnrollmentID where Apple hides the UDID)."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    udid = models.CharField(
        "UDID", max_length=64, unique=True, help_text=_("UDID, or EnrollmentID for a user enrolment.")
    )
    user_enrollment = models.BooleanField(
        _("user enrolment"), default=False, help_text=_("Known by EnrollmentID only.")
    )
    serial_number = models.CharField(_("serial number"), max_length=64, blank=True, db_index=True)
    name = models.CharField(_("name"), max_length=200, blank=True)
    platform = models.CharField(_("platform"), max_length=10, choices=Platform.choices, blank=True)
    product_name = models.CharField(_("product"), max_length=100, blank=True, help_text="iPhone14,2")
    model_name = models.CharField(_("model"), max_length=100, blank=True)
    os_version = models.CharField(_("OS version"), max_length=40, blank=True)
    build_version = models.CharField(_("build"), max_length=40, blank=True)
    imei = models.CharField("IMEI", max_length=40, blank=True)
    meid = models.CharField("MEID", max_length=40, blank=True)
    supervised = models.BooleanField(_("supervised"), null=True)
    information = models.JSONField(
        _("device information"), default=dict, blank=True, help_text=_("Last DeviceInformation answer.")
    )
    information_at = models.DateTimeField(_("device information at"), null=True, blank=True)
    security = models.JSONField(_("security information"), default=dict, blank=True)
    security_at = models.DateTimeField(_("security information at"), null=True, blank=True)
    groups = models.ManyToManyField(DeviceGroup, blank=True, related_name="devices", verbose_name=_("groups"))
    created_at = models.DateTimeField(_("first seen"), auto_now_add=True)

    class Meta:
        verbose_name = _("device")
        verbose_name_plural = _("devices")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.name or self.serial_number or self.udid


class Channel(models.TextChoices):
    DEVICE = "DEVICE", _("device")
    USER = "USER", _("user")


class EnrollmentState(models.TextChoices):
    """States of ``reliability.md`` 4.1, with quarantine."""

    AUTHENTICATED = "AUTHENTICATED", _("authenticated, waiting for its push token")
    ENROLLED = "ENROLLED", _("enrolled")
    QUARANTINED = "QUARANTINED", _("held for an administrator to admit")
    REFUSED = "REFUSED", _("refused by an administrator")
    CHECKED_OUT = "CHECKED_OUT", _("checked out")
    REPLACED = "REPLACED", _("replaced by a later enrollment")
    TURN_AWAY = "TURN_AWAY", _("to be turned away at its next contact")
    TURNED_AWAY = "TURNED_AWAY", _("turned away by an administrator")


LIVE_STATES = (EnrollmentState.AUTHENTICATED, EnrollmentState.ENROLLED)


class Enrollment(models.Model):
    """One life of a device (or of a user on it) under management, from Authenticate to its end.

    A re-enrolment by a new identity is a new row; a repeated Authenticate of the same identity raises
    ``epoch``. At most one row of a device's device channel is live.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    device = models.ForeignKey(
        Device, on_delete=models.CASCADE, related_name="enrollments", verbose_name=_("device")
    )
    channel = models.CharField(_("channel"), max_length=6, choices=Channel.choices, default=Channel.DEVICE)
    parent = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        db_index=False,  # only those of users: see Meta
        on_delete=models.CASCADE,
        related_name="users",
        verbose_name=_("device enrollment"),
        help_text=_("For the user channel: the enrollment of the device."),
    )
    user_id = models.CharField(
        _("user id"), max_length=200, blank=True, help_text=_("UserID, or UserShortName on a Shared iPad.")
    )
    user_short_name = models.CharField(_("user name"), max_length=200, blank=True)
    user_long_name = models.CharField(_("full name"), max_length=200, blank=True)
    state = models.CharField(_("state"), max_length=14, choices=EnrollmentState.choices)
    state_reason = models.CharField(_("reason"), max_length=300, blank=True)
    said = models.JSONField(
        null=True,
        editable=False,
        help_text="Held in quarantine: the columns of the device as its Authenticate had them.",
    )
    epoch = models.IntegerField(_("epoch"), default=1)
    binding = models.UUIDField(
        _("binding"),
        null=True,
        blank=True,
        help_text=_("Enrollment session that it came from."),
    )
    topic = models.CharField(_("topic"), max_length=200, blank=True)
    push_token = models.BinaryField(_("push token"), max_length=255, null=True, editable=False)
    push_magic = models.CharField(_("push magic"), max_length=100, blank=True)
    token_updated_at = models.DateTimeField(_("token updated"), null=True, blank=True)
    token_dead_at = models.DateTimeField(
        _("token dead"), null=True, blank=True, help_text=_("APNs said that the token is no longer valid.")
    )
    awaiting_configuration = models.BooleanField(_("awaiting configuration"), default=False)
    not_on_console = models.BooleanField(_("not on console"), default=False)
    erase_acknowledged_at = models.DateTimeField(
        _("erased"),
        null=True,
        blank=True,
        help_text=_("The device acknowledged EraseDevice: it may enrol again."),
    )
    authenticated_at = models.DateTimeField(_("authenticated"), null=True, blank=True)
    enrolled_at = models.DateTimeField(_("enrolled"), null=True, blank=True)
    ended_at = models.DateTimeField(_("ended"), null=True, blank=True)
    last_seen_at = models.DateTimeField(_("last seen"), null=True, blank=True, db_index=True)

    class Meta:
        verbose_name = _("enrollment")
        verbose_name_plural = _("enrollments")
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["device"],
                condition=models.Q(channel="DEVICE", state__in=["AUTHENTICATED", "ENROLLED"]),
                name="enrollment_one_live_per_device",
            ),
            models.UniqueConstraint(
                fields=["parent", "user_id"], condition=models.Q(channel="USER"), name="enrollment_user_once"
            ),
            # One way in, one device: what a session's certificate enrolled, no other device can claim.
            models.UniqueConstraint(
                fields=["binding"],
                condition=models.Q(channel="DEVICE", binding__isnull=False),
                name="enrollment_binding_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["parent"], condition=models.Q(parent__isnull=False), name="enrollment_parent"
            ),
        ]

    def __str__(self) -> str:
        who = f"{self.user_short_name or self.user_id} on " if self.channel == Channel.USER else ""
        return f"{who}{self.device}"


class IdentityState(models.TextChoices):
    ACTIVE = "ACTIVE", _("active")
    SUPERSEDED = "SUPERSEDED", _("superseded")


class Identity(models.Model):
    """A certificate pinned to one device enrollment. The hot path finds the enrollment by ``sha256``."""

    # PostgreSQL checks it where an enrollment is deleted (database.parent_checks); certificates never are.
    enrollment = models.ForeignKey(
        Enrollment,
        on_delete=models.CASCADE,
        related_name="identities",
        verbose_name=_("enrollment"),
        db_constraint=False,
    )
    certificate = models.OneToOneField(
        Certificate,
        on_delete=models.PROTECT,
        related_name="identity",
        verbose_name=_("certificate"),
        db_constraint=False,
    )
    sha256 = models.CharField(_("SHA-256 fingerprint"), max_length=64, unique=True)
    state = models.CharField(
        _("state"), max_length=10, choices=IdentityState.choices, default=IdentityState.ACTIVE
    )
    pinned_at = models.DateTimeField(_("pinned"))
    superseded_at = models.DateTimeField(_("superseded"), null=True, blank=True)

    class Meta:
        verbose_name = _("identity")
        verbose_name_plural = _("identities")
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.sha256[:16]


class CheckinReceipt(models.Model):
    """Digest of an accepted check-in that changed state: the same bytes again change nothing.

    ``epoch`` is that of the enrollment when it was accepted: a device that authenticated anew may well send
    the very TokenUpdate of its earlier life, and must not be left without a push token for it.
    """

    # Found by the constraint, which begins with it. PostgreSQL checks it where an enrollment is deleted
    # (database.parent_checks).
    enrollment = models.ForeignKey(
        Enrollment, on_delete=models.CASCADE, related_name="receipts", db_index=False, db_constraint=False
    )
    epoch = models.IntegerField(default=1)
    digest = models.BinaryField(max_length=32, help_text="SHA-256 of the body")
    received_at = models.DateTimeField()

    class Meta:
        verbose_name = _("check-in receipt")
        verbose_name_plural = _("check-in receipts")
        constraints = [
            models.UniqueConstraint(fields=["enrollment", "digest", "epoch"], name="checkin_receipt_once")
        ]

    def __str__(self) -> str:
        return bytes(self.digest).hex()[:16]


class SecretKind(models.TextChoices):
    BOOTSTRAP_TOKEN = "BOOTSTRAP_TOKEN", _("bootstrap token")
    UNLOCK_TOKEN = "UNLOCK_TOKEN", _("unlock token")


class EscrowedSecret(models.Model):
    """A secret that a device deposited. Served only to the enrollment and epoch that deposited it."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    enrollment = models.ForeignKey(
        Enrollment, on_delete=models.CASCADE, related_name="secrets", verbose_name=_("enrollment")
    )
    kind = models.CharField(_("kind"), max_length=20, choices=SecretKind.choices)
    epoch = models.PositiveIntegerField(_("epoch"))
    value_sealed = models.BinaryField(
        editable=False, help_text="Sealed with context devices.escrowedsecret.value:<uuid>"
    )
    deposited_at = models.DateTimeField(_("deposited"))
    withdrawn_at = models.DateTimeField(
        _("replaced or withdrawn"),
        null=True,
        blank=True,
        help_text=_("Earlier values are kept for recovery."),
    )

    class Meta:
        verbose_name = _("escrowed secret")
        verbose_name_plural = _("escrowed secrets")
        ordering = ["-id"]
        permissions = [("reveal_escrowedsecret", "Can reveal escrowed secrets")]
        constraints = [
            models.UniqueConstraint(
                fields=["enrollment", "kind"],
                condition=models.Q(withdrawn_at__isnull=True),
                name="escrow_one_current_secret",
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.enrollment}"
