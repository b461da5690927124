"""Whom a device believes over https, and what it shows of itself there."""

from __future__ import annotations

import ssl
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki.core.certificates import encode_pem
from scep.core.message import Identity
from simulator.device import SimulatedDevice


@dataclass(frozen=True)
class Trust:
    """What a device believes before it has a profile: the system's roots, or those of the PEM file ``ca``.

    ``more``: further ones as PEM. The roots of its profile come on top once it is installed; with
    ``profile_only`` they are then the only ones. ``insecure``: the certificate of the server is not verified
    (with ``profile_only``: before there is a profile, like a person who goes on in spite of the warning).
    """

    ca: Path | None = None
    insecure: bool = False
    profile_only: bool = False
    more: str = ""

    def context(
        self,
        anchors: tuple[bytes, ...] = (),
        identity: Identity | None = None,
        pinned: tuple[bytes, ...] = (),
    ) -> ssl.SSLContext:
        """For a connection of a device with these roots (DER) from its profile, which shows ``identity``.

        ``pinned``: then nothing but these counts, whatever else is said here.

        Raises ``OSError`` where ``ca`` cannot be read.
        """
        trust = Trust(profile_only=True) if pinned else self
        if identity is None:
            return _shared(trust, pinned or anchors)
        context = _make(trust, pinned or anchors)
        show(context, identity)
        return context


@lru_cache(maxsize=64)
def _shared(trust: Trust, anchors: tuple[bytes, ...]) -> ssl.SSLContext:
    return _make(trust, anchors)


def _make(trust: Trust, anchors: tuple[bytes, ...]) -> ssl.SSLContext:
    if trust.profile_only and anchors:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    else:
        context = ssl.create_default_context(cafile=str(trust.ca) if trust.ca else None)
        if trust.more:
            context.load_verify_locations(cadata=trust.more)
        if trust.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    if anchors:
        context.load_verify_locations(cadata=b"".join(anchors))
    return context


def show(context: ssl.SSLContext, identity: Identity) -> None:
    """Let ``context`` present the identity where a server asks for a client certificate."""
    key = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.NamedTemporaryFile(prefix="device-") as file:
        file.write(key + encode_pem(identity.certificate).encode())
        file.flush()
        context.load_cert_chain(file.name)


class DeviceTls:
    """The contexts of one device's conversation, by the address that it goes to."""

    def __init__(self, trust: Trust, device: SimulatedDevice) -> None:
        self._trust = trust
        self._device = device
        self._made: dict[tuple[tuple[bytes, ...], bytes, tuple[bytes, ...]], ssl.SSLContext] = {}

    def __call__(self, url: str) -> ssl.SSLContext:
        """The same context again as long as nothing changed: then the connection can be kept."""
        identity = self._device.shown_to(url)
        pinned = self._device.pinned_at(url)
        key = (self._device.anchors, identity.certificate if identity else b"", pinned)
        if key not in self._made:
            self._made[key] = self._trust.context(self._device.anchors, identity, pinned)
        return self._made[key]
