"""``manage.py certificate_profile`` and ``issuer outlook``: the admin's pages for scripts."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command

from audit.models import AuditEvent
from pki import profiles
from pki.core.certificates import load_certificates
from pki.core.profile import BUILT_IN
from pki.models import Certificate, CertificateProfile, Issuer, Purpose
from tests.pki.conftest import NOW, IssueCertificate
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    with time_machine.travel(NOW, tick=False):
        call_command(*arguments, stdout=out)
    return out.getvalue()


def data(*arguments: str) -> Any:
    return json.loads(run("certificate_profile", *arguments, "--json"))


def refused(*arguments: str) -> str:
    with no_change(), pytest.raises(CommandError) as error:
        run("certificate_profile", *arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_profile_from_the_shell(issuer: Issuer) -> None:
    built_in = data("show", "MDM_IDENTITY")
    assert built_in["extended_key_usage"] == ["clientAuth"]
    assert data("list") == []
    made = data(
        "set", "MDM_IDENTITY", "--validity-days", "90", "--organization", "Orchard", "--ec-allowed", "no"
    )
    assert made == built_in | {"validity_days": 90, "organization": "Orchard", "ec_allowed": False}
    assert profiles.rules_for(Purpose.MDM_IDENTITY, issuer).validity_days == 90
    # What is not named stays.
    changed = data("set", "MDM_IDENTITY", "--subject-attributes", "CN,serialNumber", "--validity-days", "")
    assert changed == made | {"validity_days": None, "subject_attributes": ["CN", "serialNumber"]}
    here = data("set", "MDM_IDENTITY", "--issuer", "bramley", "--validity-days", "30")
    assert here["organization"] == ""
    assert [(row["issuer"], row["validity_days"]) for row in data("list")] == [("", None), ("bramley", 30)]
    assert run("certificate_profile", "list").splitlines()[1] == "MDM_IDENTITY  bramley  30 days"
    assert "validity_days: 30\n" in run("certificate_profile", "show", "MDM_IDENTITY", "--issuer", "bramley")
    assert data("remove", "MDM_IDENTITY", "--issuer", "bramley") == changed
    data("remove", "MDM_IDENTITY")
    assert profiles.rules_for(Purpose.MDM_IDENTITY, issuer) == BUILT_IN["MDM_IDENTITY"]
    actions = AuditEvent.objects.filter(action__startswith="certificate_profile.").order_by("pk")
    assert [event.action[20:] for event in actions] == ["added", "changed", "added", "removed", "removed"]
    assert {event.actor for event in actions} == {"command line"}


def test_what_is_refused(issuer: Issuer) -> None:
    assert "need clientAuth" in refused("set", "MDM_IDENTITY", "--extended-key-usage", "")
    assert "nothing could be issued" in refused("set", "MDM_IDENTITY", "--min-rsa-bits", "4096")
    assert "validity_days" in refused("preview", "MDM_IDENTITY", "--validity-days", "x")
    assert "no issuer" in refused("set", "MDM_IDENTITY", "--issuer", "nobody")
    assert "no such profile" in refused("remove", "SERVER_TLS")
    assert "is not active" in _of_a_retired(issuer)


def _of_a_retired(issuer: Issuer) -> str:
    Issuer.objects.filter(pk=issuer.pk).update(state="RETIRED")
    return refused("preview", "MDM_IDENTITY", "--issuer", "bramley")


def test_a_preview_from_the_shell(issuer: Issuer) -> None:
    with no_change():
        shown = data("preview", "SERVER_TLS", "--organization", "Orchard", "--crl-address", "no")
        text = run("certificate_profile", "preview", "SERVER_TLS")
    assert "O = Orchard" in shown["text"]
    assert "CRL Distribution" not in shown["text"]
    assert len(load_certificates(shown["pem"].encode())) == 1
    assert "CRL Distribution" in text
    assert text.endswith("-----END CERTIFICATE-----\n")
    assert not Certificate.objects.exists()
    assert not CertificateProfile.objects.exists()


def test_renew_or_re_key_from_the_shell(issuer: Issuer, issue_certificate: IssueCertificate) -> None:
    for number in range(2):
        issue_certificate(f"d{number}")
    with no_change():
        told = json.loads(run("issuer", "outlook", "bramley", "--json"))
        text = run("issuer", "outlook", "bramley")
    assert (told["in_force"], told["devices"], told["tried"], told["fitting"]) == (2, 2, 2, 2)
    assert any("All 2 certificates in force go on validating" in sentence for sentence in told["renew"])
    assert text.startswith(told["advice"])
    assert all(sentence in text for sentence in (*told["renew"], *told["rekey"]))
    with pytest.raises(CommandError, match="no issuer"):
        run("issuer", "outlook", "nobody")
