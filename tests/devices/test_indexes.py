"""What an enrolment writes beside its rows: no index that nobody reads, and those that are needed."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.db import connection, models

from commands.models import Command
from devices.models import Channel, CheckinReceipt, Device, Enrollment, Identity
from push.models import PushRequest
from tests.scep.test_indexes import declared, indexes_of, on_postgresql

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("model", [Device, Enrollment, Identity, CheckinReceipt, Command, PushRequest])
def test_the_indexes_are_those_of_the_models(model: type[models.Model]) -> None:
    assert sorted(indexes_of(model).values()) == sorted(declared(model))


@on_postgresql
@pytest.mark.parametrize(
    ("rows", "index"),
    [
        (
            lambda: Enrollment.objects.filter(binding=uuid.uuid4(), channel=Channel.DEVICE),
            "enrollment_binding_once",
        ),
        (lambda: Enrollment.objects.filter(parent=1), "enrollment_parent"),
        (lambda: Enrollment.objects.filter(parent__in=[1, 2]), "enrollment_parent"),
        (lambda: CheckinReceipt.objects.filter(enrollment=1), "checkin_receipt_once"),
        (lambda: CheckinReceipt.objects.filter(enrollment__in=[1, 2]), "checkin_receipt_once"),
    ],
)
def test_what_is_looked_for_is_found_by_an_index(rows: Any, index: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
    assert index in rows().order_by().explain()


@on_postgresql
def test_no_counter_is_checked_against_the_text_of_a_constraint() -> None:
    tables = [model._meta.db_table for model in (Enrollment, CheckinReceipt, Command, PushRequest)]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_constraint WHERE contype = 'c' AND conrelid = ANY(%s::regclass[])",
            [tables],
        )
        assert cursor.fetchone() == (0,)
