"""Files with a certificate, its private key and what stands above it: PEM or PKCS #12."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from pki.core import iterations, pem
from pki.core.algorithms import PrivateKey
from pki.core.certificates import load_certificates, read_identifiers
from pki.core.path import PathError, verify_issued_by
from pki.core.scan import Malformed

MAX_FILE = 256 * 1024
MAX_CERTIFICATES = 12
# A private key is tried before it is believed, which takes minutes for one of absurd length.
MAX_KEY = 8 * 1024
MAX_PKCS12 = 16 * 1024


class KeyFileRefused(Malformed):
    """The file does not hold what is needed; ``reason`` says what is missing."""


@dataclass(frozen=True)
class KeyFile:
    """A certificate (DER), the certificates above it (the nearest first), and its key."""

    certificate: bytes
    chain: tuple[bytes, ...]
    private_key: PrivateKey = field(repr=False)


def decode_key_file(data: bytes, *, key: bytes = b"", password: str = "") -> KeyFile:
    """Read ``data``, and ``key`` (PEM or DER) where the key is in a file of its own.

    ``password`` opens a PKCS #12 file or an encrypted key. The certificate is the one whose key it is; the
    others are put in order, and what does not belong to its chain is left out. Raises
    :class:`KeyFileRefused`.
    """
    if len(data) > MAX_FILE or len(key) > MAX_FILE:
        raise KeyFileRefused("the file is too large")
    secret = password.encode(errors="replace") if password else None
    if b"-----BEGIN" in data:
        certificates, private_key = _from_pem(data, key, secret)
    else:
        certificates, private_key = _from_pkcs12(data, key, secret)
    if len(certificates) > MAX_CERTIFICATES:
        raise KeyFileRefused("the file holds too many certificates")
    certificate = _certificate_of(private_key, certificates)
    return KeyFile(certificate, _above(certificate, certificates), private_key)


def _from_pem(data: bytes, key: bytes, secret: bytes | None) -> tuple[Sequence[bytes], PrivateKey]:
    keys: list[bytes] = []
    others: list[bytes] = []
    for label, block in pem.blocks(data):
        (keys if label.endswith(b"PRIVATE KEY") else others).append(block)
    if not others:
        raise KeyFileRefused("the file holds no certificate")
    try:
        certificates = load_certificates(b"\n".join(others))
    except Malformed as error:
        raise KeyFileRefused(error.reason) from None
    found = key or next(iter(keys), b"")
    if not found:
        raise KeyFileRefused("the file holds no private key")
    return certificates, _load_key(found, secret)


def _from_pkcs12(data: bytes, key: bytes, secret: bytes | None) -> tuple[Sequence[bytes], PrivateKey]:
    if iterations.work(data) > iterations.LIMIT:
        raise KeyFileRefused("the file asks for an unreasonable amount of work to open it")
    if len(data) > MAX_PKCS12:
        raise KeyFileRefused(f"a PKCS #12 file has at most {MAX_PKCS12 // 1024} KiB: give PEM files instead")
    try:
        store = load_pkcs12(data, secret)
    except ValueError:
        raise KeyFileRefused("the file cannot be read, or the password is wrong") from None
    except UnsupportedAlgorithm:
        raise KeyFileRefused("the file is encrypted in a way that is not known here") from None
    held = [store.cert] if store.cert else []
    certificates = [one.certificate.public_bytes(Encoding.DER) for one in (*held, *store.additional_certs)]
    if key:
        return certificates, _load_key(key, secret)
    return certificates, _verify_kind(store.key)


def _load_key(data: bytes, secret: bytes | None) -> PrivateKey:
    # Of a file of its own only the key: other blocks may stand around it.
    blocks = [block for label, block in pem.blocks(data) if label.endswith(b"PRIVATE KEY")]
    data = blocks[0] if blocks else data
    if len(data) > MAX_KEY:
        raise KeyFileRefused(f"the private key is larger than {MAX_KEY // 1024} KiB: no key used here is")
    if iterations.work_of_key(data) > iterations.LIMIT:
        raise KeyFileRefused("the key asks for an unreasonable amount of work to open it")
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    try:
        return _verify_kind(load(data, secret if b"ENCRYPTED" in data else None))
    except (ValueError, TypeError):
        raise KeyFileRefused("the private key cannot be read, or the password is wrong") from None
    except UnsupportedAlgorithm:
        raise KeyFileRefused("the private key is of a kind that is not used here") from None


def _verify_kind(key: object) -> PrivateKey:
    if key is None:
        raise KeyFileRefused("the file holds no private key")
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        return key
    raise KeyFileRefused("the private key is of a kind that is not used here")


def _certificate_of(private_key: PrivateKey, certificates: Sequence[bytes]) -> bytes:
    public_key = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for certificate in certificates:
        if read_identifiers(certificate).public_key == public_key:
            return certificate
    raise KeyFileRefused("none of the certificates belongs to the private key")


def _above(certificate: bytes, certificates: Sequence[bytes]) -> tuple[bytes, ...]:
    """The chain as far as the file has it, each issued by the next."""
    found: list[bytes] = []
    current = certificate
    while (issuer := _issuer_of(current, certificates)) is not None and issuer not in (current, *found):
        found.append(issuer)
        current = issuer
    return tuple(found)


def _issuer_of(certificate: bytes, certificates: Sequence[bytes]) -> bytes | None:
    for candidate in certificates:
        try:
            verify_issued_by(certificate, candidate)
        except PathError:
            continue
        return candidate
    return None
