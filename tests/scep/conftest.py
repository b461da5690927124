"""Fixtures of the SCEP tests: an issuer, a challenge, a way in, and what must not change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
import time_machine
from django.core.cache import cache

from audit.recording import SERVER
from pki import issuers, keys
from pki.core.certificates import build_root
from pki.models import Issuer, IssuerCertificateKind, IssuerKeyState, Purpose
from scep import services
from scep.challenges import create_challenge
from scep.models import Challenge, ScepService
from tests.scep.support import NOW, Door, rsa_key

Mint = Callable[..., tuple[Challenge, str]]


@pytest.fixture(autouse=True)
def no_failures_counted() -> Iterator[None]:
    """Each test starts with a clean count of failures."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def at_noon() -> Iterator[time_machine.Traveller]:
    """The clock stands at :data:`tests.scep.support.NOW`; ``at_noon.shift`` moves it."""
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@pytest.fixture(autouse=True)
def ready_made_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Issuers get keys that were made once in the run: making one takes longer than most tests."""
    numbers = itertools.count(1000)
    monkeypatch.setitem(keys.ALGORITHMS, "RSA-2048", lambda: rsa_key(next(numbers)))


@pytest.fixture
def issuer(db: None, at_noon: time_machine.Traveller, ready_made_keys: None) -> Issuer:
    return issuers.create_issuer("bramley", "Bramley test CA", algorithm="RSA-2048", actor=SERVER, now=NOW)


@pytest.fixture
def ca_certificate(issuer: Issuer) -> bytes:
    return bytes(issuers.current_certificate(issuers.current_key(issuer)).der)


@pytest.fixture
def service(issuer: Issuer) -> ScepService:
    """The service at ``/scep/bramley/`` and ``/scep/``."""
    return services.of_issuer(issuer)


@pytest.fixture
def next_ca_certificate(issuer: Issuer) -> bytes:
    """The certificate of a key generation that is made and not yet in use; its key is ``rsa_key(900)``."""
    key = rsa_key(900)
    der = build_root(
        (("CN", "Bramley test CA"),),
        private_key=key,
        serial_number=900,
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=5000),
    )
    issuer_key = issuers.add_key(
        issuer, private_key=key, algorithm="RSA-2048", certificate=der, state=IssuerKeyState.NEXT
    )
    issuers.add_certificate(issuer_key, der, kind=IssuerCertificateKind.SELF_SIGNED)
    return der


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
def mint(issuer: Issuer) -> Mint:
    """Mint a challenge: MDM identity for ``CN=device 1``, good for an hour, unless told otherwise."""

    def make(
        *, now: datetime = NOW, ttl: timedelta = timedelta(hours=1), **wanted: object
    ) -> tuple[Challenge, str]:
        defaults: dict[str, object] = {
            "issuer": issuer,
            "purpose": Purpose.MDM_IDENTITY,
            "subject": (("CN", "device 1"),),
            "created_by": "test",
        }
        return create_challenge(ttl=ttl, now=now, **{**defaults, **wanted})  # type: ignore[arg-type]

    return make
