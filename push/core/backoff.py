"""When to push again. ``jitter`` is a random number in [0, 1), given by the caller.

Every delay is spread upwards by at most a fifth, so that what was sent together does not return together.
"""

from __future__ import annotations

from datetime import timedelta

# After APNs accepted a push and the device has not connected: it is off, asleep or out of reach.
AFTER_ACCEPTED = (
    timedelta(minutes=2),
    timedelta(minutes=10),
    timedelta(hours=1),
    timedelta(hours=6),
    timedelta(hours=24),
)
# A device that does connect and still has work left (NotNow, or it vanished in the middle): the same steps,
# but never longer than an hour, for it is there.
AFTER_CONNECT = AFTER_ACCEPTED[:3]

FAILURE_FIRST = timedelta(seconds=30)
FAILURE_LONGEST = timedelta(minutes=50)  # with the spread, an hour

PAUSE_FIRST = timedelta(seconds=5)
PAUSE_LONGEST = timedelta(seconds=60)


def after_accepted(attempts: int, jitter: float) -> timedelta:
    """The pause after the push number ``attempts`` (1 is the first) since the device last connected."""
    step = min(max(attempts, 1), len(AFTER_ACCEPTED)) - 1
    return _spread(AFTER_ACCEPTED[step], jitter)


def after_connect(jitter: float) -> tuple[timedelta, ...]:
    """The pauses after a device connected with work left: on its push number 1, 2, 3 and all more."""
    return tuple(_spread(delay, jitter) for delay in AFTER_CONNECT)


def after_failure(attempts: int, jitter: float) -> timedelta:
    """The pause after a failure of this one push (429, a 410 that is too old): doubles, at most an hour."""
    return _spread(_doubled(FAILURE_FIRST, attempts, FAILURE_LONGEST), jitter)


def pause_of_topic(failures: int, jitter: float) -> timedelta:
    """How long a topic rests after ``failures`` (1 is the first) batches in a row met an outage.

    Short, because one small batch is the probe: what waits goes out within a minute of APNs's return.
    """
    return _spread(_doubled(PAUSE_FIRST, max(failures, 1) - 1, PAUSE_LONGEST), jitter)


def _doubled(first: timedelta, times: int, longest: timedelta) -> timedelta:
    factor = 1 << min(max(times, 0), 16)
    return min(first * factor, longest)


def spread(jitter: float) -> float:
    """What a delay is multiplied by."""
    return 1 + 0.2 * jitter


def _spread(delay: timedelta, jitter: float) -> timedelta:
    return delay * spread(jitter)
