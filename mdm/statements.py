"""The statement of the hot path, written by hand: building it costs more than running it.

It runs for every request of a device. It fetches the columns that deciding needs (the others of these rows
are fetched on access), and the delivery that is first in the queue: an idle device costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models.base import ModelState

from commands.models import Command, CommandDelivery
from commands.statements import CANDIDATE_COLUMNS, FIRST_OF_QUEUE, Candidate, candidate
from database import prepared
from devices.models import Device, Enrollment, Identity
from pki.models import Certificate, Issuer, IssuerKey
from push.models import PushRequest

_IDENTITY, _ENROLLMENT = Identity._meta.db_table, Enrollment._meta.db_table
_DEVICE, _CERTIFICATE = Device._meta.db_table, Certificate._meta.db_table
_KEY, _ISSUER, _PUSH = IssuerKey._meta.db_table, Issuer._meta.db_table, PushRequest._meta.db_table
_DELIVERY, _COMMAND = CommandDelivery._meta.db_table, Command._meta.db_table

_FIND = f"""
    SELECT i.id, i.state,
           e.id, e.channel, e.user_id, e.state, e.epoch, e.binding, e.last_seen_at,
           x.id, x.udid, x.user_enrollment, x.name, x.serial_number,
           f.id, f.serial_number, f.purpose, f.status, f."foreign", f.not_before, f.not_after, f.binding,
           k.id, k.state,
           s.id, s.state, s.trusted_for,
           p.state, {CANDIDATE_COLUMNS}
      FROM {_IDENTITY} i
      JOIN {_ENROLLMENT} e ON e.id = i.enrollment_id
      JOIN {_DEVICE} x ON x.id = e.device_id
      JOIN {_CERTIFICATE} f ON f.id = i.certificate_id
      JOIN {_KEY} k ON k.id = f.issuer_key_id
      JOIN {_ISSUER} s ON s.id = k.issuer_id
      LEFT JOIN {_PUSH} p ON p.enrollment_id = e.id
      LEFT JOIN {_DELIVERY} d ON d.id = ({FIRST_OF_QUEUE})
      LEFT JOIN {_COMMAND} c ON c.id = d.command_id
     WHERE i.sha256 = %s
"""  # noqa: S608 - only names of our own tables are put together
CERTIFICATE_COLUMNS = """
    f.id, f.serial_number, f.purpose, f.status, f."foreign", f.not_before, f.not_after, f.binding,
    k.id, k.state, i.id, i.state, i.trusted_for, f.renewed_from_id
"""
"""What :func:`read_certificate` reads, from :data:`CERTIFICATE_ORIGIN`."""
CERTIFICATE_ORIGIN = f"""
      FROM {_CERTIFICATE} f JOIN {_KEY} k ON k.id = f.issuer_key_id JOIN {_ISSUER} i ON i.id = k.issuer_id
"""
_FIND_CERTIFICATE = f"SELECT {CERTIFICATE_COLUMNS} {CERTIFICATE_ORIGIN} WHERE f.sha256 = %s"
_CERTIFICATE_COLUMNS = (
    "id",
    "serial_number",
    "purpose",
    "status",
    "foreign",
    "not_before",
    "not_after",
    "binding",
)


@dataclass(frozen=True)
class Found:
    """A pinned certificate with its enrollment, device and issuer.

    ``push_state``: empty where none is. ``first``: of what waits for the device channel and may go out now.
    """

    identity: Identity
    push_state: str
    first: Candidate | None


def find_identity(sha256: str, now: datetime) -> Found | None:
    """The identity with this fingerprint (lower-case hexadecimal), in one query."""
    moment = prepared.instant(now)
    row = prepared.row(_FIND, [moment, moment, sha256])
    if row is None:
        return None
    certificate = _certificate(row[14:22], row[22:24], row[24:27])
    certificate.sha256 = sha256
    identity = _load(
        Identity,
        ("id", "state", "sha256", "enrollment_id", "certificate_id"),
        (row[0], row[1], sha256, row[2], row[14]),
        enrollment=_enrollment(row[2:9], row[9:14]),
        certificate=certificate,
    )
    return Found(identity, row[27] or "", candidate(row[28:], now) if row[28] is not None else None)


def find_certificate(sha256: str) -> Certificate | None:
    """The certificate on record with this fingerprint, pinned or not, with its key and issuer."""
    row = prepared.row(_FIND_CERTIFICATE, [sha256])
    return None if row is None else read_certificate(row, sha256)


def read_certificate(row: Any, sha256: str) -> Certificate:
    """From the values of :data:`CERTIFICATE_COLUMNS`."""
    certificate = _certificate(row[0:8], row[8:10], row[10:13])
    certificate.sha256, certificate.renewed_from_id = sha256, row[13]
    return certificate


def _enrollment(row: Any, device_row: Any) -> Enrollment:
    device = _load(Device, ("id", "udid", "user_enrollment", "name", "serial_number"), device_row)
    device.user_enrollment = bool(device.user_enrollment)
    enrollment: Enrollment = _load(
        Enrollment,
        ("id", "channel", "user_id", "state", "epoch", "device_id", "parent_id"),
        (*row[:5], device.pk, None),
        device=device,
        parent=None,
    )
    enrollment.binding = prepared.read_key(row[5]) if row[5] is not None else None
    enrollment.last_seen_at = prepared.read_instant(row[6]) if row[6] is not None else None
    return enrollment


def _certificate(row: Any, key_row: Any, issuer_row: Any) -> Certificate:
    issuer = _load(
        Issuer, ("id", "state", "trusted_for"), (*issuer_row[:2], prepared.read_json(issuer_row[2]))
    )
    key = _load(IssuerKey, ("id", "state", "issuer_id"), (*key_row, issuer.pk), issuer=issuer)
    certificate: Certificate = _load(
        Certificate, (*_CERTIFICATE_COLUMNS, "issuer_key_id"), (*row, key.pk), issuer_key=key
    )
    certificate.foreign = bool(certificate.foreign)
    certificate.not_before = prepared.read_instant(row[5])
    certificate.not_after = prepared.read_instant(row[6])
    certificate.binding = prepared.read_key(row[7]) if row[7] is not None else None
    return certificate


def _load(model: Any, columns: tuple[str, ...], row: Any, **related: Any) -> Any:
    """An instance with these columns and related rows; other columns are fetched on access.

    As ``Model.from_db`` makes it, but five times as fast: nobody listens to the signals of these models.
    """
    instance = model.__new__(model)
    instance.__dict__.update(zip(columns, row, strict=True))
    state = instance._state = ModelState()
    state.adding, state.db = False, "default"
    state.fields_cache.update(related)
    return instance
