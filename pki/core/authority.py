"""Certificates of CAs: renewed with the same key, issued for a new one, linked, and asked for elsewhere.

What relying parties recognise an issuer by is kept to the byte: the DER of its name, the key identifier, the
key usage (RFC 5280 sections 4.1.2.4, 4.2.1.1, 4.2.1.3). Link certificates: RFC 4210 section 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.core import algorithms, asn1
from pki.core.algorithms import PrivateKey
from pki.core.certificates import (
    CertificateFields,
    Name,
    authority_key_usage,
    basic_constraints,
    default_key_identifier,
    key_usages_of,
    load_certificate,
    load_public_key,
    read_identifiers,
    sign_certificate,
    signing_hash,
    subject_key_identifier,
)
from pki.core.csr import EXTENSION_REQUEST
from pki.core.names import describe_name, encode_name
from pki.core.scan import Malformed

_KEY_USAGE, _BASIC_CONSTRAINTS, _SUBJECT_KEY_IDENTIFIER = "2.5.29.15", "2.5.29.19", "2.5.29.14"
# Bits of KeyUsage, RFC 5280 section 4.2.1.3.
_USAGE_BITS = {
    "digitalSignature": 0,
    "nonRepudiation": 1,
    "keyEncipherment": 2,
    "dataEncipherment": 3,
    "keyAgreement": 4,
    "keyCertSign": 5,
    "cRLSign": 6,
}


@dataclass(frozen=True)
class Term:
    """What differs from one certificate of a CA to the next: number, time, and where to ask about it."""

    serial_number: int
    not_before: datetime
    not_after: datetime
    crl_url: str | None = None
    issuer_url: str | None = None
    ocsp_url: str | None = None


def encode_subject(name: Name) -> bytes:
    """DER of a Name. Raises :class:`pki.core.names.NameRefused`."""
    return encode_name(name).public_bytes()


def describe_subject(subject_der: bytes) -> str:
    """DER of a Name as RFC 4514 text. Raises :class:`Malformed`."""
    return describe_name(asn1.read(subject_der))


def certify_again(
    certificate: bytes, term: Term, *, private_key: PrivateKey, issuer_certificate: bytes | None = None
) -> bytes:
    """A certificate for the same name and key as ``certificate``, DER.

    Name, key identifier, key usage and path length are taken over. ``private_key``: its own, or that of
    ``issuer_certificate``. A renewal, and either kind of link. Raises :class:`Malformed`.
    """
    template = load_certificate(certificate)
    usage = key_usages_of(certificate)
    return _certify(
        certificate,
        CertificateFields(
            subject=(),
            public_key=read_identifiers(certificate).public_key,
            serial_number=term.serial_number,
            not_before=term.not_before,
            not_after=term.not_after,
            key_usage=authority_key_usage(template.public_key()) if usage is None else usage,
            crl_url=term.crl_url,
            issuer_url=term.issuer_url,
            ocsp_url=term.ocsp_url,
            is_ca=True,
            path_length=basic_constraints(template)[1],
            key_identifier=subject_key_identifier(template),
        ),
        issuer_certificate,
        private_key,
    )


def certify_new_key(
    certificate: bytes,
    public_key: bytes,
    term: Term,
    *,
    private_key: PrivateKey,
    issuer_certificate: bytes | None = None,
    decrypts: bool = True,
) -> bytes:
    """A certificate for the name of ``certificate`` and another key (SubjectPublicKeyInfo, DER); DER.

    ``private_key``: the new one itself, or that of ``issuer_certificate``. ``decrypts``: False for a new key
    that only signs, in a token: no client is to encrypt to it. Raises :class:`Malformed`.
    """
    return _certify(
        certificate,
        CertificateFields(
            subject=(),
            public_key=public_key,
            serial_number=term.serial_number,
            not_before=term.not_before,
            not_after=term.not_after,
            key_usage=authority_key_usage(load_public_key(public_key), decrypts=decrypts),
            crl_url=term.crl_url,
            issuer_url=term.issuer_url,
            ocsp_url=term.ocsp_url,
            is_ca=True,
            path_length=basic_constraints(load_certificate(certificate))[1],
        ),
        issuer_certificate,
        private_key,
    )


def certify_subordinate(
    subject: Name,
    public_key: bytes,
    term: Term,
    *,
    path_length: int | None,
    private_key: PrivateKey,
    issuer_certificate: bytes,
    decrypts: bool = True,
) -> bytes:
    """The first certificate of a CA below ours, DER; ``decrypts`` as above. Raises :class:`Malformed`."""
    fields = CertificateFields(
        subject=subject,
        public_key=public_key,
        serial_number=term.serial_number,
        not_before=term.not_before,
        not_after=term.not_after,
        key_usage=authority_key_usage(load_public_key(public_key), decrypts=decrypts),
        crl_url=term.crl_url,
        issuer_url=term.issuer_url,
        ocsp_url=term.ocsp_url,
        is_ca=True,
        path_length=path_length,
    )
    issuer = load_certificate(issuer_certificate)
    return sign_certificate(fields, subject=encode_name(subject), issuer=issuer, private_key=private_key)


def _certify(
    named_by: bytes, fields: CertificateFields, issuer_certificate: bytes | None, private_key: PrivateKey
) -> bytes:
    """Sign ``fields`` under the name that ``named_by`` has, and make sure of its bytes."""
    issuer = load_certificate(issuer_certificate) if issuer_certificate else None
    signer = issuer.public_key() if issuer else load_public_key(fields.public_key)
    if private_key.public_key() != signer:
        raise Malformed("the key is not that of the issuing certificate")
    der = sign_certificate(
        fields, subject=load_certificate(named_by).subject, issuer=issuer, private_key=private_key
    )
    if read_identifiers(der).subject != read_identifiers(named_by).subject:
        raise Malformed("the name would be encoded in another way")
    return der


# --- Asking another CA -----------------------------------------------------------------------------------


def encode_authority_request(
    subject_der: bytes, *, private_key: PrivateKey, path_length: int | None = None, decrypts: bool = True
) -> bytes:
    """PKCS #10 (RFC 2986) by which an external CA is asked to certify a CA of ours; DER.

    Encoded here so that the name is the very bytes of ``subject_der``. Asks for CA:TRUE, the key usages that
    SCEP and CRLs need, and the key identifier that certificates issued so far point at. ``decrypts``: False
    for a key in a token, to which no SCEP client is to encrypt.
    """
    usage = authority_key_usage(private_key.public_key(), decrypts=decrypts)
    key_der = _public_key_der(private_key)
    extensions = asn1.encode_sequence(
        _extension(_BASIC_CONSTRAINTS, _encode_basic_constraints(path_length), critical=True),
        _extension(_KEY_USAGE, _encode_key_usage(usage), critical=True),
        _extension(_SUBJECT_KEY_IDENTIFIER, asn1.encode_octets(default_key_identifier(key_der))),
    )
    attribute = asn1.encode_sequence(asn1.encode_oid(EXTENSION_REQUEST), asn1.encode(asn1.SET, extensions))
    info = asn1.encode_sequence(
        asn1.encode_integer(0), subject_der, key_der, asn1.encode(asn1.context(0), attribute)
    )
    digest = signing_hash(private_key).name
    if isinstance(private_key, rsa.RSAPrivateKey):
        algorithm = algorithms.encode_algorithm(algorithms.RSA_SIGNATURE_OIDS[digest], asn1.encode_null())
    else:
        algorithm = algorithms.encode_algorithm(algorithms.ECDSA_OIDS[digest])
    signature = algorithms.sign(private_key, digest, info)
    return asn1.encode_sequence(info, algorithm, asn1.encode(asn1.BIT_STRING, b"\0" + signature))


def _public_key_der(private_key: PrivateKey) -> bytes:
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return asn1.encode_sequence(
        asn1.encode_oid(oid),
        asn1.encode(asn1.BOOLEAN, b"\xff") if critical else b"",
        asn1.encode_octets(value),
    )


def _encode_basic_constraints(path_length: int | None) -> bytes:
    return asn1.encode_sequence(
        asn1.encode(asn1.BOOLEAN, b"\xff"),
        b"" if path_length is None else asn1.encode_integer(path_length),
    )


def _encode_key_usage(usage: frozenset[str]) -> bytes:
    """A named bit list: without trailing zero bits (X.690 section 11.2.2)."""
    bits = sorted(_USAGE_BITS[name] for name in usage)
    unused = 7 - bits[-1]
    return asn1.encode(asn1.BIT_STRING, bytes((unused, sum(0x80 >> bit for bit in bits))))
