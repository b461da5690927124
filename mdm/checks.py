"""System checks: settings with which devices could be impersonated, or could not be known at all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning

from mdm import proxies
from mdm.authentication import PROOFS, required_proof


def check_device_authentication(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """How devices prove who they are: the proof is known, it can arrive, and nobody else can bring it."""
    return [*_of_proxies(), *_of_the_header(), *_of_the_proof()]


def _of_proxies() -> Iterator[CheckMessage]:
    try:
        proxies.networks(tuple(settings.BRAMLEY_TRUSTED_PROXIES))
    except ValueError as error:
        yield Error(
            f"BRAMLEY_TRUSTED_PROXIES: {error}.",
            hint="Addresses or networks like 10.0.0.0/8, separated by commas.",
            id="mdm.E002",
        )


def _of_the_header() -> Iterator[CheckMessage]:
    """Whoever may set the header can be any device: only proxies that are named may."""
    header = settings.BRAMLEY_CLIENT_CERT_HEADER
    if header and not settings.BRAMLEY_TRUSTED_PROXIES:
        yield Error(
            "BRAMLEY_CLIENT_CERT_HEADER is set, but BRAMLEY_TRUSTED_PROXIES names no proxy.",
            hint="Name the addresses of the proxies that end TLS, or unset the header.",
            id="mdm.E001",
        )
    if "_" in header:
        yield Error(
            "BRAMLEY_CLIENT_CERT_HEADER has an underscore.",
            hint="Servers cannot tell X_Name from X-Name: use a name with hyphens.",
            id="mdm.E003",
        )


def _of_the_proof() -> Iterator[CheckMessage]:
    proof, header = required_proof(), settings.BRAMLEY_CLIENT_CERT_HEADER
    if proof not in PROOFS:
        yield Error(
            f"BRAMLEY_DEVICE_AUTH is {proof!r}.", hint=f"It is one of {', '.join(PROOFS)}.", id="mdm.E004"
        )
    elif proof == "signature":
        if header:
            yield Error(
                "BRAMLEY_CLIENT_CERT_HEADER is set, but BRAMLEY_DEVICE_AUTH=signature leaves it unread.",
                hint="Unset one of them.",
                id="mdm.E006",
            )
    elif not header and not settings.BRAMLEY_TLS:
        yield Error(
            f"BRAMLEY_DEVICE_AUTH is {proof}, but no certificate of a device can arrive.",
            hint="Start with --tls, or name the header of the proxy in BRAMLEY_CLIENT_CERT_HEADER.",
            id="mdm.E005",
        )
    elif not header and settings.BRAMLEY_MDM_PORT is None:
        yield Warning(
            "Client certificates are asked for at every address, that of SCEP included.",
            hint="Macs are known to fail there; --mdm-port gives the addresses of managed devices a port.",
            id="mdm.W001",
        )
