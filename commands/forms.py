"""A form for each command that people send often; the others take no parameters, or a property list.

The fields bear Apple's names of the keys, so that what is filled in is the payload.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.core.validators import RegexValidator
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from commands.core import plist
from commands.core.catalogue import DEVICE_INFORMATION_QUERIES, REQUEST_TYPES, by_group
from commands.enqueueing import MAX_PAYLOAD, REQUEST_TYPE, InvalidCommand, encode_command
from commands.payloads import decode_payload

SIX_DIGITS = RegexValidator(r"^[0-9]{6}\Z", _("A PIN is six digits."))
DER_SEQUENCE = 0x30


def text(label: Any, help_text: Any = "", *, required: bool = False, **options: Any) -> forms.CharField:
    """A line of text."""
    return forms.CharField(
        label=label,
        help_text=help_text,
        required=required,
        max_length=options.pop("max_length", 1000),
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        **options,
    )


def secret(label: Any, help_text: Any = "", *, required: bool = False, **options: Any) -> forms.CharField:
    """A password: not shown while it is typed, not given back by the server."""
    return forms.CharField(
        label=label,
        help_text=help_text,
        required=required,
        max_length=255,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "class": "vTextField"}),
        **options,
    )


def pin(help_text: Any) -> forms.CharField:
    """A PIN of six digits."""
    return forms.CharField(
        label=_("PIN"),
        help_text=help_text,
        required=False,
        validators=[SIX_DIGITS],
        widget=forms.TextInput(attrs={"autocomplete": "off", "inputmode": "numeric", "size": 8}),
    )


def tick(label: Any, help_text: Any = "", **options: Any) -> forms.BooleanField:
    """A box to tick."""
    return forms.BooleanField(label=label, help_text=help_text, required=False, **options)


class PayloadForm(forms.Form):
    """What a command says beside its name. A command without parameters has no fields."""

    def payload(self) -> dict[str, Any]:
        """What was filled in, under Apple's keys; what was left empty is left out."""
        return {
            name: value for name, value in self.cleaned_data.items() if value not in (None, "", False, [])
        }


class DeviceLockForm(PayloadForm):
    PIN = pin(_("Macs need one to be unlocked again: note it. Other devices ask for their own passcode."))
    Message = text(_("message"), _("Shown on the locked screen."))
    PhoneNumber = text(_("phone number"), _("Shown on the locked screen."), max_length=40)


class EraseDeviceForm(PayloadForm):
    PIN = pin(_("Older Macs ask for it before they can be set up again. Other devices ignore it."))
    PreserveDataPlan = tick(_("keep the mobile data plan (eSIM)"))
    DisallowProximitySetup = tick(_("do not offer to set up from a device nearby"))
    ObliterationBehavior = forms.ChoiceField(
        label=_("if a Mac cannot erase all content and settings"),
        required=False,
        choices=[
            ("", _("erase the whole disk")),
            ("DoNotObliterate", _("do not erase the disk; report an error")),
            ("ObliterateWithWarning", _("erase the disk, after a warning on the Mac")),
            ("Always", _("always erase the whole disk")),
        ],
    )


class RestartDeviceForm(PayloadForm):
    NotifyUser = tick(_("ask the user first"), _("Macs only: the user can put it off."))


class DeviceInformationForm(PayloadForm):
    Queries = forms.MultipleChoiceField(
        label=_("questions"),
        choices=[(name, name) for name in DEVICE_INFORMATION_QUERIES],
        initial=list(DEVICE_INFORMATION_QUERIES),
        widget=forms.CheckboxSelectMultiple,
    )


class ManagedOnlyForm(PayloadForm):
    ManagedOnly = tick(_("only what was installed by management"))


class InstalledApplicationListForm(PayloadForm):
    ManagedAppsOnly = tick(_("only managed apps"))


class InstallProfileForm(PayloadForm):
    Payload = forms.FileField(
        label=_("profile"), help_text=_("A configuration profile (.mobileconfig), signed or not.")
    )

    def clean_Payload(self) -> bytes:
        """The bytes of the profile: a property list of Type Configuration, or a signed one."""
        data = read_upload(self.cleaned_data["Payload"])
        if data[:1] == bytes([DER_SEQUENCE]):
            return data
        try:
            content = plist.read(data, max_size=MAX_PAYLOAD, binary=True)
        except plist.PlistError as problem:
            raise forms.ValidationError(
                _("This is not a configuration profile: %(problem)s."), params={"problem": problem}
            ) from None
        if content.get("PayloadType") != "Configuration":
            raise forms.ValidationError(_("This is not a configuration profile: its PayloadType is another."))
        return data


class IdentifierForm(PayloadForm):
    Identifier = text(_("identifier"), _("As com.example.wifi"), required=True)


class InstallProvisioningProfileForm(PayloadForm):
    ProvisioningProfile = forms.FileField(label=_("provisioning profile"))

    def clean_ProvisioningProfile(self) -> bytes:
        return read_upload(self.cleaned_data["ProvisioningProfile"])


class RemoveProvisioningProfileForm(PayloadForm):
    UUID = text(_("UUID of the provisioning profile"), required=True, max_length=64)


class InstallApplicationForm(PayloadForm):
    iTunesStoreID = forms.IntegerField(
        label=_("App Store number"),
        help_text=_("The number in the app's address."),
        required=False,
        min_value=1,
    )
    ManifestURL = forms.URLField(
        label=_("address of a manifest"),
        help_text=_("For your own apps, instead of a number."),
        required=False,
        assume_scheme="https",
    )
    licence = forms.ChoiceField(
        label=_("licence"),
        choices=[
            ("1", _("bought in volume, for the device or its user")),
            ("0", _("of the user's own account")),
        ],
        help_text=_("For apps of the App Store."),
    )
    remove_with_management = tick(_("remove it when management ends"), initial=True)
    no_backup = tick(_("keep its data out of backups"))
    InstallAsManaged = tick(_("manage it (Mac)"))

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned is not None and bool(cleaned.get("iTunesStoreID")) == bool(cleaned.get("ManifestURL")):
            raise forms.ValidationError(_("Give the App Store number or the address of a manifest."))
        return cleaned

    def payload(self) -> dict[str, Any]:
        given = super().payload()
        licence = given.pop("licence")
        flags = 1 * given.pop("remove_with_management", False) + 4 * given.pop("no_backup", False)
        if "iTunesStoreID" in given:
            given["Options"] = {"PurchaseMethod": int(licence)}
        if flags:
            given["ManagementFlags"] = flags
        return given


class InstallEnterpriseApplicationForm(PayloadForm):
    ManifestURL = forms.URLField(label=_("address of a manifest"), assume_scheme="https")
    InstallAsManaged = tick(_("manage it"))


class EnableLostModeForm(PayloadForm):
    Message = text(_("message"), _("Shown on the locked screen."))
    PhoneNumber = text(_("phone number"), max_length=40)
    Footnote = text(_("footnote"))

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned is not None and not (cleaned.get("Message") or cleaned.get("PhoneNumber")):
            raise forms.ValidationError(_("Lost mode needs a message or a phone number."))
        return cleaned


class UserNameForm(PayloadForm):
    UserName = text(_("user name"), required=True, max_length=255)


class DeleteUserForm(PayloadForm):
    UserName = text(_("user name"), max_length=255)
    DeleteAllUsers = tick(_("delete all users"))
    ForceDeletion = tick(_("also where data has not been saved to the cloud yet"))

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned is not None and bool(cleaned.get("UserName")) == bool(cleaned.get("DeleteAllUsers")):
            raise forms.ValidationError(_("Name a user, or delete all."))
        return cleaned


class NewPasswordForm(PayloadForm):
    CurrentPassword = secret(_("present password"), _("Where one is set."))
    NewPassword = secret(_("new password"), _("Note it: it is not shown again."), required=True)


class VerifyPasswordForm(PayloadForm):
    Password = secret(_("password"), required=True)


class MirroringForm(PayloadForm):
    DestinationName = text(_("name of the screen"))
    DestinationDeviceID = text(_("hardware address of the screen"), max_length=40)
    Password = secret(_("password"))


class CellularPlansForm(PayloadForm):
    eSIMServerURL = forms.URLField(label=_("server of the operator"), assume_scheme="https")


class RestrictionsForm(PayloadForm):
    ProfileRestrictions = tick(_("also those of each profile"))


class ScheduleScanForm(PayloadForm):
    Force = tick(_("look now, not in the background"))


class SettingsForm(PayloadForm):
    """The settings that are changed one at a time; others as a property list."""

    ON_OFF = [("", _("leave as it is")), ("on", _("on")), ("off", _("off"))]

    DeviceName = text(_("device name"), max_length=64)
    HostName = text(_("host name (Mac)"), max_length=63)
    TimeZone = text(_("time zone"), _("As Europe/London"), max_length=64)
    Bluetooth = forms.ChoiceField(label=_("Bluetooth"), choices=ON_OFF, required=False)
    PersonalHotspot = forms.ChoiceField(label=_("personal hotspot"), choices=ON_OFF, required=False)
    DataRoaming = forms.ChoiceField(label=_("data roaming"), choices=ON_OFF, required=False)
    VoiceRoaming = forms.ChoiceField(label=_("voice roaming"), choices=ON_OFF, required=False)
    DiagnosticSubmission = forms.ChoiceField(label=_("diagnostics to Apple"), choices=ON_OFF, required=False)

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned is not None and not self.errors and not any(cleaned.values()):
            raise forms.ValidationError(_("Change at least one setting."))
        return cleaned

    def payload(self) -> dict[str, Any]:
        items: list[dict[str, Any]] = []
        for name, value in super().payload().items():
            if value in {"on", "off"} and name not in {"DeviceName", "HostName", "TimeZone"}:
                items.append({"Item": name, "Enabled": value == "on"})
            else:
                items.append({"Item": name, name: value})
        return {"Settings": items}


class PropertyListForm(PayloadForm):
    """Any command: its keys as a property list or JSON, uploaded or typed."""

    request_type = ""

    file = forms.FileField(label=_("file"), help_text=_("A property list or JSON."), required=False)
    content = forms.CharField(
        label=_("or its text"),
        required=False,
        strip=False,
        max_length=MAX_PAYLOAD,
        widget=forms.Textarea(
            attrs={"rows": 14, "cols": 80, "class": "vLargeTextField", "spellcheck": "false"}
        ),
        help_text=_("The keys of the command beside RequestType; empty for a command without parameters."),
    )

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned is None:
            return cleaned
        if cleaned.get("file") and cleaned.get("content"):
            raise forms.ValidationError(_("Give a file or a text, not both."))
        data = read_upload(cleaned["file"]) if cleaned.get("file") else cleaned.get("content", "").encode()
        try:
            self.given = decode_payload(data) if data.strip() else {}
            encode_command(self.request_type, self.given)
        except InvalidCommand as problem:
            raise forms.ValidationError(
                _("This cannot be sent: %(problem)s."), params={"problem": problem}
            ) from None
        return cleaned

    def payload(self) -> dict[str, Any]:
        return self.given


FORMS: Mapping[str, type[PayloadForm]] = {
    "DeviceLock": DeviceLockForm,
    "EraseDevice": EraseDeviceForm,
    "RestartDevice": RestartDeviceForm,
    "DeviceInformation": DeviceInformationForm,
    "CertificateList": ManagedOnlyForm,
    "ProfileList": ManagedOnlyForm,
    "ProvisioningProfileList": ManagedOnlyForm,
    "InstalledApplicationList": InstalledApplicationListForm,
    "Restrictions": RestrictionsForm,
    "InstallProfile": InstallProfileForm,
    "RemoveProfile": IdentifierForm,
    "InstallProvisioningProfile": InstallProvisioningProfileForm,
    "RemoveProvisioningProfile": RemoveProvisioningProfileForm,
    "InstallApplication": InstallApplicationForm,
    "InstallEnterpriseApplication": InstallEnterpriseApplicationForm,
    "RemoveApplication": IdentifierForm,
    "EnableLostMode": EnableLostModeForm,
    "UnlockUserAccount": UserNameForm,
    "DeleteUser": DeleteUserForm,
    "SetRecoveryLock": NewPasswordForm,
    "SetFirmwarePassword": NewPasswordForm,
    "VerifyRecoveryLock": VerifyPasswordForm,
    "VerifyFirmwarePassword": VerifyPasswordForm,
    "RequestMirroring": MirroringForm,
    "RefreshCellularPlans": CellularPlansForm,
    "ScheduleOSUpdateScan": ScheduleScanForm,
    "Settings": SettingsForm,
}


def has_own_form(request_type: str) -> bool:
    """Whether there is more to offer than a property list."""
    return not issubclass(form_for(request_type), PropertyListForm)


def form_for(request_type: str, *, as_property_list: bool = False) -> type[PayloadForm]:
    """The form of a command: its own, an empty one, or one for a property list."""
    if not as_property_list and request_type in FORMS:
        return FORMS[request_type]
    known = REQUEST_TYPES.get(request_type)
    if (
        not as_property_list
        and known is not None
        and not known.optional
        and set(known.required) <= set(known.filled)
    ):
        return PayloadForm
    return type("PropertyListForm", (PropertyListForm,), {"request_type": request_type})


class ChooseForm(forms.Form):
    """Which command: one of the catalogue, or any other by its name."""

    command = forms.ChoiceField(label=_("command"), required=False)
    other = forms.CharField(
        label=_("or another, by its name"),
        help_text=_("Apple's name of a command that is not in the list: newer systems know more of them."),
        required=False,
        validators=[RegexValidator(rf"^{REQUEST_TYPE.pattern}\Z", _("Letters, digits, dots and hyphens."))],
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["command"] = forms.ChoiceField(
            label=_("command"), required=False, choices=[("", "---------"), *command_choices()]
        )

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned is not None and not self.errors and not (cleaned.get("command") or cleaned.get("other")):
            raise forms.ValidationError(_("Choose a command."))
        return cleaned

    def request_type(self) -> str:
        """Apple's name of what was chosen."""
        return str(self.cleaned_data["other"] or self.cleaned_data["command"])


def command_choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """Every command of the catalogue, sorted as people look for it."""
    return [
        (str(_(group.value)), [(known.name, f"{_(known.title)} ({known.name})") for known in commands])
        for group, commands in by_group()
    ]


class WhenForm(forms.Form):
    """From when and until when it is handed out."""

    LIVES: list[tuple[str, str | Promise]] = [
        ("", _("no limit")),
        ("1", _("an hour")),
        ("24", _("a day")),
        ("168", _("a week")),
        ("720", _("30 days")),
    ]

    not_before = forms.DateTimeField(
        label=_("not before"),
        required=False,
        help_text=_("Empty: as soon as the device connects."),
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
    )
    expires_after = forms.ChoiceField(
        label=_("expires after"),
        required=False,
        choices=LIVES,
        help_text=_("Devices that have not fetched it by then do not get it."),
    )

    def times(self, now: datetime) -> tuple[datetime | None, datetime | None]:
        """``(not_before, expires_at)``; the life counts from the moment it may be handed out."""
        not_before: datetime | None = self.cleaned_data["not_before"]
        hours = self.cleaned_data["expires_after"]
        if not_before is not None and not_before <= now:
            not_before = None
        return not_before, (not_before or now) + timedelta(hours=int(hours)) if hours else None


def read_upload(upload: Any) -> bytes:
    """The bytes of an uploaded file. Raises ValidationError where it is too large."""
    if upload.size > MAX_PAYLOAD:
        raise forms.ValidationError(
            _("The file is larger than %(size)d MiB."), params={"size": MAX_PAYLOAD // 1024 // 1024}
        )
    data: bytes = upload.read()
    return data
