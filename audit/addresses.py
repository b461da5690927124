"""Who counts as one, where requests are limited by address."""

from __future__ import annotations

import ipaddress


def household(remote_addr: str) -> str:
    """One household has one IPv4 address, or 2**64 of IPv6; ``unknown`` for what is no address."""
    try:
        address = ipaddress.ip_address(remote_addr)
    except ValueError:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    return str(address)
