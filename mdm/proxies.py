"""Which peers may pass on client certificates: ``BRAMLEY_TRUSTED_PROXIES``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

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
