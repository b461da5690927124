"""What Apple and an MDM vendor hold, made for tests: root, intermediate, the vendor's certificate and key."""

from __future__ import annotations

import base64
import plistlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from push.core.vendor import PURPOSE


@lru_cache(maxsize=8)
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key for each name: making one takes time."""
    return rsa.generate_private_key(65537, bits)


def key_pem(key: rsa.RSAPrivateKey, password: bytes = b"") -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


class Apple:
    """A root that stands for Apple's, and what hangs below it."""

    def __init__(self, name: str = "of the test") -> None:
        self._root_name, self._name = f"Root CA {name}", f"Developer Relations {name}"
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.root = _build(self._root_name, self._root_key, self._root_name, self._root_key, ca=True)
        self.relations = self.relations_until(None)

    def relations_until(self, until: datetime | None) -> x509.Certificate:
        """The intermediate, with this end of its time."""
        return _build(self._name, self._key, self._root_name, self._root_key, ca=True, until=until)

    def vendor(
        self,
        name: str = "MDM Vendor: Example Ltd",
        *,
        key: Any = None,
        marked: bool = True,
        user_id: str = "TEAM12345",
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> x509.Certificate:
        return _build(
            name,
            key or rsa_key("vendor"),
            self._name,
            self._key,
            purposes=[PURPOSE] if marked else [ExtendedKeyUsageOID.CODE_SIGNING],
            user_id=user_id,
            until=until,
            since=since,
        )


def _build(
    name: str,
    key: Any,
    issuer: str,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    purposes: Sequence[x509.ObjectIdentifier] = (),
    user_id: str = "",
    until: datetime | None = None,
    since: datetime | None = None,
) -> x509.Certificate:
    now = datetime.now(UTC)
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if user_id:
        names.insert(0, x509.NameAttribute(NameOID.USER_ID, user_id))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(since or now - timedelta(days=400))
        .not_valid_after(until or now + timedelta(days=300))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def as_pkcs12(key: rsa.RSAPrivateKey, *certificates: x509.Certificate, password: bytes = b"secret") -> bytes:
    return pkcs12.serialize_key_and_certificates(
        b"vendor", key, certificates[0], certificates[1:], serialization.BestAvailableEncryption(password)
    )


def signed_request(
    request: bytes,
    chain: Sequence[x509.Certificate],
    *,
    key: rsa.RSAPrivateKey | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    of: bytes | None = None,
    **changes: Any,
) -> bytes:
    """As a vendor's own programme makes it. ``of``: the signature is over these bytes; ``changes``: keys."""
    signature = (key or rsa_key("vendor")).sign(
        of or request, padding.PKCS1v15(), algorithm or hashes.SHA256()
    )
    document: dict[str, Any] = {
        "PushCertRequestCSR": base64.b64encode(request).decode(),
        "PushCertCertificateChain": pem(*chain).decode(),
        "PushCertSignature": base64.b64encode(signature).decode(),
        **changes,
    }
    return base64.encodebytes(
        plistlib.dumps({name: value for name, value in document.items() if value is not None})
    )
