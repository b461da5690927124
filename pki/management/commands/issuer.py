"""Issuers: list them, make one, hand out their certificates."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from audit.recording import Actor
from pki import issuers
from pki.core.certificates import encode_pem
from pki.issuers import DEFAULT_ALGORITHM, IssuerMissing, IssuerRefused
from pki.keys import ALGORITHMS
from pki.models import Issuer, IssuerCertificate, IssuerKey, IssuerKeyState


class Command(BaseCommand):
    help = "Lists issuers, makes one, writes out the certificate of one."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|create|export")
        listing = actions.add_parser("list", help="all issuers")
        listing.add_argument("--json", action="store_true", help="one JSON document on stdout")
        creating = actions.add_parser("create", help="a new root of our own")
        creating.add_argument("slug", help="short name; part of addresses: /scep/<slug>/")
        creating.add_argument("--name", default="", help="common name (default: the short name)")
        creating.add_argument("--organization", default="")
        creating.add_argument("--algorithm", choices=sorted(ALGORITHMS), default=DEFAULT_ALGORITHM)
        creating.add_argument("--years", type=int, default=10, help="validity of its certificate")
        creating.add_argument("--json", action="store_true", help="one JSON document on stdout")
        exporting = actions.add_parser("export", help="the CA certificate, without its key")
        exporting.add_argument("slug")
        exporting.add_argument("--chain", action="store_true", help="with the certificates above it")
        exporting.add_argument("--der", action="store_true", help="DER instead of PEM")
        exporting.add_argument("--out", type=Path, metavar="FILE", help="write it here, not to stdout")
        exporting.add_argument("--json", action="store_true", help="one JSON document on stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["action"]:
            case "list":
                self.show([_facts(issuer) for issuer in Issuer.objects.all()], as_json=options["json"])
            case "create":
                self.create(options)
            case "export":
                self.export(options)

    def show(self, rows: list[dict[str, Any]], *, as_json: bool) -> None:
        """One line for each issuer, or all of them as JSON."""
        if as_json:
            self.stdout.write(json.dumps(rows, ensure_ascii=False))
            return
        for row in rows:
            self.stdout.write(
                f"{row['slug']}  {row['kind']}  {row['state']}  {row['subject']}  until {row['not_after']}  "
                f"SHA-256 {row['sha256']}"
            )

    def create(self, options: dict[str, Any]) -> None:
        """A new issuer, shown as ``list`` shows it."""
        try:
            issuer = issuers.create_issuer(
                options["slug"],
                options["name"] or options["slug"],
                organization=options["organization"],
                algorithm=options["algorithm"],
                years=options["years"],
                actor=Actor(name="command line"),
            )
        except IssuerRefused as refused:
            raise CommandError(refused.reason) from None
        facts = _facts(issuer)
        if options["json"]:
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
        else:
            self.show([facts], as_json=False)

    def export(self, options: dict[str, Any]) -> None:
        """The certificate, or the chain, to stdout or into a file."""
        if options["der"] and options["chain"]:
            raise CommandError("DER holds one certificate: leave out --chain or --der")
        try:
            issuer = Issuer.objects.get(slug=options["slug"])
            chain = issuers.chain(issuer)
        except Issuer.DoesNotExist:
            raise CommandError(f"there is no issuer {options['slug']!r}") from None
        except IssuerMissing as missing:
            raise CommandError(str(missing)) from None
        chosen = chain if options["chain"] else chain[:1]
        pem = "".join(encode_pem(der) for der in chosen)
        content = chosen[0] if options["der"] else pem.encode()
        if options["out"]:
            try:
                options["out"].write_bytes(content)
            except OSError as error:
                raise CommandError(f"{options['out']}: {error.strerror}") from None
        elif not options["json"] and options["der"]:
            sys.stdout.buffer.write(content)
        elif not options["json"]:
            self.stdout.write(pem, ending="")
        if options["json"]:
            self.stdout.write(json.dumps({**_facts(issuer), "pem": pem}, ensure_ascii=False))


def _facts(issuer: Issuer) -> dict[str, Any]:
    issuer_key = issuer.keys.filter(state=IssuerKeyState.CURRENT).first()
    certificate = _certificate(issuer_key)
    return {
        "slug": issuer.slug,
        "name": issuer.name,
        "kind": issuer.kind,
        "state": issuer.state,
        "trusted_for": issuer.trusted_for,
        "algorithm": issuer_key.algorithm if issuer_key else "",
        "generation": issuer_key.generation if issuer_key else None,
        "subject": certificate.subject if certificate else "",
        "serial_number": certificate.serial_number if certificate else "",
        "sha256": certificate.sha256 if certificate else "",
        "not_before": certificate.not_before.isoformat() if certificate else "",
        "not_after": certificate.not_after.isoformat() if certificate else "",
    }


def _certificate(issuer_key: IssuerKey | None) -> IssuerCertificate | None:
    try:
        return issuers.current_certificate(issuer_key) if issuer_key else None
    except IssuerMissing:
        return None
