"""What points at an enrollment is checked by PostgreSQL where an enrollment is deleted."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import (
    IntegrityError,
    NotSupportedError,
    OperationalError,
    connection,
    transaction,
)

from audit.recording import SERVER
from commands import queue
from commands.enqueueing import UNKNOWN_TARGET, Enqueued
from commands.models import Command, CommandDelivery, CommandSource
from devices import registry
from devices.models import CheckinReceipt, Enrollment, Identity
from pki.models import Issuer
from push import outbox
from push.models import PushRequest
from tests.commands.fleet import NOW, enrolled, one
from tests.support.concurrency import own_connection, somebody_waits_for
from tests.support.devices import device_key, issue_certificate, make_issuer
from tests.support.processes import wait_until
from tests.support.snapshot import no_change
from tests.support.sources import modules_with

pytestmark = [
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite keeps the foreign keys"),
    pytest.mark.django_db(transaction=True),
]

PARENTS = "devices_enrollment"
MAKES = {
    "push": r"insertion\(PushRequest\b|\bPushRequest\.objects\.(bulk_)?create|INSERT INTO \{(push|_PUSH)\}",
    "receipt": r"insertion\(CheckinReceipt\b|\bCheckinReceipt\(enrol|\bCheckinReceipt\.objects\.create",
    "identity": r"insertion\(Identity\b|\bIdentity\(enrol|\bIdentity\.objects\.(bulk_)?create",
}
"""How such a row is made. Deliveries: tests/commands/test_references.py."""


def enqueue(*enrollments: Enrollment) -> Enqueued:
    ids = [enrollment.pk for enrollment in enrollments]
    return queue.enqueue("ProfileList", None, ids, source=CommandSource.ADMIN, actor=SERVER, now=NOW)


def accept(enrollment: Enrollment) -> None:
    with transaction.atomic():
        registry.accept_once(registry.lock(enrollment), secrets.token_bytes(32), NOW)


def pin(enrollment: Enrollment) -> None:
    if not Issuer.objects.exists():
        make_issuer()
    certificate = issue_certificate(device_key())
    with transaction.atomic():
        registry.adopt(enrollment, certificate, NOW)


WAYS: dict[str, Callable[[Enrollment], object]] = {
    "commands_commanddelivery": enqueue,
    "push_pushrequest": lambda enrollment: outbox.request_push([enrollment.pk], now=NOW),
    "devices_checkinreceipt": accept,
    "devices_identity": pin,
}
"""How a row that points at an enrollment comes into each table."""


def delete_alone(enrollment: Enrollment) -> None:
    """The row and nothing else, as somebody at the database's prompt may do."""
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM devices_enrollment WHERE id = %s", [enrollment.pk])


@pytest.mark.parametrize("table", WAYS)
def test_an_insertion_looks_nothing_up(table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'", [table]
        )
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("table", WAYS)
def test_an_enrollment_that_something_points_at_is_not_deleted(table: str) -> None:
    enrollment, free = enrolled(2)
    WAYS[table](enrollment)
    told = f'deleted of "devices_enrollment" is still referenced from table "{table}"'
    with no_change(), pytest.raises(IntegrityError, match=told):
        delete_alone(enrollment)
    delete_alone(free)
    assert not Enrollment.objects.filter(pk=free.pk).exists()


@pytest.mark.parametrize("children_first", [True, False])
def test_together_they_are_deleted_in_any_order(children_first: bool) -> None:
    enrollment = one()
    for way in WAYS.values():
        way(enrollment)
    with transaction.atomic():
        if not children_first:
            delete_alone(enrollment)
        for points in (CommandDelivery, PushRequest, CheckinReceipt, Identity):
            points._base_manager.filter(enrollment=enrollment).delete()
        if children_first:
            delete_alone(enrollment)
    assert Enrollment.objects.count() == 0


def test_a_device_is_deleted_with_all_of_it() -> None:
    gone, stays = enrolled(2)
    for way in WAYS.values():
        way(gone)
        way(stays)
    gone.device.delete()
    for points in (CommandDelivery, PushRequest, CheckinReceipt, Identity):
        assert list(points._base_manager.values_list("enrollment_id", flat=True)) == [stays.pk]


# The others lock the enrollment's row, which would be waited for without any trigger.
@pytest.mark.parametrize("table", ["commands_commanddelivery", "push_pushrequest"])
@pytest.mark.parametrize("commits", [True, False])
def test_who_deletes_waits_for_who_is_about_to_point_at_it(table: str, commits: bool) -> None:
    enrollment = one()
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            WAYS[table](enrollment)
            deleting = pool.submit(own_connection(lambda: delete_alone(enrollment)))
            wait_until("the deletion waits", lambda: somebody_waits_for(PARENTS, "AccessExclusiveLock"))
            transaction.set_rollback(not commits)
        if commits:
            with pytest.raises(IntegrityError, match="still referenced"):
                deleting.result(30)
        else:
            deleting.result(30)
    assert Enrollment.objects.filter(pk=enrollment.pk).exists() is commits


def test_who_deletes_gives_up_where_somebody_reads_for_long() -> None:
    """A backup, for instance: whoever waits for it holds up all devices."""
    enrollment = one()
    with ThreadPoolExecutor(1) as pool, no_change(), transaction.atomic():
        assert Enrollment.objects.exists()
        deleting = pool.submit(own_connection(lambda: delete_alone(enrollment)))
        with pytest.raises(OperationalError, match="lock timeout"):
            deleting.result(60)


def test_where_a_snapshot_is_older_than_the_lock_nothing_is_deleted() -> None:
    enrollment = one()

    def by_an_old_snapshot() -> None:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            delete_alone(enrollment)

    with no_change(), pytest.raises(NotSupportedError, match="READ COMMITTED only"):
        by_an_old_snapshot()


@pytest.mark.parametrize("table", WAYS)
def test_a_truncated_table_takes_nothing_away_that_is_pointed_at(table: str) -> None:
    WAYS[table](one())
    told = f'still referenced from table "{table}"'
    with connection.cursor() as cursor, no_change(), pytest.raises(IntegrityError, match=told):
        cursor.execute("TRUNCATE devices_enrollment CASCADE")


def test_who_would_point_at_it_waits_for_who_deletes() -> None:
    gone, stays = enrolled(2)
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            delete_alone(gone)
            queuing = pool.submit(own_connection(lambda: enqueue(gone, stays)))
            wait_until("the command waits", lambda: somebody_waits_for(PARENTS, "AccessShareLock"))
        done = queuing.result(30)
    assert (done.queued, [skipped.reason for skipped in done.skipped]) == (1, [UNKNOWN_TARGET])
    assert list(CommandDelivery.objects.values_list("enrollment_id", flat=True)) == [stays.pk]
    assert list(PushRequest.objects.values_list("enrollment_id", flat=True)) == [stays.pk]
    assert Command.objects.get().targets == 1


@pytest.mark.parametrize(
    ("what", "by"),
    [
        ("push", {"push/outbox.py", "mdm/newcomers.py"}),
        ("receipt", {"devices/registry.py", "devices/statements.py"}),
        ("identity", {"devices/identity.py", "devices/statements.py"}),
    ],
)
def test_such_rows_are_made_by_nobody_who_has_not_read_the_enrollment(what: str, by: set[str]) -> None:
    """All of these read, lock or insert the enrollment in the same transaction or statement."""
    assert modules_with(MAKES[what]) == by
