"""What a token may be allowed to do: one table for the admin, the checks and the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Scope:
    """``permissions``: what the token's user must be allowed too; the token can do no more than its user."""

    name: str
    title: str | Promise
    permissions: tuple[str, ...]


DEVICES_READ = "devices:read"
ENROLLMENTS_READ = "enrollments:read"
COMMANDS_READ = "commands:read"
COMMANDS_WRITE = "commands:write"
CERTIFICATES_READ = "certificates:read"
CERTIFICATES_REVOKE = "certificates:revoke"
CHALLENGES_WRITE = "challenges:write"

SCOPES: dict[str, Scope] = {
    scope.name: scope
    for scope in (
        Scope(DEVICES_READ, _("See devices and their inventory"), ("devices.view_device",)),
        Scope(ENROLLMENTS_READ, _("See enrolments"), ("devices.view_enrollment",)),
        Scope(
            COMMANDS_READ,
            _("See commands, their progress and answers"),
            ("commands.view_command", "commands.view_commanddelivery"),
        ),
        Scope(
            COMMANDS_WRITE,
            _("Send and cancel commands"),
            ("commands.add_command", "commands.change_command"),
        ),
        Scope(CERTIFICATES_READ, _("See and download certificates"), ("pki.view_certificate",)),
        Scope(CERTIFICATES_REVOKE, _("Revoke certificates"), ("pki.change_certificate",)),
        Scope(CHALLENGES_WRITE, _("Make SCEP challenges"), ("scep.add_challenge",)),
    )
}
