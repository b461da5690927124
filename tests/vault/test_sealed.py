"""The ring of a running process follows its file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pytest_django import Settings

from vault import sealed
from vault.core.keys import Keys, KeysRefused
from vault.core.sealing import SealError
from vault.rotation import keep_retired, write_keys

OLD, NEW = b"\x01" * 32, b"\x02" * 32


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    """A file with one key, which is the installation's."""
    path = tmp_path / "encryption.keys"
    path.touch(mode=0o600)
    write_keys(path, Keys((OLD,)))
    settings.BRAMLEY_ENCRYPTION_KEYS = path
    return path


def test_a_changed_file_is_taken_up_at_once(file: Path) -> None:
    first = sealed.seal(b"secret", context="c")
    hashed = sealed.keyed_hash("code", purpose="p")
    write_keys(file, Keys((OLD,)).adding(NEW))
    assert sealed.seal(b"secret", context="c")[:5] == first[:5]
    write_keys(file, Keys((NEW, OLD)))
    assert sealed.seal(b"secret", context="c")[:5] != first[:5]
    assert sealed.unseal(first, context="c") == b"secret"
    assert hashed in sealed.keyed_hashes("code", purpose="p")
    write_keys(file, Keys((NEW, OLD)).retiring())
    with pytest.raises(SealError):
        sealed.unseal(first, context="c")
    assert hashed in sealed.keyed_hashes("code", purpose="p")


def test_a_file_that_seems_unchanged_is_read_again_for_an_unknown_key(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system may say that nothing has changed for a while."""
    monkeypatch.setattr(sealed, "_look", lambda path: (1, 2, 3))
    sealed.key_ring()
    write_keys(file, Keys((NEW, OLD)))
    value = Keys((NEW,)).ring.seal(b"secret", context="c", nonce=bytes(12))
    assert sealed.unseal(value, context="c") == b"secret"


def test_a_file_that_breaks_leaves_the_ring_as_it_was(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    value = sealed.seal(b"secret", context="c")
    for _again in range(3):
        file.write_text("rubbish")
        assert sealed.unseal(value, context="c") == b"secret"
        assert sealed.unseal(value, context="c") == b"secret"
    file.unlink()
    with caplog.at_level(logging.ERROR):
        assert sealed.unseal(value, context="c") == b"secret"
        assert sealed.unseal(value, context="c") == b"secret"
    assert len([record for record in caplog.records if "cannot be read" in record.message]) <= 4
    file.touch()
    write_keys(file, Keys((NEW, OLD)))
    assert sealed.seal(b"", context="c")[:5] != value[:5]


def test_without_a_ring_nothing_is_sealed(tmp_path: Path, settings: Settings) -> None:
    settings.BRAMLEY_ENCRYPTION_KEYS = tmp_path / "absent"
    with pytest.raises(OSError, match="absent"):
        sealed.seal(b"secret", context="c")
    settings.BRAMLEY_ENCRYPTION_KEYS = "rubbish"
    with pytest.raises(KeysRefused):
        sealed.seal(b"secret", context="c")


def test_writing_keeps_mode_and_leaves_nothing_behind(file: Path) -> None:
    file.chmod(0o640)
    write_keys(file, Keys((NEW, OLD)))
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == ["encryption.keys"]
    missing = file.with_name("missing")
    with pytest.raises(OSError, match="missing"):
        write_keys(missing, Keys((OLD,)))
    assert [path.name for path in file.parent.iterdir()] == ["encryption.keys"]


def test_retired_keys_are_kept_beside_once(file: Path) -> None:
    keys = Keys((NEW, OLD))
    assert keep_retired(file, Keys((NEW,))) is None
    for _again in range(2):
        beside = keep_retired(file, keys)
        assert beside is not None
        assert beside.read_text().split() == list(Keys((OLD,)).entries())
        assert beside.stat().st_mode & 0o777 == 0o600
    beside = keep_retired(file, Keys((OLD, NEW)))
    assert beside is not None
    assert len(beside.read_text().split()) == 2
