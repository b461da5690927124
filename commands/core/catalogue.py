"""Facts about Apple's commands: names, platforms, rights, what they need, how they may be handed out.

The facts are those of Apple's published schema, release 18.1, and of Apple's words about NotNow; the titles
are ours. A command that is not here can be sent all the same: devices know what they know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class Group(StrEnum):
    """How commands are sorted for people."""

    INFORMATION = "Information"
    SECURITY = "Lock, erase and passwords"
    POWER = "Restart and shut down"
    PROFILES = "Profiles"
    APPS = "Apps, books and media"
    LOST_MODE = "Lost mode"
    USERS = "Users"
    SETTINGS = "Settings"
    UPDATES = "System updates"
    SETUP = "Setting up"
    OTHER = "Other"


@dataclass(frozen=True, slots=True)
class Support:
    """What one platform says about a command. ``introduced`` is the first version that knows it."""

    introduced: str
    supervised: bool = False
    automated_enrollment: bool = False
    shared_ipad: bool = False
    user_channel: bool = False
    device_channel: bool = True


@dataclass(frozen=True, slots=True)
class RequestType:
    """One command. ``required`` are the keys it cannot do without; ``defaults`` fill what is not given.

    ``access_right`` is a name of ``apple-mdm.md`` 2.5, "" where none is needed. ``at_most_once``: never
    handed out a second time unless an administrator says so. ``never_not_now``: devices carry it out even
    when they are busy. ``filled``: keys that are filled in for each device when the command is handed out.
    """

    name: str
    title: str
    group: Group
    platforms: Mapping[str, Support]
    access_right: str = ""
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    at_most_once: bool = False
    never_not_now: bool = False
    removed_in_27: bool = False

    @property
    def user_channel(self) -> bool:
        """Whether a user channel takes it on any platform."""
        return any(support.user_channel for support in self.platforms.values())

    @property
    def device_channel(self) -> bool:
        """Whether a device channel takes it on any platform."""
        return any(support.device_channel for support in self.platforms.values())

    def knows(self, platform: str) -> bool:
        """Whether a platform knows the command at all; True for platforms that nobody has told us of."""
        name = "iOS" if platform == "iPadOS" else platform
        return name in self.platforms or name not in PLATFORMS


PLATFORMS = frozenset({"iOS", "macOS", "tvOS", "visionOS", "watchOS"})

DEVICE_INFORMATION_QUERIES = (
    "UDID",
    "SerialNumber",
    "DeviceName",
    "Model",
    "ModelName",
    "ModelNumber",
    "ProductName",
    "OSVersion",
    "SupplementalOSVersionExtra",
    "BuildVersion",
    "SupplementalBuildVersion",
    "SoftwareUpdateDeviceID",
    "IsSupervised",
    "IsMultiUser",
    "IsAppleSilicon",
    "DeviceCapacity",
    "AvailableDeviceCapacity",
    "BatteryLevel",
    "IMEI",
    "MEID",
    "EASDeviceIdentifier",
    "WiFiMAC",
    "BluetoothMAC",
    "EthernetMAC",
    "HostName",
    "LocalHostName",
    "TimeZone",
    "IsActivationLockEnabled",
    "IsActivationLockSupported",
    "IsDeviceLocatorServiceEnabled",
    "IsMDMLostModeEnabled",
    "IsCloudBackupEnabled",
    "AwaitingConfiguration",
    "AppAnalyticsEnabled",
    "DiagnosticSubmissionEnabled",
    "ServiceSubscriptions",
    "SystemIntegrityProtectionEnabled",
    "SupportsLOMDevice",
    "OSUpdateSettings",
)

_RIGHTS = {
    "inspect": "AllowInspection",
    "profiles": "AllowInstallationRemoval",
    "lock": "AllowPasscodeRemovalAndLock",
    "erase": "AllowDeviceErase",
    "network": "AllowQueryNetworkInformation",
    "see provisioning": "AllowProvisioningInspection",
    "provisioning": "AllowProvisioningInstallationRemoval",
    "list apps": "AllowQueryApplications",
    "restrictions": "AllowQueryRestrictions",
    "security": "AllowQuerySecurity",
    "settings": "AllowSettings",
    "apps": "AllowAppInstallation",
}


def _support(text: str) -> tuple[str, Support]:
    """``macOS 10.13 SU``: S supervised, D Automated Device Enrollment, P Shared iPad, U user channel too,
    ! user channel only."""
    platform, introduced, *flags = text.split()
    given = flags[0] if flags else ""
    return platform, Support(
        introduced=introduced,
        supervised="S" in given,
        automated_enrollment="D" in given,
        shared_ipad="P" in given,
        user_channel="U" in given or "!" in given,
        device_channel="!" not in given,
    )


def _command(
    name: str,
    title: str,
    group: Group,
    platforms: str,
    *,
    right: str = "",
    needs: str = "",
    may: str = "",
    **facts: Any,
) -> RequestType:
    return RequestType(
        name=name,
        title=title,
        group=group,
        platforms=MappingProxyType(dict(_support(part) for part in platforms.split(","))),
        access_right=_RIGHTS[right] if right else "",
        required=tuple(needs.split()),
        optional=tuple(may.split()),
        **facts,
    )


_APPS_EVERYWHERE = "iOS 5.0, macOS 11.0, tvOS 10.2, visionOS 1.1, watchOS 10.0"
_EVERYWHERE = "iOS 4.0, macOS 10.7 U, tvOS 9.0, visionOS 1.1, watchOS 10.0"
_EVERYWHERE_U = "iOS 4.0 U, macOS 10.7 U, tvOS 9.0, visionOS 1.1, watchOS 10.0"
_PROVISIONING = "iOS 4.0, macOS 11.0, tvOS 10.2, visionOS 1.1, watchOS 10.0"
_SUPERVISED_CODE = "iOS 7.1 S, macOS 10.15 S, visionOS 2.0 S"
_UPDATES = "iOS 9.0 S, macOS 10.11, tvOS 12.0 S"
_ONCE: dict[str, Any] = {"at_most_once": True}
_READY: dict[str, Any] = {"never_not_now": True}

_COMMANDS = (
    # Information
    _command(
        "DeviceInformation",
        "Ask for device information",
        Group.INFORMATION,
        _EVERYWHERE_U,
        needs="Queries",
        may="DeviceAttestationNonce",
        defaults={"Queries": list(DEVICE_INFORMATION_QUERIES)},
        **_READY,
    ),
    _command(
        "SecurityInfo", "Ask for security information", Group.INFORMATION, _EVERYWHERE, right="security"
    ),
    _command(
        "InstalledApplicationList",
        "List installed apps",
        Group.INFORMATION,
        "iOS 5.0, macOS 10.7 U, tvOS 10.2, visionOS 1.1, watchOS 10.0",
        right="list apps",
        may="Identifiers ManagedAppsOnly Items",
        **_READY,
    ),
    _command(
        "CertificateList",
        "List certificates",
        Group.INFORMATION,
        _EVERYWHERE,
        right="inspect",
        may="ManagedOnly",
    ),
    _command(
        "Restrictions",
        "List restrictions",
        Group.INFORMATION,
        "iOS 4.0 U, tvOS 9.0, visionOS 1.1, watchOS 10.0",
        right="restrictions",
        may="ProfileRestrictions",
        **_READY,
    ),
    _command(
        "ContentCachingInformation",
        "Ask about content caching",
        Group.INFORMATION,
        "macOS 10.15.4",
        right="network",
    ),
    _command(
        "ActiveNSExtensions",
        "List active extensions",
        Group.INFORMATION,
        "macOS 10.13 !",
        right="list apps",
        may="FilterExtensionPoints",
    ),
    _command("NSExtensionMappings", "List extensions", Group.INFORMATION, "macOS 10.13 !", right="list apps"),
    # Lock, erase and passwords
    _command(
        "DeviceLock",
        "Lock the device",
        Group.SECURITY,
        "iOS 4.0, macOS 10.7, visionOS 2.0, watchOS 10.0",
        right="lock",
        may="Message PhoneNumber PIN",
        **_ONCE,
        **_READY,
    ),
    _command(
        "EraseDevice",
        "Erase the device",
        Group.SECURITY,
        "iOS 4.0, macOS 10.7, tvOS 10.2, visionOS 1.1, watchOS 10.0",
        right="erase",
        may="PreserveDataPlan DisallowProximitySetup PIN ObliterationBehavior ReturnToService",
        **_ONCE,
        **_READY,
    ),
    _command(
        "ClearPasscode",
        "Clear the passcode",
        Group.SECURITY,
        "iOS 4.0, visionOS 1.1, watchOS 10.0",
        right="lock",
        needs="UnlockToken",
        filled=("UnlockToken",),
        **_ONCE,
        **_READY,
    ),
    _command(
        "ClearRestrictionsPassword", "Clear the Screen Time passcode", Group.SECURITY, "iOS 8.0 S", **_ONCE
    ),
    _command("RequestUnlockToken", "Ask for an unlock token", Group.SECURITY, "iOS 5.0 S"),
    _command(
        "ActivationLockBypassCode",
        "Ask for the Activation Lock bypass code",
        Group.SECURITY,
        _SUPERVISED_CODE,
    ),
    _command(
        "ClearActivationLockBypassCode",
        "Clear the Activation Lock bypass code",
        Group.SECURITY,
        _SUPERVISED_CODE,
    ),
    _command(
        "RotateFileVaultKey",
        "Change the FileVault recovery key",
        Group.SECURITY,
        "macOS 10.9",
        right="lock",
        needs="KeyType FileVaultUnlock",
        may="NewCertificate ReplyEncryptionCertificate",
        **_ONCE,
    ),
    _command(
        "SetRecoveryLock",
        "Set the recovery lock password",
        Group.SECURITY,
        "macOS 11.5",
        right="lock",
        needs="NewPassword",
        may="CurrentPassword",
        **_ONCE,
    ),
    _command(
        "VerifyRecoveryLock",
        "Check the recovery lock password",
        Group.SECURITY,
        "macOS 11.5",
        right="lock",
        needs="Password",
    ),
    _command(
        "SetFirmwarePassword",
        "Set the firmware password",
        Group.SECURITY,
        "macOS 10.13",
        right="lock",
        needs="NewPassword",
        may="CurrentPassword AllowOroms",
        **_ONCE,
    ),
    _command(
        "VerifyFirmwarePassword",
        "Check the firmware password",
        Group.SECURITY,
        "macOS 10.13",
        needs="Password",
    ),
    _command(
        "SetAutoAdminPassword",
        "Set the managed administrator's password",
        Group.SECURITY,
        "macOS 10.11 D",
        needs="GUID passwordHash",
        **_ONCE,
    ),
    # Restart and shut down
    _command(
        "RestartDevice",
        "Restart",
        Group.POWER,
        "iOS 10.3 S, macOS 10.13, tvOS 10.2 S",
        right="lock",
        may="RebuildKernelCache KextPaths NotifyUser",
        **_ONCE,
    ),
    _command("ShutDownDevice", "Shut down", Group.POWER, "iOS 10.3 S, macOS 10.13", right="lock", **_ONCE),
    _command(
        "LOMSetupRequest", "Ask for lights-out management set-up", Group.POWER, "macOS 11.0", right="lock"
    ),
    _command(
        "LOMDeviceRequest",
        "Start or stop other Macs (lights-out management)",
        Group.POWER,
        "macOS 11.0",
        right="lock",
        needs="RequestList",
        **_ONCE,
    ),
    # Profiles
    _command(
        "InstallProfile",
        "Install a profile",
        Group.PROFILES,
        _EVERYWHERE_U,
        right="profiles",
        needs="Payload",
    ),
    _command(
        "RemoveProfile",
        "Remove a profile",
        Group.PROFILES,
        _EVERYWHERE_U,
        right="profiles",
        needs="Identifier",
    ),
    _command(
        "ProfileList",
        "List profiles",
        Group.PROFILES,
        _EVERYWHERE_U,
        right="inspect",
        may="ManagedOnly",
        **_READY,
    ),
    _command(
        "InstallProvisioningProfile",
        "Install a provisioning profile",
        Group.PROFILES,
        _PROVISIONING,
        right="provisioning",
        needs="ProvisioningProfile",
    ),
    _command(
        "RemoveProvisioningProfile",
        "Remove a provisioning profile",
        Group.PROFILES,
        _PROVISIONING,
        right="provisioning",
        needs="UUID",
    ),
    _command(
        "ProvisioningProfileList",
        "List provisioning profiles",
        Group.PROFILES,
        _PROVISIONING,
        right="see provisioning",
        may="ManagedOnly",
        **_READY,
    ),
    # Apps, books and media
    _command(
        "InstallApplication",
        "Install an app",
        Group.APPS,
        "iOS 5.0, macOS 10.9 U, tvOS 10.2, visionOS 1.1, watchOS 10.0",
        right="apps",
        may="iTunesStoreID Identifier Options ManifestURL ManagementFlags Configuration Attributes "
        "ChangeManagementState InstallAsManaged iOSApp",
    ),
    _command(
        "InstallEnterpriseApplication",
        "Install a package",
        Group.APPS,
        "macOS 10.13.6",
        right="apps",
        may="Manifest ManifestURL ManifestURLPinningCerts PinningRevocationCheckRequired InstallAsManaged "
        "ManagementFlags Configuration ChangeManagementState iOSApp",
    ),
    _command(
        "RemoveApplication", "Remove an app", Group.APPS, _APPS_EVERYWHERE, right="apps", needs="Identifier"
    ),
    _command(
        "ManagedApplicationList",
        "List managed apps",
        Group.APPS,
        "iOS 5.0, macOS 11.0 U, tvOS 10.2, visionOS 1.1, watchOS 10.0",
        right="apps",
        may="Identifiers",
    ),
    _command(
        "ManagedApplicationConfiguration",
        "Ask for the configuration of managed apps",
        Group.APPS,
        "iOS 7.0, macOS 10.15, tvOS 10.2, visionOS 1.1, watchOS 10.0",
        right="apps",
        needs="Identifiers",
    ),
    _command(
        "ManagedApplicationAttributes",
        "Ask for the attributes of managed apps",
        Group.APPS,
        "iOS 7.0, tvOS 10.2, visionOS 1.1, watchOS 10.0",
        right="apps",
        needs="Identifiers",
    ),
    _command(
        "ManagedApplicationFeedback",
        "Ask for the feedback of managed apps",
        Group.APPS,
        "iOS 7.0, macOS 11.0 !, tvOS 10.2, visionOS 1.1",
        right="apps",
        needs="Identifiers",
        may="DeleteFeedback",
    ),
    _command(
        "ValidateApplications",
        "Check the provisioning of apps",
        Group.APPS,
        "iOS 9.2, tvOS 10.2, visionOS 1.1",
        right="apps",
        may="Identifiers",
    ),
    _command(
        "ApplyRedemptionCode",
        "Apply a redemption code",
        Group.APPS,
        "iOS 5.0",
        right="apps",
        needs="Identifier RedemptionCode",
    ),
    _command(
        "InviteToProgram",
        "Invite the user to a volume programme",
        Group.APPS,
        "iOS 7.0 U, macOS 10.9 !",
        right="apps",
        needs="ProgramID InvitationURL",
    ),
    _command(
        "InstallMedia",
        "Install a book",
        Group.APPS,
        "iOS 8.0, macOS 10.9 !",
        right="apps",
        needs="MediaType",
        may="iTunesStoreID MediaURL PersistentID Kind Version Author Title",
    ),
    _command(
        "RemoveMedia",
        "Remove a book",
        Group.APPS,
        "iOS 8.0",
        right="apps",
        needs="MediaType",
        may="iTunesStoreID PersistentID",
    ),
    _command("ManagedMediaList", "List managed books", Group.APPS, "iOS 8.0", right="apps"),
    # Lost mode
    _command(
        "EnableLostMode",
        "Switch lost mode on",
        Group.LOST_MODE,
        "iOS 9.3 S",
        may="Message PhoneNumber Footnote",
    ),
    _command("DisableLostMode", "Switch lost mode off", Group.LOST_MODE, "iOS 9.3 S"),
    _command("DeviceLocation", "Ask where the device is", Group.LOST_MODE, "iOS 9.3 S"),
    _command("PlayLostModeSound", "Play the lost mode sound", Group.LOST_MODE, "iOS 10.3 S"),
    # Users
    _command("UserList", "List users", Group.USERS, "iOS 9.3 P, macOS 10.13 S"),
    _command("LogOutUser", "Log the user out", Group.USERS, "iOS 9.3 P", **_ONCE),
    _command(
        "DeleteUser",
        "Delete a user",
        Group.USERS,
        "iOS 9.3 P, macOS 10.13 S",
        may="UserName ForceDeletion DeleteAllUsers",
        **_ONCE,
    ),
    _command(
        "UnlockUserAccount",
        "Unlock a user's account",
        Group.USERS,
        "macOS 10.13",
        right="lock",
        needs="UserName",
    ),
    # Settings
    _command(
        "Settings",
        "Change settings",
        Group.SETTINGS,
        "iOS 5.0 U, macOS 10.9 U, tvOS 9.0, visionOS 1.1, watchOS 10.0",
        right="settings",
        needs="Settings",
    ),
    _command("EnableRemoteDesktop", "Switch Remote Desktop on", Group.SETTINGS, "macOS 10.14.4 S"),
    _command("DisableRemoteDesktop", "Switch Remote Desktop off", Group.SETTINGS, "macOS 10.14.4 S"),
    _command(
        "RequestMirroring",
        "Start AirPlay mirroring",
        Group.SETTINGS,
        "iOS 7.0, macOS 10.10",
        may="DestinationName DestinationDeviceID ScanTime Password",
    ),
    _command("StopMirroring", "Stop AirPlay mirroring", Group.SETTINGS, "iOS 7.0 S, macOS 10.10"),
    _command(
        "RefreshCellularPlans", "Look for eSIM plans", Group.SETTINGS, "iOS 13.0", needs="eSIMServerURL"
    ),
    # System updates
    _command(
        "AvailableOSUpdates",
        "List available system updates",
        Group.UPDATES,
        _UPDATES,
        right="apps",
        removed_in_27=True,
    ),
    _command(
        "ScheduleOSUpdateScan",
        "Look for system updates",
        Group.UPDATES,
        "macOS 10.11 S",
        may="Force",
        removed_in_27=True,
    ),
    _command(
        "ScheduleOSUpdate",
        "Install system updates",
        Group.UPDATES,
        "iOS 9.0 S, macOS 10.11 S, tvOS 12.0 S",
        right="apps",
        needs="Updates",
        removed_in_27=True,
    ),
    _command(
        "OSUpdateStatus",
        "Ask for the state of system updates",
        Group.UPDATES,
        "iOS 9.0 S, macOS 10.11.5 S, tvOS 12.0 S",
        right="apps",
        removed_in_27=True,
    ),
    # Setting up
    _command(
        "AccountConfiguration",
        "Set up the first accounts",
        Group.SETUP,
        "macOS 10.11 D",
        may="SkipPrimarySetupAccountCreation SetPrimarySetupAccountAsRegularUser PrimaryAccountFullName "
        "PrimaryAccountUserName DontAutoPopulatePrimaryAccountInfo LockPrimaryAccountInfo "
        "AutoSetupAdminAccounts ManagedLocalUserShortName",
    ),
    _command(
        "DeviceConfigured",
        "Let Setup Assistant go on",
        Group.SETUP,
        "iOS 9.0 SD, macOS 10.11 D, tvOS 10.2 S, visionOS 2.0 SD",
    ),
    _command("UserConfigured", "Let the user's set-up go on", Group.SETUP, "iOS 17.0 SDU"),
    # Other
    _command(
        "DeclarativeManagement",
        "Start declarative management",
        Group.OTHER,
        "iOS 15.0 U, macOS 13.0 U, tvOS 16.0, visionOS 1.1, watchOS 10.0",
        may="Data",
    ),
)

REQUEST_TYPES: Mapping[str, RequestType] = MappingProxyType({command.name: command for command in _COMMANDS})


def at_most_once(request_type: str) -> bool:
    """Whether a second hand-out could do harm. False for commands nobody here has heard of."""
    known = REQUEST_TYPES.get(request_type)
    return known is not None and known.at_most_once


def missing_keys(request_type: str, payload: Mapping[str, Any]) -> tuple[str, ...]:
    """Required keys that are neither given, nor defaulted, nor filled in at hand-out."""
    known = REQUEST_TYPES.get(request_type)
    if known is None:
        return ()
    return tuple(
        key
        for key in known.required
        if key not in payload and key not in known.defaults and key not in known.filled
    )


def by_group() -> Iterator[tuple[Group, tuple[RequestType, ...]]]:
    """The commands in the order in which people are offered them."""
    for group in Group:
        yield group, tuple(command for command in _COMMANDS if command.group is group)
