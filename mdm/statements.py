"""The statement of the hot path, written by hand: building it costs more than running it.

It runs for every request of a device. It fetches the columns that deciding needs (the others of these rows
are fetched on access), and the delivery that is first in the queue: an idle device costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from commands.models import Command, CommandDelivery
from commands.statements import CANDIDATE_COLUMNS, FIRST_OF_QUEUE, Candidate, Condition, Part, candidate
from database import instances, prepared
from devices.core.identity import ChannelIdentity
from devices.models import Device, Enrollment, EnrollmentState, Identity, IdentityState
from pki import trust
from pki.models import Certificate, Issuer, IssuerKey, Purpose
from push.models import PushRequest

_IDENTITY, _ENROLLMENT = Identity._meta.db_table, Enrollment._meta.db_table
_DEVICE, _CERTIFICATE = Device._meta.db_table, Certificate._meta.db_table
_KEY, _ISSUER, _PUSH = IssuerKey._meta.db_table, Issuer._meta.db_table, PushRequest._meta.db_table
_DELIVERY, _COMMAND = CommandDelivery._meta.db_table, Command._meta.db_table

_COLUMNS = """
    i.id, i.state,
    e.id, e.channel, e.user_id, e.state, e.epoch, e.binding, e.last_seen_at,
    x.id, x.udid, x.user_enrollment, x.name, x.serial_number,
    f.id, f.serial_number, f.purpose, f.status, f."foreign", f.not_before, f.not_after, f.binding,
    k.id, k.state,
    s.id, s.state, s.trusted_for,
    p.state
"""
_WHO = f"""
      FROM {_IDENTITY} i
      JOIN {_ENROLLMENT} e ON e.id = i.enrollment_id
      JOIN {_DEVICE} x ON x.id = e.device_id
      JOIN {_CERTIFICATE} f ON f.id = i.certificate_id
      JOIN {_KEY} k ON k.id = f.issuer_key_id
      JOIN {_ISSUER} s ON s.id = k.issuer_id
"""
_ORIGIN = f"{_WHO} LEFT JOIN {_PUSH} p ON p.enrollment_id = e.id"
# In one walk over the queue. SQLite has no LATERAL: it looks the delivery up again that it found.
_FIND = f"""
    SELECT {_COLUMNS}, q.* {_ORIGIN}
      LEFT JOIN LATERAL (SELECT {CANDIDATE_COLUMNS} {FIRST_OF_QUEUE}) q ON true
     WHERE i.sha256 = %s
"""
_FIND_ON_SQLITE = f"""
    SELECT {_COLUMNS}, {CANDIDATE_COLUMNS} {_ORIGIN}
      LEFT JOIN {_DELIVERY} d ON d.id = (SELECT d.id {FIRST_OF_QUEUE})
      LEFT JOIN {_COMMAND} c ON c.id = d.command_id
     WHERE i.sha256 = %s
"""
CERTIFICATE_COLUMNS = """
    f.id, f.serial_number, f.purpose, f.status, f."foreign", f.not_before, f.not_after, f.binding,
    k.id, k.state, i.id, i.state, i.trusted_for, f.renewed_from_id
"""
"""What :func:`read_certificate` reads, from :data:`CERTIFICATE_ORIGIN`."""
CERTIFICATE_ORIGIN = f"""
      FROM {_CERTIFICATE} f JOIN {_KEY} k ON k.id = f.issuer_key_id JOIN {_ISSUER} i ON i.id = k.issuer_id
"""
_FIND_CERTIFICATE = f"SELECT {CERTIFICATE_COLUMNS} {CERTIFICATE_ORIGIN} WHERE f.sha256 = %s"


def still_speaks_sql(sha256: str) -> str:
    """Of the enrollment ``e``: that the certificate still speaks for it, and is trusted as when verified.

    ``sha256``: the place of its fingerprint in the statement. PostgreSQL only.
    """
    # One row after the other by its key, and OFFSET keeps the planner from other ways: as long as there are
    # few certificates, it would look through all of an issuer that are in force.
    return f"""
    EXISTS (SELECT 1 FROM {_IDENTITY} i
              CROSS JOIN LATERAL (SELECT * FROM {_CERTIFICATE} WHERE id = i.certificate_id OFFSET 0) f
              CROSS JOIN LATERAL (SELECT * FROM {_KEY} WHERE id = f.issuer_key_id OFFSET 0) k
              CROSS JOIN LATERAL (SELECT * FROM {_ISSUER} WHERE id = k.issuer_id OFFSET 0) s
             WHERE i.sha256 = {sha256} AND i.enrollment_id = e.id AND i.state = '{IdentityState.ACTIVE.value}'
               AND {trust.still_trusted(Purpose.MDM_IDENTITY)})
    """  # noqa: S608


_STILL_SPEAKS = still_speaks_sql("%s")
# All that is asked of who answers a command, device channel only; what is refused is told otherwise.
_WHO_ANSWERS = f"""
    SELECT e.id, e.epoch, e.device_id, e.last_seen_at, f.not_after {_WHO}
     WHERE i.sha256 = %s AND x.udid = %s AND x.user_enrollment = %s
       AND %s BETWEEN f.not_before AND f.not_after
       AND i.state = '{IdentityState.ACTIVE.value}' AND e.state = '{EnrollmentState.ENROLLED.value}'
       AND {trust.still_trusted(Purpose.MDM_IDENTITY)}
       FOR NO KEY UPDATE OF e
"""


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
    row = prepared.row(_FIND if prepared.on_postgresql() else _FIND_ON_SQLITE, [moment, moment, sha256])
    if row is None:
        return None
    enrollment = _enrollment(row[2:9], _device(row[9:14]))
    certificate = _certificate(sha256, row[14:22], _key(row[22:24], _issuer(row[24:27])))
    identity = instances.loaded(
        Identity,
        {
            "id": row[0],
            "state": row[1],
            "sha256": sha256,
            "enrollment_id": row[2],
            "certificate_id": row[14],
        },
        {"enrollment": enrollment, "certificate": certificate},
    )
    return Found(identity, row[27] or "", candidate(row[28:], now) if row[28] is not None else None)


def still_speaks(sha256: str) -> Condition:
    """All of what :func:`mdm.authentication.pinned` asks that may have changed since. PostgreSQL only."""
    return Condition(_STILL_SPEAKS, [sha256])


def who_answers(sha256: str, channel: ChannelIdentity, now: datetime) -> Part:
    """The enrollment of a device that may answer: all that :func:`mdm.authentication.pinned` asks, and ids.

    For :func:`commands.queue.take_answer_of`, whose row :func:`read_answering` reads.
    """
    return Part(_WHO_ANSWERS, [sha256, channel.udid, channel.user_enrollment, now])


def read_answering(row: Any, channel: ChannelIdentity) -> tuple[Enrollment, datetime]:
    """Who answered, and until when its certificate is valid."""
    pk, epoch, device_id, last_seen_at, not_after = row
    ids = {"id": device_id, "udid": channel.udid, "user_enrollment": channel.user_enrollment}
    device = instances.loaded(Device, ids)
    values = {"id": pk, "epoch": epoch, "device_id": device_id, "last_seen_at": last_seen_at}
    return instances.loaded(Enrollment, values, {"device": device}), not_after


def find_certificate(sha256: str) -> Certificate | None:
    """The certificate on record with this fingerprint, pinned or not, with its key and issuer."""
    row = prepared.row(_FIND_CERTIFICATE, [sha256])
    return None if row is None else read_certificate(row, sha256)


def read_certificate(row: Any, sha256: str) -> Certificate:
    """From the values of :data:`CERTIFICATE_COLUMNS`."""
    certificate = _certificate(sha256, row[0:8], _key(row[8:10], _issuer(row[10:13])))
    certificate.renewed_from_id = row[13]
    return certificate


def _device(row: Any) -> Device:
    pk, udid, user_enrollment, name, serial_number = row
    return instances.loaded(
        Device,
        {
            "id": pk,
            "udid": udid,
            "user_enrollment": bool(user_enrollment),
            "name": name,
            "serial_number": serial_number,
        },
    )


def _enrollment(row: Any, device: Device) -> Enrollment:
    pk, channel, user_id, state, epoch, binding, last_seen_at = row
    return instances.loaded(
        Enrollment,
        {
            "id": pk,
            "channel": channel,
            "user_id": user_id,
            "state": state,
            "epoch": epoch,
            "binding": None if binding is None else prepared.read_key(binding),
            "last_seen_at": None if last_seen_at is None else prepared.read_instant(last_seen_at),
            "device_id": device.id,
            "parent_id": None,
        },
        {"device": device, "parent": None},
    )


def _issuer(row: Any) -> Issuer:
    pk, state, trusted_for = row
    return instances.loaded(Issuer, {"id": pk, "state": state, "trusted_for": _read_list(trusted_for)})


def _key(row: Any, issuer: Issuer) -> IssuerKey:
    pk, state = row
    return instances.loaded(IssuerKey, {"id": pk, "state": state, "issuer_id": issuer.id}, {"issuer": issuer})


def _certificate(sha256: str, row: Any, key: IssuerKey) -> Certificate:
    pk, serial_number, purpose, status, foreign, not_before, not_after, binding = row
    return instances.loaded(
        Certificate,
        {
            "id": pk,
            "sha256": sha256,
            "serial_number": serial_number,
            "purpose": purpose,
            "status": status,
            "foreign": bool(foreign),
            "not_before": prepared.read_instant(not_before),
            "not_after": prepared.read_instant(not_after),
            "binding": None if binding is None else prepared.read_key(binding),
            "issuer_key_id": key.id,
        },
        {"issuer_key": key},
    )


def _read_list(value: Any) -> list[str]:
    """A list from a JSON column; the same few texts come again and again."""
    return list(_parsed(value)) if isinstance(value, str) else value


@lru_cache(maxsize=64)
def _parsed(text: str) -> tuple[str, ...]:
    return tuple(prepared.read_json(text))
