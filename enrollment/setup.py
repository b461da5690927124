"""What the first start makes."""

from __future__ import annotations

from django.utils.translation import gettext as _

from enrollment.models import EnrollmentProfile
from pki.models import Issuer

DEFAULT_SLUG = "default"


def ensure_default_profile(issuer: Issuer) -> EnrollmentProfile:
    """The enrolment profile ``default``, made where there is none and never changed afterwards."""
    profile, _created = EnrollmentProfile.objects.get_or_create(
        slug=DEFAULT_SLUG,
        defaults={
            "name": _("Device management"),
            "description": _("Lets your organisation set up and protect this device."),
            "issuer": issuer,
        },
    )
    return profile
