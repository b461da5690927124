"""Will devices trust this server? What the admin's page of that name says, for scripts."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from enrollment import tls_check
from enrollment.tls_check import Check
from pki.core.server_trust import Level

_MARKS = {Level.BAD: "NO  ", Level.WAIT: "WAIT", Level.GOOD: "OK  "}


class Command(BaseCommand):
    help = (
        "Opens the public addresses as a device would, and says whether devices will believe them. "
        "Exit code 1 where they will not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--url",
            action="append",
            metavar="URL",
            help="look at this address instead of BRAMLEY_PUBLIC_URL and BRAMLEY_MDM_URL (may be repeated)",
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        checks = [tls_check.check(url, now=now) for url in options["url"] or tls_check.addresses()]
        if options["json"]:
            self.stdout.write(json.dumps([_facts(check) for check in checks], ensure_ascii=False))
        else:
            for check in checks:
                self._tell(check)
        if refused := [check.url for check in checks if not check.believed]:
            raise CommandError(f"Devices will not trust {', '.join(refused)}.")

    def _tell(self, check: Check) -> None:
        self.stdout.write(f"{check.url}  {check.protocol}".rstrip())
        for facts in check.shown:
            self.stdout.write(f"  shown: {facts.subject}, until {facts.not_after:%Y-%m-%d}")
        for sentence in check.sentences:
            self.stdout.write(f"  {_MARKS[sentence.level]} {sentence.text}")


def _facts(check: Check) -> dict[str, Any]:
    return {
        "url": check.url,
        "believed": check.believed,
        "protocol": check.protocol,
        "anchor": check.anchor,
        "root_sha256": check.root_sha256,
        "chain": [
            {
                "subject": facts.subject,
                "issuer": facts.issuer,
                "not_after": facts.not_after.isoformat(),
                "sha256": facts.sha256,
            }
            for facts in check.shown
        ],
        "findings": [
            {"code": sentence.code, "level": sentence.level, "text": sentence.text}
            for sentence in check.sentences
        ],
    }
