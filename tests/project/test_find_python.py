"""Which Python the environment is made with: the first on the PATH, unless another is clearly faster."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FIND_PYTHON = Path(__file__).parents[2] / "tools" / "find-python"
_ASKED = """#!/bin/sh
case "$*" in
*python_speed.py) echo {microseconds} ;;
*version_info*) exit {too_old} ;;
*realpath*) echo "$0" ;;
esac
"""

MakePython = Callable[..., Path]


@pytest.fixture
def make_python(tmp_path: Path) -> MakePython:
    def make(name: str, *, microseconds: int, too_old: bool = False) -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(_ASKED.format(microseconds=microseconds, too_old=int(too_old)))
        path.chmod(0o755)
        return path

    return make


def find(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """With ``folder`` before everything else on the PATH."""
    environment = {"PATH": f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin", **variables}
    return subprocess.run([FIND_PYTHON], env=environment, text=True, capture_output=True, check=False)


def test_a_clearly_faster_one_is_taken_and_the_others_follow(make_python: MakePython, tmp_path: Path) -> None:
    first = make_python("python3", microseconds=9000)
    make_python("python3.13", microseconds=8000)
    fastest = make_python("python3.12", microseconds=2)
    found = find(tmp_path / "bin").stdout.splitlines()
    assert found[:2] == [str(fastest), str(first)]


def test_the_first_on_the_path_stays_where_none_is_clearly_faster(
    make_python: MakePython, tmp_path: Path
) -> None:
    first = make_python("python3", microseconds=20)
    make_python("python3.12", microseconds=18)
    assert find(tmp_path / "bin").stdout.splitlines()[0] == str(first)


def test_one_that_is_too_old_is_never_taken(make_python: MakePython, tmp_path: Path) -> None:
    make_python("python3", microseconds=1, too_old=True)
    good = make_python("python3.12", microseconds=2)
    found = find(tmp_path / "bin").stdout.splitlines()
    assert found[0] == str(good)
    assert str(tmp_path / "bin" / "python3") not in found


def test_the_one_that_somebody_names_is_the_only_one(make_python: MakePython, tmp_path: Path) -> None:
    make_python("python3", microseconds=1)
    assert find(tmp_path / "bin", PYTHON=sys.executable).stdout.splitlines() == [sys.executable]


def test_a_named_one_that_is_too_old_is_refused(make_python: MakePython, tmp_path: Path) -> None:
    old = make_python("python2", microseconds=1, too_old=True)
    make_python("python3", microseconds=1)
    found = find(tmp_path / "bin", PYTHON=str(old))
    assert (found.returncode, found.stdout) == (1, "")
    assert f"PYTHON={old} is not a Python 3.11 or newer." in found.stderr
