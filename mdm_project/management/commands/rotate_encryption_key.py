"""Change the key that encrypts secrets in the database, while everything runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.recording import Actor, record
from vault import rotation
from vault.core.keys import HASH, NEXT, Keys, KeysRefused, decode_keys
from vault.core.sealing import key_id
from vault.sealed import read_keys

STEPS = ("add", "activate", "reseal", "retire")
SETTLE_SECONDS = 10.0
SHOWN = 10
ACTOR = Actor(name="command line")


class Command(BaseCommand):
    help = (
        "Makes a new key, seals everything in the database with it, and retires the old one. Processes may "
        "run meanwhile. Interrupted, it goes on where it was when it is called again. On one machine it does "
        "all of it; where several machines have files or variables of their own, it goes step by step: see "
        "docs/keys-and-secrets.md."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--status", action="store_true", help="which keys there are, and what they seal")
        what.add_argument(
            "--step",
            choices=STEPS,
            help="add: a new key that opens; activate: it seals; reseal: everything; retire: old keys",
        )
        what.add_argument(
            "--all-steps",
            action="store_true",
            help="although there may be several machines: all read this file",
        )
        what.add_argument(
            "--forget-hashes",
            action="store_true",
            help="challenges and codes made before the last rotation stop working",
        )
        parser.add_argument(
            "--settle",
            type=float,
            default=SETTLE_SECONDS,
            metavar="SECONDS",
            help=f"how long work that began with the old key may take to end (default {SETTLE_SECONDS:g})",
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        self.quiet = bool(options["json"])
        try:
            self._handle(options)
        except KeysRefused as refused:
            raise CommandError(str(refused)) from None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}") from None

    def _handle(self, options: dict[str, Any]) -> None:
        steps: dict[str, Callable[[], None]] = {
            "add": self.add,
            "activate": self.activate,
            "reseal": self.reseal,
            "retire": self.retire,
        }
        if options["step"]:
            steps[options["step"]]()
        elif options["forget_hashes"]:
            self.forget_hashes()
        elif not options["status"]:
            self.rotate(options)
        self.status(as_json=options["json"])

    # --- All of it ---------------------------------------------------------------------------------------

    def rotate(self, options: dict[str, Any]) -> None:
        """From wherever it stands to the end."""
        if not options["all_steps"] and not _is_alone():
            raise CommandError(
                "the keys may be on several machines: go step by step (--step add, activate, reseal, "
                "retire), or say --all-steps if all of them read this very file"
            )
        keys = _keys()
        if keys.upcoming is None and not keys.old:
            self.add()
            keys = _keys()
        if keys.upcoming is not None:
            self.activate()
        # What other processes had begun to seal with the old key is in the database by then.
        time.sleep(options["settle"])
        self.reseal()
        self.retire()

    # --- Step by step ------------------------------------------------------------------------------------

    def add(self) -> None:
        """A new key that opens."""
        keys, new = _keys(), rotation.new_key()
        with_new = keys.adding(new)
        if (path := _file()) is None:
            entry = next(entry for entry in with_new.entries() if entry.startswith(NEXT))
            self.say(
                f"append this to BRAMLEY_ENCRYPTION_KEYS everywhere, after a comma, and restart:\n{entry}"
            )
            return
        rotation.write_keys(path, with_new)
        _record("encryption_key.added", new)
        self.say(f"new key {key_id(new).hex()}: it opens, and does not seal yet")

    def activate(self) -> None:
        """The new key seals."""
        keys = _keys().activating()
        if (path := _file()) is None:
            self.say(
                f"put the key behind {NEXT} into the first place of BRAMLEY_ENCRYPTION_KEYS, without {NEXT}, "
                "everywhere, and restart"
            )
            return
        rotation.write_keys(path, keys)
        _record("encryption_key.activated", keys.opening[0])
        self.say(f"key {key_id(keys.opening[0]).hex()} seals from now on")

    def reseal(self) -> None:
        """Everything with the first key."""
        ring = _keys().ring
        done, unreadable = 0, []
        for sealed in rotation.sealed_fields():
            result = rotation.reseal(sealed, ring, self._progress(sealed.label))
            done += result.done
            unreadable += result.unreadable
        record(
            "encryption_key.resealed",
            actor=ACTOR,
            details={"key": key_id(ring.keys[0]).hex(), "count": done, "unreadable": len(unreadable)},
        )
        self.say(f"{done} values sealed anew")
        if unreadable:
            more = f" and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
            raise CommandError(f"these open with no key, and are left: {', '.join(unreadable[:SHOWN])}{more}")

    def retire(self) -> None:
        """Keys that seal nothing go."""
        keys = _keys()
        if not keys.old:
            raise CommandError("there is no old key to retire")
        counts = rotation.count_by_key(rotation.sealed_fields())
        left = sum(counts.get(key_id(key), 0) for key in keys.old)
        if left:
            raise CommandError(
                f"{left} values are sealed with old keys: seal them anew first (--step reseal)"
            )
        without = keys.retiring()
        if (path := _file()) is None:
            hashes = ",".join(entry for entry in without.entries() if entry.startswith(HASH))
            self.say(
                "take the keys behind the first one out of BRAMLEY_ENCRYPTION_KEYS, put this in their place "
                f"(challenges and codes that are out stay valid), and restart:\n{hashes}"
            )
            return
        beside = rotation.keep_retired(path, keys)
        rotation.write_keys(path, without)
        for key in keys.old:
            _record("encryption_key.retired", key)
        self.say(
            f"{len(keys.old)} old keys are out of the ring. Backups made before need them: they are in "
            f"{beside}. Put that file with these backups, and delete it here"
        )

    def forget_hashes(self) -> None:
        """What was left of retired keys goes too."""
        keys = _keys().forgetting_hashes()
        if (path := _file()) is None:
            self.say(f"take what begins with {HASH} out of BRAMLEY_ENCRYPTION_KEYS, and restart")
            return
        rotation.write_keys(path, keys)
        record("encryption_key.hashes_forgotten", actor=ACTOR)

    def status(self, *, as_json: bool) -> None:
        """The keys, by their ids, and how many values each seals."""
        keys = _keys()
        counts = rotation.count_by_key(rotation.sealed_fields())
        listed = [
            {"key": key_id(key).hex(), "role": role, "values": counts.pop(key_id(key), 0)}
            for role, key in _roles(keys)
        ]
        facts = {
            "keys": listed,
            "hash_keys": len(keys.hashing),
            "unknown": [{"key": name.hex(), "values": count} for name, count in sorted(counts.items())],
        }
        if as_json:
            self.stdout.write(json.dumps(facts))
            return
        for row in listed:
            self.stdout.write(f"{row['key']}  {row['role']}  {row['values']} values")
        for name, count in sorted(counts.items()):
            self.stdout.write(f"{name.hex()}  not in the ring  {count} values that nothing opens")
        if keys.hashing:
            self.stdout.write(f"{len(keys.hashing)} retired keys still find challenges and codes")

    # --- Pieces ------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        if not self.quiet:
            self.stdout.write(text)

    def _progress(self, label: str) -> Callable[[int], None]:
        return lambda done: self.say(f"{label}: {done} sealed anew")


def _file() -> Path | None:
    """The file that holds the keys; None where a variable does."""
    source: str | Path = settings.BRAMLEY_ENCRYPTION_KEYS
    return source if isinstance(source, Path) else None


def _is_alone() -> bool:
    """Whether everything that seals is on this machine and reads the file in ``BRAMLEY_HOME``."""
    path = _file()
    return path is not None and path.parent == settings.BRAMLEY_HOME and not settings.REDIS_URL


def _keys() -> Keys:
    path = _file()
    return decode_keys(str(settings.BRAMLEY_ENCRYPTION_KEYS)) if path is None else read_keys(path)


def _roles(keys: Keys) -> list[tuple[str, bytes]]:
    listed = [("seals", keys.opening[0]), *(("opens", key) for key in keys.old)]
    return [*listed, *((("opens, to seal next"), key) for key in (keys.upcoming,) if key is not None)]


def _record(action: str, key: bytes) -> None:
    record(action, actor=ACTOR, details={"key": key_id(key).hex()})
