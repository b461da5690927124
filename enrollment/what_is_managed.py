"""What an organisation can see and do on an enrolled device, in sentences for the person who holds it."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Sentences:
    """Two short lists for the enrolment page."""

    sees: list[Promise]
    does: list[Promise]


# Bits of AccessRights (com.apple.mdm) with what each means for a person.
SEES: list[tuple[int, Promise]] = [
    (16, _("Name, model, serial number, storage and system version of the device")),
    (32, _("Phone number and network addresses")),
    (256, _("Which apps are installed, but not what is in them")),
    (1 | 64 | 512, _("Which profiles, restrictions and certificates are set")),
    (1024, _("Whether there is a passcode and the storage is encrypted")),
]
DOES: list[tuple[int, Promise]] = [
    (2 | 128, _("Add and remove settings such as Wi-Fi, mail and restrictions")),
    (2048, _("Change settings of the device")),
    (4096, _("Install and remove its own apps")),
    (4, _("Lock the device and remove its passcode")),
    (8, _("Erase the device, with everything on it")),
    (8191, _("Make the device trust certificates that the organisation issues")),
]


def sentences(access_rights: int) -> Sentences:
    """The sentences that hold for these access rights."""
    return Sentences(
        sees=[text for bits, text in SEES if access_rights & bits],
        does=[text for bits, text in DOES if access_rights & bits],
    )
