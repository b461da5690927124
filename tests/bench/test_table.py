"""The table at the end of a measurement, and which run counts."""

from __future__ import annotations

import pytest

from bench.measuring import median_of
from bench.table import TARGETS, table

pytestmark = pytest.mark.once


def test_what_was_reached_stands_beside_what_is_to_be_reached() -> None:
    lines = {"calibration": {"S": 1000.0}, "scep": {"per_second": 250.0}, "scep-50000": {"per_second": 240.0}}
    told = table(lines).splitlines()
    assert len(told) == 2 + len(TARGETS)
    assert told[2].endswith("| at least 0.5 S | 0.25 S | 50% |")
    assert told[3].endswith("| at least 0.95 of empty | 0.96 of empty | 101% |")


def test_what_was_not_measured_says_so() -> None:
    assert table({}).count("| not measured | – |") == len(TARGETS)


def test_shares_of_both_yardsticks_are_told_apart() -> None:
    lines = {"calibration": {"S": 4000.0, "S_plain": 1600.0}, "scep": {"per_second": 400.0}}
    told = table(lines).splitlines()
    assert told[2].endswith("| at least 0.5 S | 0.1 S, 0.25 S_plain | 20%, of S_plain 50% |")
    assert told[-2].startswith("S: 4000 RSA-2048 signatures")
    assert told[-1].startswith("S_plain: 1600, the same without AVX-512")


def test_less_of_a_cost_is_more_of_the_target() -> None:
    told = table({"idle": {"web_cpu_ms": 0.35}})
    assert "| at most 0.7 ms | 0.35 ms | 200% |" in told


def test_the_run_in_the_middle_counts() -> None:
    lines = [{"per_second": rate, "name": name} for rate, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"))]
    assert median_of(lines) == {"per_second": 2.0, "name": "b", "runs": [3.0, 1.0, 2.0]}
