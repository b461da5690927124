"""BRAMLEY_DEVICE_AUTH: by signature, by certificate, by either; from our own TLS or from a proxy."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from django.core.checks import run_checks
from django.utils import timezone

from audit.recording import SERVER
from commands.core import plist
from pki import revocation
from pki.models import Issuer, Purpose, RevocationReason
from tests.mdm.support import assert_rejected, every_message
from tests.support.device_door import Answer, DeviceClient
from tests.support.devices import CONNECT, Device, device_key, issue_certificate, make_device

pytestmark = pytest.mark.django_db

HEADER = "Client-Cert"
WAYS = ("our own TLS", "a proxy")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, settings: Any) -> str:
    """How a certificate arrives."""
    if request.param == "a proxy":
        settings.BRAMLEY_CLIENT_CERT_HEADER, settings.BRAMLEY_TRUSTED_PROXIES = HEADER, ["127.0.0.1"]
    else:
        settings.BRAMLEY_TLS = True
    return str(request.param)


def send(
    way: str, device: Device, message: dict[str, Any], *, shown: Device | None, signer: Device | None
) -> Answer:
    """A message with the proofs given: whose certificate is shown, and who signed."""
    body, headers = plist.write(message), {}
    client = DeviceClient()
    if shown is not None and way == "a proxy":
        headers[HEADER] = f":{base64.b64encode(bytes(shown.certificate.der)).decode()}:"
    elif shown is not None:
        client.certificate = bytes(shown.certificate.der)
    if signer is not None:
        headers["Mdm-Signature"] = signer.signature(body)
    return client.put(CONNECT, body, headers)


def idle(way: str, device: Device, *, shown: Device | None = None, signer: Device | None = None) -> Answer:
    return send(way, device, device.message(Status="Idle"), shown=shown, signer=signer)


@pytest.mark.parametrize(
    ("mode", "shown", "signed", "reason"),
    [
        ("certificate", True, False, ""),
        ("certificate", True, True, ""),
        ("certificate", False, True, "no client certificate"),
        ("certificate", False, False, "no client certificate"),
        ("either", True, False, ""),
        ("either", True, True, ""),
        ("either", False, True, ""),
        ("either", False, False, "no client certificate"),
    ],
)
def test_which_proof_counts(
    enrolled_a: Device, settings: Any, way: str, *, mode: str, shown: bool, signed: bool, reason: str
) -> None:
    settings.BRAMLEY_DEVICE_AUTH = mode

    def ask() -> Answer:
        return idle(
            way, enrolled_a, shown=enrolled_a if shown else None, signer=enrolled_a if signed else None
        )

    if reason:
        assert_rejected(ask, reason)
    else:
        assert ask().status == 200


def test_where_signatures_count_a_certificate_does_not(enrolled_a: Device, settings: Any) -> None:
    settings.BRAMLEY_DEVICE_AUTH = "signature"
    assert_rejected(lambda: idle("our own TLS", enrolled_a, shown=enrolled_a), "no Mdm-Signature")
    assert idle("our own TLS", enrolled_a, signer=enrolled_a).status == 200


@pytest.mark.parametrize("mode", ["certificate", "either"])
def test_both_proofs_have_to_name_the_same_certificate(
    enrolled_a: Device, enrolled_b: Device, settings: Any, way: str, mode: str
) -> None:
    settings.BRAMLEY_DEVICE_AUTH = mode
    for shown, signer in ((enrolled_a, enrolled_b), (enrolled_b, enrolled_a)):
        assert_rejected(
            lambda shown=shown, signer=signer: idle(way, enrolled_a, shown=shown, signer=signer),  # type: ignore[misc]
            "signature and client certificate differ",
        )


@pytest.mark.parametrize("number", range(12))
def test_the_identity_of_another_enrollment_is_refused(
    enrolled_a: Device, enrolled_b: Device, settings: Any, way: str, number: int
) -> None:
    settings.BRAMLEY_DEVICE_AUTH = "certificate"
    _path, message = every_message(enrolled_a)[number]
    reason = "certificate belongs to another device" if number == 0 else "identity of another device"
    assert_rejected(lambda: send(way, enrolled_a, message, shown=enrolled_b, signer=None), reason)


@pytest.mark.parametrize(
    "purpose", [Purpose.OTA_IDENTITY, Purpose.PROFILE_SIGNING, Purpose.SERVER_TLS, Purpose.SCEP_RECIPIENT]
)
def test_a_certificate_for_another_purpose_is_refused(
    issuer: Issuer, settings: Any, way: str, purpose: Purpose
) -> None:
    settings.BRAMLEY_DEVICE_AUTH = "certificate"
    device = make_device("A", purpose=purpose)
    for message in (device.authenticate_message(), device.message(Status="Idle")):
        assert_rejected(
            lambda message=message: send(way, device, message, shown=device, signer=None),  # type: ignore[misc]
            "certificate wrong purpose",
        )


def test_a_superseded_identity_is_refused_once_the_new_one_is_used(
    enrolled_a: Device, settings: Any, way: str
) -> None:
    settings.BRAMLEY_DEVICE_AUTH = "certificate"
    old = replace(enrolled_a)
    key = device_key(77)
    renewed = issue_certificate(
        key, binding=enrolled_a.certificate.binding, renewed_from=enrolled_a.certificate
    )
    new = replace(enrolled_a, certificate=renewed, key=key)
    assert idle(way, old, shown=old).status == 200
    assert idle(way, new, shown=new).status == 200
    assert_rejected(lambda: idle(way, old, shown=old), "certificate superseded")
    assert idle(way, new, shown=new).status == 200


def test_a_revoked_certificate_is_refused_with_the_next_request(
    enrolled_a: Device, settings: Any, way: str
) -> None:
    settings.BRAMLEY_DEVICE_AUTH = "either"
    assert idle(way, enrolled_a, shown=enrolled_a).status == 200
    revocation.revoke(
        enrolled_a.certificate, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=timezone.now()
    )
    assert_rejected(lambda: idle(way, enrolled_a, shown=enrolled_a), "certificate revoked")
    assert_rejected(lambda: idle(way, enrolled_a, signer=enrolled_a), "certificate revoked")


# What a proxy says


@contextmanager
def behind_a_proxy(settings: Any, mode: str) -> Iterator[None]:
    settings.BRAMLEY_DEVICE_AUTH = mode
    settings.BRAMLEY_CLIENT_CERT_HEADER, settings.BRAMLEY_TRUSTED_PROXIES = HEADER, ["10.1.2.3"]
    yield


def claimed(device: Device) -> dict[str, str]:
    return {HEADER: f":{base64.b64encode(bytes(device.certificate.der)).decode()}:"}


@pytest.mark.parametrize("mode", ["certificate", "either"])
def test_under_a_server_that_confuses_headers_no_header_counts(
    enrolled_a: Device, settings: Any, mode: str
) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    with behind_a_proxy(settings, mode):
        assert DeviceClient("10.1.2.3").put(CONNECT, body, claimed(enrolled_a)).status == 200
        confused = DeviceClient("10.1.2.3", headers_told_apart=False)
        assert_rejected(
            lambda: confused.put(CONNECT, body, claimed(enrolled_a)), "the web server confuses headers"
        )


def test_a_stranger_may_sign_where_either_counts_but_pass_no_certificate(
    enrolled_a: Device, settings: Any
) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    signature = {"Mdm-Signature": enrolled_a.signature(body)}
    with behind_a_proxy(settings, "either"):
        assert DeviceClient("127.0.0.2").put(CONNECT, body, signature).status == 200
        for headers in (claimed(enrolled_a), signature | claimed(enrolled_a)):
            assert_rejected(
                lambda headers=headers: DeviceClient("127.0.0.2").put(CONNECT, body, headers),  # type: ignore[misc]
                "peer is not a trusted proxy",
            )


def test_our_own_tls_is_not_asked_where_a_proxy_passes_certificates_on(
    enrolled_a: Device, settings: Any
) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    with behind_a_proxy(settings, "certificate"):
        client = DeviceClient("10.1.2.3", certificate=bytes(enrolled_a.certificate.der))
        assert_rejected(lambda: client.put(CONNECT, body), "no client certificate")


# Settings


@pytest.mark.parametrize(
    ("mode", "header", "tls", "port", "expected"),
    [
        ("", "", False, None, []),
        ("signature", "", False, None, []),
        ("signature", "", True, None, []),
        ("certificate", "", True, 8443, []),
        ("either", "", True, 8443, []),
        ("certificate", HEADER, False, None, []),
        ("either", HEADER, True, None, []),
        ("both", "", False, None, ["mdm.E004"]),
        ("certificate", "", False, None, ["mdm.E005"]),
        ("either", "", False, None, ["mdm.E005"]),
        ("signature", HEADER, False, None, ["mdm.E006"]),
        ("certificate", "", True, None, ["mdm.W001"]),
    ],
)
def test_settings_by_which_no_device_could_be_known_are_errors(
    settings: Any, *, mode: str, header: str, tls: bool, port: int | None, expected: list[str]
) -> None:
    settings.BRAMLEY_DEVICE_AUTH, settings.BRAMLEY_CLIENT_CERT_HEADER = mode, header
    settings.BRAMLEY_TRUSTED_PROXIES = ["127.0.0.1"] if header else []
    settings.BRAMLEY_TLS, settings.BRAMLEY_MDM_PORT = tls, port
    found = [str(message.id) for message in run_checks(tags=["security"])]
    assert [identifier for identifier in found if identifier.startswith("mdm.")] == expected
