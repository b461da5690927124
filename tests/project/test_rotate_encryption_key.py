"""Changing the key that encrypts secrets: every field, at any moment, while everything runs."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from audit.models import AuditEvent
from audit.recording import SERVER
from pki import issuers, keys
from pki.issuers import create_issuer
from pki.models import Issuer, IssuerKey, Purpose
from scep import challenges
from scep.core.decision import ChallengeStanding
from tests.conftest import StartServer
from tests.support.rows import make_row
from tests.support.snapshot import no_change
from vault import rotation, sealed
from vault.core.keys import Keys, decode_keys
from vault.core.sealing import NONCE_SIZE, VERSION, KeyRing, key_id
from vault.rotation import SealedField, sealed_fields, write_keys

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).resolve().parents[2]
OLD = b"\x01" * 32
FIELDS = sealed_fields()


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    """The installation's keys: a file in its home, with one key."""
    path = tmp_path / "encryption.keys"
    path.touch(mode=0o600)
    write_keys(path, Keys((OLD,)))
    settings.BRAMLEY_ENCRYPTION_KEYS = path
    settings.BRAMLEY_HOME = tmp_path
    settings.REDIS_URL = ""
    return path


def rotate(*arguments: str) -> str:
    """Run the command without waiting for anybody; returns what it printed."""
    printed = io.StringIO()
    call_command("rotate_encryption_key", "--settle", "0", *arguments, stdout=printed)
    return printed.getvalue()


def status() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rotate("--status", "--json"))
    return found


def kept(file: Path) -> Keys:
    return decode_keys(file.read_text())


def seal_row(field: SealedField, plaintext: bytes) -> Any:
    """A row that holds ``plaintext`` in ``field``, sealed as the app would."""
    row = make_row(field.model)
    _set_sealed(field, row, plaintext)
    # The rows that it points to hold something as well.
    for other in FIELDS:
        for made in other.model._base_manager.exclude(**{other.column: None}):
            if not bytes(getattr(made, other.column)).startswith(VERSION):
                _set_sealed(other, made, b"made up")
    return row


def _set_sealed(field: SealedField, row: Any, plaintext: bytes) -> None:
    value = sealed.seal(plaintext, context=field.context(row.uuid))
    field.model._base_manager.filter(pk=row.pk).update(**{field.column: value})


def unseal_row(field: SealedField, row: Any, ring: KeyRing) -> bytes:
    row.refresh_from_db()
    return ring.unseal(bytes(getattr(row, field.column)), context=field.context(row.uuid))


# --- Every field -----------------------------------------------------------------------------------------


def test_sealed_values_are_found_by_name() -> None:
    labels = {field.label for field in FIELDS}
    assert labels >= {
        "pki.issuerkey.private_key",
        "pki.heldkey.private_key",
        "push.pushcertificate.private_key",
        "devices.escrowedsecret.value",
        "commands.command.payload",
        "commands.commandresult.report",
    }


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.label)
def test_every_sealed_field_survives_a_rotation(file: Path, field: SealedField) -> None:
    """Whatever app brings a field called ``…_sealed``: it has a ``uuid`` beside it and is sealed for that."""
    rows = [seal_row(field, f"secret {number}".encode()) for number in range(3)]
    rotate()
    keys_now = kept(file)
    assert len(keys_now.opening) == 1
    assert keys_now.opening[0] != OLD
    ring = KeyRing(keys_now.opening)
    assert [unseal_row(field, row, ring) for row in rows] == [b"secret 0", b"secret 1", b"secret 2"]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.label)
def test_every_app_seals_for_the_context_that_rotation_opens(field: SealedField) -> None:
    """The context stands in the app's code, as text up to the uuid."""
    app = ROOT / field.model._meta.app_label
    assert any(f"{field.label}:" in path.read_text() for path in app.rglob("*.py")), field.label


def test_empty_fields_stay_empty(file: Path) -> None:
    row = make_row(IssuerKey)
    rotate()
    row.refresh_from_db()
    assert row.private_key_sealed is None


# --- At any moment ---------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def test_an_interrupted_rotation_goes_on(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    field = next(field for field in FIELDS if field.label == "devices.escrowedsecret.value")
    rows = [seal_row(field, f"secret {number}".encode()) for number in range(7)]
    monkeypatch.setattr(rotation, "BATCH", 2)

    def stop(done: int) -> None:
        if done >= 4:
            raise Interrupted

    rotate("--step", "add")
    rotate("--step", "activate")
    new = kept(file).opening[0]
    with pytest.raises(Interrupted):
        rotation.reseal(field, kept(file).ring, stop)
    counts = {row["key"]: row["values"] for row in status()["keys"]}
    assert counts == {key_id(new).hex(): 4, key_id(OLD).hex(): 3}
    # In between everything opens.
    assert all(unseal_row(field, row, sealed.key_ring()) for row in rows)
    rotate()
    assert kept(file).opening == (new,)
    ring = KeyRing((new,))
    assert [unseal_row(field, row, ring) for row in rows] == [f"secret {n}".encode() for n in range(7)]
    actions = AuditEvent.objects.filter(action__startswith="encryption_key").values_list("action", flat=True)
    assert sorted(actions) == [
        "encryption_key.activated",
        "encryption_key.added",
        "encryption_key.resealed",
        "encryption_key.retired",
    ]


def test_interrupted_before_the_new_key_seals_it_is_that_key_which_seals(file: Path) -> None:
    rotate("--step", "add")
    new = kept(file).upcoming
    rotate()
    assert kept(file).opening == (new,)


class OvertakenRing(KeyRing):
    """Whenever a value is sealed anew, somebody else has just replaced it."""

    def seal(self, plaintext: bytes, *, context: str, nonce: bytes) -> bytes:
        theirs = super().seal(b"theirs", context=context, nonce=bytes(NONCE_SIZE))
        IssuerKey.objects.update(private_key_sealed=theirs)
        return super().seal(plaintext, context=context, nonce=nonce)


def test_a_value_that_somebody_replaces_meanwhile_is_theirs(file: Path) -> None:
    field = next(field for field in FIELDS if field.label == "pki.issuerkey.private_key")
    row = seal_row(field, b"ours")
    ring = OvertakenRing((b"\x02" * 32, OLD))
    assert rotation.reseal(field, ring).done == 0
    assert unseal_row(field, row, ring) == b"theirs"


def test_what_does_not_open_keeps_the_old_key(file: Path) -> None:
    field = next(field for field in FIELDS if field.label == "devices.escrowedsecret.value")
    good, bad = seal_row(field, b"good"), seal_row(field, b"bad")
    foreign = sealed.seal(b"bad", context="another.row:x")
    field.model._base_manager.filter(pk=bad.pk).update(value_sealed=foreign)
    with pytest.raises(CommandError, match=rf"devices.escrowedsecret.value {bad.pk}$"):
        rotate()
    assert kept(file).old == (OLD,)
    assert unseal_row(field, good, KeyRing(kept(file).opening[:1])) == b"good"
    with pytest.raises(CommandError, match="1 values are sealed with old keys"):
        rotate("--step", "retire")
    assert kept(file).old == (OLD,)


def test_an_old_key_that_seals_something_is_not_retired(file: Path) -> None:
    field = next(field for field in FIELDS if field.label == "devices.escrowedsecret.value")
    row = seal_row(field, b"secret")
    rotate("--step", "add")
    with no_change(), pytest.raises(CommandError, match="no old key"):
        rotate("--step", "retire")
    rotate("--step", "activate")
    with no_change(), pytest.raises(CommandError, match="sealed with old keys"):
        rotate("--step", "retire")
    assert unseal_row(field, row, sealed.key_ring()) == b"secret"


@pytest.mark.parametrize("steps", [["activate"], ["retire"], ["add", "add"], ["add", "activate", "activate"]])
def test_steps_out_of_turn(file: Path, steps: Sequence[str]) -> None:
    for step in steps[:-1]:
        rotate("--step", step)
    before = file.read_text()
    with pytest.raises(CommandError):
        rotate("--step", steps[-1])
    assert file.read_text() == before


# --- What was hashed -------------------------------------------------------------------------------------


def make_challenge(issuer: Issuer) -> str:
    _row, value = challenges.create_challenge(
        issuer=issuer,
        purpose=Purpose.MDM_IDENTITY,
        subject=(("CN", "device"),),
        ttl=timedelta(hours=1),
        created_by="test",
        now=timezone.now(),
    )
    return value


def test_challenges_that_are_out_go_on_working(file: Path) -> None:
    issuer = create_issuer("bramley", "Bramley", algorithm="EC-P256", actor=SERVER)
    before = make_challenge(issuer)
    rotate()
    between = make_challenge(issuer)
    rotate()
    for value in (before, between, make_challenge(issuer)):
        assert challenges.find([value], issuer, timezone.now()).standing is ChallengeStanding.LIVE
    # The issuer's key goes on working too, in a process that had it open and in one that has not.
    for _again in range(2):
        assert keys.issuer_private_key(issuers.current_key(issuer)).key_size == 256
        keys._open.cache_clear()
    assert status()["hash_keys"] == 2
    rotate("--forget-hashes")
    standing = challenges.find([before], issuer, timezone.now()).standing
    assert (status()["hash_keys"], standing) == (0, ChallengeStanding.UNKNOWN)


# --- Several machines, and variables ---------------------------------------------------------------------


def test_where_several_machines_may_have_keys_it_goes_step_by_step(file: Path, settings: Settings) -> None:
    settings.REDIS_URL = "redis://localhost"
    with pytest.raises(CommandError, match="step by step"):
        rotate()
    assert kept(file) == Keys((OLD,))
    rotate("--all-steps")
    assert OLD not in kept(file).opening


def test_keys_in_a_variable_are_changed_by_the_administrator(file: Path, settings: Settings) -> None:
    """The command says what to put there, and touches nothing."""
    field = next(field for field in FIELDS if field.label == "devices.escrowedsecret.value")
    variable = file.read_text().strip()
    settings.BRAMLEY_ENCRYPTION_KEYS = variable
    row = seal_row(field, b"secret")
    with pytest.raises(CommandError, match="step by step"):
        rotate()
    new = next(line for line in rotate("--step", "add").splitlines() if line.startswith("next:"))
    settings.BRAMLEY_ENCRYPTION_KEYS = f"{variable},{new}"
    assert "first place" in rotate("--step", "activate")
    settings.BRAMLEY_ENCRYPTION_KEYS = f"{new.removeprefix('next:')},{variable}"
    rotate("--step", "reseal")
    left = next(line for line in rotate("--step", "retire").splitlines() if line.startswith("hash:"))
    settings.BRAMLEY_ENCRYPTION_KEYS = f"{new.removeprefix('next:')},{left}"
    assert unseal_row(field, row, sealed.key_ring()) == b"secret"
    assert "take what begins" in rotate("--forget-hashes")
    assert file.read_text().strip() == variable


def test_status_names_keys_and_never_shows_them(file: Path) -> None:
    field = next(field for field in FIELDS if field.label == "devices.escrowedsecret.value")
    row = seal_row(field, b"secret")
    lost = KeyRing((b"\x09" * 32,)).seal(b"x", context="x", nonce=bytes(NONCE_SIZE))
    seal_row(field, b"secret")
    field.model._base_manager.filter(pk=row.pk).update(value_sealed=lost)
    found = status()
    assert found["keys"] == [{"key": key_id(OLD).hex(), "role": "seals", "values": 1}]
    assert found["unknown"] == [{"key": key_id(b"\x09" * 32).hex(), "values": 1}]
    printed = rotate("--status")
    assert "1 values that nothing opens" in printed
    rotate("--step", "add")
    printed += rotate("--status")
    for key in (OLD, kept(file).upcoming):
        assert key is not None
        assert next(iter(Keys((key,)).entries())) not in printed


def test_a_file_that_cannot_be_read(file: Path) -> None:
    file.unlink()
    with pytest.raises(CommandError, match="No such file"):
        rotate("--status")
    file.write_text("rubbish")
    with pytest.raises(CommandError, match="not Base64"):
        rotate()


# --- While everything runs -------------------------------------------------------------------------------


@pytest.mark.once
def test_devices_notice_nothing(start_server: StartServer) -> None:
    """Two web processes and a worker enrol and serve devices while the key is changed twice."""
    server = start_server(environment={"BRAMLEY_WEB_PROCESSES": "2"})
    file = server.home / "encryption.keys"
    first = file.read_text()
    server.manage("simulate", "--url", server.url, "--devices", "3", "--rounds", "1", "--json")
    running = subprocess.Popen(
        [
            *(sys.executable, "manage.py", "simulate", "--url", server.url),
            *("--devices", "20", "--rounds", "12", "--json"),
        ],
        cwd=ROOT,
        env=server.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for _twice in range(2):
            server.manage("rotate_encryption_key", "--settle", "1")
            queued = server.manage("enqueue", "DeviceInformation", "--all")
            assert queued.returncode == 0
        counts = json.loads(running.communicate(timeout=300)[0].strip().splitlines()[-1])
    finally:
        running.kill()
        running.wait()
    assert (counts["enrolled"], counts["errors"]) == (20, 0)
    # Whoever comes after is served with the new key alone, by processes that began with the first.
    assert file.read_text() != first
    after = server.manage("simulate", "--url", server.url, "--devices", "5", "--rounds", "2", "--json")
    counts = json.loads(after.stdout.strip().splitlines()[-1])
    assert (counts["enrolled"], counts["errors"]) == (5, 0)
    found = json.loads(server.manage("rotate_encryption_key", "--status", "--json").stdout)
    assert (len(found["keys"]), found["unknown"]) == (1, [])
