"""What requests leave behind in a process: nothing that belongs to one of them. Objects are counted, not what
the system says of the process, which depends on all that runs beside it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from types import FrameType

import pytest
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from tests.mdm.test_connect import empty, enqueue, quiet
from tests.support.devices import Device, command_uuid

OF_REQUESTS = (Model, QuerySet, HttpRequest, HttpResponseBase, BaseException, FrameType)
WARM, TIMES = 5, 20


def left_by(act: Callable[[], object]) -> Counter[str]:
    """What there is more after :data:`TIMES` of ``act``, by type; what is remembered was so before."""
    for _time in range(WARM):
        act()
    before = _objects()
    for _time in range(TIMES):
        act()
    return _objects() - before


def _objects() -> Counter[str]:
    gc.collect()
    return Counter(type(one).__qualname__ for one in gc.get_objects() if issubclass(type(one), OF_REQUESTS))


@pytest.fixture
def quiet_a(enrolled_a: Device) -> Device:
    return quiet(enrolled_a)


def test_what_is_kept_is_seen() -> None:
    kept: list[object] = []
    assert left_by(lambda: kept.append(HttpRequest()))["HttpRequest"] == TIMES


def test_idle_connects_leave_nothing(quiet_a: Device) -> None:
    assert not left_by(quiet_a.idle)


def test_commands_and_answers_leave_nothing(quiet_a: Device) -> None:
    def round_trip() -> None:
        enqueue(quiet_a)
        uuid = command_uuid(quiet_a.idle())
        assert empty(quiet_a.answer(uuid, ProfileList=[]))

    assert not left_by(round_trip)


def test_enrolling_again_leaves_nothing(quiet_a: Device) -> None:
    assert not left_by(quiet_a.enrol)


def test_refusals_leave_nothing(quiet_a: Device) -> None:
    def refused() -> None:
        assert quiet_a.connect(b"not a property list").status >= 400

    assert not left_by(refused)
