"""The management commands: what the admin does, for scripts."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from django.core.management import CommandError, call_command
from django.utils import timezone

from audit.models import AuditEvent
from pki import issuers
from pki.core.certificates import build_root, encode_pem
from pki.models import Certificate, Issuer, Purpose
from pki.records import common_name, grouped, normal_hexadecimal
from tests.pki.conftest import IssueCertificate, Party
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def data(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json"))


def refused(*arguments: str) -> str:
    with no_change(), pytest.raises(CommandError) as error:
        run(*arguments)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_issuers() -> None:
    made = data("issuer", "create", "second", "--name", "Second CA", "--algorithm", "EC-P256", "--years", "3")
    assert (made["slug"], made["subject"], made["algorithm"]) == ("second", "CN=Second CA", "EC-P256")
    assert data("issuer", "list") == [made]
    assert run("issuer", "list").startswith("second  ROOT  ACTIVE  CN=Second CA")
    assert AuditEvent.objects.get(action="issuer.created").actor == "command line"
    assert "already" in refused("issuer", "create", "second", "--algorithm", "EC-P256")
    assert refused("issuer", "create", "a b", "--algorithm", "EC-P256")


def test_export(issuer: Issuer, tmp_path: Path) -> None:
    der = issuers.chain(issuer)[0]
    assert run("issuer", "export", "bramley") == encode_pem(der)
    assert data("issuer", "export", "bramley", "--chain")["pem"] == encode_pem(der)
    run("issuer", "export", "bramley", "--der", "--out", str(tmp_path / "ca.cer"))
    assert (tmp_path / "ca.cer").read_bytes() == der
    assert "PRIVATE" not in run("issuer", "export", "bramley", "--chain")
    assert "no issuer" in refused("issuer", "export", "nobody")
    assert "leave out" in refused("issuer", "export", "bramley", "--der", "--chain")
    assert refused("issuer", "export", "bramley", "--out", str(tmp_path / "no" / "file"))


def test_listing_certificates(issue_certificate: IssueCertificate) -> None:
    device, signer = issue_certificate("device"), issue_certificate("s", purpose=Purpose.PROFILE_SIGNING)
    rows = data("certificate", "list")
    assert [row["serial_number"] for row in rows] == [signer.serial_number, device.serial_number]
    assert rows[1] == {
        "serial_number": device.serial_number,
        "subject": "CN=device",
        "issuer": "bramley",
        "purpose": "MDM_IDENTITY",
        "not_before": device.not_before.isoformat(),
        "not_after": device.not_after.isoformat(),
        "status": "ISSUED",
    }
    assert len(data("certificate", "list", "--purpose", "MDM_IDENTITY")) == 1
    assert len(data("certificate", "list", "--status", "REVOKED")) == 0
    assert len(data("certificate", "list", "--issuer", "nobody")) == 0
    assert device.serial_number in run("certificate", "list")


def test_listing_what_expires(issue_certificate: IssueCertificate) -> None:
    issue_certificate()
    Certificate.objects.update(not_after=timezone.now() + timedelta(days=10))
    assert len(data("certificate", "list", "--expiring", "11")) == 1
    assert len(data("certificate", "list", "--expiring", "9")) == 0


def test_showing_and_revoking(issue_certificate: IssueCertificate) -> None:
    certificate = issue_certificate()
    other = issue_certificate("other")
    shown = run("certificate", "show", certificate.serial_number)
    assert shown.index("subject: CN=device") < shown.index("-----BEGIN CERTIFICATE-----")
    loaded = x509.load_pem_x509_certificate(shown[shown.index("-----BEGIN") :].encode())
    assert loaded.serial_number == int(certificate.serial_number, 16)
    for way in (grouped(certificate.serial_number).lower(), certificate.sha256, grouped(certificate.sha256)):
        assert data("certificate", "show", way)["sha256"] == certificate.sha256
    run("certificate", "revoke", certificate.serial_number, "--reason", "keyCompromise")
    assert data("certificate", "show", certificate.serial_number)["revocation_reason"] == "keyCompromise"
    assert "already" in refused("certificate", "revoke", certificate.serial_number)
    assert data("certificate", "revoke", other.serial_number)["status"] == "REVOKED"
    assert "no certificate" in refused("certificate", "show", "0102")
    assert "not hexadecimal" in refused("certificate", "show", "xyz")
    assert "not hexadecimal" in refused("certificate", "show", "")


def test_one_serial_number_of_two_issuers(issue_certificate: IssueCertificate, issuer: Issuer) -> None:
    certificate = issue_certificate()
    twin = Certificate.objects.get(pk=certificate.pk)
    twin.pk, twin.sha256, twin.foreign = None, "0" * 64, True
    twin.save()
    assert "several issuers" in refused("certificate", "show", certificate.serial_number)
    assert data("certificate", "show", certificate.sha256)["sha256"] == certificate.sha256


def test_trusting(tmp_path: Path, rsa_party: Party, ec_party: Party) -> None:
    now = timezone.now()
    root = build_root(
        (("CN", "Old"),),
        private_key=rsa_party.key,
        serial_number=1,
        not_before=now - timedelta(days=1),
        not_after=now + timedelta(days=10),
    )
    file = tmp_path / "ca.pem"
    file.write_text(encode_pem(root))
    assert data("trust_issuer", str(file), "--purpose", "mdm_identity") == {
        "slug": "old",
        "name": "Old",
        "trusted_for": ["MDM_IDENTITY"],
    }
    assert "OTA_IDENTITY" in run("trust_issuer", str(file), "--purpose", "ota_identity")
    file.write_text(encode_pem(ec_party.certificate))
    assert "not a CA" in refused("trust_issuer", str(file), "--purpose", "mdm_identity")
    assert "No such file" in refused("trust_issuer", str(tmp_path / "none"), "--purpose", "mdm_identity")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("0a:1b:2c", "0A1B2C"),
        ("a1", "A1"),
        ("abc", "0ABC"),
        ("0x0abc", "0ABC"),
        ("00:ab", "AB"),
        ("0", "00"),
        (" 0A 1B ", "0A1B"),
        ("a" * 64, "A" * 64),
        ("0" + "a" * 63, "0" + "A" * 63),
        ("", ""),
        ("xyz", ""),
        (":", ""),
    ],
)
def test_hexadecimal_as_people_write_it(text: str, normal: str) -> None:
    assert normal_hexadecimal(text) == normal


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        ("CN=device", "device"),
        ("O=Orchard,CN=device", "device"),
        (r"O=a\,CN=b,CN=Anna\, iPad", "Anna, iPad"),
        (r"CN=a\+CN\=b+O=c", "a+CN=b"),
        ("serialNumber=1", ""),
        (r"CN=a\0Ab", r"a\0Ab"),
        (r"CN=\#x\ ", "#x "),
        ("", ""),
    ],
)
def test_common_names_out_of_the_text_of_a_name(subject: str, name: str) -> None:
    assert common_name(subject) == name
