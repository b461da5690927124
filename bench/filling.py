"""Rows of a fleet that is years old, inserted in bulk: what the measured statements must not notice.

Straight into PostgreSQL, by ``generate_series``: it is quick, and takes every column from the models. Secrets
in these rows are no secrets and are never opened.
"""

# ruff: noqa: S608 - only names and values of our own are put together

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from django.db import models

from audit.models import AuditEvent
from commands.models import Command, CommandDelivery, CommandResult
from devices.models import Device, Enrollment, Identity
from pki.models import Certificate, IssuerKey
from push.models import PushCertificate, PushRequest
from scep.models import Challenge, ScepService, Transaction

_DIGEST = "encode(sha256(('{}' || n)::bytea), 'hex')"
# As large as a certificate is.
_DER = "decode(repeat('30', 900), 'hex')"


class Filling:
    """A connection to the database of the server that is measured."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url.replace("postgres://", "postgresql://"), autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def commits_per_second(self, seconds: float) -> float:
        """Transactions of one row by one connection, with all that it takes to survive a power cut."""
        self._run("CREATE TABLE IF NOT EXISTS bench_commits (at timestamptz)")
        before = self._number("SELECT extract(epoch FROM clock_timestamp())")
        count, now = 0, before
        while now - before < seconds:
            now = self._number(
                "INSERT INTO bench_commits VALUES (now()) RETURNING extract(epoch FROM clock_timestamp())"
            )
            count += 1
        return round(count / float(now - before), 1)

    def issued(self, slug: str, first: int, last: int) -> None:
        """Enrolments of before, number ``first`` to ``last``, at the SCEP service ``slug``."""
        service = self._number(f"SELECT id FROM {_of(ScepService)} WHERE slug = %s", slug)
        issuer = self._number(f"SELECT issuer_id FROM {_of(ScepService)} WHERE slug = %s", slug)
        key = self._number(
            f"SELECT id FROM {_of(IssuerKey)} WHERE issuer_id = %s AND state = 'CURRENT'", issuer
        )
        numbers = f"generate_series({first}, {last}) AS n"
        self._run(_insert(Certificate, numbers, **_certificate(key, "s")))
        self._run(
            _insert(
                Challenge,
                numbers,
                value_hash="sha256(('v' || n)::bytea)",
                issuer_id=str(issuer),
                subject="'[]'",
                expires_at="now()",
                consumed_at="now()",
            )
        )
        kept = f"{_of(Certificate)} AS c, {numbers} WHERE c.sha256 = {_DIGEST.format('s1')}"
        transaction = {
            "service_id": str(service),
            "issuer_id": str(issuer),
            "transaction_id": _DIGEST.format("t"),
            "message_type": "'PKCSReq'",
            "status": "'SUCCESS'",
            "csr_sha256": _DIGEST.format("r"),
            "signer_sha256": _DIGEST.format("g"),
            "certificate_id": "c.id",
            "created_at": "now()",
        }
        self._run(_insert(Transaction, kept, **transaction))
        event = {
            "at": "now()",
            "actor": "'SCEP client'",
            "action": "'certificate.issued'",
            "target_kind": "'pki.certificate'",
            "target_id": "c.id::text",
        }
        self._run(_insert(AuditEvent, kept, **event))
        self._settle(Certificate, Challenge, Transaction, AuditEvent)

    def fleet(self, count: int, topic: str) -> None:
        """Enrolled devices with their identities."""
        numbers = f"generate_series(1, {count}) AS n"
        key = self._number(f"SELECT id FROM {_of(IssuerKey)} WHERE state = 'CURRENT' ORDER BY id LIMIT 1")
        self._run(
            _insert(
                Device,
                numbers,
                udid="'00008030-' || lpad(n::text, 16, '0')",
                serial_number="'B' || lpad(n::text, 11, '0')",
                name="'Device ' || n",
                platform="'iOS'",
            )
        )
        mine = f"{_of(Device)} AS d, {numbers} WHERE d.udid = '00008030-' || lpad(n::text, 16, '0')"
        enrollment = {
            "device_id": "d.id",
            "state": "'ENROLLED'",
            "topic": f"'{topic}'",
            "push_token": "sha256(('p' || n)::bytea)",
            "push_magic": "gen_random_uuid()::text",
            "enrolled_at": "now()",
            "authenticated_at": "now()",
            "token_updated_at": "now()",
            "last_seen_at": "now()",
        }
        self._run(_insert(Enrollment, mine, **enrollment))
        self._run(_insert(Certificate, numbers, **_certificate(key, "f")))
        pinned = (
            f"{_of(Enrollment)} AS e JOIN {_of(Device)} AS d ON d.id = e.device_id, {_of(Certificate)} AS c, "
            f"{numbers} WHERE d.udid = '00008030-' || lpad(n::text, 16, '0') "
            f"AND c.sha256 = {_DIGEST.format('f1')}"
        )
        identity = {"enrollment_id": "e.id", "certificate_id": "c.id", "sha256": "c.sha256"}
        self._run(_insert(Identity, pinned, state="'CURRENT'", pinned_at="now()", **identity))
        mine = f"{_of(Enrollment)} AS e WHERE e.topic = '{topic}' ON CONFLICT DO NOTHING"
        # Whoever has sent a token was pushed once, and has come since.
        self._run(_insert(PushRequest, mine, enrollment_id="e.id", requested_at="now()"))
        self._settle(Device, Enrollment, Certificate, Identity, PushRequest)

    def finished(self, udids: Sequence[str], commands: int) -> None:
        """Commands that each of these devices has acknowledged long ago, with what they answered."""
        numbers = f"generate_series(1, {commands}) AS n"
        sealed = "decode(repeat('00', 120), 'hex')"
        self._run(
            _insert(
                Command,
                numbers,
                request_type="'ProfileList'",
                payload_sealed=sealed,
                source="'API'",
                created_at="now() - interval '1 year'",
                created_by="'bench'",
                targets=str(len(udids)),
            )
        )
        names = ", ".join(f"'{udid}'" for udid in udids)
        everyone = (
            f"{_of(Command)} AS c, {_of(Enrollment)} AS e JOIN {_of(Device)} AS d ON d.id = e.device_id "
            f"WHERE c.created_by = 'bench' AND d.udid IN ({names})"
        )
        delivery = {
            "command_id": "c.id",
            "enrollment_id": "e.id",
            "epoch": "e.epoch",
            "state": "'ACKNOWLEDGED'",
            "sent_count": "1",
            "sent_at": "c.created_at",
            "completed_at": "c.created_at",
        }
        self._run(_insert(CommandDelivery, everyone, **delivery))
        answered = (
            f"{_of(CommandDelivery)} AS y JOIN {_of(Command)} AS c ON c.id = y.command_id "
            "WHERE c.created_by = 'bench'"
        )
        result = {"delivery_id": "y.id", "status": "'Acknowledged'", "report_sealed": sealed}
        self._run(_insert(CommandResult, answered, received_at="y.completed_at", **result))
        self._settle(Command, CommandDelivery, CommandResult)

    def forget_pushes(self) -> None:
        """No push is due: those to devices that do not exist would go on beside the next phase."""
        self._run(
            f"UPDATE {_of(PushRequest)} SET state = 'IDLE', lease_owner = NULL, lease_until = NULL "
            "WHERE state <> 'IDLE' OR lease_until IS NOT NULL"
        )
        self._settle(PushRequest)

    def due_pushes(self, count: int) -> None:
        """So many pushes are due at once, and no others."""
        self.forget_pushes()
        chosen = (
            f"SELECT p.enrollment_id FROM {_of(PushRequest)} AS p JOIN {_of(Enrollment)} AS e "
            f"ON e.id = p.enrollment_id WHERE e.state = 'ENROLLED' AND e.push_token IS NOT NULL "
            f"AND e.topic IN (SELECT topic FROM {_of(PushCertificate)} WHERE state = 'ACTIVE') LIMIT {count}"
        )
        self._run(
            f"UPDATE {_of(PushRequest)} SET state = 'DUE', due_at = now(), attempts = 0, last_result = '', "
            f"last_sent_at = NULL WHERE enrollment_id IN ({chosen})"
        )
        self._settle(PushRequest)

    def pushed(self) -> int:
        """How many of the due pushes APNs has accepted."""
        accepted = f"SELECT count(*) FROM {_of(PushRequest)} WHERE state = 'DUE' AND last_result = '200'"
        return int(self._number(accepted))

    def settled(self) -> None:
        """What the autovacuum of a server that has rested would have done."""
        self._run("VACUUM ANALYZE")

    def _settle(self, *changed: type[models.Model]) -> None:
        for model in changed:
            self._run(f"VACUUM ANALYZE {_of(model)}")

    def _run(self, sql: str) -> None:
        self._connection.execute(sql)

    def _number(self, sql: str, *parameters: object) -> Any:
        row = self._connection.execute(sql, parameters or None).fetchone()
        if row is None:
            raise SystemExit(f"nothing found: {sql} {parameters}")
        return float(row[0]) if "epoch" in sql else row[0]


def _certificate(issuer_key: int, name: str) -> dict[str, str]:
    return {
        "issuer_key_id": str(issuer_key),
        "serial_number": f"upper(substr({_DIGEST.format(name + '0')}, 1, 40))",
        "purpose": "'MDM_IDENTITY'",
        "subject": "'CN=device ' || n",
        "der": _DER,
        "sha256": _DIGEST.format(name + "1"),
        "public_key_sha256": _DIGEST.format(name + "2"),
        "not_before": "now()",
        "not_after": "now() + interval '700 days'",
    }


def _of(model: type[models.Model]) -> str:
    return model._meta.db_table


def _insert(model: type[models.Model], rows: str, /, **given: str) -> str:
    """INSERT … SELECT from ``rows``; what is not given is empty, as the model says."""
    columns: dict[str, str] = {}
    for field in model._meta.concrete_fields:
        if field.attname in given:
            columns[str(field.column)] = given[field.attname]
        elif not field.null and not field.primary_key:
            columns[str(field.column)] = _default(field)
    if unknown := given.keys() - {field.attname for field in model._meta.concrete_fields}:
        raise ValueError(f"{model.__name__} has no {unknown}")
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT INTO {_of(model)} ({names}) SELECT {', '.join(columns.values())} FROM {rows}"


def _default(field: models.Field[Any, Any]) -> str:
    if isinstance(field, models.UUIDField):
        return "gen_random_uuid()"
    if isinstance(field, models.DateTimeField):
        return "now()"
    value = field.get_default()
    if isinstance(field, models.JSONField):
        return f"'{json.dumps(value)}'"
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(field, models.BinaryField):
        return "''::bytea"
    return f"'{value or ''}'"
