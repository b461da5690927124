"""The attributes that SCEP puts beside a message (RFC 8894 section 3.2.1), to and from DER.

Reading is total: whatever a stranger sent, the result is a value, or :class:`AttributeFault` with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

from pki.core import asn1
from pki.core.cms import Attribute

MESSAGE_TYPE = "2.16.840.1.113733.1.9.2"
PKI_STATUS = "2.16.840.1.113733.1.9.3"
FAIL_INFO = "2.16.840.1.113733.1.9.4"
SENDER_NONCE = "2.16.840.1.113733.1.9.5"
RECIPIENT_NONCE = "2.16.840.1.113733.1.9.6"
TRANSACTION_ID = "2.16.840.1.113733.1.9.7"
FAIL_INFO_TEXT = "1.3.6.1.5.5.7.24.1"
SIGNING_TIME = "1.2.840.113549.1.9.5"

MAX_TRANSACTION_ID = 256
MAX_NONCE = 64


class MessageType(StrEnum):
    """messageType (section 3.2.1.2). Nothing else is a message type; 18 least of all."""

    CERT_REP = "3"
    RENEWAL_REQ = "17"
    PKCS_REQ = "19"
    CERT_POLL = "20"
    GET_CERT = "21"
    GET_CRL = "22"

    @property
    def label(self) -> str:
        """Its name in the RFC."""
        return _MESSAGE_TYPE_LABELS[self]


_MESSAGE_TYPE_LABELS = {
    MessageType.CERT_REP: "CertRep",
    MessageType.RENEWAL_REQ: "RenewalReq",
    MessageType.PKCS_REQ: "PKCSReq",
    MessageType.CERT_POLL: "CertPoll",
    MessageType.GET_CERT: "GetCert",
    MessageType.GET_CRL: "GetCRL",
}


class PkiStatus(StrEnum):
    """pkiStatus (section 3.2.1.3)."""

    SUCCESS = "0"
    FAILURE = "2"
    PENDING = "3"


class FailInfo(StrEnum):
    """failInfo (section 3.2.1.4)."""

    BAD_ALG = "0"
    BAD_MESSAGE_CHECK = "1"
    BAD_REQUEST = "2"
    BAD_TIME = "3"
    BAD_CERT_ID = "4"

    @property
    def label(self) -> str:
        """Its name in the RFC."""
        return _FAIL_INFO_LABELS[self]


_FAIL_INFO_LABELS = {
    FailInfo.BAD_ALG: "badAlg",
    FailInfo.BAD_MESSAGE_CHECK: "badMessageCheck",
    FailInfo.BAD_REQUEST: "badRequest",
    FailInfo.BAD_TIME: "badTime",
    FailInfo.BAD_CERT_ID: "badCertId",
}


class AttributeFault(ValueError):
    """An attribute is missing, there twice, of another type, or of a value that is not allowed."""


@dataclass(frozen=True)
class Header:
    """What a request says about itself.

    What could not be read is empty, and ``faults`` says why in words for the administrator.
    """

    transaction_id: str
    message_type: str
    sender_nonce: bytes
    faults: tuple[str, ...] = ()
    signing_time: datetime | None = None


def decode_header(attributes: Mapping[str, Sequence[bytes]]) -> Header:
    """Read transactionID, messageType and senderNonce of a request. Never raises."""
    faults: list[str] = []
    transaction_id = message_type = ""
    sender_nonce = b""
    try:
        transaction_id = decode_transaction_id(attributes)
    except AttributeFault as fault:
        faults.append(str(fault))
    try:
        message_type = decode_printable(attributes, MESSAGE_TYPE, "messageType", limit=20)
    except AttributeFault as fault:
        faults.append(str(fault))
    try:
        sender_nonce = decode_nonce(attributes, SENDER_NONCE, "senderNonce")
    except AttributeFault as fault:
        faults.append(str(fault))
    return Header(transaction_id, message_type, sender_nonce, tuple(faults), decode_signing_time(attributes))


def decode_signing_time(attributes: Mapping[str, Sequence[bytes]]) -> datetime | None:
    """signingTime (RFC 5652 section 11.3), or None where there is none that can be read. Never raises."""
    try:
        tag, content = _only_value(attributes, SIGNING_TIME, "signingTime")
        text = content.decode("ascii")
        if tag == asn1.UTC_TIME:
            # RFC 5280 section 4.1.2.5.1: 50 to 99 are of the twentieth century, as here no message is.
            return _moment(f"20{text}")
        if tag == asn1.GENERALIZED_TIME:
            return _moment(text)
    except ValueError:
        pass
    return None


def _moment(text: str) -> datetime:
    """Raises ``ValueError``."""
    if len(text) != 15 or text[14] != "Z" or not text[:14].isdecimal():
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    # The usual form, in a tenth of the time.
    month, day, hour, minute, second = (int(text[place : place + 2]) for place in range(4, 14, 2))
    return datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=UTC)


def decode_transaction_id(attributes: Mapping[str, Sequence[bytes]]) -> str:
    """transactionID: 1 to 256 visible ASCII characters.

    Section 3.2.1.1 asks for a PrintableString; clients also write other string types and characters, and
    nothing depends on them: it is copied into the reply and shown to the administrator.
    """
    name = "transactionID"
    tag, content = _only_value(attributes, TRANSACTION_ID, name)
    if tag not in {asn1.PRINTABLE_STRING, asn1.UTF8_STRING, asn1.IA5_STRING}:
        raise AttributeFault(f"{name} is not a string")
    return _visible(content, name, MAX_TRANSACTION_ID)


def decode_printable(
    attributes: Mapping[str, Sequence[bytes]], oid: str, name: str, *, limit: int = 256
) -> str:
    """The one value of an attribute that has to be a PrintableString. Raises :class:`AttributeFault`."""
    tag, content = _only_value(attributes, oid, name)
    if tag != asn1.PRINTABLE_STRING:
        raise AttributeFault(f"{name} is not a PrintableString")
    return _visible(content, name, limit)


def decode_nonce(attributes: Mapping[str, Sequence[bytes]], oid: str, name: str) -> bytes:
    """A nonce of 1 to 64 bytes. The RFC says 16; macOS has sent 8. Raises :class:`AttributeFault`."""
    tag, content = _only_value(attributes, oid, name)
    if tag != asn1.OCTET_STRING:
        raise AttributeFault(f"{name} is not an OCTET STRING")
    if not 1 <= len(content) <= MAX_NONCE:
        raise AttributeFault(f"{name} has {len(content)} bytes, 1 to {MAX_NONCE} are allowed")
    return content


def decode_fail_info_text(attributes: Mapping[str, Sequence[bytes]]) -> str:
    """failInfoText, or an empty string where there is none that can be read."""
    try:
        tag, content = _only_value(attributes, FAIL_INFO_TEXT, "failInfoText")
    except AttributeFault:
        return ""
    return (
        content.decode("utf-8", "replace")[:500] if tag in {asn1.UTF8_STRING, asn1.PRINTABLE_STRING} else ""
    )


def encode_header(message_type: MessageType, transaction_id: str, sender_nonce: bytes) -> list[Attribute]:
    """The attributes that every message has."""
    return [
        constant(MESSAGE_TYPE, message_type),
        printable(TRANSACTION_ID, transaction_id),
        octets(SENDER_NONCE, sender_nonce),
    ]


def printable(oid: str, text: str) -> Attribute:
    """An attribute with one PrintableString."""
    return Attribute(oid, (asn1.encode(asn1.PRINTABLE_STRING, text.encode("ascii")),))


@lru_cache(maxsize=32)
def constant(oid: str, text: str) -> Attribute:
    """The same, of what few texts can stand in."""
    return printable(oid, text)


def utf8(oid: str, text: str) -> Attribute:
    """An attribute with one UTF8String."""
    return Attribute(oid, (asn1.encode(asn1.UTF8_STRING, text.encode()),))


def octets(oid: str, value: bytes) -> Attribute:
    """An attribute with one OCTET STRING."""
    return Attribute(oid, (asn1.encode(asn1.OCTET_STRING, value),))


def _visible(content: bytes, name: str, limit: int) -> str:
    if not 1 <= len(content) <= limit:
        raise AttributeFault(f"{name} has {len(content)} characters, 1 to {limit} are allowed")
    if not content.isascii() or not content.decode("ascii").isprintable():
        raise AttributeFault(f"{name} holds characters that are not visible ASCII")
    return content.decode("ascii")


def _only_value(attributes: Mapping[str, Sequence[bytes]], oid: str, name: str) -> tuple[int, bytes]:
    """Tag and content of the one value. Every one of these attributes is single-valued."""
    values = attributes.get(oid, ())
    if not values:
        raise AttributeFault(f"{name} is missing")
    if len(values) > 1:
        raise AttributeFault(f"{name} has {len(values)} values")
    return _primitive(values[0], name)


def _primitive(der: bytes, name: str) -> tuple[int, bytes]:
    """One primitive DER value with a one-byte tag, and nothing after it."""
    if len(der) < 2:
        raise AttributeFault(f"{name} is not a DER value")
    length, start = der[1], 2
    if length & 0x80:
        octets_of_length = length & 0x7F
        if not 1 <= octets_of_length <= 3:
            raise AttributeFault(f"{name} is not a DER value")
        start += octets_of_length
        length = int.from_bytes(der[2:start], "big")
    if len(der) != start + length:
        raise AttributeFault(f"{name} is not a DER value")
    return der[0], der[start:]
