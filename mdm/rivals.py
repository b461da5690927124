"""Two enrolments that say to be one device, side by side, for an administrator to tell which one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from devices import registry
from devices.models import Device, Enrollment
from enrollment.models import EnrollmentSession
from mdm.standing import active_certificate
from pki.models import Certificate


@dataclass(frozen=True)
class Claimant:
    """One side. ``said``: the columns of a device as its Authenticate had them; empty where not kept."""

    enrollment: Enrollment
    said: dict[str, str]
    certificate: Certificate | None
    session: EnrollmentSession | None


@dataclass(frozen=True)
class Row:
    """One fact of both. ``differs``: it may tell them apart; False where one of them is not known."""

    name: str
    live: str | datetime | None
    asking: str | datetime | None
    differs: bool = False

    @property
    def is_moment(self) -> bool:
        """Whether it is a time."""
        return isinstance(self.live or self.asking, datetime)


@dataclass(frozen=True)
class Comparison:
    """``live`` is None where the device is not enrolled any more. ``signs``: what speaks for or against."""

    live: Claimant | None
    asking: Claimant
    rows: list[Row]
    signs: list[tuple[str, str]]


def compare(asking: Enrollment) -> Comparison:
    """The enrolment that asks beside the live one of the same device. A fixed number of queries."""
    live = registry.live_enrollment(asking.device)
    one = _claimant(live, _columns(asking.device)) if live else None
    other = _claimant(asking, asking.said or {})
    return Comparison(one, other, _rows(one, other), _signs(one, other))


_COLUMNS = (
    *("serial_number", "name", "product_name", "model_name"),
    *("os_version", "build_version", "imei", "meid"),
)


def _columns(device: Device) -> dict[str, str]:
    return {name: getattr(device, name) for name in _COLUMNS}


def _claimant(enrollment: Enrollment, said: dict[str, str]) -> Claimant:
    session = None
    if enrollment.binding is not None:
        session = (
            EnrollmentSession.objects.select_related("profile", "code")
            .filter(uuid=enrollment.binding)
            .first()
        )
    return Claimant(enrollment, said, active_certificate(enrollment), session)


Read = Callable[[Claimant], str | datetime | None]


def _rows(live: Claimant | None, asking: Claimant) -> list[Row]:
    def row(name: str, read: Read, *, by: Read | None = None, tells: bool = True) -> Row:
        one, other = (by or read)(live) if live else None, (by or read)(asking)
        differs = bool(tells and one and other and one != other)
        return Row(name, read(live) if live else None, read(asking), differs)

    rows = [
        row(_("Serial number"), lambda side: side.said.get("serial_number")),
        row("UDID", lambda side: side.enrollment.device.udid),
        row(_("Name"), lambda side: side.said.get("name")),
        row(
            _("Model"),
            lambda side: _with(side.said.get("model_name"), side.said.get("product_name")),
            by=lambda side: side.said.get("product_name"),
        ),
        row(
            _("System"),
            lambda side: _with(side.said.get("os_version"), side.said.get("build_version")),
            by=lambda side: side.said.get("os_version"),
        ),
        row("IMEI", lambda side: side.said.get("imei")),
        row("MEID", lambda side: side.said.get("meid")),
        row(_("Enrolled"), lambda side: side.enrollment.authenticated_at, tells=False),
        row(_("Last seen"), lambda side: side.enrollment.last_seen_at, tells=False),
        row(_("Person"), lambda side: side.session.person if side.session else None),
        row(_("Code"), lambda side: str(side.session.code) if side.session and side.session.code else None),
        row(_("From address"), lambda side: side.session.remote_addr if side.session else None),
        row(_("Downloaded with"), lambda side: side.session.user_agent if side.session else None),
        row(
            _("Certificate that the device was made with"),
            lambda side: side.session.device_certificate_sha256 if side.session else None,
        ),
    ]
    always = {_("Serial number"), "UDID", _("Model"), _("System"), _("Person"), _("From address")}
    return [row for row in rows if row.live or row.asking or row.name in always]


def _with(name: str | None, detail: str | None) -> str:
    return f"{name} ({detail})" if name and detail else name or detail or ""


def _signs(live: Claimant | None, asking: Claimant) -> list[tuple[str, str]]:
    """What both together say, each with its tone. Nothing of it decides."""
    if live is None:
        return [(_("No enrolment of this device is live any more: nobody loses anything."), "info")]
    found = []
    one, other = _serial(live), _serial(asking)
    if one and other and one != other:
        found.append((_("They have different serial numbers: these are two devices."), "bad"))
    made = [side.session.device_certificate_sha256 if side.session else "" for side in (live, asking)]
    if made[0] and made[0] == made[1]:
        text = _("Both have proved to hold the certificate that the device was made with: it is one device.")
        found.append((text, "good"))
    elif made[0] and made[1]:
        text = _("They were made with different certificates: these are two devices, or one after a repair.")
        found.append((text, "bad"))
    keys = [side.certificate.public_key_sha256 if side.certificate else "" for side in (live, asking)]
    if keys[0] and keys[0] == keys[1]:
        found.append((_("Both have the same key."), "good"))
    return found


def _serial(side: Claimant) -> str:
    return side.said.get("serial_number", "").casefold()
