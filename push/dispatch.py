"""Sending what is due: claim rows under a lease, send outside any transaction, settle.

Any number of workers may do this at once. A worker that dies leaves rows whose lease runs out; they are sent
again, which does no harm: APNs keeps one push for each device, and a push only asks the device to connect.
"""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils import timezone

from audit.recording import SERVER
from push import certificates, outbox, pace, waking
from push.client import SEND_DEADLINE, SendResult
from push.connections import of_this_process
from push.core import backoff
from push.core.notification import Failure, Notification, Verdict, is_outage, judge, says_wrong_environment
from push.models import PushCertificate, PushCertificateState, PushState

logger = logging.getLogger(__name__)

BATCH = 500
UNDER_WAY = 4
"""Batches on their way at once: while one waits for its answers, others are claimed, sent and settled."""
PROBE = 20
"""Rows that are tried when APNs was out of order the last time."""
TIME_BUDGET = 10.0
"""Seconds after which :func:`run` leaves the rest to the next task."""
GATHER = 0.2
"""Seconds from one look for due pushes to the next: what many small commits make due goes together."""
REST = 0.1
"""Seconds between two looks when the pace allows nothing more for the moment."""
EXPIRES_AFTER = timedelta(days=1)
"""How long APNs keeps trying to reach a device; it is pushed again every day in any case."""


@dataclass(frozen=True)
class Dispatched:
    """What became of one batch. ``claimed`` is 0 when nothing was due."""

    claimed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


class _Process:
    """What the threads of a worker have in common. ``looked_at``: when one of them was last woken to look."""

    wanted = threading.Event()
    busy = threading.Lock()
    looked_at = 0.0


def run(budget: float = TIME_BUDGET) -> None:
    """Send until nothing is due, or for ``budget`` seconds; the first look may wait :data:`GATHER` seconds.

    One thread of a process does it; a second one leaves word that there may be more, and goes. So several
    wake-ups that wait in the queue of the broker are one look and one batch.
    """
    end = time.monotonic() + budget
    _Process.wanted.set()
    while _Process.wanted.is_set() and _Process.busy.acquire(blocking=False):
        try:
            time.sleep(max(0.0, _Process.looked_at + GATHER - time.monotonic()))
            _note_look()
            _drain(time.monotonic() + budget)
        finally:
            _Process.busy.release()
        if time.monotonic() >= end:
            # A task that never ends would keep the worker from ending.
            if _Process.wanted.is_set() or outbox.anything_due(timezone.now()):
                waking.ring()
            return


def _note_look() -> None:
    _Process.wanted.clear()
    _Process.looked_at = time.monotonic()


def _is_woken_again() -> bool:
    return _Process.wanted.is_set() and time.monotonic() >= _Process.looked_at + GATHER


def _drain(until: float) -> None:
    """Send what is due, and what somebody says is due while it is on its way.

    Where that is more than one batch another worker is woken: one message woke only this one.
    """
    under_way: list[Batch] = []
    may_be_more, is_alone = True, True
    while True:
        if _is_woken_again():
            _note_look()
            may_be_more = True
        if may_be_more and len(under_way) < UNDER_WAY and time.monotonic() < until:
            probing = any(batch.is_probe for batch in under_way)
            batch = begin(timezone.now(), BATCH, probe=not probing)
            may_be_more = batch.may_be_more
            if is_alone and batch.claimed >= BATCH:
                waking.ring()
                is_alone = False
            if batch.claimed:
                under_way.append(batch)
                continue
            if may_be_more and not under_way:
                time.sleep(REST)
                continue
        if not under_way:
            return
        if done := _first_done(under_way, GATHER):
            under_way.remove(done)
            done.finish()


def _first_done(batches: Sequence[Batch], seconds: float) -> Batch | None:
    """The first of these whose answers are complete; waits for it so long."""
    until = time.monotonic() + seconds
    while True:
        for batch in batches:
            if not batch.waits_for:
                return batch
        if time.monotonic() >= until:
            return None
        concurrent.futures.wait(
            [future for batch in batches for future in batch.waits_for],
            timeout=max(0.0, until - time.monotonic()),
            return_when=concurrent.futures.FIRST_COMPLETED,
        )


def dispatch_due(now: datetime, limit: int = BATCH) -> Dispatched:
    """Send one batch of due pushes. Costs one look into an index when nothing is due."""
    batch = begin(now, limit)
    return batch.finish() if batch.claimed else Dispatched()


def begin(now: datetime, limit: int, *, probe: bool = True) -> Batch:
    """Claim due pushes and send them on their way. ``probe``: also of topics that failed the last time."""
    if not outbox.anything_due(now):
        return Batch(now)
    granted = pace.allowed(now, limit)
    if not granted:
        return Batch(now, may_be_more=True)
    known = {c.topic: c for c in PushCertificate.objects.filter(state=PushCertificateState.ACTIVE)}
    claim, is_probe = _claim(known, now, granted, probe=probe)
    batch = Batch(now, len(claim.rows), is_probe, may_be_more=is_probe or len(claim.rows) >= granted)
    if not claim.rows:
        return batch
    for topic, rows in _by_topic(_set_aside_ended(claim, batch.outcomes, now)).items():
        certificate = known.get(topic)
        if reason := _why_held(certificate, topic, now):
            batch.outcomes["held"] += _hold(certificate, topic, reason, claim.owner, now)
        elif certificate is not None:
            batch.sendings.append(Sending(claim.owner, certificate, rows, now))
    return batch


@dataclass
class Batch:
    """Claimed rows on their way. ``may_be_more``: its size or the pace ended it, not that no more is due."""

    now: datetime
    claimed: int = 0
    is_probe: bool = False
    may_be_more: bool = False
    outcomes: Counter[str] = field(default_factory=Counter)
    sendings: list[Sending] = field(default_factory=list)

    @property
    def waits_for(self) -> list[concurrent.futures.Future[list[SendResult]]]:
        """Answers that are not complete."""
        return [sending.future for sending in self.sendings if not sending.future.done()]

    def finish(self) -> Dispatched:
        """Wait for the answers, judge them, write down what became of each row."""
        for sending in self.sendings:
            self.outcomes += sending.finish(self.now)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        logger.info("pushes: %s", counts)
        return Dispatched(self.claimed, self.outcomes)


def _claim(
    known: dict[str, PushCertificate], now: datetime, limit: int, *, probe: bool
) -> tuple[outbox.Claim, bool]:
    """Due rows, but none of a topic that rests; of one that failed the last time only a few, to try.

    Returns the rows, and whether they are such a try.
    """
    resting = [t for t, c in known.items() if c.paused_until is not None and c.paused_until > now]
    failing = [t for t, c in known.items() if c.failures and t not in resting]
    for topic in failing if probe else ():
        claim = outbox.claim(now, min(PROBE, limit), topic=topic)
        if claim.rows:
            return claim, True
    return outbox.claim(now, limit, not_topics=[*resting, *failing]), False


def _set_aside_ended(claim: outbox.Claim, outcomes: Counter[str], now: datetime) -> Sequence[outbox.Due]:
    """The rows that can be pushed; those of ended enrollments and dead tokens become idle."""
    ended = [row.pk for row in claim.rows if not row.can_be_woken]
    if ended:
        outcomes["not enrolled"] += outbox.give_back(
            claim.owner, ended, state=PushState.IDLE, due_at=now, result="not enrolled, or no token"
        )
    return [row for row in claim.rows if row.can_be_woken]


def _by_topic(rows: Sequence[outbox.Due]) -> dict[str, list[outbox.Due]]:
    grouped: dict[str, list[outbox.Due]] = {}
    for row in rows:
        grouped.setdefault(row.topic, []).append(row)
    return grouped


def _why_held(certificate: PushCertificate | None, topic: str, now: datetime) -> str:
    """Why nothing can be sent for a topic; empty if it can."""
    if certificate is None:
        return f"no push certificate for topic {topic}"
    if certificate.held_at is not None:
        return certificate.held_reason
    if certificate.not_after is not None and certificate.not_after <= now:
        return f"the push certificate expired on {certificate.not_after:%d %B %Y}"
    return ""


def _hold(
    certificate: PushCertificate | None, topic: str, reason: str, owner: uuid.UUID, now: datetime
) -> int:
    """Hold the topic. Where a new certificate came in this moment, the rows are due again instead."""
    if certificate is None:
        return outbox.hold(topic, reason)
    try:
        return certificates.hold(certificate, reason, actor=SERVER, now=now)
    except certificates.PushCertificateRefused:
        outbox.give_back(owner, None, state=PushState.DUE, due_at=now, result=reason)
        outbox.wake()
        return 0


class Sending:
    """The rows of one topic on their way. :meth:`finish` waits for the answers and settles."""

    def __init__(
        self, owner: uuid.UUID, certificate: PushCertificate, rows: list[outbox.Due], now: datetime
    ) -> None:
        self._owner, self._certificate, self._rows = owner, certificate, rows
        # To the hour, so that many requests have it in common.
        expires_at = int((now + EXPIRES_AFTER).timestamp()) // 3600 * 3600
        notifications = [
            Notification(
                token=row.push_token,
                push_magic=row.push_magic,
                topic=row.topic,
                apns_id=uuid.uuid4(),
                expires_at=expires_at,
            )
            for row in rows
        ]
        self.future = of_this_process().send(certificate, notifications)

    def finish(self, now: datetime) -> Counter[str]:
        """Wait, judge, write down. Returns how many rows had which verdict."""
        results = self.future.result(SEND_DEADLINE + 10)
        verdicts = [
            judge(result.answer, token_updated_at=row.token_updated_at)
            for row, result in zip(self._rows, results, strict=True)
        ]
        outcomes = Counter(verdict.value for verdict in verdicts)
        if says_wrong_environment([result.answer for result in results]):
            reason = f"APNs calls every device token bad ({results[0].answer}): is it the right APNs?"
            _hold(self._certificate, self._certificate.topic, reason, self._owner, now)
            return outcomes
        due_again = self._note_health(results, verdicts, now)
        settlements = [
            _settlement(row, result, verdict, due_again, now)
            for row, result, verdict in zip(self._rows, results, verdicts, strict=True)
            if verdict is not Verdict.HOLD
        ]
        settled = outbox.settle(self._owner, settlements, now=now)
        outcomes["overtaken"] = len(settlements) - settled
        if Verdict.HOLD in verdicts:
            reason = f"APNs refuses the push certificate: {results[verdicts.index(Verdict.HOLD)].answer}"
            _hold(self._certificate, self._certificate.topic, reason, self._owner, now)
        return +outcomes

    def _note_health(
        self, results: Sequence[SendResult], verdicts: Sequence[Verdict], now: datetime
    ) -> datetime | None:
        """Keep on the certificate how APNs does. Returns when to go on, if the topic has to rest."""
        mine = PushCertificate.objects.filter(pk=self._certificate.pk)
        if not is_outage(verdicts):
            if self._certificate.failures:
                mine.update(failures=0, paused_until=None, trouble="")
            return None
        failures = self._certificate.failures + 1
        until = now + backoff.pause_of_topic(failures, outbox.jitter())
        answer = next(r.answer for r, v in zip(results, verdicts, strict=True) if v is Verdict.OUTAGE)
        mine.update(failures=failures, paused_until=until, trouble=str(answer)[:300])
        logger.warning("APNs is out of order for %s: %s", self._certificate.topic, answer)
        return until


def _settlement(
    row: outbox.Due, result: SendResult, verdict: Verdict, due_again: datetime | None, now: datetime
) -> outbox.Settlement:
    """What the row becomes. ``due_again``: when the topic goes on after an outage."""
    sent = result.answer.status is not None or result.answer.failure is Failure.TIME_OUT
    attempts, state = row.attempts + 1, PushState.DUE
    due_at = now
    match verdict:
        case Verdict.ACCEPTED:
            due_at = now + backoff.after_accepted(attempts, outbox.jitter())
        case Verdict.OUTAGE if due_again is not None:
            attempts, due_at = row.attempts, due_again
        case Verdict.RETRY | Verdict.OUTAGE:
            due_at = now + backoff.after_failure(row.attempts, outbox.jitter())
        case _:
            state = PushState.IDLE
    if verdict is Verdict.DROP:
        logger.error("APNs refuses a push to enrollment %s: %s", row.pk, result.answer)
    return outbox.Settlement(
        enrollment_id=row.pk,
        state=state,
        due_at=due_at,
        attempts=attempts,
        result=str(result.answer),
        sent_at=now if sent else row.last_sent_at,
        apns_id=result.notification.apns_id,
        dead_token=result.notification.token if verdict is Verdict.TOKEN_DEAD else None,
    )
