"""Mint one-time challenges for scripted enrolment."""

from __future__ import annotations

import argparse
import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from audit.recording import Actor
from pki import issuers
from pki.models import Issuer, Purpose
from scep import challenges

PURPOSES = {"mdm_identity": Purpose.MDM_IDENTITY, "server_tls": Purpose.SERVER_TLS}


class Command(BaseCommand):
    help = (
        "Mints one-time SCEP challenges and prints each with the subject it is bound to. "
        "The values are shown once: only their keyed hashes are kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--count", type=int, default=1, metavar="N", help="how many (default: 1)")
        parser.add_argument(
            "--cn",
            default="",
            metavar="NAME",
            help="common name of the certificate; {n} in it stands for 1, 2, … (default: a random name each)",
        )
        parser.add_argument(
            "--ttl", type=int, default=60, metavar="MIN", help="minutes until they expire (default: 60)"
        )
        parser.add_argument(
            "--issuer", metavar="SLUG", help="short name of the issuer (default: the default one)"
        )
        parser.add_argument("--purpose", choices=sorted(PURPOSES), default="mdm_identity")
        parser.add_argument(
            "--san",
            type=_alternative_name,
            action="append",
            default=[],
            metavar="KIND:VALUE",
            help="alternative name of the certificate: DNS:…, URI:…, email:…, IP:…; may be repeated",
        )
        parser.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            minted = challenges.create_challenges(
                challenges.numbered(options["cn"], options["count"]),
                issuer=_issuer(options["issuer"]),
                purpose=PURPOSES[options["purpose"]],
                san=options["san"],
                ttl=timedelta(minutes=options["ttl"]),
                actor=Actor(name="command line"),
                now=now,
            )
        except challenges.ChallengeError as error:
            raise CommandError(error.reason) from None
        rows = [
            {
                "challenge": value,
                "subject": str(challenge),
                "expires_at": challenge.expires_at.isoformat(timespec="seconds"),
            }
            for challenge, value in minted
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            self.stdout.write(f"{row['challenge']}  {row['subject']}  until {row['expires_at']}")


def _alternative_name(text: str) -> tuple[str, str]:
    kind, separator, value = text.partition(":")
    if not separator:
        raise argparse.ArgumentTypeError("an alternative name is written KIND:VALUE, e.g. DNS:host.example")
    return kind, value


def _issuer(slug: str | None) -> Issuer:
    try:
        return issuers.default_issuer() if slug is None else Issuer.objects.get(slug=slug)
    except Issuer.DoesNotExist:
        raise CommandError(f"there is no issuer {slug!r}") from None
    except issuers.IssuerMissing as missing:
        raise CommandError(str(missing)) from None
