"""Encrypting the payloads of a profile to the device that it is for.

The payloads become a property list of their own, in CMS EnvelopedData to a certificate whose key only the
device has; the rest of the profile stays readable. Whoever signs does so afterwards, over the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from commands.core import plist
from pki.core import cms

CIPHERS = ("aes128_cbc", "aes256_cbc", "des_ede3_cbc")


class NotEncryptable(Exception):
    """The recipient cannot get anything encrypted; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def encrypt_payloads(
    profile: Mapping[str, Any], *, recipient: bytes, cipher: str, random: Callable[[int], bytes]
) -> dict[str, Any]:
    """The profile with EncryptedPayloadContent in place of its PayloadContent.

    ``recipient``: DER of the certificate to encrypt to; its key must be RSA (an elliptic one agrees on keys
    and cannot transport them). ``cipher``: one of :data:`CIPHERS`. ``random`` gives that many random bytes.
    Raises :class:`NotEncryptable`.
    """
    rest = {key: value for key, value in profile.items() if key != "PayloadContent"}
    try:
        encrypted = cms.encrypt(
            plist.write(profile["PayloadContent"]), recipient=recipient, cipher=cipher, random=random
        )
    except cms.CmsError as error:
        raise NotEncryptable(error.reason) from error
    return {**rest, "IsEncrypted": True, "EncryptedPayloadContent": encrypted}
