"""Whose request it is: the address behind a proxy, and who counts as one where limits are by address."""

from __future__ import annotations

import ipaddress

from django.http import HttpRequest

# Where the threshold (mdm_project.threshold) leaves the address of the client behind a trusted proxy.
CLIENT_ADDRESS = "bramley.client_address"


def client_address(request: HttpRequest) -> str:
    """Who asks: the client itself, also where a trusted proxy stands between. Empty where it is not known."""
    address: str = request.META.get(CLIENT_ADDRESS) or request.META.get("REMOTE_ADDR", "")
    return address


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
