"""Which operating system a product runs, from Apple's product identifiers (``iPhone14,2``)."""

from __future__ import annotations

_BY_PREFIX = (
    ("iPhone", "iOS"),
    ("iPod", "iOS"),
    ("iPad", "iPadOS"),
    ("AppleTV", "tvOS"),
    ("AudioAccessory", "tvOS"),  # HomePod: Apple's schema lists it under tvOS
    ("RealityDevice", "visionOS"),
    ("Watch", "watchOS"),
    ("Mac", "macOS"),
    ("iMac", "macOS"),
    ("Xserve", "macOS"),
    ("VirtualMac", "macOS"),
    ("VMware", "macOS"),  # virtual Macs report the name of the hypervisor
    ("Parallels", "macOS"),
)


def platform_of(product_name: str) -> str:
    """Return the platform (``iOS``, ``macOS``, …) of an Apple product identifier, or ``""`` when unknown."""
    for prefix, platform in _BY_PREFIX:
        if product_name.startswith(prefix):
            return platform
    return ""
