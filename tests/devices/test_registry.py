"""The life of enrollments, without HTTP: a state machine against a plain model of it."""

from __future__ import annotations

import hashlib
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.recording import Actor
from devices import groups, identity, registry
from devices.models import (
    Channel,
    Device,
    DeviceGroup,
    Enrollment,
    EnrollmentState,
    Identity,
    IdentityState,
)
from devices.registry import Authenticate, Kind
from pki.models import Certificate
from tests.support.devices import device_key, issue_certificate, make_issuer
from tests.support.snapshot import no_change

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture(autouse=True)
def _issuer(db: None) -> None:
    make_issuer()


def digest(text: object) -> bytes:
    return hashlib.sha256(repr(text).encode()).digest()


def certificate(number: int = 0, **fields: Any) -> Certificate:
    return issue_certificate(device_key(number), binding=fields.pop("binding", uuid.uuid4()), **fields)


def authenticate(
    holder: Certificate, udid: str = "A", *, body: object = None, **more: Any
) -> registry.Outcome:
    may_replace = more.pop("may_replace", False)
    with transaction.atomic():
        return registry.authenticate(
            holder,
            Authenticate(udid=udid, topic="t", **more),
            may_replace=may_replace,
            body_digest=digest(body or (holder.pk, udid)),
            now=NOW,
        )


def tokens(enrollment: Enrollment, body: object) -> registry.TokenUpdated:
    with transaction.atomic():
        return registry.token_update(
            enrollment,
            topic="t",
            push_token=b"x",
            push_magic=str(body),
            awaiting_configuration=None,
            unlock_token=None,
            body_digest=digest(body),
            now=NOW,
        )


def test_every_outcome_of_authenticate() -> None:
    first = certificate(1)
    new = authenticate(first)
    assert (new.kind, new.dropped) == (Kind.NEW, ())
    assert authenticate(first).kind == Kind.REPEATED
    assert authenticate(first, body="another").kind == Kind.REPEATED
    assert tokens(new.enrollment, 1).first
    assert tokens(new.enrollment, 1).repeated
    over = authenticate(first, body="third")
    assert (over.kind, over.enrollment.epoch, over.dropped) == (
        Kind.RE_ENROLLED,
        2,
        (new.enrollment,),
    )
    renewed = certificate(2, renewed_from=first, binding=first.binding)
    assert authenticate(renewed).kind == Kind.RENEWED
    other = certificate(3)
    assert authenticate(other).kind == Kind.QUARANTINED
    assert authenticate(other, body="again").kind == Kind.QUARANTINED
    approved = authenticate(certificate(4), may_replace=True)
    assert (approved.kind, approved.dropped) == (Kind.NEW, (new.enrollment,))


def test_a_chain_of_renewals_is_followed() -> None:
    first = certificate(1, binding=None)
    enrollment = authenticate(first).enrollment
    second = certificate(2, renewed_from=first, binding=None)
    third = certificate(3, renewed_from=second, binding=None)
    assert identity.heir_of(third) == enrollment
    assert identity.heir_of(certificate(4)) is None
    with transaction.atomic():
        registry.adopt(enrollment, third, NOW)
    assert identity.is_outdated(enrollment, second)
    with pytest.raises(registry.Refused), transaction.atomic():
        registry.adopt(enrollment, second, NOW)


def test_the_database_itself_holds_the_line() -> None:
    first = certificate(1)
    enrollment = authenticate(first).enrollment
    device = enrollment.device
    for wrong in (
        {"state": EnrollmentState.ENROLLED},
        {"state": EnrollmentState.QUARANTINED, "binding": first.binding},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Enrollment.objects.create(device=device, channel=Channel.DEVICE, **wrong)
    with pytest.raises(IntegrityError), transaction.atomic():
        identity.pin(enrollment, first, NOW)


def test_a_refusal_leaves_nothing() -> None:
    first = certificate(1)
    enrollment = authenticate(first).enrollment
    with transaction.atomic():
        registry.check_out(enrollment, NOW)
    for wrong in (
        lambda: authenticate(first, "B"),
        lambda: authenticate(first, body="other"),
        lambda: authenticate(first, user_enrollment=True),
        lambda: tokens(enrollment, 9),
        lambda: registry.adopt(enrollment, certificate(2, renewed_from=first), NOW),
        lambda: registry.admit(enrollment, Actor("ada"), NOW),
        lambda: registry.refuse(enrollment, Actor("ada"), NOW),
    ):
        spare = certificate(2, renewed_from=first)
        assert spare.pk
        with no_change_of_enrollments(), pytest.raises(registry.Refused), transaction.atomic():
            wrong()


class no_change_of_enrollments:
    def __enter__(self) -> None:
        self.before = self.rows()

    def __exit__(self, *exc: object) -> None:
        assert self.rows() == self.before

    def rows(self) -> list[Any]:
        return [
            list(model._default_manager.order_by("pk").values_list())
            for model in (Device, Enrollment, Identity)
        ]


def test_contact_is_written_sparingly() -> None:
    enrollment = authenticate(certificate(1)).enrollment
    assert not registry.seen(enrollment.pk, NOW, NOW + timedelta(seconds=59))
    assert registry.seen(enrollment.pk, NOW, NOW + timedelta(seconds=60))
    assert registry.seen(enrollment.pk, None, NOW)


def test_erasure_is_noted_once() -> None:
    enrollment = authenticate(certificate(1)).enrollment
    registry.erased(enrollment, NOW)
    registry.erased(enrollment, NOW + timedelta(hours=1))
    enrollment.refresh_from_db()
    assert enrollment.erase_acknowledged_at == NOW
    assert authenticate(certificate(2)).kind == Kind.NEW


def test_groups_know_who_is_new() -> None:
    group = DeviceGroup.objects.create(name="G")
    ids = [Device.objects.create(udid=name).pk for name in "AB"]
    assert groups.add_devices(group, [*ids, 999], actor=Actor("ada")) == 2
    with no_change():
        assert groups.add_devices(group, ids, actor=Actor("ada")) == 0
    assert groups.remove_devices(group, ids[:1], actor=Actor("ada")) == 1
    assert list(group.devices.values_list("pk", flat=True)) == ids[1:]


# The state machine of reliability.md 4.1: three certificates of one device, one of a stranger, any order.

EVENTS = ("authenticate", "again", "token", "check_out", "erase", "admit", "refuse")


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 3)), max_size=25))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_the_invariants_hold(events: list[tuple[str, int]]) -> None:
    with transaction.atomic():
        try:
            _play(events)
        finally:
            transaction.set_rollback(True)


def _play(events: list[tuple[str, int]]) -> None:
    holders = [certificate(number) for number in range(4)]
    epochs: dict[int, int] = {}
    for step, (event, number) in enumerate(events):
        try:
            with transaction.atomic():
                _do(event, holders[number], step)
        except registry.Refused:
            pass
        live = Enrollment.objects.filter(
            device__udid="A", channel=Channel.DEVICE, state__in=["AUTHENTICATED", "ENROLLED"]
        )
        assert live.count() <= 1  # E2: one epoch is live
        for row in Enrollment.objects.all():
            assert row.epoch >= epochs.get(row.pk, 0)
            epochs[row.pk] = row.epoch
            if row.state == EnrollmentState.ENROLLED:  # E3
                assert row.push_token
                assert row.push_magic
                assert row.enrolled_at is not None
            if row.ended_at is not None:
                assert row.push_token is None
        for pin in Identity.objects.select_related("enrollment"):
            # E1: a certificate speaks for one enrollment for ever, and for none that was replaced or refused.
            if pin.enrollment.state in (EnrollmentState.REPLACED, EnrollmentState.REFUSED):
                assert pin.state == IdentityState.SUPERSEDED


def _do(event: str, holder: Certificate, step: int) -> None:
    pinned = Identity.objects.select_related("enrollment").filter(certificate=holder).first()
    if event in ("authenticate", "again"):
        registry.authenticate(
            holder,
            Authenticate(udid="A", topic="t"),
            may_replace=False,
            body_digest=digest(step if event == "again" else holder.pk),
            now=NOW,
        )
    elif pinned is None:
        return
    elif event == "token":
        registry.token_update(
            pinned.enrollment,
            topic="t",
            push_token=b"x",
            push_magic="m",
            awaiting_configuration=None,
            unlock_token=b"u",
            body_digest=digest(("token", step)),
            now=NOW,
        )
    elif event == "check_out":
        registry.check_out(pinned.enrollment, NOW)
    elif event == "erase":
        registry.erased(pinned.enrollment, NOW)
    else:
        getattr(registry, event)(pinned.enrollment, Actor("ada"), NOW)
