"""Property lists on the wire: a reader that cannot be hurt, and a writer.

The reader accepts what Apple's devices send and nothing that could cost more than it is worth (threats D1 to
D8): UTF-8 only, no DTD but the line every property list starts with, no entities, bounded size, depth and
number of nodes, 64-bit integers, finite reals, dates of this age, no control characters. Whatever is wrong
with the input, the one error is :class:`PlistError`.

The XML is parsed by expat in C into elements and then turned into values; the byte checks before bound what
that can cost (at most 40 MB for 10 MiB of the worst). An Idle report takes about 10 µs.
"""

from __future__ import annotations

import math
import re
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, ParseError, XMLParser  # no DTD or entity passes _verify_markup

from commands.core import bplist
from commands.core.plist_error import PlistError

__all__ = ["FOOTER", "HEADER", "MAX_DEPTH", "MAX_NODES", "PlistError", "read", "write"]

MAX_DEPTH = 32
MAX_NODES = 200_000
HEADER = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN"'
    b' "http://www.apple.com/DTDs/PropertyList-1.0.dtd">\n'
    b'<plist version="1.0">\n'
)
FOOTER = b"\n</plist>\n"

INT64 = range(-(2**63), 2**63)
UINT64_END = 2**64
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(2201, 1, 1, tzinfo=UTC)

_DECLARATION = re.compile(rb"""<\?xml\s[^>]*?encoding\s*=\s*["']([^"']*)["']""")
_DOCTYPE = re.compile(
    rb"""<!DOCTYPE\s+plist
         (\s+PUBLIC\s+"[^"<>\[\]%&]*"\s+"[^"<>\[\]%&]*" | \s+SYSTEM\s+"[^"<>\[\]%&]*")?\s*>""",
    re.VERBOSE,
)
_INTEGER = re.compile(r"\s*([+-]?[0-9]{1,40}|[+-]?0[xX][0-9a-fA-F]{1,32})\s*", re.ASCII)
_REAL = re.compile(
    r"\s*[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,5})?\s*", re.ASCII
)
_DATE = re.compile(r"\s*([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z\s*", re.ASCII)
# C0 but tab, line feed and carriage return; DEL; lone surrogates; the two non-characters that XML forbids.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def read(
    data: bytes,
    *,
    max_size: int,
    max_depth: int = MAX_DEPTH,
    max_nodes: int = MAX_NODES,
    binary: bool = False,
) -> dict[str, Any]:
    """Decode a property list whose top is a dictionary.

    Values are str, int, float, bool, bytes, aware datetime (UTC), list and dict. ``binary`` also takes binary
    property lists (what an administrator uploads; devices send XML). ``max_size`` in bytes.
    Raises :class:`PlistError`, and nothing else.
    """
    if len(data) > max_size:
        raise PlistError("larger than allowed")
    if data.startswith(b"bplist"):
        if not binary:
            raise PlistError("binary property list where XML is expected")
        value = bplist.read(data, max_depth=max_depth, max_nodes=max_nodes, verify=_verified_scalar)
        if not isinstance(value, dict):
            raise PlistError("the top is not a dictionary")
        return value
    _verify_markup(data, max_nodes)
    top = _parse(data)
    value = _dictionary(top, max_depth)
    if 2 * len(value) != len(top):
        raise PlistError("a key occurs twice")
    if b"&#" in data or b"\x7f" in data:
        _verify_strings(value)
    return value


def write(value: Any) -> bytes:
    """Encode a value as an XML property list.

    Takes what :func:`read` gives (tuples and any mapping too; naive datetimes are taken as UTC).
    Raises :class:`PlistError` for anything else: None, other classes, numbers out of range, keys that are not
    text, control characters, depth over 32.
    """
    parts: list[str] = []
    _write(value, parts, "", MAX_DEPTH)
    try:
        body = "\n".join(parts).encode()
    except UnicodeEncodeError:
        raise PlistError("a text holds a lone surrogate") from None
    return b"".join((HEADER, body, FOOTER))


# Reading


def _verify_markup(data: bytes, max_nodes: int) -> None:
    """Every check that bytes allow, before a parser sees them."""
    try:
        data.decode()
    except UnicodeDecodeError:
        raise PlistError("not UTF-8") from None
    if b"\0" in data:  # expat would take it for UTF-16
        raise PlistError("a control character")
    declared = _DECLARATION.match(data.removeprefix(b"\xef\xbb\xbf"))
    if declared and declared[1].lower() not in {b"utf-8", b"utf8", b"us-ascii"}:
        raise PlistError("declares an encoding other than UTF-8")
    if data.count(b"<") > 2 * max_nodes:
        raise PlistError("more nodes than allowed")
    _verify_declarations(data)


def _verify_declarations(data: bytes) -> None:
    """Of all that starts with ``<!`` only comments, CDATA and one plain DOCTYPE pass."""
    doctypes = 0
    at = data.find(b"<!")
    while at >= 0:
        if not data.startswith((b"<!--", b"<![CDATA["), at):
            doctypes += 1
            if doctypes > 1 or not _DOCTYPE.match(data, at):
                raise PlistError("a document type other than Apple's, or an entity")
        at = data.find(b"<!", at + 2)


def _parse(data: bytes) -> Element:
    """The element of the top dictionary."""
    parser = XMLParser(encoding="utf-8")  # noqa: S314 - see _verify_markup
    try:
        parser.feed(data)
        root = parser.close()
    except ParseError:
        raise PlistError("not well-formed XML") from None
    if root.tag != "plist" or len(root) != 1 or root[0].tag != "dict":
        raise PlistError("not a property list of one dictionary")
    return root[0]


def _dictionary(element: Element, depth: int) -> dict[str, Any]:
    if depth <= 0:
        raise PlistError("nested deeper than allowed")
    result: dict[str, Any] = {}
    children = iter(element)
    for key in children:
        child = next(children, None)
        if child is None or key.tag != "key" or len(key):
            raise PlistError("a dictionary is not made of keys and values")
        if child.tag == "string" and not len(child):
            result[key.text or ""] = child.text or ""
        else:
            result[key.text or ""] = _value(child, depth - 1)
    return result


def _value(element: Element, depth: int) -> Any:
    tag = element.tag
    if tag == "dict":
        return _dictionary(element, depth)
    if tag == "array":
        if depth <= 0:
            raise PlistError("nested deeper than allowed")
        return [_value(child, depth - 1) for child in element]
    if len(element):
        raise PlistError("an element where text is expected")
    scalar = _SCALARS.get(tag)
    if scalar is None:
        raise PlistError("an element that property lists do not have")
    return scalar(element.text or "")


def _text(text: str) -> str:
    return text


def _integer(text: str) -> int:
    match = _INTEGER.fullmatch(text)
    if not match:
        raise PlistError("an integer that is none, or too long")
    number = int(match[1], 16 if "x" in text or "X" in text else 10)
    if number not in INT64:
        raise PlistError("an integer beyond 64 bits")
    return number


def _real(text: str) -> float:
    if not _REAL.fullmatch(text):
        raise PlistError("a real number that is none")
    number = float(text)
    if not math.isfinite(number):
        raise PlistError("a real number that is not finite")
    return number


def _date(text: str) -> datetime:
    match = _DATE.fullmatch(text)
    try:
        moment = datetime(*map(int, match.groups()), tzinfo=UTC) if match else None  # type: ignore[misc,arg-type]
    except ValueError:
        moment = None
    if moment is None or not EARLIEST <= moment < END_OF_TIME:
        raise PlistError("a date that is none, or not between 1970 and 2200")
    return moment


def _data(text: str) -> bytes:
    """Base64. Padding may be missing or too long, as some devices send it."""
    digits = "".join(text.split()).rstrip("=")
    try:
        return a2b_base64(digits + "=" * (-len(digits) % 4), strict_mode=True)
    except (Base64Error, ValueError):
        raise PlistError("data that is not base64") from None


def _boolean(value: bool) -> Any:
    def decode(text: str) -> bool:
        if text.strip():
            raise PlistError("a boolean with text in it")
        return value

    return decode


_SCALARS: dict[str, Any] = {
    "string": _text,
    "integer": _integer,
    "real": _real,
    "date": _date,
    "data": _data,
    "true": _boolean(True),
    "false": _boolean(False),
}


def _verify_strings(value: Any) -> None:
    """Character references can name what the bytes may not hold."""
    if isinstance(value, str):
        if _FORBIDDEN.search(value):
            raise PlistError("a control character")
    elif isinstance(value, list):
        for item in value:
            _verify_strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _verify_strings(key)
            _verify_strings(item)


def _verified_scalar(value: Any) -> Any:
    """The same limits for the scalars of a binary property list."""
    if isinstance(value, str):
        _verify_strings(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PlistError("a real number that is not finite")
    elif isinstance(value, datetime) and not EARLIEST <= value < END_OF_TIME:
        raise PlistError("a date that is none, or not between 1970 and 2200")
    elif isinstance(value, int) and value not in INT64:
        raise PlistError("an integer beyond 64 bits")
    return value


# Writing


def _write(value: Any, parts: list[str], indent: str, depth: int) -> None:
    kind = type(value)
    if kind is str:
        parts.append(f"{indent}<string>{_escape(value)}</string>")
    elif kind is bool:
        parts.append(f"{indent}<true/>" if value else f"{indent}<false/>")
    elif kind is dict:
        _write_dictionary(value, parts, indent, depth)
    elif kind is list or kind is tuple:
        _write_array(value, parts, indent, depth)
    elif kind is int:
        if not INT64.start <= value < UINT64_END:
            raise PlistError("an integer beyond 64 bits")
        parts.append(f"{indent}<integer>{value}</integer>")
    else:
        _write_rare(value, parts, indent, depth)


def _write_rare(value: Any, parts: list[str], indent: str, depth: int) -> None:
    if isinstance(value, (bytes, bytearray, memoryview)):
        parts.append(f"{indent}<data>{b2a_base64(value, newline=False).decode()}</data>")
    elif isinstance(value, datetime):
        parts.append(f"{indent}<date>{_moment(value)}</date>")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PlistError("a real number that is not finite")
        parts.append(f"{indent}<real>{float(value)!r}</real>")
    elif isinstance(value, str):
        _write(str.__str__(value), parts, indent, depth)
    elif isinstance(value, int):
        _write(int(value), parts, indent, depth)
    elif isinstance(value, Mapping):
        _write_dictionary(value, parts, indent, depth)
    else:
        _refuse_type(value)


def _refuse_type(value: Any) -> NoReturn:
    raise PlistError(f"a {type(value).__name__} has no place in a property list")


def _write_dictionary(value: Mapping[Any, Any], parts: list[str], indent: str, depth: int) -> None:
    if depth <= 0:
        raise PlistError("nested deeper than allowed")
    if not value:
        parts.append(f"{indent}<dict/>")
        return
    inner = indent + "\t"
    parts.append(f"{indent}<dict>")
    for key, item in value.items():
        if not isinstance(key, str):
            raise PlistError("a key that is not text")
        parts.append(f"{inner}<key>{_escape(key)}</key>")
        _write(item, parts, inner, depth - 1)
    parts.append(f"{indent}</dict>")


def _write_array(value: list[Any] | tuple[Any, ...], parts: list[str], indent: str, depth: int) -> None:
    if depth <= 0:
        raise PlistError("nested deeper than allowed")
    if not value:
        parts.append(f"{indent}<array/>")
        return
    parts.append(f"{indent}<array>")
    for item in value:
        _write(item, parts, indent + "\t", depth - 1)
    parts.append(f"{indent}</array>")


def _escape(text: str) -> str:
    if _FORBIDDEN.search(text):
        raise PlistError("a control character")
    if "&" in text or "<" in text or ">" in text:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A parser turns a carriage return into a line feed unless it is named.
    return text.replace("\r", "&#13;") if "\r" in text else text


def _moment(value: datetime) -> str:
    moment = value.astimezone(UTC) if value.tzinfo else value
    # Not strftime: it does not fill years before 1000 to four digits.
    return moment.replace(tzinfo=None, microsecond=0).isoformat() + "Z"
