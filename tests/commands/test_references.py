"""A delivery has its command without a constraint of the database: by how both come and go.

Its enrollment: tests/database/test_parent_checks.py.
"""

from __future__ import annotations

import pytest
from django.db import transaction

from audit.recording import SERVER
from commands import queue
from commands.models import Command, CommandDelivery, CommandSource
from push import outbox
from tests.commands.fleet import NOW, one
from tests.support.sources import modules_with

pytestmark = pytest.mark.django_db

INSERTS = (
    r"(?<!class )CommandDelivery\(|insertion\(CommandDelivery|CommandDelivery\.objects\.(bulk_)?create"
    r"|INSERT INTO \{(delivery|_DELIVERY)\}"
)
"""Ways in which a delivery can be made."""


def put() -> Command:
    return queue.enqueue(
        "ProfileList", None, [one().pk], source=CommandSource.ADMIN, actor=SERVER, now=NOW
    ).command


def orphans() -> int:
    return CommandDelivery.objects.exclude(command_id__in=Command.objects.values("pk")).count()


def test_nobody_else_inserts_deliveries() -> None:
    """Only modules that insert the command and read the enrollments in the same transaction."""
    assert modules_with(INSERTS) == {"commands/enqueueing.py", "commands/first_commands.py"}


def test_both_are_rolled_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Exception):
        pass

    def fail(*_arguments: object, **_options: object) -> int:
        raise Broken

    monkeypatch.setattr(outbox, "request_push", fail)
    with pytest.raises(Broken), transaction.atomic():
        put()
    assert (Command.objects.count(), CommandDelivery.objects.count()) == (0, 0)


def test_a_command_goes_with_its_deliveries_and_no_others() -> None:
    gone, stays = put(), put()
    gone.delete()
    assert list(CommandDelivery.objects.values_list("command_id", flat=True)) == [stays.pk]
    assert orphans() == 0
