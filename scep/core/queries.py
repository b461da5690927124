"""What CertPoll, GetCert and GetCRL ask about (RFC 8894 sections 3.3.3 and 3.3.4), to and from DER."""

from __future__ import annotations

from dataclasses import dataclass

from pki.core import asn1
from pki.core.certificates import format_serial_number, read_identifiers
from pki.core.names import describe_name
from pki.core.scan import Malformed, scan


@dataclass(frozen=True)
class IssuerAndSubject:
    """Content of CertPoll; RFC 4514 text. It identifies nothing: the transactionID does (section 3.3.3)."""

    issuer: str
    subject: str


@dataclass(frozen=True)
class IssuerAndSerialNumber:
    """Content of GetCert and GetCRL. ``issuer``: RFC 4514 text; ``serial_number``: upper-case hexadecimal."""

    issuer: str
    serial_number: str


def decode_issuer_and_subject(data: bytes) -> IssuerAndSubject:
    """Raises :class:`pki.core.scan.Malformed`."""
    fields = _fields(data, "IssuerAndSubject")
    issuer, subject = fields.take(asn1.SEQUENCE), fields.take(asn1.SEQUENCE)
    fields.end()
    return IssuerAndSubject(describe_name(issuer), describe_name(subject))


def decode_issuer_and_serial_number(data: bytes) -> IssuerAndSerialNumber:
    """Raises :class:`pki.core.scan.Malformed`."""
    fields = _fields(data, "IssuerAndSerialNumber")
    issuer, serial_number = fields.take(asn1.SEQUENCE), asn1.decode_integer(fields.take(asn1.INTEGER))
    fields.end()
    return IssuerAndSerialNumber(describe_name(issuer), format_serial_number(serial_number))


def encode_issuer_and_subject(ca_certificate: bytes, subject: bytes) -> bytes:
    """For a client. ``subject``: DER of the Name that its CSR holds."""
    return asn1.encode_sequence(read_identifiers(ca_certificate).subject, subject)


def encode_issuer_and_serial_number(certificate: bytes) -> bytes:
    """For a client: the certificate's own issuer and serial number."""
    named = read_identifiers(certificate)
    return asn1.encode_sequence(named.issuer, asn1.encode(asn1.INTEGER, named.serial_number))


def _fields(data: bytes, what: str) -> asn1.Fields:
    if not data:
        raise Malformed(f"{what}: empty")
    scan(data)
    return asn1.Fields(asn1.read(data), what)
