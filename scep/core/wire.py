"""SCEP over HTTP: the query string and the message inside it (RFC 8894 section 4.1)."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

MAX_MESSAGE = 64 * 1024
"""Size of a PKIOperation in bytes. Real ones have 2 to 8 kB."""

CA_CERTIFICATE = "application/x-x509-ca-cert"
CA_CERTIFICATES = "application/x-x509-ca-ra-cert"
NEXT_CA_CERTIFICATES = "application/x-x509-next-ca-cert"
PKI_MESSAGE = "application/x-pki-message"

_MAX_QUERY = MAX_MESSAGE * 2
_IGNORED = b"\r\n\t\v\f\0"


class WireError(ValueError):
    """What came is not a SCEP request; the text says why."""


class TooLarge(WireError):
    """The message is larger than :data:`MAX_MESSAGE`."""


@dataclass(frozen=True)
class Query:
    """``operation`` and the still encoded ``message`` of a request's query string; empty where absent."""

    operation: str
    message: bytes


def decode_query(query: str) -> Query:
    """Split a raw query string.

    Not the form decoding of the web: there ``+`` means a space, here it is a digit of base64 that macOS
    leaves unescaped. Raises :class:`WireError` where a parameter is there twice.
    """
    found: dict[str, bytes] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if name not in {"operation", "message"}:
            continue
        if name in found:
            raise WireError(f"{name} is there twice")
        found[name] = unquote_to_bytes(value.encode("latin-1", "replace"))
    operation = found.get("operation", b"")[:40].decode("ascii", "replace")
    return Query(operation, found.get("message", b""))


def decode_get_message(message: bytes) -> bytes:
    """The message of a PKIOperation by GET: base64, read liberally.

    Line ends anywhere (strongSwan breaks lines), a space for ``+`` (iOS 11, proxies), the alphabet for
    URLs and missing padding are all taken. Raises :class:`TooLarge` and :class:`WireError`.
    """
    if len(message) > _MAX_QUERY:
        raise TooLarge("the message is too large")
    text = message.translate(bytes.maketrans(b" -_", b"++/"), _IGNORED).rstrip(b"=")
    if not text:
        raise WireError("no message")
    try:
        decoded = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise WireError("the message is not base64") from None
    if len(decoded) > MAX_MESSAGE:
        raise TooLarge("the message is too large")
    return decoded


def encode_query(operation: str, message: bytes | None = None) -> str:
    """A client's query string; the message in base64 with every character escaped that needs it."""
    query = f"operation={operation}"
    if message is not None:
        query += "&message=" + quote(base64.b64encode(message).decode("ascii"), safe="")
    return query
