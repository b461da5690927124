"""Trust a device CA beside Apple's own: that of a simulator or of a test."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from audit.recording import Actor
from enrollment.device_authorities import AuthorityRefused, trust


class Command(BaseCommand):
    help = (
        "Lets the certificates of a CA count as those of Apple devices in over-the-air enrolment. Apple's "
        "own is built in. Whoever has the CA's key can pretend to be any device: for tests only."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the CA's certificate (PEM or DER)")
        parser.add_argument("--name", default="", help="how to call it (default: its common name)")
        parser.add_argument("--minutes", type=int, default=0, metavar="N", help="only for so long")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        if options["minutes"] < 0:
            raise CommandError("--minutes is not negative.")
        until = now + timedelta(minutes=options["minutes"]) if options["minutes"] else None
        try:
            authority = trust(
                options["file"].read_bytes(),
                name=options["name"],
                until=until,
                actor=Actor("command line"),
                now=now,
            )
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from error
        except AuthorityRefused as refused:
            raise CommandError(f"Not trusted: {refused.reason}.") from refused
        if options["json"]:
            facts = {
                "name": authority.name,
                "sha256": authority.sha256,
                "until": until.isoformat() if until else None,
            }
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
        else:
            ends = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "until it is switched off in the admin"
            self.stdout.write(f"{authority.name} is trusted to identify devices, {ends}.")
