"""``manage.py issuer``: the life of a CA for scripts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django.utils import timezone

from pki import issuers
from pki.core.certificates import encode_pem
from pki.models import Issuer, IssuerState
from tests.pki.external_ca import YEAR, ExternalCa
from tests.pki.test_commands import data, refused, run

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


@pytest.fixture
def made() -> Issuer:
    data("issuer", "create", "acme", "--name", "Acme CA", "--algorithm", "RSA-2048", "--years", "3")
    return Issuer.objects.get()


def test_renew(made: Issuer) -> None:
    before = data("issuer", "list")[0]
    after = data("issuer", "renew", "acme", "--years", "5")
    assert after["subject"] == before["subject"]
    assert after["not_after"] > before["not_after"]
    assert after["serial_number"] != before["serial_number"]
    assert "ends later" in refused("issuer", "renew", "acme", "--years", "1")
    assert "no issuer" in refused("issuer", "renew", "nobody")


def test_rekey_activate_and_close(made: Issuer) -> None:
    told = data("issuer", "rekey", "acme", "--at", "2099-01-31T06:00+00:00")
    assert [(key["generation"], key["state"]) for key in told["generations"]] == [
        (2, "NEXT"),
        (1, "CURRENT"),
    ]
    assert told["made"]["activate_at"] == "2099-01-31T06:00:00+00:00"
    assert "next key already" in refused("issuer", "rekey", "acme")
    assert "is no time" in refused("issuer", "activate", "acme", "--at", "tomorrow")
    data("issuer", "activate", "acme", "--at", "2098-01-01T00:00Z")
    told = data("issuer", "activate", "acme")
    assert [(key["generation"], key["state"]) for key in told["generations"]] == [
        (2, "CURRENT"),
        (1, "PREVIOUS"),
    ]
    assert "no next key" in refused("issuer", "activate", "acme")
    assert "in use" in refused("issuer", "close", "acme", "2")
    assert "no key 7" in refused("issuer", "close", "acme", "7")
    told = data("issuer", "close", "acme", "1")
    assert told["generations"][1]["state"] == "CLOSED"
    assert "exclude" in refused("issuer", "rekey", "acme", "--activate", "--at", "2099-01-01T00:00Z")
    assert data("issuer", "rekey", "acme", "--activate")["generation"] == 3


def test_retire_resume_revoke(made: Issuer) -> None:
    assert data("issuer", "retire", "acme")["state"] == "RETIRED"
    assert refused("issuer", "retire", "acme")
    assert data("issuer", "resume", "acme")["state"] == "ACTIVE"
    below = data("issuer", "create", "below", "--kind", "subordinate", "--parent", "acme", "--years", "1")
    assert (below["kind"], below["parent"]) == ("SUBORDINATE", "acme")
    told = data("issuer", "revoke", "acme")
    assert (told["revoked"], told["subordinates"]) == (False, ["below"])
    assert not Issuer.objects.filter(state=IssuerState.REVOKED).exists()
    assert "nothing was done" in run("issuer", "revoke", "acme")
    assert data("issuer", "revoke", "acme", "--yes", "--reason", "keyCompromise")["revoked"]
    assert set(Issuer.objects.values_list("state", flat=True)) == {"REVOKED"}
    assert "already" in refused("issuer", "revoke", "acme", "--yes")


def test_below_an_external_ca(tmp_path: Path) -> None:
    now = timezone.now()
    corp = ExternalCa(not_before=now - YEAR, not_after=now + 9 * YEAR)
    assert (
        data("issuer", "create", "ext", "--kind", "external", "--algorithm", "RSA-2048")["state"] == "DRAFT"
    )
    run("issuer", "csr", "ext", "--out", str(tmp_path / "x.csr"))
    request = x509.load_pem_x509_csr((tmp_path / "x.csr").read_bytes())
    assert run("issuer", "csr", "ext").encode() == (tmp_path / "x.csr").read_bytes()
    der = request.public_bytes(Encoding.DER)
    wrong = tmp_path / "wrong.pem"
    wrong.write_text(encode_pem(corp.answer(der, ca=False, not_before=now - DAY, not_after=now + YEAR)))
    assert "CA:FALSE" in refused("issuer", "import", "ext", str(wrong))
    assert "No such file" in refused("issuer", "import", "ext", str(tmp_path / "none"))
    own, root = tmp_path / "own.pem", tmp_path / "root.pem"
    own.write_text(encode_pem(corp.answer(der, not_before=now - DAY, not_after=now + YEAR)))
    root.write_text(encode_pem(corp.der))
    told = data("issuer", "import", "ext", str(own), str(root))
    assert (told["state"], told["new"]) == ("ACTIVE", True)
    assert data("issuer", "import", "ext", str(own), str(root))["new"] is False
    assert run("issuer", "export", "ext", "--chain") == own.read_text() + root.read_text()
    # A renewal is a request here.
    assert "CERTIFICATE REQUEST" in run("issuer", "renew", "ext")


def test_the_bundle(made: Issuer) -> None:
    data("issuer", "rekey", "acme", "--activate")
    pem = run("issuer", "export", "acme", "--bundle")
    assert pem.count("BEGIN CERTIFICATE") == len(issuers.trust_bundle(made)) == 4
    assert "leave out" in refused("issuer", "export", "acme", "--bundle", "--chain")


def test_what_belongs_together() -> None:
    assert "belong together" in refused("issuer", "create", "a", "--kind", "subordinate")
    assert "belong together" in refused("issuer", "create", "a", "--parent", "b")
