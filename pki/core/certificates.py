"""X.509 certificates (RFC 5280): reading facts, checking names, building.

What is built holds what :class:`CertificateFields` says and nothing else; only the public key may come from
outside.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import (
    AuthorityInformationAccessOID,
    ExtendedKeyUsageOID,
    ObjectIdentifier,
)

from pki.core import algorithms, asn1, pem
from pki.core.algorithms import PrivateKey
from pki.core.names import (
    NAME_KEYS,
    SAN_KINDS,
    Name,
    NameRefused,
    describe_name,
    encode_alternative_names,
    encode_name,
    encode_subject,
)
from pki.core.remembering import remembered
from pki.core.scan import Limits, Malformed, scan

_PEM_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE", b"PKCS7", b"CMS"})
_MAX_FILE = 1 << 20

__all__ = [
    "CertificateFacts",
    "CertificateFields",
    "Identifiers",
    "Name",
    "NameRefused",
    "alternative_names_of",
    "authority_key_usage",
    "build_certificate",
    "build_root",
    "build_self_signed",
    "default_key_identifier",
    "describe",
    "describe_key",
    "encode_pem",
    "key_usages_of",
    "load_certificate",
    "load_certificates",
    "load_public_key",
    "names_issuer_by_number",
    "public_key_of",
    "read_identifiers",
    "sign_certificate",
    "subject_of",
]

_KEY_USAGE_FIELDS: Mapping[str, str] = {
    "digitalSignature": "digital_signature",
    "nonRepudiation": "content_commitment",
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
    "keyCertSign": "key_cert_sign",
    "cRLSign": "crl_sign",
}
KEY_USAGES = frozenset(_KEY_USAGE_FIELDS)
EXTENDED_KEY_USAGES: Mapping[str, ObjectIdentifier] = {
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "OCSPSigning": ExtendedKeyUsageOID.OCSP_SIGNING,
}


_EXTENDED_KEY_USAGE_NAMES = {oid: name for name, oid in EXTENDED_KEY_USAGES.items()}
_CONTEXT_3 = asn1.context(3)
_SUBJECT_KEY_IDENTIFIER = asn1.encode_oid("2.5.29.14")
_NO_NAME = asn1.encode_sequence()
_VERSION_3 = asn1.encode(asn1.context(0), asn1.encode_integer(2))
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


class Identifiers(NamedTuple):
    """The parts of a certificate that others point at it by, as their bytes are in it.

    ``issuer`` and ``subject``: DER of the Names. ``serial_number``: contents of the INTEGER.
    ``public_key``: DER of the SubjectPublicKeyInfo.
    """

    issuer: bytes
    serial_number: bytes
    subject: bytes
    public_key: bytes


@dataclass(frozen=True)
class CertificateFacts:
    """What a certificate says, for records and pages.

    ``serial_number`` is upper-case hexadecimal of whole bytes, ``subject`` and ``issuer`` are RFC 4514 text,
    fingerprints lower-case hexadecimal.
    """

    subject: str
    issuer: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    sha256: str
    public_key_sha256: str
    key: str
    subject_alternative_name: str
    is_ca: bool
    subject_key_identifier: bytes | None
    extended_key_usage: tuple[str, ...]


@dataclass(frozen=True)
class CertificateFields:
    """All that an issued certificate will hold.

    ``public_key``: DER of a SubjectPublicKeyInfo. ``san``: pairs of kind (``DNS``, ``URI``, ``email``,
    ``IP``) and value. ``path_length`` counts only with ``is_ca``. ``ocsp_no_check``: nobody need ask whether
    it was revoked (RFC 6960 section 4.2.2.2.1).
    """

    subject: Name
    public_key: bytes
    serial_number: int
    not_before: datetime
    not_after: datetime
    san: tuple[tuple[str, str], ...] = ()
    key_usage: frozenset[str] = frozenset({"digitalSignature", "keyEncipherment"})
    extended_key_usage: tuple[str, ...] = ()
    crl_url: str | None = None
    issuer_url: str | None = None
    ocsp_url: str | None = None
    ocsp_no_check: bool = False
    is_ca: bool = False
    path_length: int | None = None
    key_identifier: bytes | None = None


# --- Reading ---------------------------------------------------------------------------------------------


@remembered(256)
def load_certificate(der: bytes) -> x509.Certificate:
    """Parse a certificate in strict DER. Raises :class:`Malformed`.

    The last ones are remembered: the same certificate is asked about several times on the way of a request.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise Malformed("the certificate cannot be read") from None


def public_key_of(certificate: x509.Certificate) -> PublicKeyTypes:
    """The public key of a certificate. Raises :class:`Malformed`."""
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise Malformed("the certificate's key cannot be read") from None


@remembered(256)
def read_identifiers(der: bytes) -> Identifiers:
    """Issuer, serial number, subject and key as bytes of the certificate. Raises :class:`Malformed`."""
    certificate = asn1.Fields(asn1.read(der), "certificate")
    fields = asn1.Fields(certificate.take(asn1.SEQUENCE), "certificate")
    fields.take_optional(asn1.context(0))
    serial_number = fields.take(asn1.INTEGER)
    fields.take(asn1.SEQUENCE)
    issuer = fields.take(asn1.SEQUENCE)
    fields.take(asn1.SEQUENCE)
    subject = fields.take(asn1.SEQUENCE)
    public_key = fields.take(asn1.SEQUENCE)
    return Identifiers(issuer.encoded, serial_number.contents, subject.encoded, public_key.encoded)


def subject_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """The value of the extension, None where there is none. Raises :class:`Malformed`."""
    extension = _extension(certificate, x509.SubjectKeyIdentifier)
    return extension.digest if extension else None


def default_key_identifier(public_key: bytes) -> bytes:
    """SHA-1 of the key's bits (RFC 5280 section 4.2.1.2, method 1). ``public_key``: DER. Raises Malformed."""
    fields = asn1.Fields(asn1.read(public_key), "public key")
    fields.take(asn1.SEQUENCE)
    return hashlib.sha1(asn1.decode_bits(fields.take(asn1.BIT_STRING))).digest()  # noqa: S324 - a name


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise Malformed("the certificate's extensions cannot be read") from None


def basic_constraints(certificate: x509.Certificate) -> tuple[bool, int | None]:
    """Whether it is a CA certificate, and its path length. Raises :class:`Malformed`."""
    extension = _extension(certificate, x509.BasicConstraints)
    return (extension.ca, extension.path_length) if extension else (False, None)


def key_usages_of(der: bytes) -> frozenset[str] | None:
    """The key usages by their names in RFC 5280; None where there is no such extension. Raises Malformed."""
    extension = _extension(load_certificate(der), x509.KeyUsage)
    if extension is None:
        return None
    return frozenset(name for name, attribute in _KEY_USAGE_FIELDS.items() if getattr(extension, attribute))


def may_sign_certificates(certificate: x509.Certificate) -> bool:
    """keyCertSign, or no key usage at all (RFC 5280 section 4.2.1.3). Raises :class:`Malformed`."""
    extension = _extension(certificate, x509.KeyUsage)
    return extension is None or extension.key_cert_sign


def authority_key_identifier(certificate: x509.Certificate) -> bytes | None:
    """The keyid of the extension, None where there is none. Raises :class:`Malformed`."""
    extension = _extension(certificate, x509.AuthorityKeyIdentifier)
    return extension.key_identifier if extension else None


def names_issuer_by_number(certificate: x509.Certificate) -> bool:
    """Whether it points at one certificate of its issuer, by issuer and serial number, not at the key alone.

    Such a certificate does not survive the renewal of its issuer. Raises :class:`Malformed`.
    """
    extension = _extension(certificate, x509.AuthorityKeyIdentifier)
    return extension is not None and extension.authority_cert_serial_number is not None


def describe(der: bytes) -> CertificateFacts:
    """The facts of a certificate for records and pages. Raises :class:`Malformed`."""
    certificate, identifiers = load_certificate(der), read_identifiers(der)
    usage = _extension(certificate, x509.ExtendedKeyUsage)
    try:
        return CertificateFacts(
            subject=describe_name(asn1.read(identifiers.subject)),
            issuer=describe_name(asn1.read(identifiers.issuer)),
            serial_number=format_serial_number(certificate.serial_number),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            sha256=hashlib.sha256(der).hexdigest(),
            public_key_sha256=hashlib.sha256(identifiers.public_key).hexdigest(),
            key=describe_key(public_key_of(certificate)),
            subject_alternative_name=", ".join(
                f"{kind}:{value}" for kind, value in _alternative_names(certificate)
            ),
            is_ca=basic_constraints(certificate)[0],
            subject_key_identifier=subject_key_identifier(certificate),
            extended_key_usage=tuple(
                _EXTENDED_KEY_USAGE_NAMES.get(oid, oid.dotted_string) for oid in usage or ()
            ),
        )
    except ValueError:
        raise Malformed("the certificate cannot be read") from None


class RecordedFacts(NamedTuple):
    """What the record of a certificate of ours says of it, as :class:`CertificateFacts` has it."""

    subject: str
    serial_number: str
    not_before: datetime
    not_after: datetime
    sha256: str
    public_key_sha256: str
    subject_alternative_name: str


def recorded_facts(der: bytes, fields: CertificateFields) -> RecordedFacts:
    """The same as :func:`describe`, of a certificate that was built from ``fields`` just now: far quicker."""
    names = encode_alternative_names(fields.san) if fields.san else ()
    return RecordedFacts(
        subject=describe_name(asn1.read(encode_subject(fields.subject))),
        serial_number=format_serial_number(fields.serial_number),
        not_before=_in_seconds(fields.not_before),
        not_after=_in_seconds(fields.not_after),
        sha256=hashlib.sha256(der).hexdigest(),
        public_key_sha256=hashlib.sha256(_normal_public_key(fields.public_key)).hexdigest(),
        subject_alternative_name=", ".join(f"{kind}:{value}" for kind, value in _pairs_of(names)),
    )


def _in_seconds(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)


def describe_holder(der: bytes) -> tuple[str, str]:
    """Subject and fingerprint of the key, as :func:`describe` gives them. Raises :class:`Malformed`."""
    identifiers = read_identifiers(der)
    return describe_name(asn1.read(identifiers.subject)), hashlib.sha256(identifiers.public_key).hexdigest()


def format_serial_number(serial_number: int) -> str:
    """Upper-case hexadecimal of whole bytes, as openssl prints it."""
    text = f"{abs(serial_number):X}"
    return ("-" if serial_number < 0 else "") + text.zfill(len(text) + len(text) % 2)


def describe_key(key: PublicKeyTypes) -> str:
    """A public key in words, e.g. ``RSA 2048`` or ``EC P-256``."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    return type(key).__name__.removesuffix("PublicKey").strip("_") or "unknown"


def subject_of(der: bytes) -> Name:
    """The subject as a :data:`Name`, to be used again in a renewal. Raises :class:`Malformed`."""
    try:
        return tuple(
            (NAME_KEYS[attribute.oid], str(attribute.value)) for attribute in load_certificate(der).subject
        )
    except (KeyError, ValueError):
        raise Malformed("the subject holds attributes that are not used here") from None


def alternative_names_of(der: bytes) -> tuple[tuple[str, str], ...]:
    """Subject alternative names as pairs of kind and value. Raises :class:`Malformed`."""
    return tuple(_alternative_names(load_certificate(der)))


def _alternative_names(certificate: x509.Certificate) -> Iterable[tuple[str, str]]:
    return _pairs_of(_extension(certificate, x509.SubjectAlternativeName) or ())


def _pairs_of(names: Iterable[x509.GeneralName]) -> Iterable[tuple[str, str]]:
    for name in names:
        kind = SAN_KINDS.get(type(name))
        yield (kind, str(name.value)) if kind else ("other", type(name).__name__)


def load_certificates(data: bytes) -> tuple[bytes, ...]:
    """The certificates in a file: PEM (one or several), DER, or a CMS that carries them; as DER.

    Raises :class:`Malformed` where there is none or one of them cannot be read.
    """
    if len(data) > _MAX_FILE:
        raise Malformed("the file is too large")
    if b"-----BEGIN" in data:
        blocks = [(label, block) for label, block in pem.blocks(data) if label in _PEM_LABELS]
        found = tuple(der for label, block in blocks for der in _load_pem_block(label, pem.body_of(block)))
    else:
        found = _load_der(data)
    if not found:
        raise Malformed("the file holds no certificate")
    for certificate in found:
        load_certificate(certificate)
    return found


def _load_pem_block(label: bytes, body: bytes) -> tuple[bytes, ...]:
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise Malformed("the file is not base64 between its PEM lines") from None
    return (der,) if label.endswith(b"CERTIFICATE") else _load_der(der)


def _load_der(data: bytes) -> tuple[bytes, ...]:
    from pki.core import cms  # it stands on this module

    scan(data, Limits(size=_MAX_FILE, nodes=20000))
    node = asn1.read(data)
    if node.tag == asn1.SEQUENCE and asn1.read(data, node.body).tag == asn1.OID:
        return cms.decode_signed_data(data, limits=None).certificates
    return (data,)


def encode_pem(certificate: bytes) -> str:
    """PEM of one certificate."""
    return load_certificate(certificate).public_bytes(Encoding.PEM).decode()


# --- Building --------------------------------------------------------------------------------------------


def build_certificate(
    fields: CertificateFields, *, issuer_certificate: bytes, private_key: PrivateKey
) -> bytes:
    """Issue a certificate that holds exactly ``fields``; DER.

    ``private_key`` belongs to ``issuer_certificate`` (DER). The issuer's name is copied as it stands there.
    Raises :class:`NameRefused`, or :class:`Malformed` where the public key or the issuer cannot be used.
    """
    issuer = load_certificate(issuer_certificate)
    if private_key.public_key() != public_key_of(issuer):
        raise Malformed("the key is not that of the issuing certificate")
    return _sign(fields, encode_subject(fields.subject), issuer, private_key)


def build_root(
    subject: Name,
    *,
    private_key: PrivateKey,
    serial_number: int,
    not_before: datetime,
    not_after: datetime,
    path_length: int | None = None,
    decrypts: bool = True,
) -> bytes:
    """A self-signed CA certificate; DER. Its key may sign and decrypt SCEP messages too (RFC 8894 2.1.2).

    ``decrypts``: False for a key that only signs, in a token: no client is to encrypt to it.
    """
    fields = CertificateFields(
        subject=subject,
        public_key=_encode_public_key(private_key.public_key()),
        serial_number=serial_number,
        not_before=not_before,
        not_after=not_after,
        key_usage=authority_key_usage(private_key.public_key(), decrypts=decrypts),
        is_ca=True,
        path_length=path_length,
    )
    return build_self_signed(fields, private_key=private_key)


def authority_key_usage(public_key: PublicKeyTypes, *, decrypts: bool = True) -> frozenset[str]:
    """What a CA's key is for. It answers SCEP too, and a client encrypts to it (RFC 8894 section 2.1.2)."""
    usage = {"digitalSignature", "keyCertSign", "cRLSign"}
    encrypted_to = decrypts and isinstance(public_key, rsa.RSAPublicKey)
    return frozenset(usage | {"keyEncipherment"} if encrypted_to else usage)


def build_self_signed(fields: CertificateFields, *, private_key: PrivateKey) -> bytes:
    """A certificate signed by its own key; DER. Also the throw-away signer of a SCEP client."""
    return sign_certificate(fields, subject=encode_name(fields.subject), issuer=None, private_key=private_key)


def sign_certificate(
    fields: CertificateFields,
    *,
    subject: x509.Name,
    issuer: x509.Certificate | None,
    private_key: PrivateKey,
) -> bytes:
    """Build and sign; DER. ``subject`` stands for ``fields.subject``; ``issuer`` None: signed by its own key.

    The issuer's name is copied, byte for byte.
    """
    return _sign(fields, subject.public_bytes(), issuer, private_key)


def _sign(
    fields: CertificateFields, subject: bytes, issuer: x509.Certificate | None, private_key: PrivateKey
) -> bytes:
    if issuer is None:
        return _build(fields, subject, subject, None, private_key)
    name, identifier = _issuing(issuer)
    return _build(
        fields,
        subject,
        name,
        identifier or default_key_identifier(_encode_public_key(private_key.public_key())),
        private_key,
    )


@lru_cache(maxsize=64)
def _issuing(issuer: x509.Certificate) -> tuple[bytes, bytes | None]:
    """The issuer's name, as its bytes are in its certificate, and the identifier of its key.

    Relying parties compare the bytes (RFC 5280 section 4.1.2.4).
    """
    der = issuer.public_bytes(Encoding.DER)
    return read_identifiers(der).subject, subject_key_identifier(issuer)


def _build(
    fields: CertificateFields,
    subject: bytes,
    issuer_name: bytes,
    authority: bytes | None,
    private_key: PrivateKey,
) -> bytes:
    """RFC 5280 section 4.1, written by our own encoder: the builder of ``cryptography`` takes far longer."""
    if not 0 < fields.serial_number < 1 << 159:
        raise ValueError("a serial number is positive and has at most 20 octets")
    if fields.not_after < fields.not_before:
        raise ValueError("the certificate would end before it begins")
    public_key = _normal_public_key(fields.public_key)
    digest = signing_hash(private_key).name
    algorithm = algorithms.encode_signature_algorithm(private_key, digest)
    to_sign = asn1.encode_sequence(
        _VERSION_3,
        asn1.encode_integer(fields.serial_number),
        algorithm,
        issuer_name,
        asn1.encode_sequence(asn1.encode_time(fields.not_before), asn1.encode_time(fields.not_after)),
        subject,
        public_key,
        asn1.encode(_CONTEXT_3, asn1.encode_sequence(*_extensions(fields, subject, public_key, authority))),
    )
    signature = algorithms.sign(private_key, digest, to_sign)
    return asn1.encode_sequence(to_sign, algorithm, asn1.encode(asn1.BIT_STRING, b"\0", signature))


def _extensions(
    fields: CertificateFields, subject: bytes, public_key: bytes, authority: bytes | None
) -> Iterable[bytes]:
    yield _basic_constraints(fields.is_ca, fields.path_length if fields.is_ca else None)
    yield _key_usage(fields.key_usage)
    identifier = fields.key_identifier or default_key_identifier(public_key)
    yield asn1.encode_sequence(_SUBJECT_KEY_IDENTIFIER, asn1.encode_octets(asn1.encode_octets(identifier)))
    if authority is not None:
        yield _authority_key_identifier(authority)
    if fields.extended_key_usage:
        yield _extended_key_usage(fields.extended_key_usage)
    if fields.san:
        # RFC 5280 section 4.2.1.6: critical where there is no subject.
        names = x509.SubjectAlternativeName(encode_alternative_names(fields.san))
        yield _extension_of(names, critical=subject == _NO_NAME)
    if fields.crl_url:
        yield _crl_distribution_point(fields.crl_url)
    if fields.ocsp_url or fields.issuer_url:
        yield _authority_access(fields.ocsp_url, fields.issuer_url)
    if fields.ocsp_no_check:
        yield _extension_of(x509.OCSPNoCheck())


def _extension_of(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    return asn1.encode_sequence(
        asn1.encode_oid(value.oid.dotted_string),
        asn1.encode(asn1.BOOLEAN, b"\xff") if critical else b"",
        asn1.encode_octets(value.public_bytes()),
    )


# What is the same in most certificates of an issuer is encoded once.


@lru_cache(maxsize=64)
def _basic_constraints(is_ca: bool, path_length: int | None) -> bytes:
    return _extension_of(x509.BasicConstraints(ca=is_ca, path_length=path_length), critical=True)


@lru_cache(maxsize=64)
def _key_usage(usages: frozenset[str]) -> bytes:
    if unknown := usages - KEY_USAGES:
        raise ValueError(f"unknown key usage {sorted(unknown)}")
    named = {attribute: name in usages for name, attribute in _KEY_USAGE_FIELDS.items()}
    return _extension_of(x509.KeyUsage(**named, encipher_only=False, decipher_only=False), critical=True)


@lru_cache(maxsize=64)
def _authority_key_identifier(identifier: bytes) -> bytes:
    return _extension_of(x509.AuthorityKeyIdentifier(identifier, None, None))


@lru_cache(maxsize=64)
def _extended_key_usage(usages: tuple[str, ...]) -> bytes:
    return _extension_of(x509.ExtendedKeyUsage([EXTENDED_KEY_USAGES[usage] for usage in usages]))


@lru_cache(maxsize=64)
def _crl_distribution_point(url: str) -> bytes:
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return _extension_of(x509.CRLDistributionPoints([point]))


@lru_cache(maxsize=64)
def _authority_access(ocsp_url: str | None, issuer_url: str | None) -> bytes:
    """Where its status is asked for, and where its issuer's certificate is (RFC 5280 section 4.2.2.1)."""
    places = (
        (AuthorityInformationAccessOID.OCSP, ocsp_url),
        (AuthorityInformationAccessOID.CA_ISSUERS, issuer_url),
    )
    access = [
        x509.AccessDescription(method, x509.UniformResourceIdentifier(url)) for method, url in places if url
    ]
    return _extension_of(x509.AuthorityInformationAccess(access))


def signing_hash(private_key: PrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """The digest that fits the strength of a CA key."""
    if isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.curve.key_size > 256:
        return hashes.SHA384()
    return hashes.SHA256()


@remembered(256)
def load_public_key(der: bytes) -> PublicKeyTypes:
    """Load a SubjectPublicKeyInfo. Raises :class:`Malformed`.

    The last ones are remembered: the first use of a key takes longer than those that follow.
    """
    try:
        return load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Malformed("the public key cannot be read") from None


@lru_cache(maxsize=64)
def _normal_public_key(der: bytes) -> bytes:
    """A SubjectPublicKeyInfo as we encode it, whoever encoded it before. Raises :class:`Malformed`."""
    return _encode_public_key(load_public_key(der))


def _encode_public_key(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
