"""The statements of an enrolment, written by hand: building them costs more than running them.

Two for each certificate: how the service stands and what the challenge is worth
(:func:`find_version_and_challenge`), and all that is written, at once (:func:`keep`). Each looks at rows by
an index, so none takes longer when there are many certificates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Generic, TypeVar

from django.db import connection, models, transaction
from django.db.models.expressions import Col

from audit.models import AuditEvent, Outcome
from database import instances, prepared, templates
from pki.models import (
    Certificate,
    CertificateProfile,
    CertificateStatus,
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
)
from scep.models import Challenge, ScepService, Transaction, TransactionStatus

M = TypeVar("M", bound=models.Model)
Row = tuple[Any, ...]

_DEFAULT_SLUG = f"""
    (SELECT d.slug FROM {Issuer._meta.db_table} d
      WHERE d.state = '{IssuerState.ACTIVE}' AND d.kind <> '{IssuerKind.TRUST_ONLY}'
      ORDER BY CASE WHEN d.slug = %s THEN 0 ELSE 1 END, d.id LIMIT 1)
"""  # noqa: S608 - here and below only names and states of our own are put together


@dataclass(frozen=True)
class StandingRow:
    """A service, and one certificate of a live key of its issuer: without bytes that are kept elsewhere.

    ``has_private_key``: one is sealed in the row of the key.
    """

    service: ScepService
    issuer_key: IssuerKey | None
    certificate: IssuerCertificate | None
    has_private_key: bool


Version = frozenset[Row]
"""What is other than before whenever a service, its issuer or one of the issuer's keys or certificates is."""

FoundChallenge = tuple[Challenge, int | None]
"""A challenge, without what was only for the record, and the row of the certificate profile for its purpose.

The profile is that of the challenge's issuer, else that for all; None where there is none.
"""


def find_standing(slug: str | None, default: str) -> list[Row]:
    """The service (None: that of the default issuer, ``default`` before others), once for each certificate.

    Of the key generations that still answer, with the certificates that were not revoked. Empty where there
    is no service of that name. For :func:`read_standing` and :func:`version_of`.
    """
    _tables, sql = _standing_sql()
    sql += f" WHERE s.slug = {_DEFAULT_SLUG if slug is None else '%s'}"
    return prepared.rows(sql, [default if slug is None else slug])


def find_version(slug: str | None, default: str) -> Version:
    """The version of what :func:`find_standing` finds: a good deal less to read."""
    sql = (
        f"SELECT {_version()} {_standing_parts()[2]} WHERE s.slug = {_DEFAULT_SLUG if slug is None else '%s'}"
    )
    return frozenset(prepared.rows(sql, [default if slug is None else slug]))


def find_version_and_challenge(
    slug: str | None, default: str, hashes: Sequence[bytes]
) -> tuple[Version, FoundChallenge | None]:
    """Both at once: what :func:`find_version` finds, and what :func:`find_challenge` does."""
    table, sql = _both_sql()
    sql += f" ON c.value_hash IN ({', '.join(['%s'] * len(hashes))})"
    sql += f" WHERE s.slug = {_DEFAULT_SLUG if slug is None else '%s'}"
    rows = prepared.rows(sql, [*hashes, default if slug is None else slug])
    behind = table.width + 1
    version = frozenset(row[behind:] for row in rows)
    if not rows or rows[0][0] is None:
        return version, None
    return version, (table.load(rows[0]), rows[0][table.width])


def version_of(rows: Sequence[Row]) -> Version:
    """The version of what :func:`find_standing` found."""
    if prepared.on_postgresql():
        return frozenset(row[-1:] for row in rows)
    return frozenset(rows)


def find_challenge(hashes: Sequence[bytes]) -> FoundChallenge | None:
    """The challenge with one of these keyed hashes."""
    table, sql = _challenge_sql()
    sql += f" WHERE c.value_hash IN ({', '.join(['%s'] * len(hashes))})"
    row = prepared.row(sql, hashes)
    return None if row is None else (table.load(row), row[table.width])


def keep(challenge: Challenge, certificate: Certificate, event: AuditEvent, row: Transaction) -> bool:
    """Take an unused challenge, and keep certificate, audit event and transaction: all of it or nothing.

    False, with nothing changed, where the challenge is no longer unused or the certificate's issuer no longer
    issues by that key. Event and transaction get to know the certificate. Raises ``IntegrityError``.
    """
    if prepared.on_postgresql() and _is_ordinary(certificate, event, row):
        with _alone():
            return _keep_at_once(challenge, certificate, event, row)
    with transaction.atomic():
        return _keep_in_turn(challenge, certificate, event, row)


# --- one statement on PostgreSQL, four in one transaction on SQLite ----------------------------------------

_CLAIM = f"""
    UPDATE {Challenge._meta.db_table} SET consumed_at = %s
     WHERE id = %s AND consumed_at IS NULL AND expires_at > %s
       AND EXISTS (SELECT 1 FROM {IssuerKey._meta.db_table} k
                     JOIN {Issuer._meta.db_table} i ON i.id = k.issuer_id
                    WHERE k.id = %s AND k.state IN ('{IssuerKeyState.CURRENT}', '{IssuerKeyState.NEXT}')
                      AND i.state = '{IssuerState.ACTIVE}')
"""  # noqa: S608


def _alone() -> AbstractContextManager[object]:
    """One statement is a transaction of its own; inside another it may fail without ending that one."""
    return transaction.atomic() if connection.in_atomic_block else nullcontext()


def _keep_at_once(
    challenge: Challenge, certificate: Certificate, event: AuditEvent, row: Transaction
) -> bool:
    certificates, events, transactions, sql = _keep_sql()
    parameters = [
        *_claim_parameters(challenge, certificate, row),
        *certificates.values(certificate),
        *events.values(event),
        *transactions.values(row),
    ]
    kept = prepared.row(sql, parameters)
    if kept is None:
        return False
    _point(kept[0], certificate, event, row)
    return True


# What every ordinary enrolment writes alike stands in the statement, so that it is not sent each time.
_SAME: Mapping[type[models.Model], Mapping[str, Any]] = {
    Certificate: {
        "status": CertificateStatus.ISSUED,
        "foreign": False,
        "renewed_from_id": None,
        "first_used_at": None,
        "revoked_at": None,
        "revocation_reason": "",
    },
    AuditEvent: {"user_id": None, "outcome": Outcome.DONE},
    Transaction: {
        "status": TransactionStatus.SUCCESS,
        "fail_info": "",
        "csr_public_key": None,
        "proposed_subject": [],
        "proposed_names": [],
        "proposed_days": None,
        "expires_at": None,
        "decided_at": None,
        "decided_by": "",
        "repeats": 0,
        "last_asked_at": None,
    },
}
_SAME_VALUES = {model: (attrgetter(*same), tuple(same.values())) for model, same in _SAME.items()}


def _is_ordinary(*rows: models.Model) -> bool:
    for row in rows:
        read, expected = _SAME_VALUES[type(row)]
        if read(row) != expected:
            return False
    return True


def _keep_in_turn(
    challenge: Challenge, certificate: Certificate, event: AuditEvent, row: Transaction
) -> bool:
    if not prepared.changes(_CLAIM, _claim_parameters(challenge, certificate, row)):
        return False
    kept = prepared.row(
        f"{_write(_table(Certificate))} RETURNING id", _table(Certificate).values(certificate)
    )
    if kept is None:
        raise AssertionError("an INSERT gave no row back")
    _point(kept[0], certificate, event, row)
    for instance in (event, row):
        prepared.changes(_write(_table(type(instance))), _table(type(instance)).values(instance))
    return True


def _claim_parameters(challenge: Challenge, certificate: Certificate, row: Transaction) -> list[Any]:
    now = prepared.instant(row.created_at)
    return [now, challenge.pk, now, certificate.issuer_key_id]


def _point(key: int, certificate: Certificate, event: AuditEvent, row: Transaction) -> None:
    certificate.pk = row.certificate_id = key
    event.target_id = str(key)


def _write(table: _Table[Any]) -> str:
    return f"{_insert(table)} VALUES ({table.marks})"


def _insert(table: _Table[Any]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(table.columns)})"


@cache
def _keep_sql() -> tuple[_Table[Certificate], _Table[AuditEvent], _Table[Transaction], str]:
    certificates, events, transactions = _table(Certificate), _table(AuditEvent), _table(Transaction)
    certificate_values = certificates.casts({})
    event_values = events.casts({"target_id": "kept.id::text"})
    row_values = transactions.casts({"certificate_id": "kept.id"})
    return (
        certificates.without(*_SAME[Certificate]),
        events.without("target_id", *_SAME[AuditEvent]),
        transactions.without("certificate_id", *_SAME[Transaction]),
        f"""
        WITH claimed AS ({_CLAIM} RETURNING id),
             kept AS ({_insert(certificates)} SELECT {certificate_values} FROM claimed RETURNING id),
             told AS ({_insert(events)} SELECT {event_values} FROM kept)
        {_insert(transactions)} SELECT {row_values} FROM kept RETURNING certificate_id
        """,  # noqa: S608
    )


# --- reading -----------------------------------------------------------------------------------------------

_Tables = tuple["_Table[ScepService]", "_Table[Issuer]", "_Table[IssuerKey]", "_Table[IssuerCertificate]"]


@cache
def _standing_sql() -> tuple[_Tables, str]:
    tables, columns, origin = _standing_parts()
    if prepared.on_postgresql():
        columns += f", {_version()}"
    return tables, f"SELECT {columns} {origin}"


@cache
def _both_sql() -> tuple[_Table[Challenge], str]:
    """The challenge comes first, then its profile, then the version."""
    _tables, _columns, origin = _standing_parts()
    table = _challenges()
    sql = f"SELECT {table.of('c')}, {_PROFILE}, {_version()} {origin} LEFT JOIN {table.name} c"
    return table, sql


@cache
def _version() -> str:
    """PostgreSQL writes a changed row to another place, by another transaction: these two say that it is one.

    SQLite has no such thing: there all columns are compared.
    """
    if not prepared.on_postgresql():
        return _standing_parts()[1]
    return "concat(s.ctid, s.xmin, i.ctid, i.xmin, k.ctid, k.xmin, a.ctid, a.xmin)"


@cache
def _standing_parts() -> tuple[_Tables, str, str]:
    services = _table(ScepService)
    issuers = _table(Issuer).without("subject_der")
    keys = _table(IssuerKey).without("private_key_sealed", "public_key", "signing_request")
    certificates = _table(IssuerCertificate).without("der", "chain")
    states = ", ".join(f"'{state}'" for state in ANSWERING)
    columns = f"""
        {services.of("s")}, {issuers.of("i")}, {keys.of("k")}, {certificates.of("a")},
        k.private_key_sealed IS NOT NULL
    """
    origin = f"""
          FROM {services.name} s
          JOIN {issuers.name} i ON i.id = s.issuer_id
          LEFT JOIN {keys.name} k ON k.issuer_id = i.id AND k.state IN ({states})
          LEFT JOIN {certificates.name} a ON a.issuer_key_id = k.id AND a.revoked_at IS NULL
    """
    return (services, issuers, keys, certificates), columns, origin


ANSWERING = (IssuerKeyState.CURRENT, IssuerKeyState.NEXT, IssuerKeyState.PREVIOUS)
"""Key generations whose certificates clients may encrypt to."""


def read_standing(rows: Sequence[Row]) -> list[StandingRow]:
    """What :func:`find_standing` found."""
    tables, _sql = _standing_sql()
    services, issuers, keys, certificates = tables
    at_issuer = services.width
    at_key = at_issuer + issuers.width
    at_certificate = at_key + keys.width
    at_flag = at_certificate + certificates.width
    if not rows:
        return []
    service = services.load(rows[0])
    service.issuer = issuers.load(rows[0][at_issuer:])
    found: list[StandingRow] = []
    for row in rows:
        issuer_key = None if row[at_key] is None else keys.load(row[at_key:])
        certificate = None if row[at_certificate] is None else certificates.load(row[at_certificate:])
        if issuer_key is not None:
            issuer_key.issuer = service.issuer
        if certificate is not None and issuer_key is not None:
            certificate.issuer_key = issuer_key
        found.append(StandingRow(service, issuer_key, certificate, bool(row[at_flag])))
    return found


# The row of the certificate profile for the purpose of the challenge ``c``.
_PROFILE = f"""
    (SELECT p.id FROM {CertificateProfile._meta.db_table} p
      WHERE p.purpose = c.purpose AND (p.issuer_id = c.issuer_id OR p.issuer_id IS NULL)
      ORDER BY p.issuer_id NULLS LAST LIMIT 1)
"""  # noqa: S608


@cache
def _challenge_sql() -> tuple[_Table[Challenge], str]:
    table = _challenges()
    return table, f"SELECT {table.of('c')}, {_PROFILE} FROM {table.name} c"  # noqa: S608


@cache
def _challenges() -> _Table[Challenge]:
    return _table(Challenge).without("uuid", "value_hash", "subject_text", "created_at", "created_by")


# --- rows and instances ------------------------------------------------------------------------------------


class _Table(Generic[M]):
    """Some columns of a model: to read them into instances, and to write instances into them.

    An instance that was read fetches its other columns on access.
    """

    def __init__(self, model: type[M], fields: Sequence[models.Field[Any, Any]]) -> None:
        self.model, self.fields = model, fields
        self.name = connection.ops.quote_name(model._meta.db_table)
        self.columns = [connection.ops.quote_name(str(field.column)) for field in fields]
        self.names = [field.attname for field in fields]
        self.width = len(fields)
        self.marks = ", ".join(["%s"] * self.width)
        self._read = attrgetter(*self.names)
        self._loaders = _by_place(_loader(model, field) for field in fields)
        self._savers = _by_place(_saver(field) for field in fields)

    def without(self, *names: str) -> _Table[M]:
        return _Table(self.model, [field for field in self.fields if field.attname not in names])

    def of(self, alias: str) -> str:
        """The columns, for a SELECT."""
        return ", ".join(f"{alias}.{column}" for column in self.columns)

    def casts(self, otherwise: Mapping[str, str]) -> str:
        """What INSERT … SELECT writes, for PostgreSQL.

        A parameter with its type for each column; ``otherwise``: what stands there instead, as does what is
        the same in all rows.
        """
        same = _SAME[self.model]
        return ", ".join(
            otherwise.get(field.attname)
            or (
                templates.literal(field, same[field.attname])
                if field.attname in same
                else f"%s::{templates.kind_of(field)}"
            )
            for field in self.fields
        )

    def load(self, row: Row) -> M:
        """An instance, from as many values as there are columns here. What follows them is left."""
        values = list(row[: self.width])
        for place, load in self._loaders:
            if values[place] is not None:
                values[place] = load(values[place])
        return instances.loaded(self.model, dict(zip(self.names, values, strict=True)))

    def values(self, instance: M) -> list[Any]:
        """What is written, as the driver takes it."""
        values = list(self._read(instance))
        for place, save in self._savers:
            if values[place] is not None:
                values[place] = save(values[place])
        return values


@cache
def _table(model: type[M]) -> _Table[M]:
    """All columns but the number that the database gives, for writing; with it for what is read."""
    written = model in {Certificate, AuditEvent, Transaction}
    return _Table(
        model, [field for field in model._meta.concrete_fields if not written or not field.primary_key]
    )


_Converter = Callable[[Any], Any]


def _by_place(converters: Iterable[_Converter | None]) -> list[tuple[int, _Converter]]:
    """Those that there are, with the column that they are for."""
    return [(place, convert) for place, convert in enumerate(converters) if convert is not None]


def _loader(model: type[models.Model], field: models.Field[Any, Any]) -> _Converter | None:
    """What Django does with a value of this column, None where it does nothing."""
    column = Col(model._meta.db_table, field)
    steps = [*connection.ops.get_db_converters(column), *field.get_db_converters(connection)]
    if not steps:
        return None

    def load(value: Any) -> Any:
        for step in steps:
            value = step(value, column, connection)
        return value

    return load


_PLAIN = (models.IntegerField, models.BooleanField, models.ForeignKey)


def _saver(field: models.Field[Any, Any]) -> _Converter | None:
    """What Django does with a value before it is written. A choice is written as its text."""
    if isinstance(field, _PLAIN):
        return None
    if isinstance(field, models.CharField):
        return str if field.choices else None
    if isinstance(field, models.BinaryField):
        return bytes
    if isinstance(field, models.JSONField):
        return json.dumps
    if isinstance(field, models.DateTimeField):
        return None if prepared.on_postgresql() else connection.ops.adapt_datetimefield_value
    return lambda value: field.get_db_prep_save(value, connection=connection)
