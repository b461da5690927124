"""Secrets of devices: sealed, bound to enrollment and epoch, shown only with a record."""

from __future__ import annotations

import pytest
from django.utils import timezone

from audit.models import AuditEvent
from audit.recording import Actor
from devices import escrow
from devices.models import Device, Enrollment, EnrollmentState, EscrowedSecret, SecretKind
from vault.sealed import SealError

pytestmark = pytest.mark.django_db
KIND = SecretKind.BOOTSTRAP_TOKEN


def make_enrollment(udid: str = "A") -> Enrollment:
    device, _new = Device.objects.get_or_create(udid=udid)
    return Enrollment.objects.create(device=device, state=EnrollmentState.ENROLLED)


def test_a_secret_is_kept_sealed_and_given_back() -> None:
    enrollment = make_enrollment()
    assert escrow.current(enrollment, KIND) is None
    secret = escrow.deposit(enrollment, KIND, b"token", timezone.now())
    assert escrow.current(enrollment, KIND) == b"token"
    assert escrow.current(enrollment, SecretKind.UNLOCK_TOKEN) is None
    assert b"token" not in bytes(secret.value_sealed)
    assert "token" not in repr(secret).replace("bootstrap token", "")


def test_a_newer_secret_replaces_and_keeps_the_earlier_one() -> None:
    enrollment, now = make_enrollment(), timezone.now()
    first = escrow.deposit(enrollment, KIND, b"one", now)
    assert escrow.deposit(enrollment, KIND, b"one", now) == first
    escrow.deposit(enrollment, KIND, b"two", now)
    assert escrow.current(enrollment, KIND) == b"two"
    assert EscrowedSecret.objects.count() == 2
    assert escrow.reveal(first, Actor("ada"), reason="lost") == b"one"
    assert escrow.withdraw(enrollment, KIND, now) == 1
    assert escrow.withdraw(enrollment, KIND, now) == 0
    assert escrow.current(enrollment, KIND) is None


def test_another_epoch_gets_nothing() -> None:
    enrollment = make_enrollment()
    escrow.deposit(enrollment, KIND, b"one", timezone.now())
    enrollment.epoch = 2
    assert escrow.current(enrollment, KIND) is None
    escrow.deposit(enrollment, KIND, b"one", timezone.now())
    assert EscrowedSecret.objects.count() == 2


def test_a_secret_moved_to_another_row_does_not_open() -> None:
    mine = escrow.deposit(make_enrollment("A"), KIND, b"of A", timezone.now())
    other = escrow.deposit(make_enrollment("B"), KIND, b"of B", timezone.now())
    EscrowedSecret.objects.filter(pk=other.pk).update(value_sealed=mine.value_sealed)
    with pytest.raises(SealError):
        escrow.current(other.enrollment, KIND)


def test_looking_leaves_a_record_without_the_secret() -> None:
    secret = escrow.deposit(make_enrollment(), KIND, b"CANARY", timezone.now())
    escrow.reveal(secret, Actor("ada"), reason="new admin")
    event = AuditEvent.objects.get(action="secret.revealed")
    assert (event.actor, event.reason, event.target_id) == ("ada", "new admin", str(secret.pk))
    assert "CANARY" not in repr(event.details)
