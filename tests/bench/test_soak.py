"""What a long run says of memory: the line through what was seen, and whether a limit was kept."""

from __future__ import annotations

import os

import pytest

from bench.soak import Diary, Size, size_of, slope

pytestmark = pytest.mark.once
MIB = 1 << 20


def judged(part: str, *private_mib: float) -> dict[str, object]:
    """The verdict over one process that was seen every half hour."""
    seen = [(1800.0 * n, Size(round(mib * MIB), round(mib * MIB), 10)) for n, mib in enumerate(private_mib)]
    (one,) = Diary({(part, 1): seen}).verdict()["processes"]
    found: dict[str, object] = one
    return found


def test_the_slope_is_that_of_the_line_through_all_points() -> None:
    assert slope([(0, 1), (1, 3), (2, 5)]) == 2
    assert slope([(0, 0), (1, 2), (2, 1)]) == 0.5


def test_fewer_than_two_moments_have_no_slope() -> None:
    assert slope([]) == slope([(1, 5)]) == slope([(1, 5), (1, 6)]) == 0


def test_only_the_second_half_counts_as_growth() -> None:
    """Caches fill at first."""
    assert judged("web", 60, 100, 120, 120) == {
        "part": "web",
        "pid": 1,
        "largest_mib": 120,
        "mib_an_hour": 0,
        "files": 10,
        "kept": True,
    }


def test_what_goes_on_growing_is_not_kept() -> None:
    assert judged("web", 100, 100, 100, 103)["mib_an_hour"] == 6
    assert judged("web", 100, 100, 100, 103)["kept"] is False


def test_what_was_too_large_once_is_not_kept() -> None:
    assert judged("web", 144, 100, 100, 100)["kept"] is False
    assert judged("worker", 144, 100, 100, 100)["kept"] is True


def test_what_has_no_limit_is_told_and_not_judged() -> None:
    assert judged("database", 100, 100, 100, 300)["kept"] is True


def test_one_that_grows_spoils_the_whole_run() -> None:
    flat = [(0.0, Size(MIB, MIB, 1)), (1800.0, Size(MIB, MIB, 1))]
    large = [(0.0, Size(400 * MIB, MIB, 1))]
    assert Diary({("web", 1): flat}).verdict()["kept"] is True
    assert Diary({("web", 1): flat, ("worker", 2): large}).verdict()["kept"] is False


def test_this_process_has_a_size_and_one_that_is_gone_has_none() -> None:
    mine = size_of(os.getpid())
    assert mine is not None
    assert mine.resident >= mine.private > MIB
    assert mine.files >= 3
    assert size_of(2**22 - 1) is None


def test_the_line_of_a_minute_names_what_each_process_has() -> None:
    diary = Diary()
    told = diary.look({"web": [os.getpid(), 2**22 - 1]}, 0.0)
    assert list(told) == ["web"]
    assert len(told["web"]) == 1
