"""Who may speak for a device: threats A1 to A6 and A11 to A15."""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from django.core.checks import run_checks
from django.utils import timezone

from audit.recording import SERVER
from commands.core import plist
from devices.models import Identity
from pki import keys, revocation, trust
from pki.core import cms
from pki.models import Certificate, Issuer, Purpose, RevocationReason
from tests.mdm.support import assert_rejected, enrollment_of, every_message
from tests.support.device_door import Answer, DeviceClient
from tests.support.devices import (
    CHECKIN,
    CONNECT,
    Device,
    device_key,
    issue_certificate,
    make_device,
)
from tests.support.snapshot import no_change

MESSAGES = range(12)


def in_name_of(device: Device, der: bytes, key: Any) -> Device:
    """The device's ids, signed with another certificate that nothing here recorded."""
    return Device(
        certificate=Certificate(der=der),
        key=key,
        udid=device.udid,
        serial_number=device.serial_number,
    )


# A1: no certificate


@pytest.mark.parametrize("number", MESSAGES)
def test_a_message_without_signature_is_refused(enrolled_a: Device, number: int) -> None:
    path, message = every_message(enrolled_a)[number]
    assert_rejected(lambda: DeviceClient().put(path, plist.write(message)), "no Mdm-Signature")


@pytest.mark.parametrize(
    "value", ["", "x", "////", base64.b64encode(b"0\x80\x00\x00").decode(), "=", "0" * 90_000]
)
def test_what_is_no_signature_is_refused(enrolled_a: Device, value: str) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    assert_rejected(
        lambda: DeviceClient().put(CONNECT, body, {"Mdm-Signature": value}),
        "bad Mdm-Signature" if value else "no Mdm-Signature",
    )


# A2, A3: certificates that look like the device's


def clone(certificate: Certificate, issuer_key: Any, issuer_der: bytes, key: Any, **changes: Any) -> bytes:
    """A certificate with the same names, serial number and dates, signed by another key."""
    real = x509.load_der_x509_certificate(bytes(certificate.der))
    authority = x509.load_der_x509_certificate(issuer_der)
    builder = (
        x509.CertificateBuilder()
        .subject_name(real.subject)
        .issuer_name(changes.get("issuer_name", authority.subject))
        .serial_number(real.serial_number)
        .not_valid_before(real.not_valid_before_utc)
        .not_valid_after(real.not_valid_after_utc)
        .public_key(key.public_key())
    )
    for extension in real.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_certificate_of_a_cloned_ca_is_refused(enrolled_a: Device, issuer: Issuer) -> None:
    own = bytes(issuer.keys.get().certificates.get().der)
    forged = clone(enrolled_a.certificate, device_key(900), own, device_key(901))
    mallory = in_name_of(enrolled_a, forged, device_key(901))
    assert_rejected(mallory.idle, "certificate unknown certificate")
    assert_rejected(
        lambda: mallory.check_in(mallory.token_update_message()), "certificate unknown certificate"
    )


def test_a_self_signed_copy_is_refused(enrolled_a: Device, issuer: Issuer) -> None:
    own = bytes(issuer.keys.get().certificates.get().der)
    key = device_key(902)
    subject = x509.load_der_x509_certificate(bytes(enrolled_a.certificate.der)).subject
    forged = clone(enrolled_a.certificate, key, own, key, issuer_name=subject)
    assert_rejected(in_name_of(enrolled_a, forged, key).idle, "certificate unknown certificate")


def test_the_right_certificate_with_the_wrong_key_is_refused(enrolled_a: Device) -> None:
    enrolled_a.key = device_key(903)
    assert_rejected(enrolled_a.idle, "bad Mdm-Signature")


# A4: time


def test_an_expired_certificate_is_refused(a: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    a.enrol()
    end = a.certificate.not_after
    with at(monkeypatch, end - timedelta(seconds=1)):
        assert a.idle().status == 200
    with at(monkeypatch, end + timedelta(seconds=1)):
        assert_rejected(a.idle, "certificate expired")


def test_a_certificate_is_valid_from_a_little_before_its_issue(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device("A", now=timezone.now())
    with at(monkeypatch, device.certificate.not_before - timedelta(seconds=1)):
        assert_rejected(lambda: device.check_in(device.authenticate_message()), "certificate not yet valid")
    with at(monkeypatch, timezone.now() - timedelta(minutes=9)):
        assert device.check_in(device.authenticate_message()).status == 200


class at:
    """The device endpoint's clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
        self.patch, self.moment = monkeypatch, moment

    def __enter__(self) -> None:
        self.context = self.patch.context()
        self.context.__enter__().setattr("mdm.views.timezone.now", lambda: self.moment)

    def __exit__(self, *exc: object) -> None:
        self.context.__exit__(None, None, None)


# A5: revocation counts at once


def test_a_revoked_certificate_is_refused_with_the_next_request(enrolled_a: Device) -> None:
    assert enrolled_a.idle().status == 200
    revocation.revoke(
        enrolled_a.certificate, reason=RevocationReason.KEY_COMPROMISE, actor=SERVER, now=timezone.now()
    )
    for path, message in every_message(enrolled_a):
        assert_rejected(partial(enrolled_a.send, path, message), "certificate revoked")


def test_an_issuer_that_is_no_longer_trusted_takes_its_devices_along(
    enrolled_a: Device, issuer: Issuer
) -> None:
    issuer.trusted_for = [Purpose.OTA_IDENTITY]
    issuer.save()
    assert_rejected(enrolled_a.idle, "certificate issuer not trusted")


# A6, A7: another device's name


@pytest.mark.parametrize("number", MESSAGES)
def test_a_device_cannot_speak_for_another(enrolled_a: Device, enrolled_b: Device, number: int) -> None:
    path, message = every_message(enrolled_a)[number]
    reason = "certificate belongs to another device" if number == 0 else "identity of another device"
    assert_rejected(lambda: enrolled_b.send(path, message), reason)


def test_two_families_of_ids_are_refused(enrolled_a: Device, enrolled_b: Device) -> None:
    for sender in (enrolled_a, enrolled_b):
        mixed = {**enrolled_a.token_update_message(), "EnrollmentID": "x"}
        assert_rejected(partial(sender.check_in, mixed), "bad check-in message")
        idle = enrolled_a.message(Status="Idle", EnrollmentID="x")
        assert_rejected(partial(sender.connect, idle), "bad report")
    assert_rejected(
        lambda: enrolled_a.connect({"EnrollmentID": enrolled_a.udid, "Status": "Idle"}),
        "identity of another device",
    )


# A13, A15 and the forms of signatures


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("attributes", [None, ()])
@pytest.mark.parametrize("algorithm", ["RSA-2048", "EC-P256"])
def test_every_form_of_signature_is_accepted(
    issuer: Issuer, digest: str, attributes: tuple[()] | None, algorithm: str
) -> None:
    key = device_key(7, algorithm)
    device = Device(certificate=issue_certificate(key), key=key, digest=digest, attributes=attributes)
    device.enrol()
    assert device.idle().status == 200


def test_a_signature_may_be_folded(enrolled_a: Device) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    text = enrolled_a.signature(body)
    folded = "\r\n ".join(text[at : at + 60] for at in range(0, len(text), 60))
    assert DeviceClient().put(CONNECT, body, {"Mdm-Signature": f" {folded} "}).status == 200


def test_a_signature_is_for_one_body_only(enrolled_a: Device) -> None:
    bodies = [(path, plist.write(message)) for path, message in every_message(enrolled_a)]
    for _path, signed in bodies[:4]:
        for path, sent in bodies:
            if signed != sent:
                headers = {"Mdm-Signature": enrolled_a.signature(signed)}
                assert_rejected(
                    partial(DeviceClient().put, path, sent, headers),
                    "bad Mdm-Signature",
                )


def test_one_changed_byte_breaks_the_signature(enrolled_a: Device) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    headers = {"Mdm-Signature": enrolled_a.signature(body)}
    assert_rejected(
        lambda: DeviceClient().put(CONNECT, body.replace(b"Idle", b"Idlf"), headers), "bad Mdm-Signature"
    )
    assert_rejected(lambda: DeviceClient().put(CONNECT, body + b"\n", headers), "bad Mdm-Signature")


def test_an_attached_signature_is_refused(enrolled_a: Device) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    attached = cms.sign(body, certificate=bytes(enrolled_a.certificate.der), private_key=enrolled_a.key)
    headers = {"Mdm-Signature": base64.b64encode(attached).decode()}
    assert_rejected(lambda: DeviceClient().put(CONNECT, body, headers), "bad Mdm-Signature")


@pytest.mark.parametrize(
    "purpose", [p for p in Purpose if p not in (Purpose.MDM_IDENTITY, Purpose.OCSP_SIGNING)]
)
def test_a_certificate_for_another_purpose_is_refused(issuer: Issuer, purpose: Purpose) -> None:
    device = make_device("A", purpose=purpose)
    assert_rejected(lambda: device.check_in(device.authenticate_message()), "certificate wrong purpose")
    assert_rejected(device.idle, "certificate wrong purpose")


# Certificates of another CA that an administrator trusts


def foreign_ca(key: Any) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old MDM CA")])
    now = timezone.now()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=100))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


def foreign_device(ca_key: Any, ca_der: bytes) -> Device:
    key = device_key(905)
    now = timezone.now()
    der = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.load_der_x509_certificate(ca_der).subject)
        .serial_number(77)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=50))
        .public_key(key.public_key())
        .sign(ca_key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    return Device(certificate=Certificate(der=der), key=key)


def test_a_device_of_a_trusted_foreign_ca_enrols(issuer: Issuer) -> None:
    ca_der = foreign_ca(device_key(904))
    device = foreign_device(device_key(904), ca_der)
    assert_rejected(lambda: device.check_in(device.authenticate_message()), "certificate unknown certificate")
    trust.trust_issuer(ca_der, purpose=Purpose.MDM_IDENTITY, actor=SERVER)
    assert_rejected(device.idle, "certificate enrolled no device")
    device.enrol()
    assert device.idle().status == 200
    pinned = Identity.objects.get(enrollment=enrollment_of(device))
    assert pinned.sha256 == hashlib.sha256(bytes(device.certificate.der)).hexdigest()
    assert pinned.certificate.foreign


# A11 to A14: certificates from proxies


@pytest.fixture
def header_mode(settings: Any) -> None:
    settings.BRAMLEY_CLIENT_CERT_HEADER = "X-SSL-Client-Cert"
    settings.BRAMLEY_TRUSTED_PROXIES = ["10.1.0.0/16", "192.0.2.7"]


def pem(device: Device) -> str:
    certificate = x509.load_der_x509_certificate(bytes(device.certificate.der))
    return quote(certificate.public_bytes(Encoding.PEM).decode(), safe="")


def idle_through(peer: str, device: Device, **headers: str) -> Answer:
    return DeviceClient(peer).put(
        CONNECT,
        plist.write(device.message(Status="Idle")),
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


@pytest.mark.parametrize("peer", ["10.1.2.3", "192.0.2.7", "::ffff:10.1.2.3"])
def test_a_certificate_from_a_trusted_proxy_counts(enrolled_a: Device, header_mode: None, peer: str) -> None:
    assert idle_through(peer, enrolled_a, X_SSL_Client_Cert=pem(enrolled_a)).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Client-Cert", lambda der, _pem: f":{base64.b64encode(der).decode()}:"),
        ("X-Forwarded-Client-Cert", lambda _der, pem: f'Hash=x;Cert="{pem}"'),
        ("X-Client-Cert", lambda _der, pem: pem),
    ],
)
def test_every_proxy_has_its_header(enrolled_a: Device, settings: Any, name: str, value: Any) -> None:
    settings.BRAMLEY_CLIENT_CERT_HEADER = name
    settings.BRAMLEY_TRUSTED_PROXIES = ["127.0.0.1"]
    headers = {name.replace("-", "_"): value(bytes(enrolled_a.certificate.der), pem(enrolled_a))}
    assert idle_through("127.0.0.1", enrolled_a, **headers).status == 200


@pytest.mark.parametrize("peer", ["127.0.0.2", "192.0.2.8", "10.2.0.1", "", "unix:", "::1"])
def test_nobody_else_may_pass_a_certificate(enrolled_a: Device, header_mode: None, peer: str) -> None:
    assert_rejected(
        lambda: idle_through(peer, enrolled_a, X_SSL_Client_Cert=pem(enrolled_a), X_Forwarded_For="10.1.2.3"),
        "peer is not a trusted proxy",
    )


def test_a_header_is_no_identity_where_none_is_configured(enrolled_a: Device) -> None:
    assert_rejected(
        lambda: idle_through("127.0.0.1", enrolled_a, X_SSL_Client_Cert=pem(enrolled_a)), "no Mdm-Signature"
    )


def test_a_signature_alone_is_not_enough_behind_a_proxy(enrolled_a: Device, header_mode: None) -> None:
    enrolled_a.client = DeviceClient("10.1.2.3")
    assert_rejected(enrolled_a.idle, "no client certificate")
    enrolled_a.client = DeviceClient("127.0.0.1")
    assert_rejected(enrolled_a.idle, "peer is not a trusted proxy")


def test_header_and_signature_have_to_agree(
    enrolled_a: Device, enrolled_b: Device, header_mode: None
) -> None:
    enrolled_a.client = DeviceClient("10.1.2.3")
    message = enrolled_a.message(Status="Idle")
    assert enrolled_a.send(CONNECT, message, **{"X-SSL-Client-Cert": pem(enrolled_a)}).status == 200
    assert_rejected(
        lambda: enrolled_a.send(CONNECT, message, **{"X-SSL-Client-Cert": pem(enrolled_b)}),
        "signature and client certificate differ",
    )
    assert_rejected(
        lambda: idle_through(
            "10.1.2.3", enrolled_a, X_SSL_Client_Cert=pem(enrolled_a), Mdm_Signature="rubbish"
        ),
        "bad Mdm-Signature",
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "," + text,
        lambda text: text + text,
        lambda text: text + "trailing",
        lambda _text: "%0d%0a",
        lambda _text: "A" * 65_536,
        lambda _text: "CN=x,CN=MDM$(id)",
        lambda text: text[:-120],
    ],
)
def test_a_spoilt_header_is_refused(enrolled_a: Device, header_mode: None, spoil: Any) -> None:
    assert_rejected(
        lambda: idle_through("10.1.2.3", enrolled_a, X_SSL_Client_Cert=spoil(pem(enrolled_a))),
        "bad client certificate header",
    )


def test_a_certificate_in_a_header_is_verified_like_any_other(
    enrolled_a: Device, enrolled_b: Device, header_mode: None, issuer: Issuer
) -> None:
    revocation.revoke(
        enrolled_a.certificate, reason=RevocationReason.SUPERSEDED, actor=SERVER, now=timezone.now()
    )
    assert_rejected(
        lambda: idle_through("10.1.2.3", enrolled_a, X_SSL_Client_Cert=pem(enrolled_a)), "certificate revoked"
    )
    assert_rejected(
        lambda: idle_through("10.1.2.3", enrolled_a, X_SSL_Client_Cert=pem(enrolled_b)),
        "identity of another device",
    )
    own = bytes(issuer.keys.get().certificates.get().der)
    forged = clone(enrolled_b.certificate, device_key(900), own, device_key(901))
    mallory = in_name_of(enrolled_b, forged, device_key(901))
    assert_rejected(
        lambda: idle_through("10.1.2.3", enrolled_b, X_SSL_Client_Cert=pem(mallory)),
        "certificate unknown certificate",
    )


@pytest.mark.parametrize(
    ("header", "proxies", "expected"),
    [
        ("", [], []),
        ("Client-Cert", ["127.0.0.1"], []),
        ("Client-Cert", [], ["mdm.E001"]),
        ("Client-Cert", ["proxy.example"], ["mdm.E002"]),
        ("Client_Cert", ["127.0.0.1"], ["mdm.E003"]),
    ],
)
def test_settings_that_let_devices_be_impersonated_are_errors(
    settings: Any, header: str, proxies: list[str], expected: list[str]
) -> None:
    settings.BRAMLEY_CLIENT_CERT_HEADER, settings.BRAMLEY_TRUSTED_PROXIES = header, proxies
    assert [
        str(error.id) for error in run_checks(tags=["security"]) if str(error.id).startswith("mdm.")
    ] == expected


# The door itself


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "HEAD", "PATCH", "OPTIONS"])
def test_only_put_is_served(enrolled_a: Device, method: str) -> None:
    body = plist.write(enrolled_a.message(Status="Idle"))
    headers = {"Mdm-Signature": enrolled_a.signature(body)}
    with no_change():
        for path in (CHECKIN, CONNECT):
            answer = DeviceClient().request(method, path, body, headers)
            assert (answer.status, answer.headers["Allow"]) == (405, "PUT")


@pytest.mark.parametrize(
    "content_type", ["", "application/x-apple-aspen-mdm; charset=UTF-8", "text/html", "junk"]
)
def test_any_content_type_will_do(enrolled_a: Device, content_type: str) -> None:
    message = enrolled_a.message(Status="Idle")
    assert enrolled_a.send(CONNECT, message, **{"Content-Type": content_type}).status == 200


def test_cookies_and_answers_of_people_play_no_part(enrolled_a: Device) -> None:
    answer = enrolled_a.send(CONNECT, enrolled_a.message(Status="Idle"), Cookie="sessionid=x; csrftoken=y")
    assert answer.status == 200
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["Cache-Control"] == "no-store"


def test_keys_are_compared_never_names(issuer: Issuer) -> None:
    """Two devices whose certificates have the same subject are two devices."""
    first, second = make_device("A", common_name="same"), make_device("B", common_name="same")
    first.enrol()
    second.enrol()
    assert enrollment_of(first).pk != enrollment_of(second).pk
    assert keys.public_key_der(first.key) != keys.public_key_der(second.key)
