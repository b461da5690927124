"""Parts of the two statements in which a device enrols on PostgreSQL: what of them is about devices.

Put together in :mod:`mdm.newcomers`, where parameters are named. The parts that write wait for each other, in
the order in which :mod:`devices.registry` writes: device, enrollment, certificate, identity, receipt. Two
enrolments that meet wait for one another there, and never both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from database import templates
from devices.models import Channel, CheckinReceipt, Device, Enrollment, EnrollmentState, Identity
from pki.models import Certificate

_DEVICE, _ENROLLMENT, _IDENTITY = Device._meta.db_table, Enrollment._meta.db_table, Identity._meta.db_table
_RECEIPT, _CERTIFICATE = CheckinReceipt._meta.db_table, Certificate._meta.db_table
_SAID = (
    *("udid", "user_enrollment", "serial_number", "name", "platform", "product_name", "model_name"),
    *("os_version", "build_version", "imei", "meid"),
)

UNKNOWN_DEVICE = f"NOT EXISTS (SELECT FROM {_DEVICE} WHERE udid = %(device_udid)s)"
NOTHING_BOUND = f"""
    NOT EXISTS (SELECT FROM {_ENROLLMENT} WHERE binding = %(binding)s AND channel = '{Channel.DEVICE}')
"""
_NO_RECEIPT = f"""
    NOT EXISTS (SELECT FROM {_RECEIPT}
                 WHERE enrollment_id = %(enrollment)s AND digest = %(digest)s AND epoch = %(epoch)s)
"""


def not_pinned(certificate: str) -> str:
    """The certificate with this id (SQL) speaks for no enrollment."""
    return f"NOT EXISTS (SELECT FROM {_IDENTITY} WHERE certificate_id = {certificate})"


def arrival(certificate: str, *, bound: bool, recorded: bool) -> str:
    """Device, enrollment, identity and receipt of an Authenticate; ``pinned`` has the ``enrollment_id``.

    ``certificate``: a part of the statement that gives the ``id`` of one certificate, or nothing, and then
    nothing is written. ``bound``: it was issued for the session with the parameter ``binding``. ``recorded``:
    it was on record before; its first use is noted. Raises ``IntegrityError`` where another was quicker.
    """
    device = {**templates.places(Device, "device", *_SAID), "created_at": "%(now)s::timestamptz"}
    enrollment = {
        "device_id": "arrived.id",
        "state": f"'{EnrollmentState.AUTHENTICATED}'",
        "topic": "%(topic)s::varchar",
        "authenticated_at": "%(now)s::timestamptz",
        "last_seen_at": "%(now)s::timestamptz",
        **({"binding": "%(binding)s::uuid"} if bound else {}),
    }
    identity = {
        "enrollment_id": "begun.id",
        "certificate_id": f"{certificate}.id",
        "sha256": "%(sha256)s::varchar",
        "pinned_at": "%(now)s::timestamptz",
    }
    used = f"""
        used AS (
            UPDATE {_CERTIFICATE} c SET first_used_at = COALESCE(c.first_used_at, %(now)s::timestamptz)
              FROM begun, {certificate} WHERE c.id = {certificate}.id RETURNING c.id),
    """  # noqa: S608
    after_use = "LEFT JOIN used ON true" if recorded else ""
    return f"""
        arrived AS ({templates.insertion(Device, device)} FROM {certificate} RETURNING id),
        begun AS ({templates.insertion(Enrollment, enrollment)} FROM arrived RETURNING id),
        {used if recorded else ""}
        pinned AS (
            {templates.insertion(Identity, identity)} FROM begun CROSS JOIN {certificate} {after_use}
            RETURNING enrollment_id),
        accepted AS ({_receipt("pinned.enrollment_id", "1")} FROM pinned)
    """


def arrival_parameters(device: Mapping[str, Any], digest: bytes) -> dict[str, Any]:
    """``device``: its columns, of :func:`devices.registry.device_columns`."""
    return {**{f"device_{name}": device[name] for name in _SAID}, "digest": digest}


def enrolment(conditions: Sequence[str]) -> str:
    """Tokens and receipt of a first TokenUpdate; ``enrolled`` has ``id`` and ``epoch``.

    It gives nothing, and nothing is written, where the enrollment is not as it was read, the same bytes were
    accepted before, or one of the ``conditions`` (of the enrollment ``e``) does not hold. All else in the
    statement comes after it: others that change this enrollment wait here.
    """
    # The state is a parameter, though always the same: as a constant it would let the planner take the index
    # of live enrollments, which seems the cheapest as long as there are few, and read it from end to end.
    return f"""
        enrolled AS (
            UPDATE {_ENROLLMENT} e
               SET state = '{EnrollmentState.ENROLLED}', enrolled_at = %(now)s::timestamptz,
                   topic = %(topic)s, push_token = %(push_token)s, push_magic = %(push_magic)s,
                   token_updated_at = %(now)s::timestamptz, token_dead_at = NULL,
                   awaiting_configuration = COALESCE(%(awaiting)s::boolean, awaiting_configuration)
             WHERE id = %(enrollment)s AND state = %(state)s
               AND epoch = %(epoch)s AND channel = '{Channel.DEVICE}'
               AND {" AND ".join([_NO_RECEIPT, *conditions])}
            RETURNING id, epoch),
        accepted AS ({_receipt("enrolled.id", "enrolled.epoch")} FROM enrolled)
    """  # noqa: S608


def _receipt(enrollment: str, epoch: str) -> str:
    columns = {
        "enrollment_id": enrollment,
        "epoch": epoch,
        "digest": "%(digest)s::bytea",
        "received_at": "%(now)s::timestamptz",
    }
    return templates.insertion(CheckinReceipt, columns)
