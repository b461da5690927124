"""Services and requests from the command line."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from audit.models import AuditEvent
from audit.recording import SERVER
from pki import issuers
from pki.models import Issuer
from scep import services, webhooks
from scep.core.attributes import FailInfo
from scep.models import ApprovalChoice, Mode, ScepService, Transaction, TransactionStatus
from tests.scep.asking import ask, issued, pending, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, csr, nothing_issued, pkcs_req, rsa_key, signer
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db

ROUTER = (("O", "Example"), ("CN", "router 1"))


def run(command: str, *arguments: str) -> str:
    out = StringIO()
    call_command(command, *arguments, stdout=out)
    return out.getvalue()


def as_json(command: str, *arguments: str) -> Any:
    return json.loads(run(command, *arguments, "--json"))


# --- services --------------------------------------------------------------------------------------------


def test_every_issuer_is_listed_with_its_service(issuer: Issuer) -> None:
    issuers.create_issuer("other", "Other CA", algorithm="RSA-2048", actor=SERVER, now=NOW)
    rows = as_json("scep_service", "list")
    assert [(row["name"], row["issuer"]) for row in rows] == [("bramley", "bramley"), ("other", "other")]
    assert rows[0]["address"] == "http://127.0.0.1:8000/scep/bramley/"
    assert (rows[0]["challenge"], rows[0]["approval"], rows[0]["sha1"]) == ("BOUND", "NEVER", True)
    assert "http://127.0.0.1:8000/scep/other/" in run("scep_service", "list")


def test_a_service_is_made_and_changed(issuer: Issuer, ca_certificate: bytes) -> None:
    made = as_json(
        "scep_service", "create", "routers", "--challenge", "none", "--approval", "always",
        "--purpose", "server_tls", "--pending-days", "2", "--validity-days", "90",
        "--capabilities", "AES,SHA-256,POSTPKIOperation", "--get", "off", "--sha1", "off",
        "--ra-certificate", "on", "--get-ca-cert", "chain", "--proposal", "subject",
        "--renewal-window-days", "30", "--clock-minutes", "5",
    )  # fmt: skip
    assert made["capabilities"] == ["AES", "SHA-256", "POSTPKIOperation"]
    service = ScepService.objects.get(slug="routers")
    assert (service.challenge_mode, service.approval, service.pending_days) == ("NONE", "ALWAYS", 2)
    assert (service.allow_get, service.accept_sha1, service.ra_certificate) == (False, False, True)
    assert (service.ca_form, service.proposal, service.clock_minutes) == ("CHAIN", "SUBJECT", 5)
    changed = as_json(
        "scep_service", "set", "routers", "--validity-days", "0", "--clock-minutes", "0", "--enabled", "off"
    )
    assert (changed["validity_days"], changed["clock_minutes"], changed["enabled"]) == (None, None, False)
    assert (changed["approval"], changed["renewal_window_days"]) == ("ALWAYS", 30)
    assert Door("/scep/routers/").get("operation=GetCACaps").status_code == 404
    events = AuditEvent.objects.filter(action__startswith="scep_service").order_by("id")
    assert [event.action for event in events] == ["scep_service.created", "scep_service.changed"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "bramley"], "already"),
        (["create", "x", "--issuer", "nobody"], "no issuer"),
        (["create", "a b"], "slug"),
        (["create", "x", "--challenge", "none"], "has to wait for approval"),
        (["set", "bramley", "--challenge", "none"], "has to wait for approval"),
        (["set", "bramley", "--challenge", "webhook"], "address of the webhook is missing"),
        (["set", "bramley", "--webhook", "http://example.org/"], "without https"),
        (["set", "bramley", "--capabilities", "DES"], "Unknown capability"),
        (["set", "bramley", "--capabilities", ""], "Choose at least one"),
        (["set", "bramley", "--pending-days", "0"], "from 1 to 90"),
        (["set", "bramley", "--validity-days", "9999"], "from 1 to 3650"),
        (["set", "nobody"], "no SCEP service"),
        (["secret", "bramley"], "asks no webhook"),
    ],
)
def test_what_cannot_be_is_refused_with_one_line(
    service: ScepService, arguments: list[str], said: str
) -> None:
    with no_change(), pytest.raises(CommandError, match=said) as refusal:
        run("scep_service", *arguments)
    assert "\n" not in str(refusal.value)


def test_the_secret_of_a_webhook(service: ScepService) -> None:
    run("scep_service", "set", "bramley", "--challenge", "webhook", "--webhook", "https://example.org/x")
    service.refresh_from_db()
    first = as_json("scep_service", "secret", "bramley")["secret"]
    assert first == webhooks.secret(service)
    second = run("scep_service", "secret", "bramley", "--new").strip()
    assert second != first
    service.refresh_from_db()
    assert second == webhooks.secret(service)
    events = AuditEvent.objects.filter(action__contains="secret").order_by("id")
    assert [event.action for event in events] == [
        "scep_service.secret_shown",
        "scep_service.secret_renewed",
    ]
    assert first not in repr(list(AuditEvent.objects.values()))


# --- requests --------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(service: ScepService, door: Door, ca_certificate: bytes) -> Transaction:
    service.challenge_mode, service.approval = Mode.NONE, ApprovalChoice.ALWAYS
    services.save(service, actor=SERVER)
    return pending(ask(door, router_request(ca_certificate), ca_certificate))


def router_request(ca_certificate: bytes) -> Any:
    request = csr(rsa_key(1), subject=ROUTER, san=[("DNS", "router-1.example")])
    return pkcs_req(request, ca_certificate=ca_certificate, identity=signer(1), transaction_id="one")


def test_what_was_asked_and_answered_is_listed(
    door: Door, mint: Mint, ca_certificate: bytes, waiting: Transaction
) -> None:
    row = as_json("scep_transaction", "list")[0]
    assert (row["id"], row["status"], row["service"]) == (waiting.pk, "PENDING", "bramley")
    assert (row["subject"], row["names"]) == ("CN=router 1,O=Example", "DNS:router-1.example")
    assert row["proposed_subject"] == [["O", "Example"], ["CN", "router 1"]]
    refused_row = pkcs_req(csr(rsa_key(0, 1024)), ca_certificate=ca_certificate)
    refused(ask(door, refused_row, ca_certificate), FailInfo.BAD_ALG, "1024")
    assert [row["status"] for row in as_json("scep_transaction", "list")] == ["FAILURE", "PENDING"]
    assert len(as_json("scep_transaction", "list", "--status", "pending")) == 1
    assert len(as_json("scep_transaction", "list", "--limit", "1")) == 1
    assert as_json("scep_transaction", "list", "--service", "other") == []
    assert "CN=router 1" in run("scep_transaction", "list", "--status", "pending")


def test_a_request_is_approved_as_it_proposes(
    door: Door, ca_certificate: bytes, waiting: Transaction
) -> None:
    said = as_json("scep_transaction", "approve", str(waiting.pk))
    assert (said["subject"], said["subject_alternative_name"]) == (
        "CN=router 1,O=Example",
        "DNS:router-1.example",
    )
    certificate = issued(ask(door, router_request(ca_certificate), ca_certificate))
    assert certificate.serial_number == said["serial_number"]
    event = AuditEvent.objects.get(action="scep_request.approved")
    assert event.actor == "command line"


def test_or_as_the_administrator_says(waiting: Transaction) -> None:
    said = as_json(
        "scep_transaction", "approve", str(waiting.pk), "--subject", "CN=core", "--subject", "C=GB",
        "--san", "DNS:core.example", "--days", "5",
    )  # fmt: skip
    assert (said["subject"], said["subject_alternative_name"]) == ("C=GB,CN=core", "DNS:core.example")
    assert said["not_after"] == "2026-11-29T12:00:00+00:00"


def test_without_alternative_names(waiting: Transaction) -> None:
    said = as_json("scep_transaction", "approve", str(waiting.pk), "--no-san")
    assert said["subject_alternative_name"] == ""


def test_a_request_is_rejected(waiting: Transaction) -> None:
    assert run("scep_transaction", "reject", str(waiting.pk), "--reason", "unknown").strip() == "rejected"
    waiting.refresh_from_db()
    assert (waiting.status, waiting.reason) == (TransactionStatus.FAILURE, "rejected: unknown")
    with nothing_issued(), pytest.raises(CommandError, match="not wait"):
        run("scep_transaction", "approve", str(waiting.pk))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--subject", "router"], "not written like"),
        (["--subject", "XX=router"], "none of"),
        (["--subject", "CN=a\nb"], "not written like"),
        (["--san", "DNS:a b"], "DNS"),
        (["--days", "0"], "from 1 to"),
    ],
)
def test_what_cannot_be_issued_is_refused_with_one_line(
    waiting: Transaction, arguments: list[str], said: str
) -> None:
    with no_change(), pytest.raises(CommandError, match=said) as refusal:
        run("scep_transaction", "approve", str(waiting.pk), *arguments)
    assert "\n" not in str(refusal.value)


def test_a_request_that_is_not_there(issuer: Issuer) -> None:
    for act in ("approve", "reject"):
        with pytest.raises(CommandError, match="no SCEP request 7"):
            run("scep_transaction", act, "7")
