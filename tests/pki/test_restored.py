"""A backup is restored elsewhere: with the sealing key everything goes on, without it nothing opens."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_django import Settings

from pki import issuers, keys, revocation, signing
from pki.core.certificates import load_certificate, public_key_of
from pki.core.path import verify_issued_by
from pki.issuance import Grant, issue
from pki.models import Certificate, Issuer, Purpose
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, spki
from tests.support.snapshot import no_change
from vault.core.keys import Keys
from vault.rotation import new_key, write_keys
from vault.sealed import SealError

pytestmark = pytest.mark.django_db


@pytest.fixture
def sealing_key(tmp_path: Path, settings: Settings) -> Path:
    """The file of the server that is backed up, in use."""
    path = tmp_path / "encryption.keys"
    path.touch(mode=0o600)
    write_keys(path, Keys((new_key(),)))
    settings.BRAMLEY_ENCRYPTION_KEYS = path
    return path


def elsewhere() -> None:
    """Another machine: its processes remember no opened key."""
    for remembered in vars(keys).values():
        if hasattr(remembered, "cache_clear"):
            remembered.cache_clear()


def test_a_restored_ca_issues_on(
    sealing_key: Path,
    tmp_path: Path,
    settings: Settings,
    issuer: Issuer,
    ec_key: ec.EllipticCurvePrivateKey,
) -> None:
    before = signing.profile_signer(issuer, NOW)
    number = issuers.current_key(issuer).crl_number
    restored = tmp_path / "restored.keys"
    shutil.copy(sealing_key, restored)
    sealing_key.unlink()
    settings.BRAMLEY_ENCRYPTION_KEYS = restored
    elsewhere()
    granted = Grant(issuer, Purpose.MDM_IDENTITY, (("CN", "device"),), reason="test")
    certificate = issue(granted, spki(ec_key), actor=ACTOR, now=NOW)
    verify_issued_by(bytes(certificate.der), issuers.chain(issuer)[0])
    assert signing.profile_signer(issuer, NOW) == before
    opened = keys.held_private_key(before).public_key()
    assert opened == public_key_of(load_certificate(bytes(before.certificate.der)))
    assert revocation.publish_crl(issuers.current_key(issuer), NOW).number == number + 1


def test_without_its_sealing_key_nothing_opens(
    sealing_key: Path,
    tmp_path: Path,
    settings: Settings,
    issuer: Issuer,
    issue_certificate: IssueCertificate,
) -> None:
    held = signing.profile_signer(issuer, NOW)
    other = tmp_path / "other.keys"
    other.touch(mode=0o600)
    write_keys(other, Keys((new_key(),)))
    settings.BRAMLEY_ENCRYPTION_KEYS = other
    elsewhere()
    count = Certificate.objects.count()
    with no_change():
        with pytest.raises(SealError):
            issue_certificate("device")
        with pytest.raises(SealError):
            keys.held_private_key(held)
        with pytest.raises(SealError):
            keys.issuer_private_key(issuers.current_key(issuer))
    assert Certificate.objects.count() == count
