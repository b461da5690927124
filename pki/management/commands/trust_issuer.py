"""Trust certificates that another CA issued to devices, for moving here from another system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.recording import Actor
from pki.models import Purpose
from pki.trust import TrustRefused, trust_issuer

PURPOSES = {purpose.value.lower(): purpose for purpose in Purpose}


class Command(BaseCommand):
    help = "Accepts certificates that another CA issued, for one purpose."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, help="the CA's certificate and those above it (PEM or DER)")
        parser.add_argument("--purpose", choices=sorted(PURPOSES), required=True)
        parser.add_argument("--name", default="", help="how to call it (default: its common name)")
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            issuer = trust_issuer(
                options["file"].read_bytes(),
                purpose=PURPOSES[options["purpose"]],
                actor=Actor(name="command line"),
                name=options["name"],
            )
        except OSError as error:
            raise CommandError(f"{options['file']}: {error.strerror}") from None
        except TrustRefused as refused:
            raise CommandError(refused.reason) from None
        if options["json"]:
            facts = {"slug": issuer.slug, "name": issuer.name, "trusted_for": issuer.trusted_for}
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
        else:
            self.stdout.write(f"{issuer.name} ({issuer.slug}) is trusted for {', '.join(issuer.trusted_for)}")
