"""Keys in files that do not stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vault.key_file import key_file


def test_the_key_is_readable_only_while_it_is_loaded() -> None:
    with key_file(b"secret") as path:
        assert Path(path).read_bytes() == b"secret"
        held = Path(path).stat()
        assert held.st_mode & 0o077 == 0 or path.startswith("/proc/self/fd/")
    with pytest.raises(OSError, match=r".*"):
        Path(path).read_bytes()


def test_without_memory_files_the_key_is_a_file_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with key_file(b"secret") as path:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        assert Path(path).parent.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == []
