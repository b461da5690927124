"""What an enrolment asks of the database: few statements, none of which grows with what was issued."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import IntegrityError, connection, models, transaction
from django.test.utils import CaptureQueriesContext

from audit.models import AuditEvent
from audit.models import Outcome as AuditOutcome
from audit.recording import Actor
from database import instances
from pki import issuance, issuers
from pki.models import Certificate, Issuer, IssuerKey, IssuerKeyState, IssuerState, Purpose, RevocationReason
from scep import standing, statements
from scep.challenges import find as find_challenge
from scep.core.attributes import FailInfo, PkiStatus
from scep.models import CaForm, Challenge, ScepService, Transaction
from tests.scep.asking import ask, enrol, refused
from tests.scep.conftest import Mint
from tests.scep.support import NOW, Door, csr, nothing_issued, pkcs_req, rsa_key
from tests.support.snapshot import no_change

ISSUED = 20_000
_BYTES = "bytea" if connection.vendor == "postgresql" else "blob"
_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
_OF_TRANSACTIONS = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")


def statements_of(act: Callable[[], object]) -> list[str]:
    """Without those that only begin and end transactions: a test stands in one of its own."""
    with CaptureQueriesContext(connection) as queries:
        act()
    found = [query["sql"].strip() for query in queries]
    return [sql for sql in found if not sql.upper().startswith(_OF_TRANSACTIONS)]


@pytest.fixture
def warm(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    """The process has served this issuer before."""
    enrol(door, ca_certificate, mint()[1])


@pytest.mark.usefixtures("warm")
def test_statements_of_each_request(door: Door, mint: Mint, ca_certificate: bytes) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    assert len(statements_of(lambda: door.get("operation=GetCACaps"))) == 1
    assert len(statements_of(lambda: door.get("operation=GetCACert"))) == 1
    # One writes everything on PostgreSQL; SQLite takes the challenge and writes three rows.
    writing = 1 if connection.vendor == "postgresql" else 4
    assert len(statements_of(lambda: door.post(sent.body))) == 1 + writing


def test_what_is_written_at_once_is_what_is_written_in_turn(
    door: Door, mint: Mint, service: ScepService, ca_certificate: bytes
) -> None:
    """The same request on the way of every day, and on the way for what is not of every day."""
    enrol(door, ca_certificate, mint()[1])
    at_once = Certificate.objects.get()
    key = issuers.current_key(at_once.issuer_key.issuer)
    challenge, _value = mint()
    grant = issuance.Grant(
        issuer=key.issuer,
        purpose=Purpose.MDM_IDENTITY,
        subject=challenge.subject_name,
        reason="SCEP challenge",
    )
    event = AuditEvent.objects.latest("id")
    assert (event.target_kind, event.target_id) == ("pki.certificate", str(at_once.pk))
    in_turn = issuance.issue(
        grant,
        rsa_key(1).public_key().public_bytes(*_SPKI),
        actor=Actor(event.actor, remote_addr=event.remote_addr),
        now=NOW,
    )
    for model, one, other in (
        (Certificate, at_once, Certificate.objects.get(pk=in_turn.pk)),
        (AuditEvent, event, AuditEvent.objects.latest("id")),
    ):
        assert _plain(model, one) == _plain(model, other)
    row = Transaction.objects.get()
    assert (row.certificate, row.challenge_id) == (at_once, Challenge.objects.earliest("id").pk)


def _plain(model: Any, row: Any) -> dict[str, Any]:
    """Its columns but those that differ from one certificate to the next."""
    own = {"id", "serial_number", "sha256", "der", "target_id", "target_label", "details"}
    return {
        field.attname: getattr(row, field.attname)
        for field in model._meta.concrete_fields
        if field.attname not in own
    }


# --- what changed counts at once ---------------------------------------------------------------------------


@pytest.mark.usefixtures("warm")
def test_a_changed_service_counts_at_once(door: Door, service: ScepService) -> None:
    assert b"AES" in door.get("operation=GetCACaps").content
    ScepService.objects.update(capabilities=["DES3", "SHA-256", "POSTPKIOperation"])
    assert b"AES" not in door.get("operation=GetCACaps").content
    ScepService.objects.update(enabled=False)
    assert door.get("operation=GetCACaps").status_code == 404


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("change", "fail_info", "reason"),
    [
        ({"capabilities": ["DES3", "SHA-256", "POSTPKIOperation"]}, FailInfo.BAD_ALG, "aes128_cbc"),
        ({"capabilities": ["AES", "SHA-512", "POSTPKIOperation"]}, FailInfo.BAD_ALG, "signed with sha256"),
        ({"clock_minutes": 1}, FailInfo.BAD_TIME, "by the client's clock"),
        ({"challenge_mode": "NONE", "approval": "ALWAYS"}, None, ""),
    ],
    ids=["cipher", "digest", "clock", "approval"],
)
def test_a_request_is_decided_by_how_things_are_now(
    mint: Mint, ca_certificate: bytes, change: dict[str, Any], fail_info: FailInfo | None, reason: str
) -> None:
    """The process remembers how the service stood, and the request is good by that."""
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate, now=NOW - timedelta(minutes=5))
    ScepService.objects.update(**change)
    with nothing_issued():
        reply = ask(Door(), sent, ca_certificate)
    if fail_info is None:
        assert reply.status is PkiStatus.PENDING
    else:
        refused(reply, fail_info, reason)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("change", "status"),
    [({"enabled": False}, 404), ({"capabilities": ["AES", "SHA-256"]}, 405)],
    ids=["turned off", "no POST"],
)
@pytest.mark.parametrize("body", [None, b"", b"nonsense"], ids=["good", "empty", "nonsense"])
def test_a_service_that_takes_no_more_requests(
    mint: Mint, ca_certificate: bytes, change: dict[str, Any], status: int, body: bytes | None
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    ScepService.objects.update(**change)
    with nothing_issued():
        response = Door().post(sent.body if body is None else body)
    assert response.status_code == (400 if body == b"" and status == 405 else status)


@pytest.mark.usefixtures("warm")
def test_a_retired_issuer_issues_nothing_more(mint: Mint, issuer: Issuer, ca_certificate: bytes) -> None:
    door, (_challenge, value) = Door("/scep/bramley/"), mint()
    Issuer.objects.update(state=IssuerState.RETIRED)
    with nothing_issued():
        reply = ask(door, pkcs_req(csr(rsa_key(1), value), ca_certificate=ca_certificate), ca_certificate)
    refused(reply, FailInfo.BAD_REQUEST, "does not issue certificates")


def test_the_form_of_the_answer_and_the_default_service(
    door: Door, service: ScepService, ca_certificate: bytes
) -> None:
    for form in CaForm:
        ScepService.objects.update(ca_form=form)
        assert door.get("operation=GetCACert").content == ca_certificate
    assert Door("/scep/bramley/").get("operation=GetCACert").content == ca_certificate
    assert Door("/scep/other/").get("operation=GetCACert").status_code == 404


# --- all or nothing ----------------------------------------------------------------------------------------


class Written:
    """All that an enrolment would write, not yet written."""

    def __init__(self, mint: Mint, issuer: Issuer) -> None:
        self.challenge, value = mint()
        stands = standing.find(issuer.slug)
        assert stands.current is not None
        found = find_challenge([value], issuer, NOW)
        grant = issuance.Grant(issuer=issuer, purpose=Purpose.MDM_IDENTITY, subject=(("CN", "device"),))
        prepared = issuance.prepare(
            grant,
            rsa_key(1).public_key().public_bytes(*_SPKI),
            standing.means(stands.current, Purpose.MDM_IDENTITY, found.profile),
            actor=Actor("test"),
            now=NOW,
        )
        self.certificate, self.event = prepared.certificate, prepared.event
        self.row = Transaction(
            service=stands.service,
            issuer=stands.issuer,
            transaction_id=secrets.token_hex(8),
            message_type="PKCSReq",
            status="SUCCESS",
            challenge=self.challenge,
            csr_sha256="0" * 64,
            created_at=NOW,
        )

    def keep(self) -> bool:
        return statements.keep(self.challenge, self.certificate, self.event, self.row)


def test_all_is_kept(mint: Mint, issuer: Issuer, service: ScepService) -> None:
    written = Written(mint, issuer)
    assert written.keep()
    assert Certificate.objects.get(pk=written.certificate.pk).sha256 == written.certificate.sha256
    assert Transaction.objects.get().certificate_id == written.certificate.pk
    assert AuditEvent.objects.get(action="certificate.issued").target_id == str(written.certificate.pk)
    assert Challenge.objects.get().consumed_at == NOW


@pytest.mark.parametrize("way", ["at once", "of no ordinary enrolment", "in turn"])
def test_every_column_is_kept(
    mint: Mint, issuer: Issuer, service: ScepService, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Also what the statement says by itself, and what another enrolment would have otherwise."""
    written = Written(mint, issuer)
    if way == "of no ordinary enrolment":
        written.row.repeats, written.row.proposed_days = 7, 30
        written.row.proposed_subject = [["CN", "x"]]
        written.event.outcome = AuditOutcome.FAILED
        written.certificate.revocation_reason = RevocationReason.SUPERSEDED
    elif way == "in turn":
        monkeypatch.setattr(statements, "_is_ordinary", lambda *_rows: False)
    assert written.keep()
    for row, kept in (
        (written.certificate, Certificate.objects.get()),
        (written.event, AuditEvent.objects.latest("id")),
        (written.row, Transaction.objects.get()),
    ):
        for field in kept._meta.concrete_fields:
            value = getattr(kept, field.attname)
            assert getattr(row, field.attname) == (
                bytes(value) if isinstance(value, memoryview) else value
            ) or (field.primary_key and row is not written.certificate), field


def test_what_every_ordinary_enrolment_writes_alike_is_what_models_begin_with() -> None:
    beginnings = {
        Certificate: Certificate(),
        AuditEvent: AuditEvent(),
        Transaction: Transaction(status="SUCCESS"),
    }
    assert set(statements._SAME) == set(beginnings)
    for model, same in statements._SAME.items():
        assert {name: getattr(beginnings[model], name) for name in same} == same


@pytest.mark.parametrize("model", [Certificate, AuditEvent, Transaction, Challenge])
def test_instances_made_in_one_go(model: type[models.Model], issuer: Issuer) -> None:
    """As the constructor makes them; no two share a list."""
    mine, theirs = instances.new(model), model()
    unlike = {"uuid"}
    for field in model._meta.concrete_fields:
        if field.attname not in unlike:
            assert getattr(mine, field.attname) == getattr(theirs, field.attname), field
    assert mine._state.adding
    assert mine._state.db is None
    with pytest.raises(TypeError, match="no such field"):
        instances.new(model, nonsense=1)
    if model is Challenge:
        first, second = (instances.new(Challenge, issuer=issuer) for _ in range(2))
        assert (first.issuer_id, first.issuer) == (issuer.pk, issuer)
        assert first.subject_alternative_name is not second.subject_alternative_name
        assert first.uuid != second.uuid


def _used(written: Written) -> None:
    Challenge.objects.update(consumed_at=NOW)


def _expired(written: Written) -> None:
    Challenge.objects.update(expires_at=NOW)


def _retired(written: Written) -> None:
    Issuer.objects.update(state=IssuerState.RETIRED)


def _replaced(written: Written) -> None:
    IssuerKey.objects.update(state=IssuerKeyState.PREVIOUS)


@pytest.mark.parametrize("meanwhile", [_used, _expired, _retired, _replaced])
def test_nothing_is_kept_of_what_may_not_be(
    mint: Mint, issuer: Issuer, service: ScepService, meanwhile: Callable[[Written], None]
) -> None:
    written = Written(mint, issuer)
    meanwhile(written)
    events = AuditEvent.objects.count()
    with no_change():
        assert not written.keep()
    assert AuditEvent.objects.count() == events


@pytest.mark.parametrize("twice", ["certificate", "transaction"])
def test_nothing_is_kept_of_what_is_there_already(
    mint: Mint, issuer: Issuer, service: ScepService, twice: str
) -> None:
    first, second = Written(mint, issuer), Written(mint, issuer)
    assert first.keep()
    if twice == "certificate":
        second.certificate.serial_number = first.certificate.serial_number
    else:
        second.row.transaction_id = first.row.transaction_id
    events = AuditEvent.objects.count()
    with no_change(), pytest.raises(IntegrityError), transaction.atomic():
        second.keep()
    assert AuditEvent.objects.count() == events
    assert Challenge.objects.get(pk=second.challenge.pk).consumed_at is None


# --- no slower with many -----------------------------------------------------------------------------------


@pytest.fixture
def many_issued(issuer: Issuer) -> None:
    """Certificates and challenges of former enrolments; the planner knows of them."""
    issuer_key = issuers.current_key(issuer)
    if connection.vendor == "postgresql":
        numbers = f"generate_series(1, {ISSUED}) AS n"
        digest, uuid, no = "encode(sha256((n || '{}')::bytea), 'hex')", "gen_random_uuid()", "false"
    else:
        counted = f"SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < {ISSUED}"  # noqa: S608
        numbers = f"(WITH RECURSIVE t(n) AS ({counted}) SELECT n FROM t) AS s"  # noqa: S608
        digest, uuid, no = "printf('%.63d{}', n)", "printf('%032d', n)", "0"
    now = f"'{NOW:%Y-%m-%d %H:%M:%S}'"
    certificates = f"""
        INSERT INTO pki_certificate (issuer_key_id, serial_number, purpose, status, "foreign", subject,
            subject_alternative_name, der, sha256, public_key_sha256, not_before, not_after,
            revocation_reason, created_at)
        SELECT {issuer_key.pk}, 'A' || n, 'MDM_IDENTITY', 'ISSUED', {no}, 'CN=d',
            '', '', {digest.format(2)}, {digest.format(3)}, {now}, {now}, '', {now} FROM {numbers}
    """  # noqa: S608
    challenges = f"""
        INSERT INTO scep_challenge (uuid, value_hash, issuer_id, purpose, subject, subject_text,
            subject_alternative_name, created_at, created_by, expires_at, consumed_at)
        SELECT {uuid}, CAST({digest.format(4)} AS {_BYTES}), {issuer.pk}, 'MDM_IDENTITY', '[]', '',
            '[]', {now}, '', {now}, {now} FROM {numbers}
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(certificates)
        cursor.execute(challenges)
        cursor.execute("ANALYZE")


@pytest.mark.usefixtures("many_issued")
def test_every_statement_finds_its_rows_by_an_index(
    door: Door, mint: Mint, service: ScepService, ca_certificate: bytes
) -> None:
    sent = pkcs_req(csr(rsa_key(1), mint()[1]), ca_certificate=ca_certificate)
    asked = statements_of(lambda: door.post(sent.body))
    assert sent.open(door.post(sent.body).content, ca_certificate).status is PkiStatus.SUCCESS
    for sql in asked:
        assert _read_whole(sql).isdisjoint({"pki_certificate", "scep_challenge", "scep_transaction"}), sql


def _read_whole(sql: str) -> set[str]:
    """The tables that a statement reads from end to end."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
            plan = cursor.fetchone()[0]
            return set(_scanned(json.loads(plan) if isinstance(plan, str) else plan))
        cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
        lines = [row[-1] for row in cursor.fetchall()]
    scanned = [line.split()[1] for line in lines if line.startswith("SCAN ")]
    return {"scep_challenge" if name == "c" else name for name in scanned}


def _scanned(node: Any) -> list[str]:
    if isinstance(node, list):
        return [name for part in node for name in _scanned(part)]
    if not isinstance(node, dict):
        return []
    found = [node["Relation Name"]] if node.get("Node Type") == "Seq Scan" else []
    return found + [name for part in node.values() for name in _scanned(part)]
