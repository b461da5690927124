"""An issuer and two devices, A and B, with identities of their own."""

from __future__ import annotations

import pytest

from pki import trust
from pki.models import Issuer
from tests.support.devices import Device, make_device, make_issuer


@pytest.fixture
def issuer(db: None) -> Issuer:
    trust.forget_anchors()
    return make_issuer()


@pytest.fixture
def a(issuer: Issuer) -> Device:
    """A fresh device."""
    return make_device("A")


@pytest.fixture
def b(issuer: Issuer) -> Device:
    """Another fresh device."""
    return make_device("B")


@pytest.fixture
def enrolled_a(a: Device) -> Device:
    a.enrol()
    return a


@pytest.fixture
def enrolled_b(b: Device) -> Device:
    b.enrol(push_token=b"\x02" * 32, push_magic="magic-b")
    return b
