"""What the first start makes."""

from __future__ import annotations

from enrollment.models import EnrollmentProfile
from pki.models import Issuer

DEFAULT_SLUG = "default"


def ensure_default_profile(issuer: Issuer) -> EnrollmentProfile:
    """The enrolment profile ``default``, made where there is none and never changed afterwards."""
    profile, _created = EnrollmentProfile.objects.get_or_create(
        slug=DEFAULT_SLUG,
        defaults={
            # As they are: enrollment.texts says them in the language of whoever reads them.
            "name": "Device management",
            "description": "Lets your organisation set up and protect this device.",
            "issuer": issuer,
        },
    )
    return profile
