"""Plans of what devices cause, among 10,000 of them with a history: every row is found by an index."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from django.db import connection

from database.statements import of_connection
from devices.models import Device as DeviceRow
from enrollment.models import EnrollmentProfile
from enrollment.setup import ensure_default_profile
from mdm import awaited
from pki.models import Issuer
from tests.mdm.support import enrollment_of
from tests.mdm.test_connect import enqueue
from tests.mdm.test_newcomers import foreign_device, of_a_session, profile, unbound
from tests.support.devices import Device, command_uuid

__all__ = ["profile"]

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(connection.vendor != "postgresql", reason="plans are PostgreSQL's"),
]

MANY = 10_000
FULL = (
    "devices_device",
    "devices_enrollment",
    "devices_identity",
    "devices_checkinreceipt",
    "pki_certificate",
    "commands_command",
    "commands_commanddelivery",
    "push_pushrequest",
    "audit_auditevent",
    "enrollment_enrollmentsession",
)
"""Tables that grow with devices and time. Rows are copied from those of one device, under other keys."""
COPIED = {
    "devices_device": {"uuid": "gen_random_uuid()", "udid": "'U' || n", "serial_number": "'S' || n"},
    "devices_enrollment": {
        "uuid": "gen_random_uuid()",
        "binding": "gen_random_uuid()",
        "device_id": "(SELECT id FROM devices_device WHERE udid = 'U' || n)",
    },
    "pki_certificate": {"serial_number": "'C' || n", "sha256": "'C' || n", "binding": "gen_random_uuid()"},
    "devices_identity": {
        "sha256": "'C' || n",
        "certificate_id": "(SELECT id FROM pki_certificate WHERE sha256 = 'C' || n)",
        "enrollment_id": "(SELECT max(id) + 1 - n FROM devices_enrollment)",
    },
    "devices_checkinreceipt": {
        "enrollment_id": "(SELECT max(id) + 1 - n FROM devices_enrollment)",
        "digest": "sha256(n::text::bytea)",
    },
    # One command for all of them, finished by most; and the many of one device.
    "commands_command": {"uuid": "gen_random_uuid()"},
    "push_pushrequest": {"enrollment_id": "(SELECT max(id) + 1 - n FROM devices_enrollment)"},
    "audit_auditevent": {},
    "enrollment_enrollmentsession": {"uuid": "gen_random_uuid()"},
}


@pytest.fixture
def full(enrolled_a: Device) -> Device:
    """A, which has finished 10,000 commands, among 10,000 others."""
    enqueue(enrolled_a)
    of_a_session(ensure_default_profile(Issuer.objects.get()))
    with connection.cursor() as cursor:
        for table, changed in COPIED.items():
            cursor.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s", [table]
            )
            columns = [name for (name,) in cursor.fetchall() if name != "id"]
            values = ", ".join(changed.get(name, f'one."{name}"') for name in columns)
            names = ", ".join(f'"{name}"' for name in columns)
            cursor.execute(
                f"INSERT INTO {table} ({names}) SELECT {values} "  # noqa: S608
                f"FROM (SELECT * FROM {table} LIMIT 1) one, generate_series(1, %s) n",
                [MANY],
            )
        cursor.execute(
            """
            INSERT INTO commands_commanddelivery
                   (command_id, enrollment_id, epoch, state, reason, sent_count, not_now_count)
            SELECT c.id, %s, 1, 'ACKNOWLEDGED', '', 1, 0 FROM commands_command c
             WHERE NOT EXISTS (SELECT 1 FROM commands_commanddelivery d WHERE d.command_id = c.id)
             UNION ALL
            SELECT (SELECT min(id) FROM commands_command), e.id, 1, 'QUEUED', '', 0, 0
              FROM devices_enrollment e WHERE e.id <> %s
            """,
            [enrollment_of(enrolled_a).pk] * 2,
        )
        cursor.execute("ANALYZE")
    return enrolled_a


@pytest.fixture
def only_prepared_here(full: Device) -> None:
    forget_prepared()


def forget_prepared() -> None:
    with connection.cursor() as cursor:
        cursor.execute("DEALLOCATE ALL")
        of_connection(connection.connection).forget()


def plans() -> dict[str, str]:
    """The generic plan of every statement that is prepared on this connection."""
    found = {}
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        cursor.execute("SELECT name, statement, cardinality(parameter_types) FROM pg_prepared_statements")
        for name, statement, count in cursor.fetchall():
            nulls = ", ".join(["NULL"] * count)
            cursor.execute(f"EXPLAIN EXECUTE {name}({nulls})" if count else f"EXPLAIN EXECUTE {name}")
            found[statement] = "\n".join(line for (line,) in cursor.fetchall())
    return found


def whole(plan: str) -> Iterator[str]:
    """The tables that grow of which the plan reads an index from end to end."""
    for table, then in re.findall(r"Index (?:Only )?Scan .*using \w+ on (\w+).*\n *(.*)", plan):
        if table in FULL and not then.startswith("Index Cond"):
            yield table


def test_nor_an_index_as_long_as_there_are_few(profile: EnrollmentProfile) -> None:
    """What is planned in the first minute of an installation is kept until the tables are first analysed."""
    forget_prepared()
    for newcomer in (of_a_session(profile), foreign_device(), unbound("D")):
        newcomer.enrol()
        newcomer.answer(command_uuid(newcomer.idle()))
    told = plans()
    assert sum("devices_enrollment" in statement for statement in told) >= 4
    assert not [(statement, plan) for statement, plan in told.items() if list(whole(plan))]
    # Nor all certificates in force of an issuer.
    assert not [plan for plan in told.values() if re.search("certificate_live|issuer_key_id_", plan)]


def test_no_statement_reads_a_table_from_end_to_end(
    full: Device, only_prepared_here: None, b: Device
) -> None:
    assert DeviceRow.objects.count() > MANY
    while (answer := full.idle()).body:
        full.answer(command_uuid(answer))
    b.enrol(push_token=b"\x02" * 32, push_magic="magic-b")
    for newcomer in (of_a_session(EnrollmentProfile.objects.get()), foreign_device(), unbound("D")):
        newcomer.enrol()
    b.check_in(b.authenticate_message(OSVersion="16"))  # the long way
    b.check_in(b.token_update_message(UnlockToken=b"unlock"))
    enqueue(full)
    full.answer(command_uuid(full.idle()), "NotNow")
    full.answer(command_uuid(full.idle()), ProfileList=[])
    enqueue(full)
    uuid = command_uuid(full.idle())
    awaited._awaited.clear()  # as in another process
    full.answer(uuid)
    told = plans()
    assert len(told) > 20
    assert any("WITH who AS" in statement for statement in told)
    slow = [
        f"{statement}\n{plan}"
        for statement, plan in told.items()
        if any(f"Seq Scan on {table}" in plan for table in FULL)
    ]
    assert not slow, "\n\n".join(slow)
    assert not [(statement, plan) for statement, plan in told.items() if list(whole(plan))]
    # Nor is it looked at with how many other devices the same command is.
    assert not [plan for plan in told.values() if "delivery_progress" in plan]
    # The queue of a device is found by the index of what is outstanding, not among all that ever was.
    queues = [plan for statement, plan in told.items() if "commands_commanddelivery" in statement]
    assert sum("delivery_outstanding" in plan for plan in queues) >= 2
