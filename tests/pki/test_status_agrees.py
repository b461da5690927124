"""``openssl crl`` and ``openssl ocsp`` say what the database says, of every certificate, across a re-key."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import time_machine
from django.utils import timezone

from pki import issuers, ocsp, rollover
from pki.core.certificates import encode_pem
from pki.models import (
    Certificate,
    CertificateStatus,
    Issuer,
    IssuerCertificate,
    IssuerCertificateKind,
    IssuerKey,
    RevocationReason,
)
from pki.revocation import revoke
from pki.subordinate import create_subordinate
from tests.pki.conftest import ACTOR, NOW, IssueCertificate, openssl
from tests.support.device_door import DeviceClient

pytestmark = pytest.mark.django_db

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


@dataclass(frozen=True)
class Openssl:
    """What openssl makes of our answers about what one key generation issued."""

    folder: Path
    issuer_key: IssuerKey

    @property
    def authority(self) -> Path:
        path = self.folder / "authority.pem"
        path.write_text(encode_pem(bytes(issuers.current_certificate(self.issuer_key).der)))
        return path

    def ocsp(self, serial_number: str) -> str:
        """``good``, ``revoked`` or ``unknown``; the signature is verified."""
        request, answer = self.folder / "request.der", self.folder / "answer.der"
        about = ("-issuer", self.authority, "-serial", f"0x{serial_number}")
        openssl("ocsp", "-sha256", *about, "-reqout", request)
        slug = self.issuer_key.issuer.slug
        answer.write_bytes(DeviceClient().post(f"/pki/{slug}/ocsp", request.read_bytes()).body)
        said = openssl(
            *("ocsp", "-reqin", request, "-respin", answer, "-resp_text", "-issuer", self.authority),
            *("-CAfile", self.authority, "-partial_chain"),
            *("-attime", str(int(timezone.now().timestamp()))),
        )
        (status,) = re.findall(r"Cert Status: (\w+)", said.decode())
        return str(status)

    def crl(self) -> tuple[int, set[str]]:
        """The number of the list, and the serial numbers on it; the signature is verified."""
        path = f"/pki/{self.issuer_key.issuer.slug}/{self.issuer_key.generation}.crl"
        verified = subprocess.run(
            ["openssl", "crl", "-inform", "DER", "-noout", "-text", "-CAfile", str(self.authority)],
            input=DeviceClient().get(path).body,
            capture_output=True,
            check=True,
        )
        assert b"verify OK" in verified.stderr
        text = verified.stdout.decode()
        (number,) = re.findall(r"X509v3 CRL Number: \s*(\w+)", text)
        return int(number, 0), set(re.findall(r"Serial Number: (\w+)", text))


def expected(issuer_key: IssuerKey) -> dict[str, str]:
    """What the database says of everything that a key has signed, by serial number."""
    said = {
        row.serial_number: "revoked" if row.status == CertificateStatus.REVOKED else "good"
        for row in Certificate.objects.filter(issuer_key=issuer_key)
    }
    own = IssuerCertificate.objects.filter(
        issuer_key=issuer_key, signed_by=None, kind=IssuerCertificateKind.SELF_SIGNED
    )
    for row in own | IssuerCertificate.objects.filter(signed_by=issuer_key):
        said[row.serial_number] = "revoked" if row.revoked_at else "good"
    return said


def agrees(issuer: Issuer, folder: Path) -> dict[int, dict[str, str]]:
    """Ask about everything, by both ways; returns what was said, by generation."""
    # A process knows of a new key after five seconds, and of what became of certificates at once.
    ocsp.forget()
    everywhere = {}
    for issuer_key in issuers.keys_of(issuer):
        asked = Openssl(folder, issuer_key)
        wanted = expected(issuer_key)
        assert {number: asked.ocsp(number) for number in wanted} == wanted
        number, listed = asked.crl()
        assert listed == {number for number, standing in wanted.items() if standing == "revoked"}
        assert number == IssuerKey.objects.get(pk=issuer_key.pk).crl_number
        everywhere[issuer_key.generation] = wanted
    for issuer_key in issuers.keys_of(issuer):
        # What the other generations issued, and what nobody did, is unknown to this one.
        for generation, wanted in everywhere.items():
            if generation != issuer_key.generation:
                assert {Openssl(folder, issuer_key).ocsp(number) for number in wanted} <= {"unknown"}
        assert Openssl(folder, issuer_key).ocsp("0123456789ABCDEF") == "unknown"
    return everywhere


def test_across_a_re_key(
    issuer: Issuer, issue_certificate: IssueCertificate, clock: time_machine.Traveller, tmp_path: Path
) -> None:
    good, bad, later = (issue_certificate(name) for name in ("good", "bad", "later"))
    below = create_subordinate("below", "Below", parent=issuer, algorithm="EC-P256", actor=ACTOR, now=NOW)
    revoke(bad, reason=RevocationReason.KEY_COMPROMISE, actor=ACTOR, now=timezone.now())
    before = agrees(issuer, tmp_path)
    assert set(before) == {1}

    # A next key exists: it answers, and the links that both have signed are known.
    clock.shift(HOUR)
    rollover.rekey(issuer, actor=ACTOR, now=timezone.now())
    assert set(agrees(issuer, tmp_path)) == {1, 2}

    # It takes over. The one before goes on: its number rises, and what is revoked now gets onto its list.
    clock.shift(HOUR)
    rollover.activate(issuer, actor=ACTOR, now=timezone.now())
    new, new_bad = (issue_certificate(name, now=timezone.now()) for name in ("new", "new bad"))
    for row in (later, new_bad):
        revoke(row, reason=RevocationReason.SUPERSEDED, actor=ACTOR, now=timezone.now())
    said = agrees(issuer, tmp_path)
    assert said[1][later.serial_number] == said[2][new_bad.serial_number] == "revoked"
    assert said[1][good.serial_number] == said[2][new.serial_number] == "good"

    # The old one is closed: the links to it, and the CA below, are revoked where they were signed.
    clock.shift(HOUR)
    old = IssuerKey.objects.get(issuer=issuer, generation=1)
    rollover.close(old, actor=ACTOR, now=timezone.now(), force=True)
    said = agrees(issuer, tmp_path)
    assert "revoked" in {
        said[2][row.serial_number] for row in old.certificates.filter(signed_by__generation=2)
    }

    # A renewal with the same key changes nothing of what was said.
    clock.shift(HOUR)
    rollover.renew(issuer, years=20, actor=ACTOR, now=timezone.now())
    after = agrees(issuer, tmp_path)
    assert all(after[generation].items() >= said[generation].items() for generation in said)
    agrees(below, tmp_path)
