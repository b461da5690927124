"""A certificate as text, laid out as ``openssl x509 -text`` does, for people who are used to that.

Bytes that nobody reads (the key, the signature) are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier, SignatureAlgorithmOID

from pki.core.certificates import load_certificate, public_key_of
from pki.core.names import NAME_KEYS
from pki.core.scan import Malformed

_MAX_BYTES = 64
# What cryptography raises of certificates of others once it looks into them.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.InvalidVersion,
)
_ALGORITHMS = {
    SignatureAlgorithmOID.RSA_WITH_SHA1: "sha1WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA256: "sha256WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA384: "sha384WithRSAEncryption",
    SignatureAlgorithmOID.RSA_WITH_SHA512: "sha512WithRSAEncryption",
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "ecdsa-with-SHA256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "ecdsa-with-SHA384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "ecdsa-with-SHA512",
}
_CURVES = {"secp256r1": ("prime256v1", "P-256"), "secp384r1": ("secp384r1", "P-384")}
_USAGES = (
    ("digital_signature", "Digital Signature"),
    ("content_commitment", "Non Repudiation"),
    ("key_encipherment", "Key Encipherment"),
    ("data_encipherment", "Data Encipherment"),
    ("key_agreement", "Key Agreement"),
    ("key_cert_sign", "Certificate Sign"),
    ("crl_sign", "CRL Sign"),
)
_EXTENDED_USAGES = {
    ExtendedKeyUsageOID.SERVER_AUTH: "TLS Web Server Authentication",
    ExtendedKeyUsageOID.CLIENT_AUTH: "TLS Web Client Authentication",
    ExtendedKeyUsageOID.CODE_SIGNING: "Code Signing",
    ExtendedKeyUsageOID.EMAIL_PROTECTION: "E-mail Protection",
    ExtendedKeyUsageOID.TIME_STAMPING: "Time Stamping",
    ExtendedKeyUsageOID.OCSP_SIGNING: "OCSP Signing",
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE: "Any Extended Key Usage",
}
_OCSP, _CA_ISSUERS = "1.3.6.1.5.5.7.48.1", "1.3.6.1.5.5.7.48.2"
_ACCESS = {_OCSP: "OCSP", _CA_ISSUERS: "CA Issuers"}
_TITLES = {
    "2.5.29.14": "X509v3 Subject Key Identifier",
    "2.5.29.15": "X509v3 Key Usage",
    "2.5.29.17": "X509v3 Subject Alternative Name",
    "2.5.29.19": "X509v3 Basic Constraints",
    "2.5.29.31": "X509v3 CRL Distribution Points",
    "2.5.29.32": "X509v3 Certificate Policies",
    "2.5.29.35": "X509v3 Authority Key Identifier",
    "2.5.29.37": "X509v3 Extended Key Usage",
    "1.3.6.1.5.5.7.1.1": "Authority Information Access",
    "1.3.6.1.5.5.7.48.1.5": "OCSP No Check",
}


@dataclass(frozen=True)
class Places:
    """The addresses in a certificate: of the CRL, of OCSP, and of its issuer's certificate."""

    crl: tuple[str, ...] = ()
    ocsp: tuple[str, ...] = ()
    issuer: tuple[str, ...] = ()


def places_of(der: bytes) -> Places:
    """Where relying parties ask about a certificate (DER). Raises :class:`Malformed`."""
    certificate = load_certificate(der)
    try:
        found = [extension.value for extension in certificate.extensions]
    except _UNREADABLE as error:
        raise Malformed("the certificate cannot be described") from error
    points = (point for value in found if isinstance(value, x509.CRLDistributionPoints) for point in value)
    access = [
        entry for value in found if isinstance(value, x509.AuthorityInformationAccess) for entry in value
    ]
    return Places(
        crl=tuple(_uris(name for point in points for name in point.full_name or ())),
        ocsp=tuple(_uris(entry.access_location for entry in access if _oid(entry.access_method) == _OCSP)),
        issuer=tuple(
            _uris(entry.access_location for entry in access if _oid(entry.access_method) == _CA_ISSUERS)
        ),
    )


def _uris(names: Iterable[x509.GeneralName]) -> Iterator[str]:
    return (_printable(name.value) for name in names if isinstance(name, x509.UniformResourceIdentifier))


def certificate_text(der: bytes) -> str:
    """The text of a certificate (DER). Raises :class:`Malformed`."""
    certificate = load_certificate(der)
    try:
        return "\n".join(_lines(certificate)) + "\n"
    except _UNREADABLE as error:
        raise Malformed("the certificate cannot be described") from error


def _lines(certificate: x509.Certificate) -> Iterator[str]:
    algorithm = certificate.signature_algorithm_oid
    yield "Certificate:"
    yield "    Data:"
    yield f"        Version: {certificate.version.value + 1} ({certificate.version.value:#x})"
    yield "        Serial Number:"
    yield f"            {_serial(certificate.serial_number)}"
    yield f"        Signature Algorithm: {_ALGORITHMS.get(algorithm, algorithm.dotted_string)}"
    yield f"        Issuer: {_name(certificate.issuer)}"
    yield "        Validity"
    yield f"            Not Before: {certificate.not_valid_before_utc:%b %e %H:%M:%S %Y} GMT"
    yield f"            Not After : {certificate.not_valid_after_utc:%b %e %H:%M:%S %Y} GMT"
    yield f"        Subject: {_name(certificate.subject)}"
    yield "        Subject Public Key Info:"
    yield from (f"            {line}" for line in _key(certificate))
    if len(certificate.extensions):
        yield "        X509v3 extensions:"
    for extension in certificate.extensions:
        title = _TITLES.get(extension.oid.dotted_string, extension.oid.dotted_string)
        yield f"            {title}: {'critical' if extension.critical else ''}".rstrip()
        yield from (f"                {line}" for line in _value(extension.value))


def _serial(number: int) -> str:
    sign, text = ("-" if number < 0 else ""), f"{abs(number):x}"
    return sign + _colons(bytes.fromhex(text.zfill(len(text) + len(text) % 2))).lower()


def _colons(value: bytes) -> str:
    shown = ":".join(f"{octet:02X}" for octet in value[:_MAX_BYTES])
    return shown if len(value) <= _MAX_BYTES else f"{shown}… ({len(value)} bytes)"


def _name(name: x509.Name) -> str:
    """In the order of the certificate, parts of one level joined by a plus."""
    return ", ".join(
        " + ".join(
            f"{NAME_KEYS.get(part.oid, part.oid.dotted_string)} = {_printable(part.value)}" for part in rdn
        )
        for rdn in name.rdns
    )


def _printable(value: str | bytes) -> str:
    """Control characters as escapes: a line stays a line."""
    if isinstance(value, bytes):
        return _colons(value)
    return "".join(character if character.isprintable() else f"\\{ord(character):02X}" for character in value)


def _key(certificate: x509.Certificate) -> Iterator[str]:
    key = public_key_of(certificate)
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        yield "Public Key Algorithm: rsaEncryption"
        yield f"    Public-Key: ({key.key_size} bit)"
        yield f"    Exponent: {exponent} ({exponent:#x})"
    elif isinstance(key, ec.EllipticCurvePublicKey):
        name, nist = _CURVES.get(key.curve.name, (key.curve.name, ""))
        yield "Public Key Algorithm: id-ecPublicKey"
        yield f"    Public-Key: ({key.key_size} bit)"
        yield f"    ASN1 OID: {name}"
        if nist:
            yield f"    NIST CURVE: {nist}"
    else:
        yield f"Public Key Algorithm: {certificate.public_key_algorithm_oid.dotted_string}"


def _value(value: x509.ExtensionType) -> Iterable[str]:
    match value:
        case x509.BasicConstraints():
            length = "" if value.path_length is None else f", pathlen:{value.path_length}"
            return [f"CA:{str(value.ca).upper()}{length}"]
        case x509.KeyUsage():
            return [", ".join(words for attribute, words in _USAGES if getattr(value, attribute))]
        case x509.ExtendedKeyUsage():
            return [", ".join(_EXTENDED_USAGES.get(usage, usage.dotted_string) for usage in value)]
        case x509.SubjectKeyIdentifier():
            return [_colons(value.digest)]
        case x509.AuthorityKeyIdentifier():
            return _authority(value)
        case x509.SubjectAlternativeName():
            return [", ".join(_general_name(name) for name in value)]
        case x509.CRLDistributionPoints():
            return _points(value)
        case x509.AuthorityInformationAccess():
            return [
                f"{_ACCESS.get(_oid(entry.access_method), _oid(entry.access_method))} - "
                f"{_general_name(entry.access_location)}"
                for entry in value
            ]
        case x509.CertificatePolicies():
            return [f"Policy: {_oid(policy.policy_identifier)}" for policy in value]
        case x509.OCSPNoCheck():
            return []
    return [_colons(value.public_bytes())]


def _authority(value: x509.AuthorityKeyIdentifier) -> Iterator[str]:
    if value.key_identifier is not None:
        yield _colons(value.key_identifier)
    for name in value.authority_cert_issuer or ():
        yield _general_name(name)
    if value.authority_cert_serial_number is not None:
        yield f"serial:{_serial(value.authority_cert_serial_number).upper()}"


def _points(points: x509.CRLDistributionPoints) -> Iterator[str]:
    for point in points:
        yield "Full Name:"
        yield from (f"  {_general_name(name)}" for name in point.full_name or ())


def _oid(oid: ObjectIdentifier) -> str:
    return oid.dotted_string


def _general_name(name: x509.GeneralName) -> str:
    match name:
        case x509.DNSName() | x509.UniformResourceIdentifier() | x509.RFC822Name():
            kind = {x509.DNSName: "DNS", x509.UniformResourceIdentifier: "URI", x509.RFC822Name: "email"}
            return f"{kind[type(name)]}:{_printable(name.value)}"
        case x509.IPAddress():
            return f"IP Address:{name.value}"
        case x509.DirectoryName():
            return f"DirName:{_name(name.value)}"
        case x509.RegisteredID():
            return f"Registered ID:{_oid(name.value)}"
        case x509.OtherName():
            return f"othername: {_oid(name.type_id)}:{_colons(name.value)}"
    return "unknown"
