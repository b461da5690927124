"""When to try again, and how many devices may be asked now. Pure: values in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

# After attempt number 1, 2, … failed. A certificate that ends is tried until it has ended: the last pause
# repeats. In a campaign somebody looks on: then the attempts end, and the administrator decides.
EXPIRY_PAUSES = (timedelta(hours=1), timedelta(hours=4), timedelta(hours=12), timedelta(hours=24))
CAMPAIGN_PAUSES = (timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=8))

BURST = timedelta(minutes=1)
"""How much of the rate may be made up for at once, after a tick that came late."""
FIRST = timedelta(seconds=15)
"""What the first wave may take of the rate: as much as falls to the time between two ticks."""


def pause_after(failures: int, pauses: Sequence[timedelta]) -> timedelta:
    """The pause after that many failures in a row (1 is the first); the last one repeats."""
    return pauses[min(max(failures, 1), len(pauses)) - 1]


def allowance(devices_per_minute: int, last_wave_at: datetime | None, now: datetime) -> int:
    """How many devices may be asked now, so that the rate holds whatever the distance of the ticks.

    Never more than one minute's worth. 0 where the last wave was only just.
    """
    passed = FIRST if last_wave_at is None else now - last_wave_at
    if passed <= timedelta(0):
        return 0
    share = devices_per_minute * (min(passed, BURST) / timedelta(minutes=1))
    return max(1, int(share)) if last_wave_at is None else int(share)


def is_reached(done: int, of: int, percent: int) -> bool:
    """Whether at least ``percent`` of ``of`` are done. Of nothing, everything is."""
    return done * 100 >= of * percent


def minutes_needed(devices: int, devices_per_minute: int) -> int:
    """How long that many devices take at this rate, if all of them answer: whole minutes, rounded up."""
    return -(-devices // max(devices_per_minute, 1))
