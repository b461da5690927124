"""Two trees in turns: the order changes, and the quotient of each pair counts, but for the first."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import generators, turns
from bench.generators import Line

pytestmark = pytest.mark.once


def line(rate: float, web: float = 1.0, database: float = 1.0) -> Line:
    return {"per_second": rate, "web_cpu_ms": web, "database_cpu_ms": database}


def test_each_pair_runs_in_changing_order_and_the_first_only_warms_up() -> None:
    order: list[tuple[str, str, int]] = []

    def run(name: str, rate: float) -> turns.Run:
        def ran(phase: str, turn: int) -> Line:
            order.append((name, phase, turn))
            return line(rate if turn else 1_000_000.0)

        return ran

    (scep, idle) = turns.in_turns(run("this", 300.0), run("other", 200.0), ["scep", "idle"], 2)
    assert [name for name, phase, _turn in order if phase == "idle"] == [
        *("other", "this"),
        *("this", "other"),
        *("other", "this"),
    ]
    assert order[:2] == [("other", "scep", 0), ("this", "scep", 0)]
    assert (scep["phase"], idle["phase"], scep["turns"]) == ("scep", "idle", 2)
    assert scep["per_second_of_other"] == [1.5, 1.5, 1.5]


def test_a_machine_that_gets_slower_for_both_changes_no_quotient() -> None:
    pairs = [(line(110.0 * speed, 1 / speed), line(100.0 * speed, 1 / speed)) for speed in (1.0, 0.5, 2.0)]
    told = turns.compared("idle", pairs)
    assert told["per_second_of_other"] == [1.1, 1.1, 1.1]
    assert told["web_cpu_ms_of_other"] == [1.0, 1.0, 1.0]
    assert (told["per_second"], told["other_per_second"]) == (110.0, 100.0)


def test_what_could_not_be_measured_is_divided_by_nothing() -> None:
    assert "database_cpu_ms_of_other" not in turns.compared("idle", [(line(1.0), line(1.0, 1.0, 0.0))] * 3)


def test_a_tree_that_was_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "found", lambda _source: True)
    with pytest.raises(SystemExit, match=r"no \.venv in .*: run make check there"):
        turns.against(tmp_path, tmp_path, turns.PHASES, 1)
    monkeypatch.setattr(generators, "found", lambda _source: False)
    with pytest.raises(SystemExit, match="no Go, or no source"):
        turns.against(tmp_path, tmp_path, turns.PHASES, 1)


def test_phases_without_turns_are_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "found", lambda _source: True)
    (tmp_path / ".venv").mkdir()
    with pytest.raises(SystemExit, match="nothing to run"):
        turns.against(tmp_path, tmp_path, ["push"], 1)
