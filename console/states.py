"""How a state looks: its tone (colour) and a short word for lists.

The words of the models say everything ("device is busy, will be tried again"); a column of a list has room
for one or two. Both are shown: the short one in the badge, the long one as its title.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

# Fields with these names and with choices are shown as badges everywhere in the admin.
STATE_FIELDS = frozenset({"state", "status", "outcome"})


@dataclass(frozen=True)
class Look:
    """``tone`` is a CSS class of console/bramley.css: good, info, wait, bad or off."""

    tone: str
    short: str | Promise = ""


LOOKS: dict[str, Look] = {
    # enrollments, sessions
    "ENROLLED": Look("good"),
    "AUTHENTICATED": Look("info", _("authenticated")),
    "QUARANTINED": Look("wait", _("quarantined")),
    "REFUSED": Look("bad", _("refused")),
    "CHECKED_OUT": Look("off"),
    "REPLACED": Look("off", _("replaced")),
    "TURN_AWAY": Look("wait", _("to be turned away")),
    "TURNED_AWAY": Look("off", _("turned away")),
    "OFFERED": Look("info"),
    "IDENTIFIED": Look("info", _("identified")),
    "OTA_CERTIFIED": Look("info", _("first certificate")),
    "DELIVERED": Look("info", _("profile delivered")),
    "CERTIFIED": Look("info", _("certified")),
    "COMPLETED": Look("good"),
    # deliveries
    "QUEUED": Look("info"),
    "SENT": Look("info", _("sent")),
    "NOT_NOW": Look("wait", _("device busy")),
    "UNCERTAIN": Look("wait", _("uncertain")),
    "ACKNOWLEDGED": Look("good"),
    "ERROR": Look("bad"),
    "FORMAT_ERROR": Look("bad", _("malformed")),
    "EXPIRED": Look("off", _("expired")),
    "CANCELLED": Look("off"),
    # certificates, keys, identities
    "ISSUED": Look("good"),
    "SUPERSEDED": Look("off"),
    "REVOKED": Look("bad"),
    "DRAFT": Look("wait", _("draft")),
    "AWAITING": Look("wait", _("awaiting")),
    "ACTIVE": Look("good"),
    "RETIRED": Look("off", _("retired")),
    "CURRENT": Look("good"),
    "NEXT": Look("info"),
    "PREVIOUS": Look("off", _("previous")),
    "CLOSED": Look("off"),
    # SCEP, push
    "SUCCESS": Look("good"),
    "FAILURE": Look("bad"),
    "PENDING": Look("wait", _("waiting")),
    "UNUSED": Look("good", _("unused")),
    "USED": Look("off", _("used")),
    "REQUESTED": Look("info", _("requested")),
    "IDLE": Look("off"),
    "DUE": Look("info"),
    "HELD": Look("wait", _("held")),
    # renewals, re-key campaigns
    "PLANNED": Look("info", _("waits for the device")),
    "DISTRIBUTING": Look("info", _("new root")),
    "READY": Look("wait", _("ready")),
    "REISSUING": Look("info", _("new certificates")),
    "DRAINED": Look("good", _("none left")),
    "ABORTED": Look("off"),
    # audit
    "DONE": Look("good"),
    "FAILED": Look("bad"),
}
PLAIN = Look("off")


def look(value: object) -> Look:
    """The look of a state; a plain one for values that the table doesn't know."""
    return LOOKS.get(str(value), PLAIN)
