"""The statement of the hot path, written by hand: building it costs more than running it.

It runs for every request of a device, and fetches the columns that deciding needs; the others of these rows
are fetched on access.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection

from devices.models import Device, Enrollment, Identity
from pki.models import Certificate, Issuer, IssuerKey
from push.models import PushRequest

_IDENTITY, _ENROLLMENT = Identity._meta.db_table, Enrollment._meta.db_table
_DEVICE, _CERTIFICATE = Device._meta.db_table, Certificate._meta.db_table
_KEY, _ISSUER, _PUSH = IssuerKey._meta.db_table, Issuer._meta.db_table, PushRequest._meta.db_table

_FIND = f"""
    SELECT i.id, i.state,
           e.id, e.channel, e.user_id, e.state, e.epoch, e.last_seen_at,
           d.id, d.udid, d.user_enrollment, d.name, d.serial_number,
           c.id, c.serial_number, c.purpose, c.status, c."foreign", c.not_before, c.not_after, c.binding,
           k.id, k.state,
           s.id, s.state, s.trusted_for,
           p.state
      FROM {_IDENTITY} i
      JOIN {_ENROLLMENT} e ON e.id = i.enrollment_id
      JOIN {_DEVICE} d ON d.id = e.device_id
      JOIN {_CERTIFICATE} c ON c.id = i.certificate_id
      JOIN {_KEY} k ON k.id = c.issuer_key_id
      JOIN {_ISSUER} s ON s.id = k.issuer_id
      LEFT JOIN {_PUSH} p ON p.enrollment_id = e.id
     WHERE i.sha256 = %s
"""  # noqa: S608 - only names of our own tables are put together


@dataclass(frozen=True)
class Found:
    """A pinned certificate with its enrollment, device and issuer. ``push_state``: empty where none is."""

    identity: Identity
    push_state: str


def find_identity(sha256: str) -> Found | None:
    """The identity with this fingerprint (lower-case hexadecimal), in one query."""
    with connection.cursor() as cursor:
        cursor.execute(_FIND, [sha256])
        row = cursor.fetchone()
    if row is None:
        return None
    identity_row, enrollment_row, device_row = row[0:2], row[2:8], row[8:13]
    certificate_row, key_row, issuer_row, push_state = row[13:21], row[21:23], row[23:26], row[26]
    device = _load(Device, ("id", "udid", "user_enrollment", "name", "serial_number"), device_row)
    device.user_enrollment = bool(device.user_enrollment)
    enrollment = _load(
        Enrollment, ("id", "channel", "user_id", "state", "epoch", "last_seen_at"), enrollment_row
    )
    enrollment.last_seen_at = _moment(row[7]) if row[7] is not None else None
    enrollment.device, enrollment.parent = device, None
    identity = _load(Identity, ("id", "state"), identity_row)
    identity.sha256 = sha256
    identity.enrollment = enrollment
    identity.certificate = _certificate(certificate_row, key_row, issuer_row)
    return Found(identity, push_state or "")


def _certificate(row: Any, key_row: Any, issuer_row: Any) -> Certificate:
    columns = (
        "id",
        "serial_number",
        "purpose",
        "status",
        "foreign",
        "not_before",
        "not_after",
        "binding",
    )
    certificate: Certificate = _load(Certificate, columns, row)
    certificate.foreign = bool(certificate.foreign)
    certificate.not_before, certificate.not_after = _moment(row[5]), _moment(row[6])
    certificate.binding = row[7] if row[7] is None or isinstance(row[7], uuid.UUID) else uuid.UUID(row[7])
    key, issuer = _load(IssuerKey, ("id", "state"), key_row), _load(Issuer, ("id", "state"), issuer_row[:2])
    issuer.trusted_for = json.loads(issuer_row[2]) if isinstance(issuer_row[2], str) else issuer_row[2]
    key.issuer = issuer
    certificate.issuer_key = key
    return certificate


def _load(model: Any, columns: tuple[str, ...], row: Any) -> Any:
    """An instance with these columns; the others are fetched on access."""
    return model.from_db(connection.alias, columns, row)


def _moment(value: datetime) -> datetime:
    """SQLite gives times without their zone, which is UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value
