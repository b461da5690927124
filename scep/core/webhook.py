"""The question to another system about a challenge, its signature, and the answer.

Signed as https://www.standardwebhooks.com says: ``webhook-id``, ``webhook-timestamp`` and
``webhook-signature`` (HMAC-SHA256 of "id.timestamp.body" with the secret behind ``whsec_``).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pki.core.names import Name, NameRefused, encode_alternative_names, encode_name

MAX_ANSWER = 64 * 1024
MAX_DAYS = 3650
SECRET_PREFIX = "whsec_"  # noqa: S105

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
San = tuple[tuple[str, str], ...]


class AddressRefused(ValueError):
    """An address that is not called; the text says why."""


class AnswerRefused(ValueError):
    """An answer that is no permission; the text says why."""


@dataclass(frozen=True)
class Question:
    """A first request with a challenge that somebody else made.

    ``subject`` and ``san``: what the certificate will hold if the answer says nothing of them.
    """

    service: str
    challenge: str = field(repr=False)
    transaction_id: str
    csr: bytes = field(repr=False)
    subject: Name
    san: San
    remote_addr: str


@dataclass(frozen=True)
class Permission:
    """The other system agrees, to exactly this."""

    subject: Name
    san: San
    validity_days: int | None


@dataclass(frozen=True)
class Target:
    """Where a webhook goes: the parts of its address."""

    scheme: str
    host: str
    port: int
    path: str


def encode_question(question: Question) -> bytes:
    """The JSON body."""
    return json.dumps(
        {
            "service": question.service,
            "challenge": question.challenge,
            "transaction_id": question.transaction_id,
            "csr": base64.b64encode(question.csr).decode("ascii"),
            "subject": [list(pair) for pair in question.subject],
            "san": [list(pair) for pair in question.san],
            "remote_addr": question.remote_addr,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def sign(body: bytes, *, secret: str, identifier: str, timestamp: int) -> dict[str, str]:
    """The three headers. ``secret``: as the receiver has it, with or without ``whsec_``."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = b".".join((identifier.encode("ascii"), str(timestamp).encode("ascii"), body))
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii")
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def encode_secret(key: bytes) -> str:
    """A secret as the receiver has to configure it."""
    return SECRET_PREFIX + base64.b64encode(key).decode("ascii")


def decode_answer(body: bytes, question: Question) -> Permission:
    """``{"allow": true, "subject"?, "san"?, "validity_days"?}``; anything else is no.

    Raises :class:`AnswerRefused`.
    """
    answer = _read(body)
    if answer.get("allow") is not True:
        raise AnswerRefused("the webhook said no")
    subject = _pairs(answer, "subject", question.subject)
    san = _pairs(answer, "san", question.san)
    try:
        encode_name(subject)
        encode_alternative_names(san)
    except NameRefused as refused:
        raise AnswerRefused(f"the webhook's answer: {refused.reason}") from None
    if not subject and not san:
        raise AnswerRefused("the webhook's answer: the certificate would name nobody")
    return Permission(subject, san, _days(answer))


def _read(body: bytes) -> Mapping[str, Any]:
    if len(body) > MAX_ANSWER:
        raise AnswerRefused("the webhook's answer is too large")
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise AnswerRefused("the webhook's answer is not JSON") from None
    if not isinstance(answer, dict):
        raise AnswerRefused("the webhook's answer is not an object")
    return answer


def _pairs(answer: Mapping[str, Any], name: str, otherwise: San) -> San:
    value = answer.get(name)
    if value is None:
        return otherwise
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)
        for pair in value
    ):
        raise AnswerRefused(f"the webhook's answer: {name} is not a list of pairs")
    return tuple((first, second) for first, second in value)


def _days(answer: Mapping[str, Any]) -> int | None:
    value = answer.get("validity_days")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_DAYS:
        raise AnswerRefused(f"the webhook's answer: validity_days is not a number from 1 to {MAX_DAYS}")
    return value


# --- where it may go (threats I1) --------------------------------------------------------------------------


def decode_address(url: str) -> Target:
    """The parts of a webhook's address: https, or http to this machine. Raises :class:`AddressRefused`."""
    if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise AddressRefused("the address holds characters that it may not hold")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise AddressRefused("that is not an address") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise AddressRefused("the address has to start with https://")
    if parts.username is not None or parts.password is not None:
        raise AddressRefused("the address holds a user name or password")
    if parts.fragment:
        raise AddressRefused("the address holds a fragment (#)")
    if parts.scheme == "http" and not _is_loopback(host):
        raise AddressRefused("without https only this machine itself can be asked")
    path = parts.path or "/"
    return Target(
        parts.scheme,
        host,
        port or (443 if parts.scheme == "https" else 80),
        f"{path}?{parts.query}" if parts.query else path,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def verify_reachable(addresses: Collection[str], *, allowed: Collection[Network]) -> str:
    """The address to connect to, of those that a name resolves to.

    Every one of them has to be in the public Internet or in ``allowed``: else the name points inside, or
    its answers mix. Raises :class:`AddressRefused`.
    """
    if not addresses:
        raise AddressRefused("the name has no address")
    for text in addresses:
        address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        if not _is_public(address) and not any(
            address in network for network in allowed if network.version == address.version
        ):
            raise AddressRefused(f"{address} is not in the public Internet and not allowed by the operator")
    return next(iter(addresses))


def _plain(address: Address) -> Address:
    """The IPv4 address inside an IPv6 address, where there is one: it is what is reached."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address.teredo is not None:
            return address.teredo[1]
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def _is_public(address: Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved
