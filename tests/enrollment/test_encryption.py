"""Payloads encrypted to one device: openssl opens them with its key, and nobody else does (threats F2)."""

from __future__ import annotations

import plistlib
import secrets
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from enrollment.core.encryption import CIPHERS, NotEncryptable, encrypt_payloads
from enrollment.models import PayloadCipher
from pki.core import cms
from pki.core.certificates import encode_pem
from tests.enrollment.device_cas import authority, rsa_key

PROFILE = {
    "PayloadType": "Configuration",
    "PayloadDisplayName": "Acme",
    "PayloadContent": [{"PayloadType": "com.apple.mdm", "Topic": "com.apple.mgmt.CANARY"}],
}


def encrypted(key: Any, cipher: str = "aes128_cbc", profile: dict[str, Any] = PROFILE) -> dict[str, Any]:
    return encrypt_payloads(
        profile, recipient=authority().issue(key), cipher=cipher, random=secrets.token_bytes
    )


@pytest.mark.parametrize("cipher", CIPHERS)
def test_openssl_decrypts_with_the_key_of_the_device(cipher: str, tmp_path: Path) -> None:
    key = rsa_key("device")
    made = encrypted(key, cipher)
    assert made["IsEncrypted"] is True
    assert "PayloadContent" not in made
    assert made["PayloadDisplayName"] == "Acme"
    certificate_file, key_file = tmp_path / "device.pem", tmp_path / "device.key"
    certificate_file.write_text(encode_pem(authority().issue(key)))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    command = ["openssl", "cms", "-decrypt", "-inform", "DER", "-binary"]
    command += ["-recip", str(certificate_file), "-inkey", str(key_file)]
    done = subprocess.run(command, input=made["EncryptedPayloadContent"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert plistlib.loads(done.stdout) == PROFILE["PayloadContent"]


@pytest.mark.parametrize("cipher", CIPHERS)
def test_another_device_reads_nothing(cipher: str) -> None:
    made = encrypted(rsa_key("device"), cipher)
    assert b"CANARY" not in plistlib.dumps(made)
    other = rsa_key("other device")
    for recipient in (authority().issue(other), authority().issue(rsa_key("device"))):
        with pytest.raises(cms.DecryptionFailed):
            cms.decrypt(
                made["EncryptedPayloadContent"],
                recipient=recipient,
                private_key=other,
                random=secrets.token_bytes,
            )


def test_the_profile_given_is_left_as_it_is() -> None:
    before = dict(PROFILE)
    encrypted(rsa_key("device"))
    assert before == PROFILE


def test_an_elliptic_key_cannot_get_anything_encrypted() -> None:
    with pytest.raises(NotEncryptable, match="not an RSA key"):
        encrypted(ec.generate_private_key(ec.SECP256R1()))


def test_a_certificate_that_is_none_is_refused() -> None:
    with pytest.raises(NotEncryptable):
        encrypt_payloads(PROFILE, recipient=b"0\x00", cipher="aes128_cbc", random=secrets.token_bytes)


def test_the_model_offers_the_same_ciphers() -> None:
    assert set(CIPHERS) == set(PayloadCipher.values)


_KEYS = st.text("abcXYZ<>&é ", min_size=1, max_size=9)


@settings(max_examples=20)
@given(st.lists(st.dictionaries(_KEYS, st.binary(max_size=50), max_size=3), max_size=3))
def test_whatever_is_in_it_comes_out_again(content: list[dict[str, bytes]]) -> None:
    key = rsa_key("device")
    made = encrypted(key, profile={"PayloadContent": content})
    opened = cms.decrypt(
        made["EncryptedPayloadContent"],
        recipient=authority().issue(key),
        private_key=key,
        random=secrets.token_bytes,
    )
    assert plistlib.loads(opened.content) == content
