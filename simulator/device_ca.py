"""The simulator's own device CA, in place of Apple's: it gives each simulated device what it is made with."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.core.certificates import (
    CertificateFields,
    build_certificate,
    build_root,
    encode_pem,
    load_certificates,
)
from pki.core.scan import Malformed
from simulator.keys import key_from_pem, key_to_pem, new_key, write_private

CERTIFICATE_FILE, KEY_FILE = "device-ca.pem", "device-ca.key"
NAME = "Simulated device CA"
# Apple gives a device's certificate three years.
DEVICE_LIFETIME = timedelta(days=3 * 365)
CA_LIFETIME = timedelta(days=10 * 365)
_BACKDATE = timedelta(hours=1)


class DeviceCaError(Exception):
    """The files are not those of a device CA."""


@dataclass(frozen=True)
class Manufactured:
    """The identity that a device was made with: certificate (DER) and key."""

    certificate: bytes
    private_key: RSAPrivateKey


@dataclass(frozen=True)
class DeviceCa:
    """Certificate (DER) and key of the CA."""

    certificate: bytes
    private_key: RSAPrivateKey

    def manufacture(self, common_name: str, private_key: RSAPrivateKey, *, now: datetime) -> Manufactured:
        """Make a device: give its key a certificate. ``common_name`` is a UUID that says nothing of it."""
        fields = CertificateFields(
            subject=(("CN", common_name),),
            public_key=private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            serial_number=secrets.randbits(80) | 1,
            not_before=now - _BACKDATE,
            not_after=now + DEVICE_LIFETIME,
            extended_key_usage=("clientAuth", "serverAuth"),
        )
        certificate = build_certificate(
            fields, issuer_certificate=self.certificate, private_key=self.private_key
        )
        return Manufactured(certificate, private_key)


def make_device_ca(*, now: datetime) -> DeviceCa:
    """A new one. Its name is its own, so that two of them are told apart."""
    key = new_key()
    certificate = build_root(
        (("CN", f"{NAME} {secrets.token_hex(4)}"),),
        private_key=key,
        serial_number=secrets.randbits(80) | 1,
        not_before=now - _BACKDATE,
        not_after=now + CA_LIFETIME,
        path_length=0,
    )
    return DeviceCa(certificate, key)


def kept_device_ca(folder: Path) -> DeviceCa:
    """The device CA in a folder, made on first use. Raises :class:`DeviceCaError`."""
    if (folder / CERTIFICATE_FILE).exists():
        return read_device_ca(folder)
    made = make_device_ca(now=datetime.now(UTC))
    write_private(folder / KEY_FILE, key_to_pem(made.private_key))
    write_private(folder / CERTIFICATE_FILE, encode_pem(made.certificate))
    return made


def read_device_ca(folder: Path) -> DeviceCa:
    """The device CA that :func:`kept_device_ca` wrote. Raises :class:`DeviceCaError`."""
    try:
        certificate = load_certificates((folder / CERTIFICATE_FILE).read_bytes())[0]
        return DeviceCa(certificate, key_from_pem((folder / KEY_FILE).read_text()))
    except OSError as error:
        raise DeviceCaError(f"{error.filename}: {error.strerror}") from error
    except (ValueError, Malformed) as error:
        raise DeviceCaError(f"{folder}: {error}") from error
