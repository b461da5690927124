"""Inventory of a simulated device, in the keys of DeviceInformation, SecurityInfo and their like."""

from __future__ import annotations

from typing import Any

from simulator.hardware import Hardware, dice

# Made-up apps beside Apple's own; identifiers of example domains.
APPS = (
    ("com.apple.mobilesafari", "Safari", "18.1", 0),
    ("com.apple.Pages", "Pages", "14.2", 551_000_000),
    ("com.apple.Numbers", "Numbers", "14.2", 512_000_000),
    ("com.apple.Keynote", "Keynote", "14.2", 607_000_000),
    ("com.example.orchard.mail", "Orchard Mail", "7.2.1", 88_000_000),
    ("com.example.orchard.vpn", "Orchard VPN", "3.0.4", 31_000_000),
    ("com.example.timesheets", "Timesheets", "12.11", 54_000_000),
    ("com.example.scanner", "Scanner", "2.8", 47_000_000),
    ("com.example.whiteboard", "Whiteboard", "5.0", 143_000_000),
)


def device_information(hardware: Hardware, *, name: str, lost_mode: bool) -> dict[str, Any]:
    """Every query that this device knows, with its answer. A device leaves out what it does not know."""
    chance = dice(f"{hardware.udid}/information")
    capacity = round(hardware.capacity_gb * 0.93, 2)
    known: dict[str, Any] = {
        "UDID": hardware.udid,
        "SerialNumber": hardware.serial_number,
        "DeviceName": name,
        "OSVersion": hardware.os_version,
        "BuildVersion": hardware.build_version,
        "ModelName": hardware.model_name,
        "Model": hardware.model,
        "ModelNumber": f"{hardware.model}LL/A",
        "ProductName": hardware.product_name,
        "DeviceCapacity": capacity,
        "AvailableDeviceCapacity": round(capacity * chance.uniform(0.1, 0.85), 2),
        "IsSupervised": chance.random() < 0.5,
        "IsMultiUser": False,
        "AwaitingConfiguration": False,
        "WiFiMAC": hardware.wifi_mac,
        "BluetoothMAC": hardware.bluetooth_mac,
        "TimeZone": "Europe/London",
        "IsActivationLockEnabled": chance.random() < 0.4,
        "SoftwareUpdateDeviceID": f"{hardware.product_name.replace(',', '')}AP",
    }
    if hardware.ethernet_mac:
        known["EthernetMAC"] = hardware.ethernet_mac
    if hardware.is_mac:
        return known | _mac_information(hardware, name)
    known |= {
        "BatteryLevel": round(chance.uniform(0.05, 1.0), 2),
        "IsCloudBackupEnabled": chance.random() < 0.6,
        "IsDeviceLocatorServiceEnabled": chance.random() < 0.8,
        "IsDoNotDisturbInEffect": False,
        "IsMDMLostModeEnabled": lost_mode,
        "DiagnosticSubmissionEnabled": chance.random() < 0.5,
        "AppAnalyticsEnabled": False,
        "iTunesStoreAccountIsActive": True,
    }
    if hardware.platform == "tvOS":
        del known["BatteryLevel"]
    return known | _cellular_information(hardware)


def _mac_information(hardware: Hardware, name: str) -> dict[str, Any]:
    host = "".join(
        part for part in name.replace(" ", "-") if part.isascii() and (part.isalnum() or part == "-")
    )
    return {
        "ProvisioningUDID": hardware.provisioning_udid,
        "IsAppleSilicon": True,
        "HasBattery": hardware.model_name.startswith("MacBook"),
        "HostName": f"{host}.local",
        "LocalHostName": host,
        "SystemIntegrityProtectionEnabled": True,
        "SupportsLOMDevice": False,
        "SupportsiOSAppInstalls": True,
        "PINRequiredForDeviceLock": False,
        "PINRequiredForEraseDevice": False,
        "IsActivationLockSupported": True,
        "ActiveManagedUsers": [],
        "AutoSetupAdminAccounts": [],
        "OSUpdateSettings": {
            "AutoCheckEnabled": True,
            "AutomaticAppInstallationEnabled": True,
            "AutomaticOSInstallationEnabled": False,
            "AutomaticSecurityUpdatesEnabled": True,
            "BackgroundDownloadEnabled": True,
            "IsDefaultCatalog": True,
            "PerformPeriodicCheck": True,
            "PreviousScanResult": 0,
        },
    }


def _cellular_information(hardware: Hardware) -> dict[str, Any]:
    if not hardware.imei:
        return {}
    return {
        "IMEI": hardware.imei,
        "MEID": hardware.meid,
        "ICCID": hardware.iccid,
        "PhoneNumber": hardware.phone_number,
        "ModemFirmwareVersion": "1.00.00",
        "CellularTechnology": 3,
        "CarrierSettingsVersion": "61.0",
        "SIMCarrierNetwork": "Example Mobile",
        "SubscriberCarrierNetwork": "Example Mobile",
        "CurrentMCC": "001",
        "CurrentMNC": "01",
        "DataRoamingEnabled": False,
        "VoiceRoamingEnabled": False,
        "IsRoaming": False,
        "PersonalHotspotEnabled": False,
        "ServiceSubscriptions": [
            {
                "CarrierSettingsVersion": "61.0",
                "CurrentCarrierNetwork": "Example Mobile",
                "ICCID": hardware.iccid,
                "IMEI": hardware.imei,
                "IsDataPreferred": True,
                "IsRoaming": False,
                "IsVoicePreferred": True,
                "Label": "Primary",
                "PhoneNumber": hardware.phone_number,
                "Slot": "CTSubscriptionSlotOne",
            }
        ],
    }


def security_information(hardware: Hardware, *, passcode: bool) -> dict[str, Any]:
    """The SecurityInfo dictionary."""
    chance = dice(f"{hardware.udid}/security")
    if not hardware.is_mac:
        return {
            "HardwareEncryptionCaps": 3,
            "PasscodePresent": passcode,
            "PasscodeCompliant": passcode or chance.random() < 0.5,
            "PasscodeCompliantWithProfiles": passcode,
            "PasscodeLockGracePeriod": 0,
            "PasscodeLockGracePeriodEnforced": 0,
            "AutoLockTime": 300,
            "ManagementStatus": {"IsUserEnrollment": False},
        }
    encrypted = chance.random() < 0.7
    return {
        "FDE_Enabled": encrypted,
        "FDE_HasPersonalRecoveryKey": encrypted,
        "FDE_HasInstitutionalRecoveryKey": False,
        "SystemIntegrityProtectionEnabled": True,
        "FirewallSettings": {
            "FirewallEnabled": chance.random() < 0.6,
            "BlockAllIncoming": False,
            "StealthMode": False,
            "Applications": [],
            "LoggingEnabled": True,
        },
        "FirmwarePasswordStatus": {"PasswordExists": False, "ChangePending": False, "AllowOroms": False},
        "ManagementStatus": {
            "EnrolledViaDEP": False,
            "UserApprovedEnrollment": True,
            "IsUserEnrollment": False,
            "IsActivationLockManageable": False,
        },
        "SecureBoot": {"SecureBootLevel": "full", "ExternalBootLevel": "disallowed"},
        "RemoteDesktopEnabled": False,
        "AuthenticatedRootVolumeEnabled": True,
        "BootstrapTokenAllowedForAuthentication": "allowed",
        "BootstrapTokenRequiredForSoftwareUpdate": True,
        "BootstrapTokenRequiredForKernelExtensionApproval": True,
        "IsRecoveryLockEnabled": False,
    }


def installed_applications(hardware: Hardware) -> list[dict[str, Any]]:
    """A handful of apps, some of them for this device only."""
    chance = dice(f"{hardware.udid}/apps")
    chosen = chance.sample(APPS, k=chance.randint(4, len(APPS)))
    return [
        {
            "Identifier": identifier,
            "Name": title,
            "ShortVersion": version,
            "Version": version.replace(".", "") + "00",
            "BundleSize": size,
            "IsValidated": True,
            **({} if hardware.is_mac else {"DynamicSize": chance.randrange(1, 90) * 65_536}),
            "Installing": False,
            "AppStoreVendable": not identifier.startswith("com.example."),
            "DeviceBasedVPP": False,
            "BetaApp": False,
            "AdHocCodeSigned": False,
            "HasUpdateAvailable": chance.random() < 0.2,
        }
        for identifier, title, version, size in chosen
    ]


def users(hardware: Hardware) -> list[dict[str, Any]]:
    """Accounts of a Mac."""
    owner = hardware.name.split("’")[0]
    return [
        {
            "UserName": owner.lower(),
            "FullName": f"{owner} Example",
            "UID": 501,
            "UserGUID": hardware.udid,
            "IsLoggedIn": True,
            "MobileAccount": False,
            "HasSecureToken": True,
        }
    ]


def restrictions() -> dict[str, Any]:
    """GlobalRestrictions of an unrestricted device."""
    return {
        "restrictedBool": {
            "allowCamera": {"value": True},
            "allowScreenShot": {"value": True},
            "forceEncryptedBackup": {"value": False},
        },
        "restrictedValue": {"maxInactivity": {"value": 5}},
        "intersection": {},
        "union": {},
    }
