"""Requests that no honest client makes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from pki.core import asn1, cms
from pki.core.algorithms import RSA_ENCRYPTION
from pki.core.certificates import read_identifiers
from pki.core.csr import CHALLENGE_PASSWORD
from pki.keys import public_key_der
from scep.core.message import Identity
from tests.scep.support import rsa_key

SHA256_RSA = "1.2.840.113549.1.1.11"


def csr_by_hand(
    attributes: Sequence[bytes],
    *,
    public_key: bytes | None = None,
    version: int = 0,
    subject: bytes = b"\x30\x00",
    algorithm: str = SHA256_RSA,
) -> bytes:
    """A CSR from its parts, signed by ``rsa_key(1)`` whatever it says."""
    info = asn1.encode_sequence(
        asn1.encode_integer(version),
        subject,
        public_key or public_key_der(rsa_key(1)),
        asn1.encode(asn1.context(0), *attributes),
    )
    signature = rsa_key(1).sign(info, padding.PKCS1v15(), hashes.SHA256())
    return asn1.encode_sequence(
        info,
        asn1.encode_sequence(asn1.encode_oid(algorithm), asn1.encode_null()),
        asn1.encode(asn1.BIT_STRING, b"\0" + signature),
    )


def attribute(oid: str, *values: bytes) -> bytes:
    return asn1.encode_sequence(asn1.encode_oid(oid), asn1.encode(asn1.SET, *values))


def challenge_attribute(*values: str) -> bytes:
    return attribute(CHALLENGE_PASSWORD, *(asn1.encode(asn1.UTF8_STRING, value.encode()) for value in values))


def csr_with_challenges(values: Sequence[str], *, one_attribute: bool = False) -> bytes:
    if one_attribute:
        return csr_by_hand([challenge_attribute(*values)])
    return csr_by_hand([challenge_attribute(value) for value in values])


def signed_by_hand(
    content: bytes,
    identity: Identity,
    *,
    content_type: str = cms.DATA,
    attributes: Sequence[bytes] = (),
    times: int = 1,
) -> bytes:
    """A SignedData with what :func:`pki.core.cms.sign` will not write: another type, several signers."""
    named = read_identifiers(identity.certificate)
    sha256 = asn1.encode_sequence(asn1.encode_oid("2.16.840.1.101.3.4.2.1"), asn1.encode_null())
    signed_attributes = asn1.encode_set_of(
        [
            attribute(cms.CONTENT_TYPE, asn1.encode_oid(content_type)),
            attribute(cms.MESSAGE_DIGEST, asn1.encode_octets(hashlib.sha256(content).digest())),
            *attributes,
        ]
    )
    signer = asn1.encode_sequence(
        asn1.encode_integer(1),
        asn1.encode_sequence(named.issuer, asn1.encode(asn1.INTEGER, named.serial_number)),
        sha256,
        asn1.encode(asn1.context(0), *(node.encoded for node in asn1.children(asn1.read(signed_attributes)))),
        asn1.encode_sequence(asn1.encode_oid(RSA_ENCRYPTION), asn1.encode_null()),
        asn1.encode_octets(identity.private_key.sign(signed_attributes, padding.PKCS1v15(), hashes.SHA256())),
    )
    return asn1.encode_sequence(
        asn1.encode_oid(cms.SIGNED_DATA),
        asn1.encode(
            asn1.context(0),
            asn1.encode_sequence(
                asn1.encode_integer(1),
                asn1.encode(asn1.SET, sha256),
                asn1.encode_sequence(
                    asn1.encode_oid(content_type), asn1.encode(asn1.context(0), asn1.encode_octets(content))
                ),
                asn1.encode(asn1.context(0), identity.certificate),
                asn1.encode(asn1.SET, *([signer] * times)),
            ),
        ),
    )
