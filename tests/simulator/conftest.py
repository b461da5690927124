"""An issuer with an RSA key, as SCEP needs it, and the enrolment profile of a first start."""

from __future__ import annotations

import pytest

from audit.recording import SERVER
from enrollment.models import EnrollmentProfile
from enrollment.setup import ensure_default_profile
from pki import issuers
from pki.models import Issuer


@pytest.fixture
def issuer(db: None) -> Issuer:
    """``bramley``, as the first start makes it but with a smaller key."""
    return issuers.create_issuer("bramley", "Test CA", algorithm="RSA-2048", actor=SERVER)


@pytest.fixture
def profile(issuer: Issuer) -> EnrollmentProfile:
    """``default``, of an organisation."""
    made = ensure_default_profile(issuer)
    made.organization = "Orchard Ltd"
    made.save()
    return made
