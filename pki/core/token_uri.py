"""Where a key is in a PKCS #11 token: URIs of RFC 7512, without anything that is secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

_SCHEME = "pkcs11:"
_MAX_LENGTH = 500
_KNOWN = frozenset({"token", "serial", "object", "id", "type"})
_ATTRIBUTE = re.compile(r"([a-z0-9-]+)=((?:[^%;?#&]|%[0-9A-Fa-f]{2})*)\Z", re.ASCII)
# pk11-pchar without "%" (RFC 7512 section 2.3): what need not be escaped.
_PLAIN = "-._~:[]@!$'()*+,=&"


class TokenUriRefused(Exception):
    """The location of a key cannot be used; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class TokenUri:
    """A key in a token: label or serial number of the token, label or identifier of the key."""

    token: str | None
    serial: str | None
    label: str | None
    identifier: bytes | None

    def __str__(self) -> str:
        return _SCHEME + ";".join(self._attributes())

    def _attributes(self) -> Iterator[str]:
        named = (("token", self.token), ("serial", self.serial), ("object", self.label))
        for name, value in named:
            if value is not None:
                yield f"{name}={quote(value, safe=_PLAIN)}"
        if self.identifier is not None:
            yield "id=" + "".join(f"%{octet:02X}" for octet in self.identifier)


def decode_token_uri(text: str) -> TokenUri:
    """``pkcs11:token=Bramley;object=ca-1`` → where that is. Raises :class:`TokenUriRefused`.

    The token is named by its label or serial number, the key by its label (``object``) or ``id``. A PIN or a
    module in the URI is refused: the URI is kept in the database and shown, and those are neither.
    """
    text = text.strip()
    if not text.startswith(_SCHEME) or len(text) > _MAX_LENGTH:
        raise TokenUriRefused("it is no PKCS #11 URI like pkcs11:token=Bramley;object=ca-1")
    path, question, _query = text.removeprefix(_SCHEME).partition("?")
    if question:
        raise TokenUriRefused(
            "the URI may not name a PIN or a module: these come from BRAMLEY_PKCS11_PIN_FILE and "
            "BRAMLEY_PKCS11_MODULE"
        )
    found = dict(_decode_attributes(path))
    if found.pop("type", b"private") not in (b"private", b"public"):
        raise TokenUriRefused("the type in the URI is not that of a key")
    uri = TokenUri(
        token=_text(found.get("token")),
        serial=_text(found.get("serial")),
        label=_text(found.get("object")),
        identifier=found.get("id"),
    )
    if not uri.token and not uri.serial:
        raise TokenUriRefused("the URI does not name a token: token=… or serial=…")
    if not uri.label and not uri.identifier:
        raise TokenUriRefused("the URI does not name a key: object=… or id=…")
    return uri


def _decode_attributes(path: str) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for part in path.split(";"):
        match = _ATTRIBUTE.match(part)
        if match is None:
            raise TokenUriRefused(f"{part!r} in the URI is not a name, =, and an escaped value")
        name = match[1]
        if name not in _KNOWN:
            raise TokenUriRefused(f"{name!r} in the URI is not used here")
        if name in seen:
            raise TokenUriRefused(f"{name!r} is twice in the URI")
        seen.add(name)
        yield name, unquote_to_bytes(match[2])


def _text(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise TokenUriRefused("a name in the URI is not UTF-8") from None
    if not text.isprintable():
        raise TokenUriRefused("a name in the URI holds control characters")
    return text
