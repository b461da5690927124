"""TLS contexts: read anew, kept where nothing changed, and patience that ends."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from mdm_project import tls
from mdm_project.tls import Contexts, PatientSocket
from pki import server_tls
from pki.models import CertificateStatus, Issuer, Purpose
from tests.support.devices import make_issuer

pytestmark = pytest.mark.django_db


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def issuer() -> Issuer:
    return make_issuer()


@pytest.fixture(autouse=True)
def _connection_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's transaction lives in it."""
    monkeypatch.setattr(tls, "close_old_connections", lambda: None)


def test_one_asks_for_a_certificate_and_one_does_not(issuer: Issuer, clock: Clock) -> None:
    contexts = Contexts(clock)
    assert contexts.context(asking=False).verify_mode == ssl.CERT_NONE
    asking = contexts.context(asking=True)
    assert asking.verify_mode == ssl.CERT_OPTIONAL
    assert [name["subject"] for name in asking.get_ca_certs()] == [((("commonName", "Test CA bramley"),),)]
    assert asking.minimum_version == ssl.TLSVersion.TLSv1_2


def test_nothing_new_means_the_same_contexts(issuer: Issuer, clock: Clock) -> None:
    contexts = Contexts(clock)
    first = contexts.context(asking=True)
    clock.seconds = 1000.0
    assert contexts.context(asking=True) is first


def test_a_renewal_and_another_authority_are_seen_in_time(issuer: Issuer, clock: Clock) -> None:
    contexts = Contexts(clock)
    first = contexts.context(asking=True)
    held = server_tls.server_identity(tls.hosts(), now=timezone.now()).certificate
    held.status = CertificateStatus.REVOKED
    held.save()
    assert contexts.context(asking=True) is first
    clock.seconds = tls.READ_ANEW_SECONDS + 1
    second = contexts.context(asking=True)
    assert second is not first
    issuer.trusted_for = [Purpose.OTA_IDENTITY.value]
    issuer.save()
    clock.seconds *= 2
    third = contexts.context(asking=True)
    assert third is not second
    assert third.get_ca_certs() == []


def test_without_the_database_the_last_one_goes_on(
    issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = Contexts(clock)
    first = contexts.context(asking=False)

    def away(*_arguments: Any, **_more: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(tls, "server_identity", away)
    clock.seconds = 1000.0
    assert contexts.context(asking=False) is first
    with pytest.raises(RuntimeError, match="no certificate"):
        Contexts(clock).context(asking=False)


def test_without_an_issuer_there_is_no_connection(clock: Clock) -> None:
    with pytest.raises(RuntimeError, match="no certificate"):
        Contexts(clock).context(asking=False)


@pytest.mark.parametrize(
    ("mode", "header", "mdm_port", "port", "expected"),
    [
        ("", "", None, 8000, False),
        ("signature", "", 8443, 8443, False),
        ("certificate", "", None, 8000, True),
        ("either", "", 8443, 8443, True),
        ("either", "", 8443, 8000, False),
        ("certificate", "Client-Cert", None, 8000, False),
    ],
)
def test_where_a_certificate_is_asked_for(
    settings: Any, *, mode: str, header: str, mdm_port: int | None, port: int, expected: bool
) -> None:
    settings.BRAMLEY_DEVICE_AUTH, settings.BRAMLEY_CLIENT_CERT_HEADER = mode, header
    settings.BRAMLEY_MDM_PORT = mdm_port
    assert tls.asks_at(port) is expected


def test_the_names_are_those_of_the_public_addresses(settings: Any) -> None:
    settings.BRAMLEY_PUBLIC_URL, settings.BRAMLEY_MDM_URL = "https://mdm.example.com", ""
    assert tls.hosts() == ["mdm.example.com"]
    settings.BRAMLEY_MDM_URL = "https://devices.example.com:8443"
    assert tls.hosts() == ["mdm.example.com", "devices.example.com"]


def test_who_does_not_get_on_with_it_is_given_up(
    issuer: Issuer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No handshake comes: a reset for gunicorn, which holds no thread for longer."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.05)
    ours, theirs = socket.socketpair()
    context = Contexts(clock).context(asking=False)
    with theirs, context.wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as connection:
        assert isinstance(connection, PatientSocket)
        theirs.sendall(b"\x16\x03\x01")
        with pytest.raises(ConnectionResetError):
            connection.do_handshake()
