"""An issuer with an RSA key, the enrolment profile of a first start, and simulated devices."""

from __future__ import annotations

from functools import lru_cache
from itertools import count

import pytest

from audit.recording import SERVER
from enrollment.models import EnrollmentProfile
from enrollment.setup import ensure_default_profile
from pki import issuers, keys, trust
from pki.core.algorithms import PrivateKey
from pki.models import Issuer
from tests.renewal.phones import Phone, new_phone

_new_private_key = keys.new_private_key


@lru_cache(maxsize=64)
def _kept(_number: int, algorithm: str) -> PrivateKey:
    return _new_private_key(algorithm)


@pytest.fixture(autouse=True)
def _keys_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's keys are real, and another one each time within a test; the next test gets them again."""
    number = count()
    monkeypatch.setattr(keys, "new_private_key", lambda algorithm: _kept(next(number), algorithm))


@pytest.fixture
def issuer(db: None) -> Issuer:
    """``bramley``, as the first start makes it but with a smaller key."""
    trust.forget_anchors()
    return issuers.create_issuer("bramley", "Test CA", algorithm="RSA-2048", actor=SERVER)


@pytest.fixture
def profile(issuer: Issuer) -> EnrollmentProfile:
    """``default``, of an organisation."""
    made = ensure_default_profile(issuer)
    made.organization = "Orchard Ltd"
    made.save()
    return made


@pytest.fixture
def phone(profile: EnrollmentProfile) -> Phone:
    """An enrolled device that has answered what it was asked first."""
    return new_phone(1)


@pytest.fixture
def other(profile: EnrollmentProfile) -> Phone:
    """Another one."""
    return new_phone(2)
