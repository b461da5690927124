"""Messages of real devices, kept beside the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "mdm"


def messages(*kinds: str) -> list[Path]:
    """Paths of the messages, of these folders only where any are named."""
    return sorted(path for path in FOLDER.glob("*/*") if not kinds or path.parent.name in kinds)


def folder() -> Path:
    """The folder, or the reason why the test is skipped."""
    if not FOLDER.is_dir():
        pytest.skip("the messages of real devices (../shared/vectors/mdm) are not here")
    return FOLDER
