"""The console's table of contents: which models stand where, and under what name.

Apps are the developers' cut; these sections are the administrators'. A model that no section names still
appears, in the last one, so that nothing that is registered can be out of reach.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _


@dataclass(frozen=True)
class Section:
    """``models`` are labels in the order of showing; ``icon`` is a symbol of templates/admin/icons.html."""

    slug: str
    title: str | Promise
    icon: str
    models: tuple[str, ...]


SECTIONS = (
    Section(
        "devices",
        _("Devices"),
        "device",
        (
            "devices.device",
            "devices.devicegroup",
            "devices.enrollment",
            "renewal.identityrenewal",
            "renewal.renewalpermit",
        ),
    ),
    Section("commands", _("Commands"), "command", ("commands.command", "commands.commanddelivery")),
    Section(
        "enrolment",
        _("Enrolment"),
        "enrol",
        (
            "enrollment.enrollmentprofile",
            "enrollment.enrollmentsession",
            "enrollment.enrollmentcode",
            "enrollment.identityprovider",
            "enrollment.blockeddevice",
            "enrollment.deviceauthority",
            "enrollment.devicesigner",
            "pki.tlsanchor",
        ),
    ),
    Section(
        "certificates",
        _("Certificates"),
        "certificate",
        (
            "pki.certificate",
            "pki.issuer",
            "pki.certificateprofile",
            "renewal.rekeycampaign",
            "pki.issuerkey",
            "pki.issuercertificate",
            "pki.crl",
            "pki.profilesigner",
            "scep.scepservice",
            "scep.challenge",
            "scep.pendingrequest",
            "scep.transaction",
        ),
    ),
    Section(
        "push",
        _("Push"),
        "push",
        ("push.pushcertificate", "push.vendorcertificate", "push.pushrequest"),
    ),
    Section(
        "records",
        _("Records"),
        "record",
        ("audit.auditevent", "audit.refusal", "devices.escrowedsecret"),
    ),
    Section("access", _("Access"), "access", ("auth.user", "auth.group", "api.apitoken")),
)
OTHER = Section("other", _("Other"), "record", ())

# Plural names for the list of contents, where the models' own would say less.
NAMES: dict[str, str | Promise] = {
    "devices.enrollment": _("Enrolment history"),
    "renewal.identityrenewal": _("Certificate renewals"),
    "renewal.renewalpermit": _("Let in although expired"),
    "enrollment.enrollmentprofile": _("Ways to enrol"),
    "enrollment.enrollmentsession": _("Enrolment attempts"),
    "enrollment.enrollmentcode": _("Codes"),
    "scep.pendingrequest": _("Waiting for approval"),
    "scep.transaction": _("SCEP requests"),
    "audit.auditevent": _("Who did what"),
}


def section_of(label: str) -> Section | None:
    """The section that names the model with this lower-case label."""
    return next((section for section in SECTIONS if label in section.models), None)
