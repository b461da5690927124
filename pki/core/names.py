"""Names in certificates: the ones we write, and the text of those we read (RFC 4514, RFC 5280)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID, ObjectIdentifier

from pki.core import asn1
from pki.core.remembering import remembered
from pki.core.scan import Malformed

Name = tuple[tuple[str, str], ...]

NAME_OIDS: Mapping[str, ObjectIdentifier] = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "C": NameOID.COUNTRY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "L": NameOID.LOCALITY_NAME,
    "STREET": NameOID.STREET_ADDRESS,
    "SN": NameOID.SURNAME,
    "GN": NameOID.GIVEN_NAME,
    "T": NameOID.TITLE,
    "UID": NameOID.USER_ID,
    "DC": NameOID.DOMAIN_COMPONENT,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
}
NAME_KEYS: Mapping[ObjectIdentifier, str] = {oid: key for key, oid in NAME_OIDS.items()}
_MAX_VALUE = {"emailAddress": 255}
DEFAULT_MAX_VALUE = 64
MAX_NAME_PARTS = 16
_MAX_SAN = 16
_MAX_SAN_VALUE = 255
# Characters that reorder text on the screen: a name must read as it is.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_REFUSED_CATEGORIES = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_ASCII_VALUES = frozenset({"serialNumber", "emailAddress", "C", "DC"})
_UTF8_VALUES = frozenset(NAME_OIDS) - _ASCII_VALUES
# Text of which RFC 4514 leaves every character as it is.
_UNESCAPED = re.compile(r"""(?![ #])[^\x00-\x1f\x7f\\,+"<>;]*(?<! )""")
_MAX_DESCRIBED_PARTS = 64
_SHORT_NAMES = {oid.dotted_string: name for name, oid in NAME_OIDS.items()}
SAN_KINDS: Mapping[type[x509.GeneralName], str] = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
    x509.IPAddress: "IP",
}


class NameRefused(Malformed):
    """A name, or an alternative name, that will not stand in a certificate."""


def encode_name(name: Name) -> x509.Name:
    """A subject from pairs of attribute and value. Raises :class:`NameRefused` with the reason."""
    if len(name) > MAX_NAME_PARTS:
        raise NameRefused("the name has too many parts")
    return x509.Name([encode_name_part(key, value) for key, value in name])


def encode_subject(name: Name) -> bytes:
    """The same in DER, without going through ``cryptography``. Raises :class:`NameRefused`."""
    if len(name) > MAX_NAME_PARTS:
        raise NameRefused("the name has too many parts")
    return asn1.encode_sequence(*[_encode_rdn(key, value) for key, value in name])


@lru_cache(maxsize=256)
def _encode_rdn(key: str, value: str) -> bytes:
    """One attribute in a SET of its own. Raises :class:`NameRefused`."""
    if key not in _UTF8_VALUES or not value.isascii():
        name = x509.Name([encode_name_part(key, value)])
        return asn1.read(name.public_bytes()).contents
    verify_name_value(value, max_length=_MAX_VALUE.get(key, DEFAULT_MAX_VALUE))
    text = asn1.encode(asn1.UTF8_STRING, value.encode())
    oid = asn1.encode_oid(NAME_OIDS[key].dotted_string)
    return asn1.encode(asn1.SET, asn1.encode_sequence(oid, text))


@lru_cache(maxsize=256)
def encode_name_part(key: str, value: str) -> x509.NameAttribute[str]:
    """One attribute of a name. Raises :class:`NameRefused`."""
    oid = NAME_OIDS.get(key)
    if oid is None:
        raise NameRefused(f"unknown name attribute {key!r}")
    verify_name_value(value, max_length=_MAX_VALUE.get(key, DEFAULT_MAX_VALUE))
    if key in _ASCII_VALUES and not value.isascii():
        raise NameRefused(f"{key} holds other characters than ASCII")
    if key == "serialNumber" and asn1.encode_text(value)[0] != asn1.PRINTABLE_STRING:
        raise NameRefused("serialNumber holds characters that it may not hold")
    try:
        return x509.NameAttribute(oid, value)
    except ValueError:
        raise NameRefused(f"{key} has a value that it may not have") from None


def verify_name_value(value: str, *, max_length: int = DEFAULT_MAX_VALUE) -> None:
    """A value that reads the same everywhere: of sane length, no control and no reordering characters."""
    if not value or value != value.strip():
        raise NameRefused("a value is empty or has spaces around it")
    if len(value) > max_length:
        raise NameRefused(f"a value is longer than {max_length} characters")
    if value.isascii() and value.isprintable():
        return
    for character in value:
        if character in _BIDI or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise NameRefused("a value holds control characters")


def encode_alternative_names(names: Iterable[tuple[str, str]]) -> list[x509.GeneralName]:
    """Alternative names from pairs of kind and value. Raises :class:`NameRefused`."""
    names = tuple(names)
    if len(names) > _MAX_SAN:
        raise NameRefused("too many alternative names")
    return [_encode_alternative_name(kind, value) for kind, value in names]


def _encode_alternative_name(kind: str, value: str) -> x509.GeneralName:
    verify_name_value(value, max_length=_MAX_SAN_VALUE)
    try:
        match kind:
            case "DNS" if re.fullmatch(r"(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", value):
                return x509.DNSName(value)
            case "URI" if value.isascii() and " " not in value and urlsplit(value).scheme:
                return x509.UniformResourceIdentifier(value)
            case "email" if re.fullmatch(r"[!-?A-~]+@[A-Za-z0-9.-]+", value):
                return x509.RFC822Name(value)
            case "IP":
                return x509.IPAddress(ip_address(value))
    except ValueError:
        raise NameRefused(f"not an alternative name of kind {kind}") from None
    raise NameRefused(f"not an alternative name of kind {kind}")


def describe_name(node: asn1.Node) -> str:
    """A Name as RFC 4514 text, last part first; what is no text stands as hexadecimal."""
    return _described(node.encoded)


@remembered(128)
def _described(encoded: bytes) -> str:
    parts: list[str] = []
    for rdn in asn1.children(asn1.read(encoded)):
        if rdn.tag != asn1.SET:
            raise Malformed("name: unexpected type")
        parts.append("+".join(_describe_attribute(attribute) for attribute in asn1.children(rdn)))
    if len(parts) > _MAX_DESCRIBED_PARTS:
        raise Malformed("name: too many parts")
    return ",".join(reversed(parts))


def _describe_attribute(node: asn1.Node) -> str:
    fields = asn1.Fields(node, "name")
    oid, value = asn1.decode_oid(fields.take(asn1.OID)), fields.take()
    fields.end()
    name = _SHORT_NAMES.get(oid, oid)
    try:
        return f"{name}={_escape(asn1.decode_text(value))}"
    except Malformed:
        return f"{name}=#{value.encoded.hex()}"


def _escape(text: str) -> str:
    """RFC 4514 section 2.4, and control characters as hexadecimal, so that a line stays one line."""
    if _UNESCAPED.fullmatch(text):
        return text
    out = []
    for position, character in enumerate(text):
        if character < " " or character == "\x7f":
            out.append(f"\\{ord(character):02X}")
        elif (
            character in '\\,+"<>;'
            or (position == 0 and character in " #")
            or (position == len(text) - 1 and character == " ")
        ):
            out.append("\\" + character)
        else:
            out.append(character)
    return "".join(out)
