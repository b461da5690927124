"""Which peers may pass on client certificates, and what the web server tells beside the headers.

``BRAMLEY_TRUSTED_PROXIES`` names the peers. The keys of the request's META cannot come from a header: those
begin with ``HTTP_``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

CLIENT_CERTIFICATE = "bramley.client_certificate"
"""DER of the certificate that the client proved to hold in TLS that this server itself ends, or ``None``."""
HEADERS_TOLD_APART = "bramley.headers_told_apart"
"""Whether the web server knows ``X_Name`` from ``X-Name``. WSGI has one name for both."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_trusted(peer: str, proxies: Iterable[str]) -> bool:
    """Whether ``peer``, the address at the other end of the connection, is among ``proxies``.

    ``proxies`` are addresses or networks in CIDR notation. What headers say about addresses never counts.
    """
    return _within(peer, tuple(proxies))


@lru_cache(maxsize=1024)
def _within(peer: str, proxies: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks(proxies))


@lru_cache(maxsize=8)
def networks(proxies: tuple[str, ...]) -> tuple[Network, ...]:
    """The networks that the texts name. Raises ``ValueError`` for a text that names none."""
    return tuple(ipaddress.ip_network(text, strict=False) for text in proxies)
