"""The outbox: who is due a push. The rows are the truth; a task or the sweep acts on them.

At most one push is pending for each enrollment. ``due_at`` says when the next one goes; ``lease_owner`` and
``lease_until`` say who is sending one now. Whoever holds a lease settles it only if the row still bears it:
a device that connected meanwhile has taken the lease away, and wins.

Locks are taken in the order of enrollment ids, and those of enrollments before those of pushes.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.db import connection, models, transaction
from django.db.models import Q

from database import prepared
from database.among import among_sql
from devices.models import Enrollment, EnrollmentState
from push import statements, waking
from push.models import PushRequest, PushState

CHUNK = 5000
"""Enrollments in one statement."""
LEASE = timedelta(seconds=30)
"""Longer than a push may take (:data:`push.client.SEND_DEADLINE`), short enough to wait for a dead worker."""
WAKEABLE = (EnrollmentState.ENROLLED, EnrollmentState.TURN_AWAY)
"""Whose devices are woken: those that are enrolled, and those that shall hear that they are not any more."""
AT_LEAST_BETWEEN = timedelta(seconds=20)
"""Between two pushes to a device that has not connected, however many commands are queued."""

_random = secrets.SystemRandom()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Due:
    """A leased row, with what a push to its enrollment needs."""

    pk: int
    attempts: int
    last_sent_at: datetime | None
    state: str
    topic: str
    push_magic: str = field(repr=False)
    push_token: bytes = field(repr=False)
    token_updated_at: datetime | None
    token_dead_at: datetime | None

    @property
    def can_be_woken(self) -> bool:
        """Whether its enrollment lives, and has a token that does."""
        return self.state in WAKEABLE and bool(self.push_token) and self.token_dead_at is None


@dataclass(frozen=True)
class Claim:
    """Rows leased to one sender."""

    owner: uuid.UUID
    rows: tuple[Due, ...]


@dataclass(frozen=True)
class Settlement:
    """What a row becomes after its push. ``dead_token``: the token that APNs will not take any more."""

    enrollment_id: int
    state: PushState
    due_at: datetime
    attempts: int
    result: str
    sent_at: datetime | None
    apns_id: uuid.UUID | None
    dead_token: bytes | None = field(default=None, repr=False)


def request_push(enrollment_ids: Iterable[int], *, now: datetime, due_at: datetime | None = None) -> int:
    """Make a push due for each of these enrollments that is enrolled and has a living token.

    One statement for up to :data:`CHUNK` enrollments. Runs in the caller's transaction and wakes a worker
    when that commits. A row that is due sooner stays so; one that was pushed within
    :data:`AT_LEAST_BETWEEN`, and whose device has not connected since, waits for the rest of that time;
    what is held stays held. Returns how many rows there are now.
    """
    ids = sorted(set(enrollment_ids))
    due = due_at or now
    requested = 0
    with transaction.atomic():
        for chunk in _chunks(ids, CHUNK):
            requested += _upsert(chunk, now, due)
        if requested and due <= now:
            transaction.on_commit(wake, robust=True)
    return requested


def _upsert(ids: Sequence[int], now: datetime, due: datetime) -> int:
    """INSERT … SELECT … ON CONFLICT: the same on SQLite and PostgreSQL, one statement."""
    push, enrollment = PushRequest._meta.db_table, Enrollment._meta.db_table
    sql = f"""
        INSERT INTO {push} (enrollment_id, state, due_at, requested_at, attempts, last_result)
        SELECT id, %s, %s, %s, 0, ''
          FROM {enrollment}
         WHERE id IN ({among_sql()}) AND state IN (%s, %s)
           AND push_token IS NOT NULL AND token_dead_at IS NULL
         ORDER BY id
        ON CONFLICT (enrollment_id) DO UPDATE SET
            state = CASE {push}.state WHEN %s THEN {push}.state ELSE excluded.state END,
            attempts = CASE {push}.state WHEN %s THEN 0 ELSE {push}.attempts END,
            requested_at = CASE {push}.state WHEN %s THEN excluded.requested_at ELSE {push}.requested_at END,
            due_at = CASE
                WHEN {push}.state = %s THEN excluded.due_at
                WHEN {push}.last_sent_at > %s AND {push}.due_at > %s THEN %s
                WHEN {push}.last_sent_at > %s OR {push}.due_at < excluded.due_at THEN {push}.due_at
                ELSE excluded.due_at END
    """  # noqa: S608 - only names of our own tables are put together here
    recently = _instant(now - AT_LEAST_BETWEEN)
    later = _instant(max(due, now + AT_LEAST_BETWEEN))
    idle, held = PushState.IDLE.value, PushState.HELD.value
    with connection.cursor() as cursor:
        cursor.execute(
            sql,
            [
                *(PushState.DUE.value, _instant(due), _instant(now)),
                json.dumps(list(ids)),
                *(*(state.value for state in WAKEABLE), held, idle, idle, idle),
                *(recently, later, later, recently),
            ],
        )
        return int(cursor.rowcount)


def _instant(value: datetime) -> Any:
    """A time as this database's driver takes it."""
    return connection.ops.adapt_datetimefield_value(value)


def connected(enrollment_id: int, *, more: bool, now: datetime) -> None:
    """The device connected. One UPDATE; with ``more=False`` it touches nothing when the row is idle.

    Call it with ``more=False`` *before* reading the queue, in the same transaction: then a command that is
    queued at this very moment either is seen, or makes the row due again afterwards. Call it with
    ``more=True`` when work is left (a command handed out, or a NotNow): the device is pushed again if it
    does not come by itself, and the pause grows with the pushes that it took so far.
    """
    if more:
        statements.work_left(enrollment_id, now, jitter())
    else:
        statements.nothing_left(enrollment_id)


def anything_due(now: datetime) -> bool:
    """Whether there is work: one look into the index of due rows."""
    return statements.anything_due(now)


def _due(now: datetime) -> models.QuerySet[PushRequest]:
    free = Q(lease_until__isnull=True) | Q(lease_until__lte=now)
    return PushRequest.objects.filter(free, state=PushState.DUE, due_at__lte=now)


def claim(now: datetime, limit: int, *, not_topics: Sequence[str] = (), topic: str | None = None) -> Claim:
    """Lease up to ``limit`` due rows, the longest due first. Two senders never hold the same row.

    PostgreSQL passes over rows that another sender has locked, and does it all in one statement. Elsewhere
    one writes at a time, and the UPDATE asks again whether the row is due and free.
    """
    owner = uuid.uuid4()
    if prepared.on_postgresql():
        leased = statements.lease(owner, now, now + LEASE, limit, not_topics=not_topics, topic=topic)
        return Claim(owner, tuple(_due_rows(leased)))
    due = _due(now).order_by("due_at")
    due = due.filter(enrollment__topic=topic) if topic is not None else due
    due = due.exclude(enrollment__topic__in=not_topics) if not_topics else due
    with transaction.atomic():
        ids = list(due.values_list("pk", flat=True)[:limit])
        if not ids:
            return Claim(owner, ())
        _due(now).filter(pk__in=ids).update(lease_owner=owner, lease_until=now + LEASE)
    return Claim(owner, tuple(_leased(owner, ids)))


_OF_ENROLLMENT = ("state", "topic", "push_magic", "push_token", "token_updated_at", "token_dead_at")


def _leased(owner: uuid.UUID, ids: Sequence[int]) -> Iterator[Due]:
    """The rows of a lease, by rising id: values only, for objects would cost more than the pushes."""
    names = [f"enrollment__{name}" for name in _OF_ENROLLMENT]
    rows = PushRequest.objects.filter(lease_owner=owner, pk__in=ids).order_by("pk")
    return _due_rows(rows.values_list("pk", "attempts", "last_sent_at", *names))


def _due_rows(rows: Iterable[tuple[Any, ...]]) -> Iterator[Due]:
    for pk, attempts, sent_at, state, topic, magic, token, *times in rows:
        yield Due(pk, attempts, sent_at, state, topic, magic, bytes(token or b""), *times)


def settle(owner: uuid.UUID, settlements: Sequence[Settlement], *, now: datetime) -> int:
    """Write down what became of the rows of one lease; rows that were taken away are left alone.

    A dead token is marked so only if it is still the device's; otherwise the row is due at once with the
    new one. Returns how many rows were settled.
    """
    settled = 0
    for chunk in _chunks(sorted(settlements, key=lambda s: s.enrollment_id), 1000):
        if all(s.dead_token is None for s in chunk):
            settled += _update_rows(owner, chunk)
            continue
        with transaction.atomic():
            dead = _still_current(chunk)
            ours = _lock_leased(owner, [s.enrollment_id for s in chunk])
            _mark_dead(dead & ours, now)
            changes = [_with_new_token(s, dead, now) for s in chunk if s.enrollment_id in ours]
            settled += _update_rows(owner, changes)
            if any(change.due_at <= now and change.state == PushState.DUE for change in changes):
                transaction.on_commit(wake, robust=True)
    return settled


def _still_current(settlements: Sequence[Settlement]) -> set[int]:
    """Of the enrollments whose token is said to be dead, those that still have that token; locked."""
    tokens = {s.enrollment_id: s.dead_token for s in settlements if s.dead_token is not None}
    if not tokens:
        return set()
    current = (
        Enrollment.objects.filter(pk__in=tokens)
        .order_by("pk")
        .select_for_update(no_key=True)
        .values_list("pk", "push_token")
    )
    return {pk for pk, token in current if token is not None and bytes(token) == tokens[pk]}


def _lock_leased(owner: uuid.UUID, ids: Sequence[int]) -> set[int]:
    leased = PushRequest.objects.filter(lease_owner=owner, pk__in=ids).order_by("pk")
    return set(leased.select_for_update(no_key=True).values_list("pk", flat=True))


def _mark_dead(ids: set[int], now: datetime) -> None:
    if ids:
        Enrollment.objects.filter(pk__in=ids).update(token_dead_at=now)


def _with_new_token(settlement: Settlement, dead: set[int], now: datetime) -> Settlement:
    """A push that failed for a token which the device has replaced since: again, with the new one."""
    if settlement.dead_token is None or settlement.enrollment_id in dead:
        return settlement
    return replace(settlement, state=PushState.DUE, due_at=now)


def _update_rows(owner: uuid.UUID, changes: Sequence[Settlement]) -> int:
    """One UPDATE of what still bears the lease, from one parameter: a JSON list of the new values.

    The rows are locked by rising id, as every writer of many does, and the lease is looked at again under
    the lock.
    """
    if not changes:
        return 0
    rows = [
        (
            change.enrollment_id,
            change.state.value,
            str(_instant(change.due_at)),
            change.attempts,
            change.result[:200],
            None if change.sent_at is None else str(_instant(change.sent_at)),
            None if change.apns_id is None else change.apns_id.hex,
        )
        for change in changes
    ]
    return statements.settle(owner, json.dumps(rows))


def give_back(
    owner: uuid.UUID, ids: Sequence[int] | None, *, state: PushState, due_at: datetime, result: str
) -> int:
    """End the lease of rows (None: all of it) that were not pushed; no attempt is counted."""
    rows = PushRequest.objects.filter(lease_owner=owner)
    rows = rows if ids is None else rows.filter(pk__in=ids)
    with transaction.atomic():
        return _in_order(rows).update(
            state=state, due_at=due_at, last_result=result[:200], lease_owner=None, lease_until=None
        )


def hold(topic: str, reason: str) -> int:
    """Hold every due push of a topic, also what a sender has leased, in one UPDATE. Returns how many."""
    due = PushRequest.objects.filter(state=PushState.DUE, enrollment__topic=topic)
    with transaction.atomic():
        return _in_order(due).update(
            state=PushState.HELD, last_result=reason[:200], lease_owner=None, lease_until=None
        )


def release(topic: str, *, now: datetime) -> int:
    """Make every held push of a topic due, and wake a worker. Returns how many."""
    with transaction.atomic():
        held = PushRequest.objects.filter(state=PushState.HELD, enrollment__topic=topic)
        released = _in_order(held).update(state=PushState.DUE, due_at=now)
        if released:
            transaction.on_commit(wake, robust=True)
    return released


def _in_order(rows: models.QuerySet[PushRequest]) -> models.QuerySet[PushRequest]:
    """The same rows, locked by rising id in the statement that changes them.

    Every writer of many rows does so; without it two of them could deadlock.
    """
    if not connection.features.has_select_for_update:
        return rows
    ordered = rows.order_by("pk").select_for_update(no_key=True, of=("self",))
    return PushRequest.objects.filter(pk__in=ordered.values("pk"))


def wake() -> None:
    """Tell a worker soon that something is due. Without a broker the sweep finds it a few seconds later."""
    waking.ring()


def jitter() -> float:
    """A random number in [0, 1)."""
    return _random.random()


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
