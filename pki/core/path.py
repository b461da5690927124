"""Whether one certificate was issued by another (RFC 5280 section 6.1.3, without time and revocation)."""

from __future__ import annotations

from pki.core import algorithms, asn1
from pki.core.certificates import (
    authority_key_identifier,
    basic_constraints,
    load_certificate,
    may_sign_certificates,
    public_key_of,
    read_identifiers,
    subject_key_identifier,
)
from pki.core.scan import Malformed, scan


class PathError(Malformed):
    """The certificate was not issued by that issuer; ``reason`` says what does not fit."""


def verify_issued_by(
    certificate: bytes, issuer_certificate: bytes, *, allow_sha1: bool = False, scanned: bool = False
) -> None:
    """Check names, key identifiers, the issuer's right to issue, and the signature; all as DER.

    ``scanned``: the certificate has passed :func:`pki.core.scan.scan`. Time and revocation are the caller's.
    Raises :class:`PathError`.
    """
    try:
        if not scanned:
            scan(certificate)
        _verify(certificate, issuer_certificate, allow_sha1=allow_sha1)
    except PathError:
        raise
    except Malformed as error:
        raise PathError(error.reason) from None


def _verify(certificate: bytes, issuer_certificate: bytes, *, allow_sha1: bool) -> None:
    subject, issuer = load_certificate(certificate), load_certificate(issuer_certificate)
    # 1. The names are the same, byte by byte (RFC 5280 section 6.1.3 (a)(4)).
    if read_identifiers(certificate).issuer != read_identifiers(issuer_certificate).subject:
        raise PathError("the issuer's name is another")
    # 2. Where both name the key, it is the same (section 4.2.1.1).
    wanted, offered = authority_key_identifier(subject), subject_key_identifier(issuer)
    if wanted and offered and wanted != offered:
        raise PathError("the issuer's key identifier is another")
    # 3. The issuer is a CA and may sign certificates (section 6.1.4 (k) and (n)).
    if not basic_constraints(issuer)[0]:
        raise PathError("the issuer is not a CA")
    if not may_sign_certificates(issuer):
        raise PathError("the issuer may not sign certificates")
    # 4. The signature is the issuer's key's (section 6.1.3 (a)(1)).
    fields = asn1.Fields(asn1.read(certificate), "certificate")
    signed = fields.take(asn1.SEQUENCE)
    oid, parameters = algorithms.decode_algorithm(fields.take(asn1.SEQUENCE))
    signature = asn1.decode_bits(fields.take(asn1.BIT_STRING))
    kind, digest = algorithms.signature_digest(oid, parameters, None)
    if digest == "sha1" and not allow_sha1:
        raise PathError("the certificate is signed with SHA-1")
    algorithms.verify_signature(public_key_of(issuer), kind, digest, signature, signed.encoded)
