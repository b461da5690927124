"""The record in words: what an action is called, and where its target can be looked at."""

from __future__ import annotations

from django.apps import apps
from django.urls import NoReverseMatch, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from audit.models import AuditEvent, Refusal

# Only what the rule below would say badly; "certificate.revoked" is "Certificate revoked" by itself.
ACTIONS: dict[str, str | Promise] = {
    "api_token.created": _("API token created"),
    "api_token.deleted": _("API token deleted"),
    "api_token.revoked": _("API token revoked"),
    "command.enqueued": _("Command queued"),
    "command.resent": _("Command sent again"),
    "retention.swept": _("Old rows removed"),
    "device.groups_changed": _("Groups of a device changed"),
    "device_group.devices_added": _("Devices put into a group"),
    "device_group.devices_removed": _("Devices taken out of a group"),
    "enrollment.identity_renewed": _("Device identity renewed"),
    "identity_renewal.planned": _("Certificate renewal planned"),
    "rekey_campaign.aborted": _("Re-key campaign given up"),
    "rekey_campaign.closed": _("Re-key campaign: older keys closed"),
    "rekey_campaign.failures_retried": _("Re-key campaign: failures tried again"),
    "rekey_campaign.key_activated": _("Re-key campaign: new key activated"),
    "rekey_campaign.paused": _("Re-key campaign paused"),
    "rekey_campaign.resumed": _("Re-key campaign resumed"),
    "rekey_campaign.started": _("Re-key campaign begun"),
    "renewal_permit.granted": _("Expired device let in for one renewal"),
    "renewal_permit.used": _("Permit of an expired device used"),
    "renewal_permit.withdrawn": _("Permit of an expired device withdrawn"),
    "scep.challenge_reused": _("SCEP challenge presented again"),
    "secret.revealed": _("Secret shown"),
}
SURFACES: dict[str, str | Promise] = {
    "mdm": _("Check-in and connect"),
    "scep": _("SCEP"),
    "enroll": _("Enrolment"),
    "api": _("API"),
    "pki": _("Certificates"),
}


def action_in_words(action: str) -> str:
    """``device_group.renamed`` → ``Device group renamed``; names of the code become words of the console."""
    if action in ACTIONS:
        return str(ACTIONS[action])
    words = action.replace(".", " ").replace("_", " ").replace("enrollment", "enrolment").strip()
    return words[:1].upper() + words[1:]


def surface_in_words(surface: str) -> str:
    """Where a request came in: ``mdm`` → ``Check-in and connect``."""
    return str(SURFACES.get(surface, surface))


def target_url(row: AuditEvent | Refusal) -> str:
    """The admin page of what the row is about; empty where there is none (any more)."""
    if not row.target_kind or not row.target_id:
        return ""
    try:
        model = apps.get_model(row.target_kind)
        return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_change", args=[row.target_id])
    except (LookupError, ValueError, NoReverseMatch):
        return ""


def kind_in_words(row: AuditEvent | Refusal) -> str:
    """``devices.device`` → ``device``."""
    try:
        return str(apps.get_model(row.target_kind)._meta.verbose_name)
    except (LookupError, ValueError):
        return row.target_kind
