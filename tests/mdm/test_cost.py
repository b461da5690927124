"""What devices cost the database: statements for each request, and plans that stay as tables fill."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from commands.models import CommandResult
from devices.models import Enrollment
from enrollment.models import EnrollmentProfile
from mdm import awaited
from tests.mdm.support import enrollment_of
from tests.mdm.test_connect import empty, enqueue, quiet
from tests.mdm.test_newcomers import USUAL, profile
from tests.support.devices import Device, command_uuid

__all__ = ["profile"]

ON_POSTGRESQL = connection.vendor == "postgresql"
SHORT = 2 if ON_POSTGRESQL else 9
"""Statements of a connect with a command or an answer; on SQLite, step by step, with their transaction."""
ANSWER = 1 if ON_POSTGRESQL else SHORT
"""Of an answer to a command that the same process has handed out."""

Statements = list[str]


@contextmanager
def captured() -> Iterator[Statements]:
    """The statements of a request, without the savepoints that only a test's own transaction makes."""
    found: Statements = []
    with CaptureQueriesContext(connection) as context:
        yield found
    for query in context.captured_queries:
        sql = query["sql"].strip()
        if not sql.startswith(("SAVEPOINT", "RELEASE SAVEPOINT")):
            found.append(sql)


@pytest.fixture
def quiet_a(enrolled_a: Device) -> Device:
    """A, enrolled, with nothing queued and no push under way."""
    return quiet(enrolled_a)


def forget_contact(device: Device) -> None:
    long_ago = timezone.now() - timedelta(seconds=61)
    Enrollment.objects.filter(pk=enrollment_of(device).pk).update(last_seen_at=long_ago)


def test_an_idle_connect_is_one_read(quiet_a: Device) -> None:
    with captured() as statements:
        assert empty(quiet_a.idle())
    assert len(statements) == 1
    assert statements[0].startswith("SELECT")


def test_and_one_write_a_minute(quiet_a: Device) -> None:
    forget_contact(quiet_a)
    with captured() as statements:
        quiet_a.idle()
    assert len(statements) == 2
    with captured() as statements:
        quiet_a.idle()
    assert len(statements) == 1


def test_a_command_takes_one_statement_more_and_its_answer_one(quiet_a: Device) -> None:
    enqueue(quiet_a)
    with captured() as handing_out:
        uuid = command_uuid(quiet_a.idle())
    with captured() as answering:
        assert empty(quiet_a.answer(uuid, ProfileList=[]))
    assert len(handing_out) <= SHORT
    assert len(answering) <= ANSWER
    assert CommandResult.objects.get().status == "Acknowledged"


def test_an_answer_that_gets_the_next_command_costs_no_more(quiet_a: Device) -> None:
    enqueue(quiet_a)
    enqueue(quiet_a)
    uuid = command_uuid(quiet_a.idle())
    with captured() as statements:
        assert command_uuid(quiet_a.answer(uuid)) != uuid
    assert len(statements) <= ANSWER


@pytest.mark.skipif(not ON_POSTGRESQL, reason="SQLite goes step by step")
def test_with_the_time_of_contact_there_are_three(quiet_a: Device) -> None:
    enqueue(quiet_a)
    forget_contact(quiet_a)
    with captured() as handing_out:
        uuid = command_uuid(quiet_a.idle())
    forget_contact(quiet_a)
    awaited.forget()
    with captured() as answering:
        quiet_a.answer(uuid)
    assert (len(handing_out), len(answering)) == (3, 3)


def test_history_costs_nothing(quiet_a: Device) -> None:
    for _number in range(20):
        enqueue(quiet_a)
        quiet_a.answer(command_uuid(quiet_a.idle()))
    with captured() as statements:
        assert empty(quiet_a.idle())
    assert len(statements) == 1


# Enrolment


@pytest.mark.parametrize("origin", USUAL)
def test_an_enrolment(profile: EnrollmentProfile, origin: str) -> None:
    """Authenticate, and the TokenUpdate that queues the first questions; on SQLite BEGIN and COMMIT more."""
    device = USUAL[origin](profile)
    with captured() as authenticate:
        assert device.check_in(device.authenticate_message()).status == 200
    with captured() as token_update:
        assert device.check_in(device.token_update_message()).status == 200
    look_at_trusted = 1  # once in five seconds
    look_at_the_certificate = 0 if origin == "another CA" else 1
    assert len(authenticate) <= (1 + look_at_the_certificate if ON_POSTGRESQL else 17) + look_at_trusted
    assert len(token_update) <= (1 if ON_POSTGRESQL else 17)


def test_a_token_update_of_an_enrolled_device(quiet_a: Device) -> None:
    with captured() as statements:
        assert quiet_a.check_in(quiet_a.token_update_message(b"\x03" * 32, "other")).status == 200
    assert len(statements) <= 6
