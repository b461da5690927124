"""Certificates and signatures in HTTP headers.

A proxy that ends TLS passes the client's certificate in one of four forms; every reader here gives the DER of
exactly one certificate, or :class:`HeaderError`. Nothing is believed yet: the caller has to know who sent the
header, and ``pki.trust`` what the certificate is worth.
"""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from pki.core.scan import Malformed, scan

MAX_HEADER = 32_768
"""Characters; certificates of devices take about 2,000."""
MAX_SIGNATURE = 65_536

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
_XFCC_PAIR = re.compile(r'\s*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^",;\s]*)\s*')


class HeaderError(Exception):
    """The header does not hold what it should. ``reason`` says why, for the administrator."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_signature(value: str) -> bytes:
    """The CMS message of an ``Mdm-Signature``: Base64, white space allowed. Raises :class:`HeaderError`."""
    if len(value) > MAX_SIGNATURE:
        raise HeaderError("Mdm-Signature is too long")
    return _base64("".join(value.split()), "Mdm-Signature is not Base64")


def decode_client_certificate(header: str, value: str) -> bytes:
    """The DER of the one certificate in a header that a proxy set.

    The name of the header tells the form: ``Client-Cert`` (RFC 9440), ``X-Forwarded-Client-Cert`` (Envoy);
    under any other name PEM, escaped as in a URL (nginx) or with spaces for line ends (Apache), or Base64 of
    the PEM or the DER. Raises :class:`HeaderError`.
    """
    if len(value) > MAX_HEADER:
        raise HeaderError("client certificate header is too long")
    name = header.lower()
    if name == "client-cert":
        return decode_rfc9440(value)
    if name == "x-forwarded-client-cert":
        return decode_xfcc(value)
    return decode_pem_forms(value)


def decode_rfc9440(value: str) -> bytes:
    """``:<Base64 of the DER>:``, a Byte Sequence of RFC 8941 without parameters; one, not a list."""
    text = value.strip(" \t")
    if len(text) < 2 or text[0] != ":" or text[-1] != ":":
        raise HeaderError("Client-Cert is not one byte sequence")
    return _certificate(_base64(text[1:-1], "Client-Cert is not one byte sequence"))


def decode_xfcc(value: str) -> bytes:
    """Envoy's ``Hash=…;Cert="<URL-escaped PEM>";Subject="…"``.

    Several elements (separated by commas) mean several proxies or a client that sent one of its own: refused,
    because which of them vouches for the connection cannot be told.
    """
    escaped: list[str] = []
    position = 0
    while True:
        pair = _XFCC_PAIR.match(value, position)
        if pair is None:
            raise HeaderError("X-Forwarded-Client-Cert is malformed")
        if pair[1].lower() == "cert":
            text = pair[2]
            escaped.append(re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text)
        position = pair.end()
        if position == len(value):
            break
        if value[position] == ",":
            raise HeaderError("X-Forwarded-Client-Cert has several elements")
        if value[position] != ";":
            raise HeaderError("X-Forwarded-Client-Cert is malformed")
        position += 1
    if len(escaped) != 1:
        raise HeaderError("X-Forwarded-Client-Cert has no certificate or several")
    return _certificate(_pem(_unescape(escaped[0])))


def decode_pem_forms(value: str) -> bytes:
    """PEM as nginx and Apache pass it, or Base64 of PEM or DER (Traefik, HAProxy), or an RFC 9440 value."""
    text = value.strip(" \t")
    if text.startswith("-----BEGIN"):
        return _certificate(_pem(_unescape(text)))
    if text.startswith(":"):
        return decode_rfc9440(text)
    decoded = _base64(
        _unescape(text).decode("latin-1"), "client certificate header is neither PEM nor Base64"
    )
    return _certificate(_pem(decoded) if decoded.startswith(b"-----BEGIN") else decoded)


def _unescape(text: str) -> bytes:
    """Undo URL escaping, if there is any. ``+`` is a space only where it stands for the PEM's own."""
    if "%" not in text:
        return text.encode("latin-1", "replace")
    if text.startswith("-----BEGIN+"):
        text = text.replace("+", " ")
    return unquote_to_bytes(text)


def _pem(text: bytes) -> bytes:
    text = text.strip(b" \t\r\n")
    if len(text) <= len(_BEGIN) + len(_END) or not (text.startswith(_BEGIN) and text.endswith(_END)):
        raise HeaderError("client certificate header is not exactly one PEM certificate")
    inside = "".join(text[len(_BEGIN) : -len(_END)].decode("latin-1").split())
    return _base64(inside, "client certificate header is not exactly one PEM certificate")


def _base64(text: str, complaint: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise HeaderError(complaint) from None
    if not decoded:
        raise HeaderError(complaint)
    return decoded


def _certificate(der: bytes) -> bytes:
    """Exactly one DER SEQUENCE and nothing behind it; of indefinite length is not DER."""
    if der[:1] != b"\x30" or der[1:2] == b"\x80":
        raise HeaderError("client certificate header holds no certificate")
    try:
        scan(der)
    except Malformed:
        raise HeaderError("client certificate header holds no certificate") from None
    return der
