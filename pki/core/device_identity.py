"""Which certificates are those of devices: Apple's device CA by its pinned key, and CAs trusted for tests.

A device signs the second phase of over-the-air enrolment (and other requests to enrol) with the identity that
Apple gave it. The signature proves "an Apple device", never "this device" (threats E3).

Apple's device CA has an RSA key of 1024 bits, its certificate is signed with SHA-1 and expired in 2014, and
devices of today hold certificates that it issued. No path validation of today accepts that, so the key is
pinned: what counts is that this very key signed. Only there SHA-1, 1024 bits and an expired certificate pass.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa

from pki.core.certificates import (
    CertificateFacts,
    describe,
    load_certificate,
    public_key_of,
    read_identifiers,
)
from pki.core.path import PathError, verify_issued_by
from pki.core.policy import KeyRefused, verify_key
from pki.core.scan import Malformed, scan

__all__ = [
    "APPLE_CHAIN",
    "APPLE_DEVICE_CA",
    "DeviceAnchor",
    "DeviceSigner",
    "NotADevice",
    "verify_device_signer",
]

# What Apple's device CA has issued since 2007; a shorter key was never among it.
LEGACY_RSA_BITS = 1024


class NotADevice(Malformed):
    """The certificate is none of a device; ``reason`` says what does not fit."""


@dataclass(frozen=True)
class DeviceAnchor:
    """A CA that issues certificates to devices; ``certificate`` is DER.

    ``legacy``: Apple's own, where SHA-1, RSA keys of 1024 bits and expired certificates are what is real.
    """

    name: str
    certificate: bytes
    legacy: bool = False

    @property
    def sha256(self) -> str:
        """Fingerprint, lower-case hexadecimal."""
        return hashlib.sha256(self.certificate).hexdigest()


@dataclass(frozen=True)
class DeviceSigner:
    """A verified device certificate, and the CA whose key signed it."""

    certificate: bytes
    anchor: DeviceAnchor
    facts: CertificateFacts


def verify_device_signer(signer: bytes, anchors: Sequence[DeviceAnchor], *, now: datetime) -> DeviceSigner:
    """The device certificate ``signer`` (DER), where one of ``anchors`` issued it.

    The caller has verified a signature with its key. Whatever else came along in the message (chains that
    devices send are often wrong) plays no part. Raises :class:`NotADevice`.
    """
    try:
        scan(signer)
        facts = describe(signer)
        # 1. A device's certificate issues nothing: it is no CA.
        if facts.is_ca:
            raise NotADevice("the certificate is that of a CA")
        # 2. The key of a trusted device CA signed it, and the names say so.
        anchor = _issuing_anchor(signer, anchors)
        # 3. Its key and its time are right, by the rules that hold under that CA.
        if anchor.legacy:
            _verify_legacy_key(signer)
        else:
            _verify_of_today(signer, facts, anchor, now)
    except NotADevice:
        raise
    except Malformed as error:
        raise NotADevice(error.reason) from None
    return DeviceSigner(signer, anchor, facts)


def _issuing_anchor(signer: bytes, anchors: Sequence[DeviceAnchor]) -> DeviceAnchor:
    """By name first: two CAs may share one, so that each is tried."""
    issuer = read_identifiers(signer).issuer
    reason = "issued by none of the trusted device CAs"
    for anchor in anchors:
        if read_identifiers(anchor.certificate).subject != issuer:
            continue
        try:
            verify_issued_by(signer, anchor.certificate, allow_sha1=anchor.legacy)
        except PathError as error:
            reason = f"not issued by {anchor.name}: {error.reason}"
        else:
            return anchor
    raise NotADevice(reason)


def _verify_legacy_key(signer: bytes) -> None:
    key = public_key_of(load_certificate(signer))
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < LEGACY_RSA_BITS:
        raise NotADevice("the key of the certificate is too short")


def _verify_of_today(signer: bytes, facts: CertificateFacts, anchor: DeviceAnchor, now: datetime) -> None:
    try:
        verify_key(read_identifiers(signer).public_key)
    except KeyRefused as error:
        raise NotADevice(error.reason) from None
    if not facts.not_before <= now <= facts.not_after:
        raise NotADevice("the certificate is not valid now")
    authority = describe(anchor.certificate)
    if not authority.not_before <= now <= authority.not_after:
        raise NotADevice(f"the certificate of {anchor.name} is not valid now")


def _pinned(text: str, sha256: str) -> bytes:
    """DER from base64 text, which must be the certificate with this fingerprint."""
    der = base64.b64decode("".join(text.split()), validate=True)
    if hashlib.sha256(der).hexdigest() != sha256:
        raise ValueError("a pinned certificate is not the one that its fingerprint names")
    return der


# Public certificates of Apple's (apple.com/certificateauthority; the first is printed in Apple's guide to
# over-the-air enrolment). The first one's key is pinned; the others show where it comes from.
APPLE_CHAIN = (
    # CN=Apple iPhone Device CA, serial number 01, RSA 1024, 2007 to 2014
    _pinned(
        """
    MIIDaTCCAlGgAwIBAgIBATANBgkqhkiG9w0BAQUFADB5MQswCQYDVQQGEwJVUzETMBEGA1UEChMKQXBwbGUgSW5jLjEmMCQGA1UE
    CxMdQXBwbGUgQ2VydGlmaWNhdGlvbiBBdXRob3JpdHkxLTArBgNVBAMTJEFwcGxlIGlQaG9uZSBDZXJ0aWZpY2F0aW9uIEF1dGhv
    cml0eTAeFw0wNzA0MTYyMjU0NDZaFw0xNDA0MTYyMjU0NDZaMFoxCzAJBgNVBAYTAlVTMRMwEQYDVQQKEwpBcHBsZSBJbmMuMRUw
    EwYDVQQLEwxBcHBsZSBpUGhvbmUxHzAdBgNVBAMTFkFwcGxlIGlQaG9uZSBEZXZpY2UgQ0EwgZ8wDQYJKoZIhvcNAQEBBQADgY0A
    MIGJAoGBAPGUSsnquloYYK3Lok1NTlQZaRdZB2bLl+hmmkdfRq5nerVKc1SxywT2vTa4DFU4ioSDMVJl+TPhl3ecK0wmsCU/6TKq
    ewh0lOzBSzgdZ04IUpRai1mjXNeT9KD+VYW7TEaXXm6yd0UvZ1y8Cxi/WblshvcqdXbSGXH0KWO5JQuvAgMBAAGjgZ4wgZswDgYD
    VR0PAQH/BAQDAgGGMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFLL+ISNEhpVqedWBJo5zENinTI50MB8GA1UdIwQYMBaAFOc0
    Ki4i3jlga7SUzneDYS8xoHw1MDgGA1UdHwQxMC8wLaAroCmGJ2h0dHA6Ly93d3cuYXBwbGUuY29tL2FwcGxlY2EvaXBob25lLmNy
    bDANBgkqhkiG9w0BAQUFAAOCAQEAd13PZ3pMViukVHe9WUg8Hum+0I/0kHKvjhwVd/IMwGlXyU7DhUYWdja2X/zqj7W24Aq57dEK
    m3fqqxK5XCFVGY5HI0cRsdENyTP7lxSiiTRYj2mlPedheCn+k6T5y0U4Xr40FXwWb2nWqCF1AgIudhgvVbxlvqcxUm8Zz7yDeJ0J
    FovXQhyO5fLUHRLCQFssAbf8B4i8rYYsBUhYTspVJcxVpIIltkYpdIRSIARA49HNvKK4hzjzMS/OhKQpVKw+OCEZxptCVeN2pjbd
    t9uzi175oVo/u6B2ArKAW17u6XEHIdDMOe7cb33peVI6TD15W4MIpyQPbp8orlXe+tA8JA==
        """,
        "76f27d00e1333bc88de0e2916c38c9a7f2b75774c25a794c092a80e3c4c66cce",
    ),
    # CN=Apple iPhone Certification Authority, serial number 17, RSA 2048, 2007 to 2022
    _pinned(
        """
    MIID8zCCAtugAwIBAgIBFzANBgkqhkiG9w0BAQUFADBiMQswCQYDVQQGEwJVUzETMBEGA1UEChMKQXBwbGUgSW5jLjEmMCQGA1UE
    CxMdQXBwbGUgQ2VydGlmaWNhdGlvbiBBdXRob3JpdHkxFjAUBgNVBAMTDUFwcGxlIFJvb3QgQ0EwHhcNMDcwNDEyMTc0MzI4WhcN
    MjIwNDEyMTc0MzI4WjB5MQswCQYDVQQGEwJVUzETMBEGA1UEChMKQXBwbGUgSW5jLjEmMCQGA1UECxMdQXBwbGUgQ2VydGlmaWNh
    dGlvbiBBdXRob3JpdHkxLTArBgNVBAMTJEFwcGxlIGlQaG9uZSBDZXJ0aWZpY2F0aW9uIEF1dGhvcml0eTCCASIwDQYJKoZIhvcN
    AQEBBQADggEPADCCAQoCggEBAKMevvBHwLSeEFtGpLghuE+GIXAoRWBcHMPICmRjiPv8ae74VPzpW7cGTgQvw2szr0RM6kuACbSH
    9lu0/WTds3LgE7P9F9m856jtwoxhwir57M6lXtZp62QLjQiPuKBQRgncGeTlsJRtu/eZmMTom0FO1PFl4xtSetzoA9luHdoQVYak
    KVhJDOpH1xU0M/bAoERKcL4stSowN4wuFevR5GyXOFVWsTUrWOpEoyaF7shmSuTPifA9Y60p3q26WrPcpaOapwlOgBY1ZaSFDWN7
    PmOK2n1KRuyjORg0ucYoZRi8E2Ccf1esFMmJ7aG2h2hStoROuMiD7PmeGauzwQuGx58CAwEAAaOBnDCBmTAOBgNVHQ8BAf8EBAMC
    AYYwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQU5zQqLiLeOWBrtJTOd4NhLzGgfDUwHwYDVR0jBBgwFoAUK9BpR5R2Cf70a40u
    QKb3R01/CF4wNgYDVR0fBC8wLTAroCmgJ4YlaHR0cDovL3d3dy5hcHBsZS5jb20vYXBwbGVjYS9yb290LmNybDANBgkqhkiG9w0B
    AQUFAAOCAQEAHdHVe910TtcX/IItDJmbXkJy8mnc1WteDQxrSz57FCXes5TooPoPgInyFz0AAqKRkb50V9yvmp+hCn0wvgAqzCFZ
    6/1JrG51GeiaegPRhvbn9rAOS0n6o7dButfR41ahfYOrl674UUomwYVCEyaNA1RmEF5ghAUSMStrVMCgyEG8VB7nVK0TANJKx7vB
    iq+BCI7wRgq/J6a+3M85OoBwGSMyo2tmXZ5NqEdJsntFtVEzp3RnCU62bG9I9yy5MwVEa0W+dEtvsoaRtD4lKCWes8JRhvxP5a87
    qrtELAFJ4nSzNPpE7xTCEfItGRpRidMISkFsWFbemzrhBVflYs/SDw==
        """,
        "e4e2936d3c076ec4aea8ac37277524950ca005894b39bba2d347fa33155ae5fa",
    ),
    # CN=Apple Root CA, serial number 02, RSA 2048, 2006 to 2035
    _pinned(
        """
    MIIEuzCCA6OgAwIBAgIBAjANBgkqhkiG9w0BAQUFADBiMQswCQYDVQQGEwJVUzETMBEGA1UEChMKQXBwbGUgSW5jLjEmMCQGA1UE
    CxMdQXBwbGUgQ2VydGlmaWNhdGlvbiBBdXRob3JpdHkxFjAUBgNVBAMTDUFwcGxlIFJvb3QgQ0EwHhcNMDYwNDI1MjE0MDM2WhcN
    MzUwMjA5MjE0MDM2WjBiMQswCQYDVQQGEwJVUzETMBEGA1UEChMKQXBwbGUgSW5jLjEmMCQGA1UECxMdQXBwbGUgQ2VydGlmaWNh
    dGlvbiBBdXRob3JpdHkxFjAUBgNVBAMTDUFwcGxlIFJvb3QgQ0EwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDkkakJ
    H5HbHkdQ6wXtXnmELes2oldMVeyLGYne+Uts9QerIjAC6Bg++FAJ039BqJj50cpmnCRrEdCju+QbKsMflZ56DKRHi1vUFjczy8QP
    Tc4UadHJGXL1XQ7Vf1+b8iUDulWPTV0N8WQ1IxVLFVkds5T39pyez1C6wVhQZ48ItCD3y6wsIG9wtj8BMIy3Q88PnT3zK0koGsj+
    zrW5DtleHNbLPbU6rfQPDgCSC7EhFi501TwN22IWq6NxkkdTVcGvL0Gz+PvjcM3mo0xFfh9Ma1CWQYnEdGILEINBhzOKgbEwWOxa
    BDKMaLOPHd5lc/9nXmW8Sdh2nzMUZaF3lMktAgMBAAGjggF6MIIBdjAOBgNVHQ8BAf8EBAMCAQYwDwYDVR0TAQH/BAUwAwEB/zAd
    BgNVHQ4EFgQUK9BpR5R2Cf70a40uQKb3R01/CF4wHwYDVR0jBBgwFoAUK9BpR5R2Cf70a40uQKb3R01/CF4wggERBgNVHSAEggEI
    MIIBBDCCAQAGCSqGSIb3Y2QFATCB8jAqBggrBgEFBQcCARYeaHR0cHM6Ly93d3cuYXBwbGUuY29tL2FwcGxlY2EvMIHDBggrBgEF
    BQcCAjCBthqBs1JlbGlhbmNlIG9uIHRoaXMgY2VydGlmaWNhdGUgYnkgYW55IHBhcnR5IGFzc3VtZXMgYWNjZXB0YW5jZSBvZiB0
    aGUgdGhlbiBhcHBsaWNhYmxlIHN0YW5kYXJkIHRlcm1zIGFuZCBjb25kaXRpb25zIG9mIHVzZSwgY2VydGlmaWNhdGUgcG9saWN5
    IGFuZCBjZXJ0aWZpY2F0aW9uIHByYWN0aWNlIHN0YXRlbWVudHMuMA0GCSqGSIb3DQEBBQUAA4IBAQBcNplMLXi37Yyb3PN3m/J2
    0ncwT8EfhYOFG5k9RzfyqZtAjizUsZAS2L70c5vu0mQPy3lPNNiiPvl4/2vIB+x9OYOLUyDTOMSxv5pPCmv/K/xZpwUJfBdAVhEe
    dNO3iyM7R6PVbyTi69G3cN8PReEnyvFteO3ntRcXqNx+IjXKJdXZD9Zr1KIkIxH3oayPc4FgxhtbCS+SsvhESPBgOJ4V9T0mZyCK
    M2r3DYLP3uujL/lTaltkwGMzd/c6ByxW69oPIQ7aunMZT7XZNn/Bh1XZp5m5MkL72NVxnn6hUrcbvZNCJBIqxw8dtk2cXmPIS4AX
    UKqK1drk/NAJBzewdXUh
        """,
        "b0b1730ecbc7ff4505142c49f1295e6eda6bcaed7e2c68c5be91b5a11001f024",
    ),
)
APPLE_DEVICE_CA = DeviceAnchor("Apple iPhone Device CA", APPLE_CHAIN[0], legacy=True)
