"""What the environment says: secrets made once, addresses, databases."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from mdm_project import environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("BRAMLEY_HOME", str(folder))
    for name in ("BRAMLEY_SECRET_KEY", "BRAMLEY_SECRET_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    return folder


def make_key() -> str:
    return environment.secret("BRAMLEY_SECRET_KEY", "some.key", "key")


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(home: Path) -> None:
    first = make_key()
    assert len(base64.b64decode(first, validate=True)) == 32
    assert make_key() == first
    assert stat.S_IMODE((home / "some.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [path.name for path in home.iterdir()] == ["some.key"]


def test_a_variable_or_a_named_file_goes_before_and_nothing_is_made(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given").write_text("from the file\n")
    monkeypatch.setenv("BRAMLEY_SECRET_KEY_FILE", str(tmp_path / "given"))
    assert make_key() == "from the file"
    monkeypatch.setenv("BRAMLEY_SECRET_KEY", "from the variable")
    assert make_key() == "from the variable"
    assert not home.exists()


def test_processes_that_start_together_agree_on_one_secret(home: Path) -> None:
    program = "from mdm_project import environment; print(environment.secret('X', 'some.key', 'key'))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | {"BRAMLEY_HOME": str(home), "DJANGO_SETTINGS_MODULE": "mdm_project.settings"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    values = {process.communicate(timeout=60)[0] for process in started}
    assert len(values) == 1
    assert values.pop().strip() == make_key()


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("127.0.0.1:8000", "127.0.0.1", 8000, "http://127.0.0.1:8000"),
        ("0.0.0.0:80", "0.0.0.0", 80, "http://127.0.0.1:80"),
        ("[::1]:8443", "::1", 8443, "http://[::1]:8443"),
        ("[::]:8443", "::", 8443, "http://[::1]:8443"),
        ("mdm.example.com:9000", "mdm.example.com", 9000, "http://mdm.example.com:9000"),
    ],
)
def test_an_address(text: str, host: str, port: int, url: str) -> None:
    address = environment.address(text)
    assert (address.host, address.port, address.url()) == (host, port, url)


@given(st.text(max_size=30))
def test_any_other_text_is_no_address(text: str) -> None:
    try:
        address = environment.address(text)
    except ImproperlyConfigured:
        return
    assert address.host
    assert 0 < address.port < 65536


def test_a_count_is_a_number_of_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAMLEY_WEB_PROCESSES", raising=False)
    assert environment.count("BRAMLEY_WEB_PROCESSES", 3) == 3
    monkeypatch.setenv("BRAMLEY_WEB_PROCESSES", "5")
    assert environment.count("BRAMLEY_WEB_PROCESSES", 3) == 5
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("BRAMLEY_WEB_PROCESSES", wrong)
        with pytest.raises(ImproperlyConfigured, match="BRAMLEY_WEB_PROCESSES"):
            environment.count("BRAMLEY_WEB_PROCESSES", 3)


def test_databases() -> None:
    assert environment.database("sqlite:////var/lib/b.sqlite3")["NAME"] == "/var/lib/b.sqlite3"
    assert environment.database("sqlite:///b%20c.sqlite3")["NAME"] == "b c.sqlite3"
    postgres = environment.database("postgres://us%40er:p%2Fw@db.example.com:6432/name?sslmode=require")
    assert (postgres["USER"], postgres["PASSWORD"]) == ("us@er", "p/w")
    assert (postgres["HOST"], postgres["PORT"], postgres["NAME"]) == ("db.example.com", "6432", "name")
    assert postgres["OPTIONS"]["sslmode"] == "require"
    with pytest.raises(ImproperlyConfigured, match="DATABASE_URL"):
        environment.database("mysql://x/y")


def test_what_a_pooler_needs_stands_in_the_address() -> None:
    plain = environment.database("postgres://u@h/n")
    assert plain["DISABLE_SERVER_SIDE_CURSORS"] is False
    assert plain["OPTIONS"]["pool"]["max_size"] == 10
    pooled = environment.database("postgres://u@h/n?prepared=no&cursors=no&connections=3&sslmode=require")
    assert pooled["DISABLE_SERVER_SIDE_CURSORS"] is True
    assert pooled["OPTIONS"]["prepare_threshold"] is None
    assert pooled["OPTIONS"]["pool"]["max_size"] == 3
    assert pooled["OPTIONS"]["sslmode"] == "require"
    assert not {"cursors", "connections", "prepared"} & set(pooled["OPTIONS"])


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_pool_has_at_least_one_connection(number: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="connections"):
        environment.database(f"postgres://u@h/n?connections={number}")


@pytest.mark.parametrize(("text", "found"), [("", None), ("250", 250)])
def test_no_number_is_no_limit(text: str, found: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRAMLEY_PUSHES_PER_SECOND", text)
    assert environment.count_or_none("BRAMLEY_PUSHES_PER_SECOND") == found
    monkeypatch.setenv("BRAMLEY_PUSHES_PER_SECOND", "fast")
    with pytest.raises(ImproperlyConfigured, match="BRAMLEY_PUSHES_PER_SECOND"):
        environment.count_or_none("BRAMLEY_PUSHES_PER_SECOND")
