"""RSA keys of simulated devices, and a folder that keeps them for the next run."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

BITS = 2048


def new_key() -> RSAPrivateKey:
    """A key as a device makes it. Takes 30 to 200 ms of one core, without holding up other threads."""
    return rsa.generate_private_key(public_exponent=65537, key_size=BITS)


def kept_key(folder: Path | None, number: int, kind: str = "key") -> RSAPrivateKey:
    """Key ``number`` of the folder, made on first use; a new one where there is no folder.

    ``kind``: which of a device's keys.
    """
    if folder is None:
        return new_key()
    path = folder / f"{kind}-{number:05}.pem"
    if path.exists():
        return key_from_pem(path.read_text())
    key = new_key()
    write_private(path, key_to_pem(key))
    return key


def key_to_pem(key: RSAPrivateKey) -> str:
    """PKCS #8, without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def key_from_pem(text: str) -> RSAPrivateKey:
    """The key in a PEM text. Raises ValueError where it is not an RSA key."""
    key = load_pem_private_key(text.encode("ascii"), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an RSA key")
    return key


def write_private(path: Path, text: str) -> None:
    """Write a whole file at once, readable for its owner only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    aside.replace(path)
