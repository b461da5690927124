"""Certificate revocation lists (RFC 5280 section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pki.core import algorithms, asn1
from pki.core.algorithms import PrivateKey
from pki.core.certificates import (
    load_certificate,
    public_key_of,
    read_identifiers,
    signing_hash,
    subject_key_identifier,
)
from pki.core.scan import Malformed

# CRLReason, RFC 5280 section 5.3.1. "unspecified" is said by saying nothing.
REASONS: Mapping[str, int] = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "certificateHold": 6,
    "removeFromCRL": 8,
    "privilegeWithdrawn": 9,
    "aACompromise": 10,
}
_REASON_CODE, _CRL_NUMBER, _AUTHORITY_KEY_IDENTIFIER = "2.5.29.21", "2.5.29.20", "2.5.29.35"


@dataclass(frozen=True)
class RevokedCertificate:
    """One entry. ``reason`` by its name in RFC 5280."""

    serial_number: int
    revoked_at: datetime
    reason: str = "unspecified"


def build_crl(
    revoked: Iterable[RevokedCertificate],
    *,
    number: int,
    this_update: datetime,
    next_update: datetime,
    issuer_certificate: bytes,
    private_key: PrivateKey,
) -> bytes:
    """A full CRL, DER. ``issuer_certificate``: DER; its name is copied as it stands there.

    Encoded here: the builder of ``cryptography`` copies all entries for each one that is added.
    Raises :class:`pki.core.scan.Malformed` where the key is not that of the issuer's certificate.
    """
    certificate, issuer = load_certificate(issuer_certificate), read_identifiers(issuer_certificate)
    if private_key.public_key() != public_key_of(certificate):
        raise Malformed("the key is not that of the issuing certificate")
    digest = signing_hash(private_key).name
    algorithm = algorithms.encode_signature_algorithm(private_key, digest)
    entries = [_encode_entry(entry) for entry in revoked]
    signed = asn1.encode_sequence(
        asn1.encode_integer(1),
        algorithm,
        issuer.subject,
        asn1.encode_time(this_update),
        asn1.encode_time(next_update),
        # RFC 5280 section 5.1.2.6: absent where nothing is revoked.
        asn1.encode_sequence(*entries) if entries else b"",
        asn1.encode(asn1.context(0), _encode_extensions(number, subject_key_identifier(certificate))),
    )
    signature = algorithms.sign(private_key, digest, signed)
    return asn1.encode_sequence(signed, algorithm, asn1.encode(asn1.BIT_STRING, b"\0" + signature))


def _encode_entry(entry: RevokedCertificate) -> bytes:
    code = REASONS[entry.reason]
    return asn1.encode_sequence(
        asn1.encode_integer(entry.serial_number),
        asn1.encode_time(entry.revoked_at),
        asn1.encode_sequence(_encode_extension(_REASON_CODE, asn1.encode(asn1.ENUMERATED, bytes((code,)))))
        if code
        else b"",
    )


def _encode_extensions(number: int, key_identifier: bytes | None) -> bytes:
    extensions = [_encode_extension(_CRL_NUMBER, asn1.encode_integer(number))]
    if key_identifier:
        value = asn1.encode_sequence(asn1.encode(asn1.context(0, constructed=False), key_identifier))
        extensions.insert(0, _encode_extension(_AUTHORITY_KEY_IDENTIFIER, value))
    return asn1.encode_sequence(*extensions)


def _encode_extension(oid: str, value: bytes) -> bytes:
    return asn1.encode_sequence(asn1.encode_oid(oid), asn1.encode_octets(value))
