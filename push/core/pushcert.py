"""Push certificates: reading what Apple's portal gives, and the checks before one is used.

The topic is the subject's user id, 0.9.2342.19200300.100.1.1 (Apple, "Setting Up Push Notifications for Your
MDM Customers"). Nothing here decides trust: APNs does that. What is checked is what would otherwise fail
later, at the first push, for every device.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import NameOID

from pki.core import iterations, pem

MAX_SIZE = 64 * 1024
MAX_CERTIFICATES = 10
TOPIC_PREFIX = "com.apple.mgmt."
MAX_TOPIC = 200
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
# A private key is tried before it is believed, which takes minutes for one of absurd length.
MAX_KEY = 8 * 1024
MAX_PKCS12 = 16 * 1024
REQUEST_RSA_BITS = 2048  # what Apple's portal asks for
MAX_COMMON_NAME = 64

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

_TOPIC = re.compile(r"com\.apple\.mgmt\.[A-Za-z0-9._-]+")


class PushCertError(Exception):
    """A push certificate, key or request that cannot be used. ``str()`` says why in plain words."""


class TooLarge(PushCertError):
    """The file, or the key in it, is larger than any that is meant here."""


class Unreadable(PushCertError):
    """Neither PEM nor DER nor PKCS #12 that we can read."""


class WrongPassword(PushCertError):
    """The file or its key is encrypted and the password is missing or wrong."""


class NoCertificate(PushCertError):
    """There is no certificate in the file."""


class NoTopic(PushCertError):
    """The certificate has no user id, hence no topic: it is not a push certificate."""


class WrongPrefix(PushCertError):
    """The topic is not one for device management."""


class Expired(PushCertError):
    """The certificate's time is over."""


class NotYetValid(PushCertError):
    """The certificate's time has not come."""


class WeakKey(PushCertError):
    """The key is of a kind or size that APNs does not take."""


class KeyMismatch(PushCertError):
    """The private key belongs to another certificate."""


class BadName(PushCertError):
    """The name for a request is empty, too long or has control characters."""


@dataclass(frozen=True)
class PushCertificateFile:
    """What a file holds: the leaf, what stands above it, and the private key if there is one."""

    certificate: bytes
    chain: tuple[bytes, ...] = ()
    private_key: bytes | None = field(default=None, repr=False)  # PKCS #8, DER, not encrypted


@dataclass(frozen=True)
class PushCertificateFacts:
    """What the certificate says. ``serial_number``: hexadecimal, upper case. ``public_key``: SPKI, DER."""

    topic: str
    common_name: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    public_key: bytes


def decode_file(data: bytes, *, password: str = "") -> PushCertificateFile:
    """Read PEM (certificates, and a key that may be encrypted), a DER certificate, or PKCS #12.

    Raises :class:`TooLarge`, :class:`Unreadable`, :class:`WrongPassword`, :class:`NoCertificate`,
    :class:`WeakKey`, :class:`KeyMismatch`.
    """
    if len(data) > MAX_SIZE:
        raise TooLarge(f"The file is larger than {MAX_SIZE // 1024} KiB.")
    if b"-----BEGIN " in data:
        return _decode_pem(data, password)
    try:
        return PushCertificateFile(_der(x509.load_der_x509_certificate(data)))
    except ValueError:
        return _decode_pkcs12(data, password)


def decode_private_key(data: bytes, *, password: str = "") -> bytes:
    """Read a private key, PEM or DER, possibly encrypted, of up to :data:`MAX_KEY` bytes.

    Returns PKCS #8 DER without encryption.

    Raises :class:`TooLarge`, :class:`Unreadable`, :class:`WrongPassword`, :class:`WeakKey`.
    """
    if len(data) > MAX_SIZE:
        raise TooLarge(f"The file is larger than {MAX_SIZE // 1024} KiB.")
    keys = [block for label, block in pem.blocks(data) if label.endswith(b"PRIVATE KEY")]
    if len(keys) > 1:
        raise Unreadable("The file has more than one private key.")
    return _load_key(keys[0] if keys else data, password, armoured=bool(keys))


def _decode_pem(data: bytes, password: str) -> PushCertificateFile:
    certificates: list[x509.Certificate] = []
    keys: list[bytes] = []
    for label, block in pem.blocks(data):
        if label in {b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE"}:
            certificates.append(_load_certificate(block))
        elif label.endswith(b"PRIVATE KEY"):
            if keys:
                raise Unreadable("The file has more than one private key.")
            keys.append(_load_key(block, password, armoured=True))
        if len(certificates) > MAX_CERTIFICATES:
            raise Unreadable(f"The file has more than {MAX_CERTIFICATES} certificates.")
    return _assemble(certificates, keys[0] if keys else None)


def _decode_pkcs12(data: bytes, password: str) -> PushCertificateFile:
    if iterations.work(data) > iterations.LIMIT:
        raise Unreadable("The file asks for an unreasonable amount of work to open it.")
    if not data.startswith(b"\x30"):
        raise Unreadable("The file is neither PEM nor PKCS #12 nor a certificate.")
    if len(data) > MAX_PKCS12:
        raise TooLarge(f"The PKCS #12 file is larger than {MAX_PKCS12 // 1024} KiB: give PEM files instead.")
    try:
        bundle = pkcs12.load_pkcs12(data, _secret(password))
    except ValueError as error:
        if "password" in str(error).lower():
            raise WrongPassword("The password is missing or wrong.") from error
        raise Unreadable("The file cannot be read as PKCS #12.") from error
    except (UnsupportedAlgorithm, TypeError) as error:
        raise Unreadable("The PKCS #12 file uses an encryption that is not supported.") from error
    found = [entry.certificate for entry in (bundle.cert, *bundle.additional_certs) if entry is not None]
    key = bundle.key
    return _assemble(found[: MAX_CERTIFICATES + 1], _encode_key(key) if key is not None else None)


def _assemble(certificates: Sequence[x509.Certificate], key: bytes | None) -> PushCertificateFile:
    if not certificates:
        raise NoCertificate("There is no certificate in the file.")
    leaf = _leaf(certificates, key)
    return PushCertificateFile(_der(leaf), tuple(_der(c) for c in certificates if c is not leaf), key)


def _leaf(certificates: Sequence[x509.Certificate], key: bytes | None) -> x509.Certificate:
    """The certificate of the key; without a key the one that has a topic, or else the first."""
    if key is not None:
        public = public_key_of(key)
        for certificate in certificates:
            if _spki(certificate) == public:
                return certificate
        raise KeyMismatch("The private key in the file does not belong to the certificate in it.")
    with_topic = [certificate for certificate in certificates if _user_ids(certificate)]
    return (with_topic or list(certificates))[0]


def _load_certificate(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise Unreadable("A certificate in the file cannot be read.") from error


def _load_key(data: bytes, password: str, *, armoured: bool) -> bytes:
    if len(data) > MAX_KEY:
        raise TooLarge(f"The private key is larger than {MAX_KEY // 1024} KiB: no key that is used here is.")
    if iterations.work_of_key(data) > iterations.LIMIT:
        raise Unreadable("The key asks for an unreasonable amount of work to open it.")
    load = serialization.load_pem_private_key if armoured else serialization.load_der_private_key
    secret = _secret(password)
    try:
        return _encode_key(_load_with(load, data, secret))
    except TypeError as error:  # encrypted, and no password
        raise WrongPassword("The private key is encrypted: give its password.") from error
    except ValueError as error:
        if secret is not None:
            raise WrongPassword("The password is wrong, or the private key cannot be read.") from error
        raise Unreadable("The private key cannot be read.") from error
    except UnsupportedAlgorithm as error:
        raise Unreadable("The private key is of a kind that is not supported.") from error


def _load_with(load: object, data: bytes, password: bytes | None) -> object:
    """Load a key; a password that is not needed does no harm."""
    assert callable(load)  # noqa: S101 - for the type checker
    try:
        return load(data, password)
    except TypeError:
        if password is None:
            raise
        return load(data, None)


def _secret(password: str) -> bytes | None:
    return password.encode(errors="replace") if password else None


def _encode_key(key: object) -> bytes:
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise WeakKey("The private key is neither RSA nor elliptic curve.")
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_key_of(private_key: bytes) -> bytes:
    """The public key (SPKI, DER) of a private key (PKCS #8, DER)."""
    key = serialization.load_der_private_key(private_key, None)
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def describe(certificate: bytes) -> PushCertificateFacts:
    """Read a push certificate (DER) and verify that it is one for device management.

    Raises :class:`Unreadable`, :class:`NoTopic`, :class:`WrongPrefix`, :class:`WeakKey`.
    """
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        names = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public_key = _verify_key_size(loaded)
        validity = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unreadable("The certificate cannot be read.") from error
    return PushCertificateFacts(
        topic=_verify_topic(_user_ids(loaded)),
        common_name=_text(names[0].value)[:MAX_TOPIC] if names else "",
        serial_number=f"{loaded.serial_number:X}",
        not_before=validity[0],
        not_after=validity[1],
        public_key=public_key,
    )


def verify_current(facts: PushCertificateFacts, *, now: datetime) -> PushCertificateFacts:
    """Raises :class:`Expired` or :class:`NotYetValid`."""
    if now >= facts.not_after:
        raise Expired(f"The certificate expired on {facts.not_after:%d %B %Y}.")
    if now < facts.not_before:
        raise NotYetValid(f"The certificate is not valid before {facts.not_before:%d %B %Y %H:%M} UTC.")
    return facts


def verify_key_matches(facts: PushCertificateFacts, private_key: bytes) -> bytes:
    """The private key (PKCS #8, DER), if it is the certificate's. Raises :class:`KeyMismatch`."""
    if public_key_of(private_key) != facts.public_key:
        raise KeyMismatch("The private key does not belong to the certificate.")
    return private_key


def _verify_topic(user_ids: Sequence[str]) -> str:
    if not user_ids:
        raise NoTopic("The certificate has no topic (user id in its subject): it is not a push certificate.")
    if len(user_ids) > 1:
        raise NoTopic("The certificate has more than one user id in its subject.")
    topic = user_ids[0]
    if len(topic) > MAX_TOPIC or not _TOPIC.fullmatch(topic):
        raise WrongPrefix(f"The certificate is not for device management: its topic is not {TOPIC_PREFIX}…")
    return topic


def _verify_key_size(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise WeakKey("The certificate's key is neither RSA nor elliptic curve.")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise WeakKey(f"The certificate's key has {key.key_size} bits; APNs asks for {MIN_RSA_BITS}.")
    if isinstance(key, rsa.RSAPublicKey) and key.key_size > MAX_RSA_BITS:
        raise WeakKey(
            f"The certificate's key has {key.key_size} bits; more than {MAX_RSA_BITS} are not used."
        )
    return _spki(certificate)


def _spki(certificate: x509.Certificate) -> bytes:
    """The certificate's public key. Raises :class:`WeakKey` where it is of an unknown kind."""
    try:
        return certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        raise WeakKey("The certificate's key is of a kind that is not supported.") from error


def _user_ids(certificate: x509.Certificate) -> list[str]:
    try:
        return [_text(a.value) for a in certificate.subject.get_attributes_for_oid(NameOID.USER_ID)]
    except ValueError:
        return []


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def encode_certificate_pem(*certificates: bytes) -> bytes:
    """DER certificates as PEM text, in the order given."""
    return b"".join(
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in certificates
    )


def encode_private_key_pem(private_key: bytes) -> bytes:
    """A private key (PKCS #8, DER) as PEM text, not encrypted: for the TLS library only."""
    return serialization.load_der_private_key(private_key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def encode_request(common_name: str, private_key: bytes) -> bytes:
    """A certificate request (PKCS #10, DER; SHA-256) for Apple's portal, through a vendor's signature.

    Raises :class:`BadName`.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, verify_common_name(common_name))])
    key = serialization.load_der_private_key(private_key, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise WeakKey("A request for a push certificate needs an RSA key.")
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def public_key_of_request(request: bytes) -> bytes:
    """The public key (SPKI, DER) in a request of our own (PKCS #10, DER)."""
    return (
        x509.load_der_x509_csr(request)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


def encode_request_pem(request: bytes) -> bytes:
    """A request of our own (DER) as PEM text."""
    return x509.load_der_x509_csr(request).public_bytes(serialization.Encoding.PEM)


def verify_common_name(common_name: str) -> str:
    """The name, trimmed: 1 to 64 characters, none of them a control character. Raises :class:`BadName`."""
    name = common_name.strip()
    if not 1 <= len(name) <= MAX_COMMON_NAME:
        raise BadName(f"The name has 1 to {MAX_COMMON_NAME} characters.")
    if any(unicodedata.category(character).startswith("C") for character in name):
        raise BadName("The name has control characters.")
    return name
